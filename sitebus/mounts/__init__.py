"""The site: many applications under one roof, each at its own host, port and path prefix.

Decides which application a request goes to, what it sees of the request, and what becomes of one
that goes wrong. Where a mount is written and found is ``routing``'s, how an application's failures
are contained ``isolation``'s, what the site itself says ``pages``'s.

The table is swapped whole, under a lock that readers never take: a request sees the mounts before a
change or after it. A request that found a mount just before it was unmounted notices on entering,
and looks again, so that a drained mount is never entered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from sitebus.errors import (
    BadMountOption,
    ClientFault,
    DuplicateMount,
    InterfaceNotServed,
    NotAnApplication,
    WouldDeadlock,
)
from sitebus.loop import on_a_loop
from sitebus.mounts import pages, wsgi
from sitebus.mounts.cookies import narrowing_cookies, narrowing_cookies_asgi
from sitebus.mounts.crossing import Crossing
from sitebus.mounts.isolation import Flights, log_error, record_safely
from sitebus.mounts.lifespans import TIMEOUT, Lifespan, Lifespans, Mode
from sitebus.mounts.routing import Place, Table, wire_prefix

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication, WSGIEnvironment

    from sitebus.asgi import ASGIApplication, Receive, Scope, Send
    from sitebus.interfaces import Interface
    from sitebus.mounts.access import AccessLog
    from sitebus.mounts.asgi import Answer, Route
    from sitebus.mounts.wsgi import Serve

    #: An application of either interface.
    Application = Callable[..., Any]
    Filter = Callable[[Any], Any]
    OnError = Callable[["Mount", WSGIEnvironment, BaseException], object]

Slash = Literal["pass", "redirect", "strict"]
CookiePath = Literal["keep", "prefix"]
PathStyle = Literal["auto", "spec", "stripped", "flat"]

#: What frameworks expect of ``path`` and ``root_path`` that do not go by the specification.
_STYLES: dict[str, PathStyle] = {"Falcon": "stripped", "Sanic": "flat"}


class Mount:
    """One application at its place in a site; made by ``Site.mount``."""

    __slots__ = (
        "_answer", "_asked", "_flights", "_lifespan", "_serve", "_site", "app", "cookie_path",
        "enabled", "filters", "framework", "interface", "name", "path_style", "place", "retired",
        "slash", "wire",
    )  # fmt: skip

    def __init__(
        self,
        site: Site,
        app: Application,
        place: Place,
        *,
        name: str | None = None,
        slash: Slash = "pass",
        filters: Sequence[Filter] = (),
        cookie_path: CookiePath = "keep",
        enabled: bool = True,
        interface: Interface = "wsgi",
        framework: str = "",
        path_style: PathStyle = "auto",
        lifespan: Mode = "auto",
        lifespan_timeout: float = TIMEOUT,
    ) -> None:
        _check_option("slash", slash, get_args(Slash))
        _check_option("path_style", path_style, get_args(PathStyle))
        _check_option("lifespan", lifespan, get_args(Mode))
        _check_option("cookie_path", cookie_path, get_args(CookiePath))
        self._site = site
        #: The application as it was given, without its filters.
        self.app = app
        self.place = place
        #: Its name in the access log.
        self.name = name or str(place)
        self.slash = slash
        self.filters = tuple(filters)
        self.cookie_path = cookie_path
        self.enabled = enabled
        self.interface = interface
        self.framework = framework
        #: The prefix as WSGI spells paths.
        self.wire = wire_prefix(place.prefix)
        #: True once it is unmounted: no request enters any more.
        self.retired = False
        #: How the paths of an ASGI application are told; never ``auto``.
        self.path_style = _style(path_style, framework)
        self._flights = Flights()
        self._asked = _filtered(self)
        self._lifespan: Lifespan | None = None
        if lifespan == "on" and not self.is_asgi:
            raise BadMountOption("lifespan", lifespan, ("auto", "off"))
        if self.is_asgi and lifespan != "off":
            self._lifespan = Lifespan(self._asked, self.name, lifespan, lifespan_timeout)
        self._serve: Serve
        self._answer: Answer
        site._prepare(self)

    @property
    def prefix(self) -> str:
        """The path prefix in its normal form, "" for the root."""
        return self.place.prefix

    @property
    def host(self) -> str | None:
        return self.place.host or None

    @property
    def port(self) -> int | None:
        return self.place.port

    @property
    def is_asgi(self) -> bool:
        return self.interface.startswith("asgi")

    @property
    def in_flight(self) -> int:
        """How many requests are inside the application, until their bodies are closed."""
        return len(self._flights)

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until no request is inside; answer whether that came about within *timeout* s.

        Unmount first if no new one shall enter meanwhile. A request that waits for its own mount
        to be drained waits for itself.

        Raises:
            WouldDeadlock: There are requests to wait for, and an event loop runs in this thread.
        """
        if timeout != 0 and self.in_flight and on_a_loop():
            raise WouldDeadlock(f"drain of {self.name}", "await asyncio.to_thread(mount.drain)")
        return self._flights.wait_empty(timeout)

    def unmount(self) -> None:
        """Take it out of the site; the requests inside go on, and ``drain`` waits for them."""
        self._site.unmount(self)

    def record(self, environ: WSGIEnvironment, error: BaseException) -> None:
        """Tell the log of a failure inside the application; never raises.

        What the client has done is left out: else it could fill the log.
        """
        if ClientFault.is_why(error):
            return
        record_safely(self._site.on_error, self, environ, error)

    def page(self, environ: WSGIEnvironment, error: BaseException) -> pages.Answer:
        """Answer what a client gets to see of *error*."""
        if not self._site.development:
            return pages.plain("500 Internal Server Error")
        return pages.failure(error, self.name, html=pages.wants_html(environ))

    def bare(self, environ: WSGIEnvironment) -> pages.Answer:
        """Answer what a request for the prefix without a slash gets, if not the application."""
        if self.slash == "strict":
            return self._site.not_found(environ)
        here = pages.quoted(environ.get("SCRIPT_NAME", "") + self.wire) + "/"
        return _moved(environ, here)

    def __repr__(self) -> str:
        return f"<Mount {self.place} {self.framework or self.interface}>"


