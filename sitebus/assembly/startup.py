"""What a start does before servers serve: sockets first, while it is permitted; then imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sitebus import trial
from sitebus.assembly import applications
from sitebus.assembly.environment import keep
from sitebus.errors import LifespanFailed, StartFailed
from sitebus.listeners import ERROR
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority
from sitebus.servers import SiteServer

if TYPE_CHECKING:
    from sitebus.assembly import Assembly
    from sitebus.mounts import Mount
    from sitebus.reload.face import Face


class Startup(Plugin):
    """Bind, import and mount while the bus starts.

    A failure here is the operator's business and not the log's: the start is called off, and who
    asked for it is told the reason. Only where the site is reloaded when its code changes does it
    go on, and shows the reason to its visitors until the code is mended.
    """

    def __init__(self, bus: Engine, assembly: Assembly) -> None:
        super().__init__(bus)
        self.assembly = assembly
        self._mounted: list[Mount] = []

    @listens("start", priority=Priority.BIND - 1)
    def bind(self) -> None:
        """Take the sockets and the access log's file, while that may still be permitted."""
        self.assembly.failure = None
        try:
            self._open_access_log()
            for server in self.assembly.servers:
                take = getattr(server, "bind", None)
                if callable(take):
                    take()
        except Exception as error:  # noqa: BLE001 - whatever it is, the start is off and says why
            self._call_off(error)

    def preload(self) -> None:
        """Import the applications and mount them now: the start finds them.

        Raises:
            SitebusError: One cannot be had; none is mounted.
        """
        try:
            self._mount_all()
        except BaseException:
            self._unmount_all()
            raise

    @listens("start", priority=Priority.IMPORT)
    def mount(self) -> None:
        """Import the applications and mount them, once: a stop keeps them."""
        keep()
        if self._mounted and self.assembly.flaw is None:
            return
        face = self.assembly.face
        try:
            self._mount_all()
        except Exception as error:  # noqa: BLE001 - a stranger's code was imported
            self._unmount_all()
            self.refuse(error)
        else:
            if face is not None:
                face.recover()

    def refuse(self, error: Exception) -> None:
        """Call the start off because of the user's own code, or show why nothing is served."""
        face = self.assembly.face
        if face is None or not self.assembly.shows:
            if isinstance(error, LifespanFailed) and error.traceback_text:
                self.bus.log(error.traceback_text, ERROR)
            self._call_off(error)
        else:
            self._show(error, face)

    def accept(self) -> None:
        """Show the site again: what kept it from starting is mended."""
        if self.assembly.face is not None:
            self.assembly.face.recover()

    @listens("trial", priority=Priority.IMPORT)
    def trial(self) -> None:
        """Load all that a start would load."""
        self._open_access_log()
        self._mount_all()

    @listens("started")
    def started(self) -> None:
        """Close the sockets that were passed to this process and that no server asked for."""
        for passed in self.bus.sockets.close_unclaimed():
            self.bus.log(f"closed {passed}, which was passed to this process and nobody binds", 30)
        self._tell_of_bridges()

    @listens("exit")
    def exit(self) -> None:
        """Take the mounts out of the site again."""
        self._unmount_all()

    def _tell_of_bridges(self) -> None:
        """Say what a server cannot do that some application may want."""
        asgi = [mount.name for mount in self.assembly.site.mounts if mount.is_asgi]
        for server in self.assembly.servers:
            if asgi and isinstance(server, SiteServer) and "asgi" not in server.abilities.speaks:
                names = ", ".join(asgi) if len(asgi) < 4 else f"{len(asgi)} ASGI applications"
                self.bus.log(
                    f"{server.library} serves {names} over a bridge, without WebSocket; "
                    "adapter = uvicorn serves ASGI by itself"
                )

    def _open_access_log(self) -> None:
        if self.assembly.site.access_log is not None:
            self.assembly.site.access_log.open()

    def _mount_all(self) -> None:
        if self.assembly.flaw is not None:
            raise self.assembly.flaw
        configuration, site = self.assembly.configuration, self.assembly.site
        for settings in configuration.mounts:
            if settings["enabled"]:
                target = applications.open_application(configuration, settings)
                self._mounted.append(applications.mount(configuration, settings, site, target))

    def _unmount_all(self) -> None:
        while self._mounted:
            self._mounted.pop().unmount()

    def _call_off(self, error: Exception) -> None:
        self.assembly.failure = error
        self.bus.exit()

    def _show(self, error: Exception, face: Face) -> None:
        """Serve the reason, and have the files watched that may be at fault."""
        text = trial.text_of(error)
        found = trial.places(text)
        place = f"{found[-1].file}:{found[-1].line}: " if found else ""
        if isinstance(error, StartFailed):
            reason, more = error.reason, ""  # the rest was logged when it was raised
        else:
            reason, more = str(error), f"\n{text}".rstrip()
        self.bus.log(f"{place}the site cannot start: {reason}{more}", ERROR)
        self._watch({each.file for each in found}, trial.missing(error))
        face.fail("The site cannot start", f"{place}{reason}\n\n{text}".rstrip(), cold=True)

    def _watch(self, present: set[str], missing: set[str]) -> None:
        from sitebus.reload.opened import OPENED

        for path in missing:
            # It was wanted: should it come before the first look, it is new all the same.
            OPENED.times.setdefault(path, self.assembly.began)
        self.bus.autoreload.files.update(present, missing)
        OPENED.news = True
