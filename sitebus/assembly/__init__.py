"""From a configuration to a running site: the one room that knows all the parts.

The command line, ``quickstart``, embedding, workers and tests come here with a configuration, a bus
and a site, and get an `Assembly`, whose `run` starts it all and blocks.

What is put together happens in this order, so that a failure leaves nothing behind: environment,
import path and logging; plugins, which listen on the bus; and while the bus starts, the sockets,
then the applications, then the servers.

Where a failure can be shown, because the site is reloaded when it is mended, or told, because this
is the trial of a restart, the user's own plugins and log handlers fail like applications: at the
start, and the rest of the site is put together all the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus import config, references, servers
from sitebus import plugins as shelf
from sitebus.assembly import parts
from sitebus.assembly.environment import prepare
from sitebus.assembly.lifespans import LifespanKeeper
from sitebus.assembly.startup import Startup
from sitebus.config import TABLE, Configuration, Override, Section, Table
from sitebus.config.relay import settings_of
from sitebus.control import watching
from sitebus.errors import (
    AppImportError,
    ChannelFailures,
    CommandCancelled,
    SitebusError,
    StartFailed,
    Unreachable,
)
from sitebus.interfaces import describe
from sitebus.plugins.guests import GuestEngines
from sitebus.plugins.threads import ThreadManager
from sitebus.process import Engine
from sitebus.servers import SiteServer

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from sitebus.mounts import Site
    from sitebus.plugins.logs import LogBridge
    from sitebus.reload.face import Face
    from sitebus.servers import ServerAdapter

__all__ = ["ALONE", "Assembly", "Role", "assemble", "prepare", "read", "table"]


def table() -> Table:
    """Answer the option table of every room: the core's, and what adapters and plugins bring."""
    server, plugin = TABLE.find("server"), TABLE.find("plugin")
    assert server is not None
    assert plugin is not None
    whole = TABLE.with_section(
        server._replace(brings_by="adapter", brings=_adapters, families=tuple(servers.BUILT_IN))
    )
    known = plugin._replace(member=plugin_section, members=tuple(shelf.BUILT_IN))
    from sitebus.assembly import answers

    return whole.with_section(known).with_section(answers.section())


def plugin_section(name: str) -> Section | None:
    """Answer the section of a built-in plugin."""
    kind = shelf.find(name)
    if kind is None:
        return None
    plugin = TABLE.find("plugin")
    assert plugin is not None
    enabled = plugin.row("enabled")
    assert enabled is not None
    said = (kind.__doc__ or "").partition("\n")[0]
    rows = (enabled, *kind.OPTIONS)
    return plugin._replace(rows=rows, help=said, free=False, opened_by="", member=plugin_section)


def _adapters(section: Section, name: str) -> Section:
    from sitebus.servers import native

    # A placeholder is known only later, and the adapter's defaults will do.
    return section if "$" in name else native.section(section, servers.find(name))


def read(
    path: str | os.PathLike[str] | None,
    *,
    overrides: Iterable[Override] = (),
    environ: Mapping[str, str] | None = None,
) -> Configuration:
    """Read a configuration by the whole table; see `sitebus.config.read`."""
    return config.read(path, table(), overrides=overrides, environ=environ)


class Role(NamedTuple):
    """What a process does of what a configuration says.

    Attributes:
        bridge: makes what takes the messages of the bus.
        built_in: the plugins of ours that it may have.
        supervised: whether a supervisor looks after changes of its code, and tells of its health.
        around: puts something between the servers and the site.
        lenient: whether a site that is reloaded is served even if it does not load: visitors are
            shown why. Otherwise somebody else serves, and this process ends.
        relayed: whether it is a node of the relay that the site may have.
    """

    bridge: Callable[[Configuration, Engine], LogBridge] = parts.bridge
    built_in: Collection[str] = shelf.BUILT_IN
    supervised: bool = False
    around: Callable[[servers.Faces], servers.Faces] = lambda faces: faces
    lenient: bool = True
    relayed: bool = True


#: The one process of a site that has no others.
ALONE = Role()


