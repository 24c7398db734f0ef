"""Put a site together that has neither a process nor a server of its own.

As `sitebus.assembly` does, but for what only the owner of a process may have; and with an eye to
the host, which goes on whatever becomes of the site.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sitebus.assembly import Assembly, Role, applications, parts
from sitebus.assembly.environment import set_defaults
from sitebus.assembly.lifespans import LifespanKeeper
from sitebus.assembly.startup import Startup
from sitebus.control import watching
from sitebus.embedding import faces
from sitebus.embedding.plans import NOT_OURS, Plan
from sitebus.errors import AppImportError, SitebusError
from sitebus.listeners import ERROR
from sitebus.mounts import pages
from sitebus.plugins import BUILT_IN, Plugin, listens
from sitebus.plugins.guests import GuestEngines
from sitebus.plugins.threads import ThreadManager
from sitebus.process import Engine, Priority

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from sitebus.config import Configuration, Settings
    from sitebus.embedding.hosts import Host
    from sitebus.mounts import Application, Mount, Site

    #: What is said to a request, as far as WSGI's environ tells of it.
    Page = Callable[[Mapping[str, Any]], pages.Answer]

ROLE = Role(built_in=frozenset(BUILT_IN) - NOT_OURS, supervised=True)


def furnish(
    plan: Plan, engine: Engine, host: Host, gate: Plugin, refuse: Callable[[Exception], object]
) -> Assembly:
    """Put the site of *plan* together on *engine*.

    Args:
        plan: What to put together.
        engine: The bus.
        host: Whose process it is.
        gate: Lets requests in while the bus runs.
        refuse: Is told why the site cannot come up.

    Raises:
        SitebusError: A part is missing or fails to be made; nothing listens on the bus then.
    """
    assembled = Assembly(plan.configuration, engine, plan.site, ROLE)
    _prepare(plan.configuration)
    assembled.refuse = refuse
    try:
        parts.log_handlers(plan.configuration)
        assembled.plugins = (*_plugins(assembled, plan, host, refuse), gate)
        assembled.added = tuple(parts.added_plugins(plan.configuration, engine))
        assembled.subscribe()
    except BaseException:
        assembled.close()
        raise
    return assembled


def _prepare(configuration: Configuration) -> None:
    """Set what applications find when they are imported; the mask of files is the host's."""
    set_defaults(configuration.env)
    if configuration.path is not None:
        paths = map(str, configuration.site["python_path"])
        sys.path[:0] = [path for path in paths if path not in sys.path]
    if configuration.site["working_dir"] is not None:
        os.chdir(configuration.site["working_dir"])


def _plugins(
    assembled: Assembly, plan: Plan, host: Host, refuse: Callable[[Exception], object]
) -> Iterator[Any]:
    configuration, engine, site = plan.configuration, assembled.engine, plan.site
    yield from parts.logging(configuration, engine, site)
    yield assembled.bridge
    yield Furnisher(engine, assembled, plan.app)
    yield LifespanKeeper(engine, site, refuse, lambda: None)
    yield GuestEngines(engine, site, refuse)
    told = {**configuration.one("health"), "bind": ()}
    yield from watching.plugins(engine, told, site, worker=True)
    if configuration.one("reload")["enabled"] and host.recycles:
        from sitebus.plugins.autoreload import Autoreloader

        yield Autoreloader(engine, **parts.reloader_settings(configuration, engine))
    yield ThreadManager(engine)
    yield from parts.built_in_plugins(configuration, engine, ROLE.built_in)


class Furnisher(Startup):
    """Mount the applications while the bus starts; one that cannot be had answers with the reason.

    Attributes:
        flawed: Whether there is such a one.
    """

    def __init__(self, bus: Engine, assembly: Assembly, app: Application | None) -> None:
        super().__init__(bus, assembly)
        self.app = app
        self.flawed = False

    def exchange(self, app: Application) -> None:
        """Put *app* in the place of the one that was given; requests inside it go on."""
        self._mounted[:] = [self.assembly.site.mount(app, replace=True)]
        self.app = app

    @listens("started")
    def started(self) -> None:
        """Leave the sockets that were passed to this process to the host."""

    def forget(self) -> None:
        """Take the mounts out of a site that nobody will stop."""
        self._unmount_all()

    def _mount_all(self) -> None:
        configuration = self.assembly.configuration
        if self.app is not None:
            self._mounted.append(self.assembly.site.mount(self.app))
        for settings in configuration.mounts:
            if settings["enabled"]:
                self._mounted.append(self._mount(configuration, settings))

    def _mount(self, configuration: Configuration, settings: Settings) -> Mount:
        site, place = self.assembly.site, settings.place
        try:
            target = applications.open_application(configuration, settings)
            faces.refuse(target.app, settings["app"])
            return applications.mount(configuration, settings, site, target)
        except SitebusError as error:
            if isinstance(error, AppImportError) and isinstance(error.error, KeyboardInterrupt):
                raise error.error from None  # the operator's, who has waited long enough
            self.flawed = True
            text = getattr(error, "traceback_text", "")
            self.bus.log(f"{place} answers 500: {error}\n{text}".rstrip(), ERROR)
            stand_in = saying(explaining(site, settings["name"] or str(place), error))
            return site.mount(
                stand_in, place.prefix or "/", host=place.host or None, port=place.port,
                name=settings["name"], interface="wsgi",
            )  # fmt: skip


def explaining(site: Site, name: str, error: BaseException) -> Page:
    """Answer the page that says why there is nothing else, in development."""
    # Without what is ours of the way there, if that is known.
    text = getattr(error, "traceback_text", "")
    told = f"{error}\n\n{text}" if text else ""

    def page(environ: Mapping[str, Any]) -> pages.Answer:
        if not site.development:
            return pages.plain("500 Internal Server Error")
        return pages.failure(error, name, html=pages.wants_html(environ), text=told)

    return page


def saying(page: Page) -> WSGIApplication:
    """Answer an application that has but one answer."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return pages.send(page(environ), environ, start_response)

    return application


class Gate(Plugin):
    """Let the host's requests into the site from the start to the stop, and wait for them then.

    Args:
        bus: The engine.
        site: The site.
        opened: Is told that requests may enter.
        closed: Is told that they may not.
        patience: Seconds that a stop waits for those inside.
    """

    def __init__(
        self,
        bus: Engine,
        site: Site,
        opened: Callable[[], object],
        closed: Callable[[], object],
        patience: float,
    ) -> None:
        super().__init__(bus)
        self.site = site
        self.opened = opened
        self.closed = closed
        self.patience = patience

    @listens("start", priority=Priority.SERVE)
    def start(self) -> None:
        """Let requests in: every application is up."""
        self.opened()

    @listens("stop", priority=Priority.DRAIN)
    def stop(self) -> None:
        """Let nobody in any more, and wait for who is inside."""
        self.closed()
        deadline = time.monotonic() + self.patience
        for mount in self.site.mounts:
            mount.drain(max(0.0, deadline - time.monotonic()))