class Site:
    """Maps (host, port, prefix) to applications; ``site.wsgi`` and ``site.asgi`` are two itself."""

    def __init__(
        self,
        name: str = "site",
        *,
        development: bool = False,
        strict_hosts: bool = False,
        merge_slashes: bool = False,
        access_log: AccessLog | None = None,
        on_error: OnError | None = None,
    ) -> None:
        self.name = name
        self._changing = threading.RLock()
        self._mounts: dict[Place, Mount] = {}
        self._table: Table[Mount] = Table(strict=strict_hosts)
        self.development = development
        self.merge_slashes = merge_slashes
        self.access_log = access_log
        self.on_error: OnError = on_error or log_error
        self._asgi: ASGIApplication | None = None
        self._plain_asgi: ASGIApplication | None = None
        self._asgi_route: Route
        #: The lifespans of the ASGI applications.
        self.lifespans = Lifespans(self)
        #: How requests get to applications of the other interface.
        self.crossing = Crossing(self)
        #: Told of each mount before it is there, and may refuse it.
        self.noticed: Callable[[Mount], object] = _unnoticed
        self._route = wsgi.route(self)
        #: The site as a WSGI application; the same object for as long as the site lives.
        self.wsgi: WSGIApplication = wsgi.face(self)

    @property
    def asgi(self) -> ASGIApplication:
        """The site as an ASGI application; the same object for as long as the site lives."""
        # Servers tell a coroutine function from others by looking, and take those for ASGI 2.
        self.plain_asgi  # noqa: B018 - makes both
        assert self._asgi is not None
        return self._asgi

    @property
    def plain_asgi(self) -> ASGIApplication:
        """The same for who does not look at it: a function that answers what is to be awaited.

        It costs one coroutine less for each request.
        """
        if self._plain_asgi is None:
            # Not before somebody asks: it takes asyncio.
            from sitebus.mounts import asgi

            with self._changing:
                if self._plain_asgi is None:
                    made = asgi.face(self)
                    self._asgi = asgi.recognisable(made)
                    for mount in self._mounts.values():
                        mount._answer = self._answering(mount)
                    self._asgi_route = asgi.route(self)
                    self._plain_asgi = made
        return self._plain_asgi

    def speech(self) -> Literal["wsgi", "asgi"]:
        """Answer the interface that suits its applications: ASGI as soon as one speaks that."""
        return "asgi" if any(mount.is_asgi for mount in self.mounts) else "wsgi"

    def configure(
        self,
        *,
        name: str | None = None,
        development: bool | None = None,
        strict_hosts: bool | None = None,
        merge_slashes: bool | None = None,
        access_log: AccessLog | Literal[False] | None = None,
        on_error: OnError | None = None,
    ) -> None:
        """Change what is given, at once for all requests to come; ``access_log=False`` is off."""
        with self._changing:
            self.name = self.name if name is None else name
            self.development = self.development if development is None else development
            self.merge_slashes = self.merge_slashes if merge_slashes is None else merge_slashes
            self.on_error = on_error or self.on_error
            if access_log is not None:
                self.access_log = access_log or None
            for mount in self._mounts.values():
                self._prepare(mount)
            strict = self._table.strict if strict_hosts is None else strict_hosts
            self._swap(Table(self._table.hosts, strict=strict))

    @property
    def strict_hosts(self) -> bool:
        """Whether a host that no mount names is answered 421."""
        return self._table.strict

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """All mounts, in the order in which they were mounted."""
        with self._changing:
            return tuple(self._mounts.values())

    def find(self, environ: WSGIEnvironment) -> Mount | None:
        """Answer the mount that a request goes to, as the server tells it; None if none does."""
        table = self._table
        prefixes = table.choose(wsgi.host_of(environ), wsgi.port_of(environ))
        return prefixes.find(environ.get("PATH_INFO", ""))[0] if prefixes is not None else None

    @property
    def table(self) -> Table[Mount]:
        """The present look-up table; never changes, the next change makes another."""
        return self._table

    def mount(
        self,
        app: Application,
        path: str = "/",
        *,
        host: str | None = None,
        port: int | None = None,
        name: str | None = None,
        slash: Slash = "pass",
        filters: Sequence[Filter] = (),
        cookie_path: CookiePath = "keep",
        replace: bool = False,
        enabled: bool = True,
        interface: Interface | Literal["asgi"] | None = None,
        path_style: PathStyle = "auto",
        lifespan: Mode = "auto",
        lifespan_timeout: float = TIMEOUT,
    ) -> Mount:
        """Put *app* at *path*, and answer the handle by which it can be drained and unmounted.

        An ASGI application comes up first, by its lifespan, if the site serves already.

        Args:
            app: The application; what it is gets detected without calling it.
            path: The prefix: "/" or "/a/b". Whole segments match, and the longest prefix wins.
            host: ``name``, ``name:port`` or ``*.suffix``; any host if not given. A host that has
                mounts of its own is answered by these alone.
            port: The port of the listening socket; any if not given.
            name: For logs; the prefix (behind its host) if not given.
            slash: What a request for the bare prefix gets: ``pass`` it to the application with an
                empty PATH_INFO, ``redirect`` it to the prefix with a slash, or ``strict`` (404).
            filters: Middleware of the application's own interface, each called once with the next
                application; outermost first.
            cookie_path: ``prefix`` narrows the application's cookies for "/" to its prefix.
            replace: Put it in the place of a mount that is there already, without a gap.
            enabled: False keeps the place but serves nothing from it.
            interface: What *app* is, where looking at it cannot tell.
            path_style: How an ASGI application is told the path: as the specification says
                (``spec``), without the prefix (``stripped``), or without a trace of it (``flat``);
                what its framework needs if not said.
            lifespan: Whether an ASGI application must have a lifespan (``on``), may (``auto``), or
                is not asked (``off``).
            lifespan_timeout: Seconds it may take to come up, and to end.

        Raises:
            BadPrefix, BadHost, BadMountOption: The place or an option makes no sense.
            DuplicateMount: The place is taken.
            NotAnApplication, UnclearInterface, InterfaceNotServed: *app* cannot be served.
            AppImportError: Its own code failed when it was looked at.
            LifespanFailed: It did not come up; nothing has changed.
            GuestFailed: The engine that it has of its own did not start; nothing has changed.
            WouldDeadlock: The site serves, and this is the thread of its event loop.
        """
        place = Place.of(path, host, port)
        found, framework = _checked(app, interface)
        mount = Mount(
            self, app, place, name=name, slash=slash, filters=filters, cookie_path=cookie_path,
            enabled=enabled, interface=found, framework=framework, path_style=path_style,
            lifespan=lifespan, lifespan_timeout=lifespan_timeout,
        )  # fmt: skip
        self._check_free(mount, replace)
        self.noticed(mount)
        try:
            while True:
                # Not under the lock: it may take its time.
                epoch = self.lifespans.join(mount)
                with self._changing:
                    old = self._check_free(mount, replace)
                    if epoch != self.lifespans.epoch:
                        continue  # it started or stopped without this one
                    self._mounts[place] = mount
                    # Made for the site as it was before the lock was taken.
                    self._prepare(mount)
                    self._put(mount, old)
                break
        except BaseException:
            self.lifespans.leave(mount)
            raise
        if old is not None:
            self.lifespans.leave(old)
        return mount

    def _check_free(self, mount: Mount, replace: bool) -> Mount | None:
        old = self._mounts.get(mount.place)
        if old is not None and not replace:
            raise DuplicateMount(str(mount.place), mount.name, old.name)
        return old

    def _put(self, mount: Mount, old: Mount | None) -> None:
        if mount.enabled:
            self._swap(self._table.with_entry(mount.place, mount.wire, mount))
        elif old is not None and old.enabled:
            self._swap(self._table.without_entry(mount.place, mount.wire))
        if old is not None:
            old.retired = True

    def unmount(self, mount: Mount) -> None:
        """Take *mount* out; does nothing if it is out already."""
        with self._changing:
            if self._mounts.get(mount.place) is not mount:
                return
            del self._mounts[mount.place]
            if mount.enabled:
                self._swap(self._table.without_entry(mount.place, mount.wire))
            # After the swap: who finds it retired must not find it again.
            mount.retired = True
        self.lifespans.leave(mount)

    def disown(self) -> None:
        """Leave requests and lifespans to the process from which this one was forked."""
        self._changing = threading.RLock()
        self.lifespans = Lifespans(self)
        for mount in self.mounts:
            mount._flights.disown()

    def _swap(self, table: Table[Mount]) -> None:
        self._table = table
        self._route = wsgi.route(self)
        if self._plain_asgi is not None:
            from sitebus.mounts import asgi

            self._asgi_route = asgi.route(self)

    def _prepare(self, mount: Mount) -> None:
        """Make what serves *mount* on either face, for the site as it is configured now."""
        mount._serve = self._serving(mount)
        if self._plain_asgi is not None:
            mount._answer = self._answering(mount)

    def _serving(self, mount: Mount) -> Serve:
        if mount.is_asgi:
            # It is isolated and logged on its own face.
            return lambda environ, start_response, _: self.crossing.to_wsgi(environ, start_response)
        serve = wsgi.isolated(mount)
        if mount.slash != "pass":
            serve = wsgi.minding_slash(mount, serve)
        return wsgi.logged(serve, mount.name, self.access_log)

    def _answering(self, mount: Mount) -> Answer:
        from sitebus.mounts import asgi

        if not mount.is_asgi:
            return self._across
        answer = asgi.isolated(mount)
        if mount.slash != "pass":
            answer = asgi.minding_slash(mount, answer)
        return asgi.logged(answer, mount.name, self.access_log)

    async def _across(self, scope: Scope, receive: Receive, send: Send, path: str | None) -> None:
        if scope["type"] == "websocket":
            from sitebus.mounts.telling import send_answer

            await send_answer(pages.plain("404 Not Found"), scope, send)
            return
        await self.crossing.to_asgi(scope, receive, send)

    def not_found(self, environ: WSGIEnvironment) -> pages.Answer:
        """Answer what a request gets that no mount answers."""
        if not self.development:
            return pages.plain("404 Not Found")
        script = environ.get("SCRIPT_NAME", "")
        rows = [
            pages.Row(str(mount.place), pages.quoted(f"{script}{mount.wire}/"), mount.name,
                      mount.framework or mount.interface)
            for mount in self.mounts
            if mount.enabled
        ]  # fmt: skip
        path = script + environ.get("PATH_INFO", "")
        return pages.not_found(path, rows, html=pages.wants_html(environ))

    def merged(self, environ: WSGIEnvironment) -> pages.Answer:
        """Answer the redirect to a path without several slashes in a row."""
        import re

        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        return _moved(environ, re.sub("//+", "/", pages.requoted(environ, path)))


