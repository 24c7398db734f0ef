"""The WSGI face of a site: which mount a request goes to, and what it sees of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from sitebus.asgi import CONNECTION
from sitebus.mounts import pages
from sitebus.mounts.isolation import (
    GOOD_NAMES,
    GOOD_STATUSES,
    GOOD_VALUES,
    Exchange,
    check_chunks,
    check_header,
    check_headers,
    explained,
    failed,
    finish,
    streamed,
)

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from sitebus.mounts import Mount, Site
    from sitebus.mounts.access import AccessLog

    #: Takes the rest of the path beside what an application takes. None: look again.
    Serve = Callable[[WSGIEnvironment, StartResponse, str], Iterable[bytes] | None]

#: What the face reads once for each request: a look-up by the path's first segment (None where
#: that does not decide), what serves the root, and a look-up for every case.
Route = tuple[
    "Callable[[str], Mount | None] | None",
    "Serve",
    "Callable[[WSGIEnvironment, str], tuple[Serve, str]]",
]

#: Longer paths are cut by a search that never looks further than the longest prefix.
_LONG_PATH = 1000


def face(site: Site) -> WSGIApplication:
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
    unknown_host = answering(site, _misdirected)
    merge = answering(site, _merged) if site.merge_slashes else None

    def choose(environ: WSGIEnvironment, path: str) -> tuple[Serve, str]:
        if merge is not None and "//" in path:
            return merge, path
        prefixes = only or table.choose(host_of(environ), port_of(environ))
        if prefixes is None:
            return unknown_host, path
        mount, length = prefixes.find(path)
        if mount is None:
            return nothing, path
        return mount._serve, path[length:] if length else path

    return choose


def host_of(environ: WSGIEnvironment) -> str:
    host: str = environ.get("HTTP_HOST") or environ.get("SERVER_NAME", "")
    return host


def port_of(environ: WSGIEnvironment) -> str:
    """Answer the port of the listening socket, "" if it has none."""
    scope = environ.get("asgi.scope")
    source = environ if scope is None else scope
    real = source.get(CONNECTION)
    if real is None and scope is None:
        port: str = environ.get("SERVER_PORT", "")
        return port
    # The environ must have one, and may have the one that the client writes into ``Host``.
    server = source.get("server") if real is None else real.server
    return str(server[1]) if server and server[1] is not None else ""


def isolated(mount: Mount) -> Serve:  # noqa: C901 - see below
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


def minding_slash(mount: Mount, serve: Serve) -> Serve:
    """Answer *serve*, with what the mount says about a request for its bare prefix."""

    def serve_minding_slash(
        environ: WSGIEnvironment, start_response: StartResponse, rest: str
    ) -> Iterable[bytes] | None:
        if rest:
            return serve(environ, start_response, rest)
        return pages.send(mount.bare(environ), environ, start_response)

    return serve_minding_slash


def route(site: Site) -> Route:
    """Answer what the face reads; another one for each change of the site."""
    only = site.table.only
    nothing = answering(site, _not_found)
    choose = _choosing(site, nothing)
    if only is None or only.depth > 1 or site.merge_slashes:
        return None, nothing, choose
    root = only.entries.get("")
    return only.segments.get, nothing if root is None else root._serve, choose


def answering(site: Site, say: Callable[[Site, WSGIEnvironment], pages.Answer]) -> Serve:
    """Answer what serves what the site itself says, which no mount is named for."""

    def serve(
        environ: WSGIEnvironment, start_response: StartResponse, rest: str
    ) -> Iterable[bytes]:
        return pages.send(say(site, environ), environ, start_response)

    return logged(serve, "-", site.access_log)


def logged(serve: Serve, name: str, log: AccessLog | None) -> Serve:
    """Answer *serve*, with a line in *log* for each request, under the mount's *name*."""
    if log is None:
        return serve
    from sitebus.mounts.access import logging_requests

    return logging_requests(serve, name, log)


def _not_found(site: Site, environ: WSGIEnvironment) -> pages.Answer:
    return site.not_found(environ)


def _misdirected(site: Site, environ: WSGIEnvironment) -> pages.Answer:
    return pages.plain("421 Misdirected Request")


def _merged(site: Site, environ: WSGIEnvironment) -> pages.Answer:
    return site.merged(environ)