class Assembly:
    """A site that was put together: its parts, and the way to run them.

    Attributes:
        failure: what kept it from starting.
        flaw: what of the user's own could not be loaded or started; the start loads no more of it,
            and shows this instead.
        bridge: what logs the messages of the bus.
        began: when it was begun to be put together, in nanoseconds.
    """

    def __init__(
        self, configuration: Configuration, engine: Engine, site: Site, role: Role = ALONE
    ) -> None:
        self.configuration = configuration
        self.engine = engine
        self.site = site
        self.role = role
        self.failure: Exception | None = None
        self.flaw: SitebusError | None = None
        self.bridge = role.bridge(configuration, engine)
        self.began = time.time_ns()
        #: What visitors see of reloads, where the site is reloaded when it changes.
        self.face: Face | None = None
        #: Told of what of the user's own has failed.
        self.refuse: Callable[[Exception], object] = self.call_off
        self.servers: tuple[ServerAdapter, ...] = ()
        self.plugins: tuple[Any, ...] = ()
        #: The plugins that are the user's own.
        self.added: tuple[Any, ...] = ()
        self._subscribed: list[Any] = []

    @property
    def shows(self) -> bool:
        """Whether visitors are shown what keeps the site from starting."""
        return self.face is not None and self.role.lenient

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Load what is the user's own: a failure is kept for the start, if that has a use for it.

        Raises:
            SitebusError: it failed, and the start could only fail as well.
        """
        try:
            yield
        except SitebusError as error:
            waits = self.shows or self.engine.trying
            if not waits or _is_interrupt(error):
                raise
            self.flaw = self.flaw or error

    def subscribe(self) -> None:
        """Have every part listen on the bus.

        Raises:
            AppImportError: a stranger's part would not.
        """
        self._subscribe(self.plugins)
        with self.loading():
            self._subscribe(self.added)
        if self.flaw is not None:
            self._leave_out_added()
        self._subscribe(self.servers)
        for server in self.servers:
            # `Startup.bind` calls it; a second time, it would read the certificate again.
            take = getattr(server, "bind", None)
            if callable(take):
                self.engine.unsubscribe(self.engine.machine.channel("start"), take)

    def _subscribe(self, wanted: Iterable[Any]) -> None:
        for part in wanted:
            try:
                parts.subscribe(part)
            except BaseException:
                # Half of it may listen; that it cannot undo the rest is no news.
                with suppress(Exception):
                    part.unsubscribe()
                raise
            self._subscribed.append(part)

    def unsubscribe(self) -> None:
        """Take every part that listens off the bus again."""
        while self._subscribed:
            self._unsubscribe(self._subscribed.pop())

    def _leave_out_added(self) -> None:
        """Have no plugin of the user's own listen: each may need what another was to prepare."""
        added = {id(part) for part in self.added}
        left = [part for part in self._subscribed if id(part) in added]
        self._subscribed = [part for part in self._subscribed if id(part) not in added]
        while left:
            self._unsubscribe(left.pop())

    def _unsubscribe(self, part: Any) -> None:
        try:
            part.unsubscribe()
        # A stranger's code: the other parts leave whatever it does.
        except Exception as error:  # noqa: BLE001
            self.engine.log(f"{describe(part)} failed to unsubscribe", 40, traceback=error)

    def preload(self) -> None:
        """Import the applications and mount them before the bus starts, for who forks then.

        Raises:
            SitebusError: one cannot be had; none is mounted.
        """
        for part in self.plugins:
            if isinstance(part, Startup):
                part.preload()
        for server in self.servers:
            if isinstance(server, SiteServer):
                server.preload()

    def run(self) -> int:
        """Start, block until the site has ended, and answer the exit status.

        Raises:
            SitebusError: it could not start; nothing is left of it.
        """
        try:
            self.start()
            return self.engine.block()
        finally:
            self.close()

    def start(self) -> None:
        """Start everything; return when the site serves.

        Raises:
            SitebusError: it could not start; nothing is left of it.
        """
        try:
            self._start()
        except CommandCancelled:
            # The bus was told to leave: by a signal, or by our own start, which knows why.
            if self.failure is not None:
                raise told(self.failure) from None
        except Exception as error:  # any listener's, strangers among them
            raise told(error) from error

    def _start(self) -> None:
        try:
            self.engine.start(stay=self.shows and bool(self.added))
        except Exception as error:
            if self.engine.state != self.engine.machine.resting:
                raise
            # Without the user's own plugins it starts, if one of them has failed.
            self.flaw = _flaw(error)
            self._leave_out_added()
            self.engine.exit_code = 0
            with suppress(Unreachable):  # a signal was faster
                self.engine.start()

    def call_off(self, error: Exception) -> None:
        """Have the start that runs fail with *error*, quietly; for a listener of it."""
        self.failure = error
        self.engine.exit()

    def close(self) -> None:
        """Take every part off the bus, and give the log's file back."""
        from sitebus.plugins import logs

        self.unsubscribe()
        # The site may be served by somebody else after this.
        self.site.crossing.loop = self.site.crossing.watched = None
        logs.unconfigure()

    def urls(self) -> tuple[str, ...]:
        """Answer where the site answers, real ports included."""
        return tuple(url for server in self.servers for url in parts.urls(server, self.engine))

    def mount_lines(self) -> list[tuple[str, str, str]]:
        """Answer place, target and framework of each mount."""
        targets = {mount.place: mount.value("app").text for mount in self.configuration.mounts}
        return [
            (
                str(mount.place),
                targets.get(mount.place) or describe(mount.app),
                mount.framework or mount.interface,
            )
            for mount in self.site.mounts
            if mount.enabled
        ]