def _unnoticed(mount: Mount) -> None:
    """Care about no mount."""


def _filtered(mount: Mount) -> Application:
    from sitebus.interfaces import describe

    app = mount.app
    if mount.interface == "asgi2":
        app = single(app)
    for wrap in reversed(mount.filters):
        app = wrap(app)
        if not callable(app):
            raise NotAnApplication(repr(wrap), f"as a filter, it answered {describe(app)}")
    if mount.cookie_path == "prefix":
        narrowing = narrowing_cookies_asgi if mount.is_asgi else narrowing_cookies
        app = narrowing(app)
    return app


def single(app: Application) -> ASGIApplication:
    """Answer an ASGI 2 application as one of ASGI 3."""

    async def single(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope)(receive, send)

    return single


def _style(said: PathStyle, framework: str) -> PathStyle:
    return _STYLES.get(framework, "spec") if said == "auto" else said


def _moved(environ: WSGIEnvironment, path: str) -> pages.Answer:
    query = environ.get("QUERY_STRING", "")
    return pages.redirect(path + (f"?{pages.unbroken(query)}" if query else ""))


def _checked(app: object, interface: Interface | Literal["asgi"] | None) -> tuple[Interface, str]:
    from sitebus.interfaces import describe, detect

    said: Interface | None = "asgi3" if interface == "asgi" else interface
    found = detect(app, said)
    if found.interface == "factory":
        raise InterfaceNotServed(describe(app), "factory", "call it, and mount what it answers")
    return found.interface, found.framework


def _check_option(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise BadMountOption(option, value, allowed)
