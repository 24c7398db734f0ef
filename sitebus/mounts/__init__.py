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
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from sitebus.errors import BadMountOption, DuplicateMount, InterfaceNotServed, NotAnApplication
from sitebus.mounts import pages
from sitebus.mounts.cookies import narrowing_cookies
from sitebus.mounts.isolation import (
    GOOD_NAMES,
    GOOD_STATUSES,
    GOOD_VALUES,
    Exchange,
    Flights,
    check_chunks,
    check_header,
    check_headers,
    explained,
    failed,
    finish,
    log_error,
    record_safely,
    streamed,
)
from sitebus.mounts.routing import Place, Table, wire_prefix

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from sitebus.interfaces import Interface
    from sitebus.mounts.access import AccessLog

    Filter = Callable[[WSGIApplication], WSGIApplication]
    OnError = Callable[["Mount", WSGIEnvironment, BaseException], object]
    #: Takes the rest of the path beside what an application takes. None: look again.
    Serve = Callable[[WSGIEnvironment, StartResponse, str], Iterable[bytes] | None]

Slash = Literal["pass", "redirect", "strict"]
CookiePath = Literal["keep", "prefix"]

#: Longer paths are cut by a search that never looks further than the longest prefix.
_LONG_PATH = 1000


class Mount:
    """One application at its place in a site; made by ``Site.mount``."""

    __slots__ = (
        "_asked", "_flights", "_serve", "_site", "app", "cookie_path", "enabled", "filters",
        "framework", "interface", "name", "place", "retired", "slash", "wire",
    )  # fmt: skip

    def __init__(
        self,
        site: Site,
        app: WSGIApplication,
        place: Place,
        *,
        name: str | None = None,
        slash: Slash = "pass",
        filters: Sequence[Filter] = (),
        cookie_path: CookiePath = "keep",
        enabled: bool = True,
        interface: Interface = "wsgi",
        framework: str = "",
    ) -> None:
        _check_option("slash", slash, get_args(Slash))
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
        self._flights = Flights()
        self._asked = _filtered(self)
        self._serve: Serve = site._serving(self)

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
    def in_flight(self) -> int:
        """How many requests are inside the application, until their bodies are closed."""
        return len(self._flights)

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until no request is inside; answer whether that came about within *timeout* s.

        Unmount first if no new one shall enter meanwhile.
        """
        return self._flights.wait_empty(timeout)

    def unmount(self) -> None:
        """Take it out of the site; the requests inside go on, and ``drain`` waits for them."""
        self._site.unmount(self)

    def record(self, environ: WSGIEnvironment, error: BaseException) -> None:
        """Tell the log of a failure inside the application; never raises."""
        record_safely(self._site.on_error, self, environ, error)

    def page(self, environ: WSGIEnvironment, error: BaseException) -> pages.Answer:
        """Answer what a client gets to see of *error*."""
        if not self._site.development:
            return pages.plain("500 Internal Server Error")
        return pages.failure(error, self.name, html=pages.wants_html(environ))

    def __repr__(self) -> str:
        return f"<Mount {self.place} {self.framework or self.interface}>"


#: What the WSGI face reads once for each request: a look-up by the path's first segment (None where
#: that does not decide), what serves the root, and a look-up for every case.
_Route = tuple[
    "Callable[[str], Mount | None] | None",
    "Serve",
    "Callable[[WSGIEnvironment, str], tuple[Serve, str]]",
]


class Site:
    """Maps (host, port, prefix) to applications; ``site.wsgi`` is itself one."""

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
        self._route = self._routed()
        #: The site as a WSGI application; the same object for as long as the site lives.
        self.wsgi: WSGIApplication = _wsgi_face(self)

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
                mount._serve = self._serving(mount)
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
        prefixes = table.choose(_host_of(environ), environ.get("SERVER_PORT", ""))
        return prefixes.find(environ.get("PATH_INFO", ""))[0] if prefixes is not None else None

    @property
    def table(self) -> Table[Mount]:
        """The present look-up table; never changes, the next change makes another."""
        return self._table

    def mount(
        self,
        app: WSGIApplication,
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
        interface: Interface | None = None,
    ) -> Mount:
        """Put *app* at *path*, and answer the handle by which it can be drained and unmounted.

        Args:
            app: The application; what it is gets detected without calling it.
            path: The prefix: "/" or "/a/b". Whole segments match, and the longest prefix wins.
            host: ``name``, ``name:port`` or ``*.suffix``; any host if not given. A host that has
                mounts of its own is answered by these alone.
            port: The port of the listening socket; any if not given.
            name: For logs; the prefix (behind its host) if not given.
            slash: What a request for the bare prefix gets: ``pass`` it to the application with an
                empty PATH_INFO, ``redirect`` it to the prefix with a slash, or ``strict`` (404).
            filters: WSGI middleware, each called once with the next application; outermost first.
            cookie_path: ``prefix`` narrows the application's cookies for "/" to its prefix.
            replace: Put it in the place of a mount that is there already, without a gap.
            enabled: False keeps the place but serves nothing from it.
            interface: What *app* is, where looking at it cannot tell.

        Raises:
            BadPrefix, BadHost, BadMountOption: The place or an option makes no sense.
            DuplicateMount: The place is taken.
            NotAnApplication, UnclearInterface, InterfaceNotServed: *app* cannot be served.
            AppImportError: Its own code failed when it was looked at.
        """
        place = Place.of(path, host, port)
        found, framework = _checked(app, interface)
        mount = Mount(
            self, app, place, name=name, slash=slash, filters=filters, cookie_path=cookie_path,
            enabled=enabled, interface=found, framework=framework,
        )  # fmt: skip
        with self._changing:
            old = self._mounts.get(place)
            if old is not None and not replace:
                raise DuplicateMount(str(place), mount.name, old.name)
            self._mounts[place] = mount
            # Made for the site as it was before the lock was taken.
            mount._serve = self._serving(mount)
            self._put(mount, old)
        return mount

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

    def _swap(self, table: Table[Mount]) -> None:
        self._table = table
        self._route = self._routed()

    def _routed(self) -> _Route:
        only = self._table.only
        nothing = self._answering(_answer_not_found)
        choose = _choosing(self, nothing)
        if only is None or only.depth > 1 or self.merge_slashes:
            return None, nothing, choose
        root = only.entries.get("")
        return only.segments.get, nothing if root is None else root._serve, choose

    def _serving(self, mount: Mount) -> Serve:
        serve = _isolated(mount)
        if mount.slash != "pass":
            serve = _minding_slash(mount, serve)
        return self._logged(serve, mount.name)

    def _answering(self, answer: Callable[[Site, WSGIEnvironment], pages.Answer]) -> Serve:
        """Answer a serving function for what the site itself says, which no mount is named for."""

        def serve(
            environ: WSGIEnvironment, start_response: StartResponse, rest: str
        ) -> Iterable[bytes]:
            return pages.send(answer(self, environ), environ, start_response)

        return self._logged(serve, "-")

    def _logged(self, serve: Serve, name: str) -> Serve:
        if self.access_log is None:
            return serve
        from sitebus.mounts.access import logging_requests

        return logging_requests(serve, name, self.access_log)


def _wsgi_face(site: Site) -> WSGIApplication:
    def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        while True:
            by_segment, root, choose = site._route
            try:
                path = environ["PATH_INFO"]
            except KeyError:
                path = ""
            rest: str = path
            if by_segment is None or len(path) > _LONG_PATH:
                serve, rest = choose(environ, path)
            else:
                parts = path.split("/", 2)
                if len(parts) == 3:
                    before, segment, after = parts
                    mount = by_segment(segment)
                    if mount is None or before:
                        serve = root
                    else:
                        serve, rest = mount._serve, "/" + after
                else:
                    mount = by_segment(parts[-1])
                    if mount is None or path[:1] != "/":
                        serve = root
                    else:
                        serve, rest = mount._serve, ""
            response = serve(environ, start_response, rest)
            if response is not None:
                return response

    return wsgi


def _choosing(site: Site, nothing: Serve) -> Callable[[WSGIEnvironment, str], tuple[Serve, str]]:
    """Answer the look-up that knows hosts, deep prefixes and long paths."""
    table = site._table
    only = table.only
    unknown_host = site._answering(_answer_misdirected)
    merge = site._answering(_answer_merged) if site.merge_slashes else None

    def choose(environ: WSGIEnvironment, path: str) -> tuple[Serve, str]:
        if merge is not None and "//" in path:
            return merge, path
        prefixes = only or table.choose(_host_of(environ), environ.get("SERVER_PORT", ""))
        if prefixes is None:
            return unknown_host, path
        mount, length = prefixes.find(path)
        if mount is None:
            return nothing, path
        return mount._serve, path[length:] if length else path

    return choose


def _host_of(environ: WSGIEnvironment) -> str:
    host: str = environ.get("HTTP_HOST") or environ.get("SERVER_NAME", "")
    return host


def _isolated(mount: Mount) -> Serve:  # noqa: C901 - see below
    """Answer the function that gives a request to *mount*'s application, and bears with it."""
    application, prefix, name, flights = mount._asked, mount.wire, mount.name, mount._flights
    enter, leave = flights.enter, flights.leave

    def serve(  # noqa: C901 - in line, for it is on every request's way
        environ: WSGIEnvironment, start_response: StartResponse, rest: str
    ) -> Iterable[bytes] | None:
        # This runs for every request of the site: the usual answer, a list of one chunk, is
        # checked in line and sent off without a wrapper.
        enter(None)
        if mount.retired:
            flights.done()
            return None
        exchange = Exchange()
        exchange.begin = start_response
        exchange.environ = environ
        exchange.status = ""
        try:
            own = environ.copy()
            if prefix:
                try:
                    outer = environ["SCRIPT_NAME"]
                except KeyError:
                    outer = ""
                own["SCRIPT_NAME"] = outer + prefix if outer else prefix
                own["PATH_INFO"] = rest
            own["sitebus.mount"] = name
            result = application(own, exchange.start)
            if type(result) is not list and type(result) is not tuple:
                return streamed(result, exchange, environ, mount, flights)
            status = exchange.status
            if status in GOOD_STATUSES:
                if len(result) != 1 or type(result[0]) is not bytes:
                    check_chunks(result)
                headers = exchange.headers
                if type(headers) is not list:
                    check_headers(headers)
                for key, value in headers:
                    if key not in GOOD_NAMES or value not in GOOD_VALUES:
                        check_header((key, value))
                exchange.begin = None
                start_response(status, headers)
            else:
                result = finish(exchange, result)
        except BaseException as error:  # noqa: BLE001 - a stranger's code; see isolation.py
            flights.done()
            return failed(explained(error, exchange), exchange, environ, start_response, mount)
        leave()
        if flights.awaited:
            flights.landed()
        return [] if environ["REQUEST_METHOD"] == "HEAD" else result

    return serve