def told(error: Exception) -> Exception:
    """Answer the error that says in one sentence that the site did not start."""
    return error if isinstance(error, (SitebusError, ChannelFailures)) else StartFailed(error)


def _flaw(error: Exception) -> SitebusError:
    """Answer why a start failed as it is shown to whoever is to mend it."""
    first = error.exceptions[0] if isinstance(error, ChannelFailures) else error
    if isinstance(first, SitebusError):
        return first
    return StartFailed(first, references.traceback_of(first))


def _is_interrupt(error: SitebusError) -> bool:
    """Tell whether the operator has waited long enough: no bus answers signals yet."""
    return isinstance(error, AppImportError) and isinstance(error.error, KeyboardInterrupt)


def assemble(
    configuration: Configuration, engine: Engine, site: Site, role: Role = ALONE
) -> Assembly:
    """Put a site together on *engine*; `Assembly.run`, or ``engine.start()``, serves it.

    Raises:
        SitebusError: a part is missing or fails to be made; nothing listens on the bus then.
            What is the user's own is `Assembly.flaw` instead, where the start has a use for that.
    """
    assembly = Assembly(configuration, engine, site, role)
    prepare(configuration)
    try:
        assembly.face = parts.face(configuration, engine, site)
        with assembly.loading():
            parts.log_handlers(configuration)
        if assembly.flaw is not None:
            parts.plain_log_handlers(configuration)  # who else would say so? Or it fails again
        assembly.plugins = tuple(_plugins(assembly))
        with assembly.loading():
            assembly.added = tuple(parts.added_plugins(configuration, engine))
        assembly.servers = tuple(parts.servers(configuration, engine, _faces(assembly)))
        assembly.subscribe()
    except BaseException:
        assembly.close()
        raise
    return assembly


def _plugins(assembly: Assembly) -> Iterator[Any]:
    configuration, engine = assembly.configuration, assembly.engine
    engine.try_timeout = configuration.one("reload")["try_timeout"]
    yield from parts.logging(configuration, engine, assembly.site)
    yield assembly.bridge
    startup = Startup(engine, assembly)
    assembly.refuse = startup.refuse
    yield startup
    yield LifespanKeeper(engine, assembly.site, startup.refuse, startup.accept)
    yield GuestEngines(engine, assembly.site, startup.refuse)
    if not engine.trying:
        told, supervised = configuration.one("health"), assembly.role.supervised
        yield from watching.plugins(engine, told, assembly.site, worker=supervised)
    if assembly.face is not None and not engine.trying:
        yield from parts.reloading(
            configuration, engine, assembly.face, watching=not assembly.role.supervised
        )
    if not engine.trying:
        yield ThreadManager(engine)
    yield from parts.built_in_plugins(configuration, engine, assembly.role.built_in)
    if not assembly.role.supervised:
        from sitebus.control import from_configuration

        if assembly.role.relayed and settings_of(configuration) is not None:
            from sitebus.relay.configured import from_configuration as relayed

            yield from relayed(configuration, engine)
        yield from from_configuration(configuration, engine)


def among_others(app: WSGIApplication) -> WSGIApplication:
    """Answer *app* for behind a bridge, told that other processes serve it as well (PEP 3333)."""

    def shared(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.multiprocess"] = True
        return app(environ, start_response)

    return shared


def _faces(assembly: Assembly) -> servers.Faces:
    """Answer what the servers serve: the site, behind what watches it."""
    engine, site, face = assembly.engine, assembly.site, assembly.face
    serving, crossing = engine.serving, site.crossing

    def locate(environ: Mapping[str, Any]) -> str:
        mount = site.find(dict(environ))
        return mount.name if mount is not None else ""

    serving.locate = locate
    watched = serving.watch(site.wsgi)
    crossing.watched = among_others(watched) if assembly.role.supervised else watched
    crossing.loop = lambda: engine.loop
    # Several servers share one crossing: the most generous of them says.
    told = assembly.configuration.servers
    crossing.threads = max(settings["threads"] for settings in told)
    crossing.patience = max(settings["timeout"] for settings in told)
    crossing.min_rate = min(settings.get("min_rate", 0) for settings in told)
    if face is not None:
        shown = servers.Faces(face, lambda: face.asgi, site.speech)
    else:
        shown = servers.Faces(watched, lambda: site.plain_asgi, site.speech)
    return assembly.role.around(shown)