def _minding_slash(mount: Mount, serve: Serve) -> Serve:
    def serve_minding_slash(
        environ: WSGIEnvironment, start_response: StartResponse, rest: str
    ) -> Iterable[bytes] | None:
        if rest:
            return serve(environ, start_response, rest)
        if mount.slash == "strict":
            return pages.send(_answer_not_found(mount._site, environ), environ, start_response)
        here = pages.quoted(environ.get("SCRIPT_NAME", "") + mount.wire) + "/"
        return pages.send(_answer_moved(environ, here), environ, start_response)

    return serve_minding_slash


def _filtered(mount: Mount) -> WSGIApplication:
    from sitebus.interfaces import describe

    app = mount.app
    for wrap in reversed(mount.filters):
        app = wrap(app)
        if not callable(app):
            raise NotAnApplication(repr(wrap), f"as a filter, it answered {describe(app)}")
    if mount.cookie_path == "prefix":
        app = narrowing_cookies(app)
    return app


def _answer_not_found(site: Site, environ: WSGIEnvironment) -> pages.Answer:
    if not site.development:
        return pages.plain("404 Not Found")
    script = environ.get("SCRIPT_NAME", "")
    rows = [
        pages.Row(str(mount.place), pages.quoted(f"{script}{mount.wire}/"), mount.name,
                  mount.framework or mount.interface)
        for mount in site.mounts
        if mount.enabled
    ]  # fmt: skip
    path = script + environ.get("PATH_INFO", "")
    return pages.not_found(path, rows, html=pages.wants_html(environ))


def _answer_misdirected(site: Site, environ: WSGIEnvironment) -> pages.Answer:
    return pages.plain("421 Misdirected Request")


def _answer_merged(site: Site, environ: WSGIEnvironment) -> pages.Answer:
    import re

    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return _answer_moved(environ, re.sub("//+", "/", pages.requoted(environ, path)))


def _answer_moved(environ: WSGIEnvironment, path: str) -> pages.Answer:
    query = environ.get("QUERY_STRING", "")
    return pages.redirect(path + (f"?{pages.unbroken(query)}" if query else ""))


def _checked(app: object, interface: Interface | None) -> tuple[Interface, str]:
    from sitebus.interfaces import describe, detect

    found = detect(app, interface)
    if found.interface == "factory":
        raise InterfaceNotServed(describe(app), "factory", "call it, and mount what it answers")
    if found.interface != "wsgi":
        instead = "this version of the site serves WSGI applications only"
        raise InterfaceNotServed(describe(app), found.interface, instead)
    return found.interface, found.framework


def _check_option(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise BadMountOption(option, value, allowed)
