"""The ASGI face of a site: which mount a request or WebSocket goes to, and what it sees of it.

The mounts, the table and what the site itself says are those of the WSGI face. The scope of the
server is never changed: each application gets a copy. Paths are left as they are, but for the two
styles in which some frameworks want theirs (`PathStyle`).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from sitebus.asgi import CONNECTION
from sitebus.mounts import pages
from sitebus.mounts.cookies import ROOT
from sitebus.mounts.faults import failed, unfinished
from sitebus.mounts.reply import COMPLETE, NOTHING, Reply, SocketReply
from sitebus.mounts.telling import described, send_answer, wire

if TYPE_CHECKING:
    from sitebus.asgi import ASGIApplication, Message, Receive, Scope, Send
    from sitebus.mounts import Mount, Site
    from sitebus.mounts.access import AccessLog

    #: Takes the path below what is in front of the site, beside what an application takes; None
    #: if nothing is.
    Answer = Callable[[Scope, Receive, Send, str | None], Awaitable[None]]

    #: A look-up by the path's first segment (None where that does not decide), what serves the
    #: root, and what serves whatever these two do not.
    Route = tuple[Callable[[str], Mount | None] | None, Answer, ASGIApplication]

#: Longer paths are cut by a search that never looks further than the longest prefix.
_LONG_PATH = 1000


def face(site: Site) -> ASGIApplication:
    """Answer *site* as an ASGI application.

    It answers what is to be awaited rather than being a coroutine, which would cost one more for
    each request.
    """

    def asgi(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        by_segment, root, otherwise = site._asgi_route
        try:
            path = scope["path"]
            if scope["root_path"] or by_segment is None or len(path) > _LONG_PATH:
                return otherwise(scope, receive, send)
        except KeyError:  # a lifespan; or the server leaves out what is empty
            return otherwise(scope, receive, send)
        # To find the slash, and cut there, takes half as long again.
        parts = path.split("/", 2)
        if len(parts) == 1 or parts[0]:
            return root(scope, receive, send, None)
        mount = by_segment(parts[1])
        return (root if mount is None else mount._answer)(scope, receive, send, None)

    return asgi


def recognisable(plain: ASGIApplication) -> ASGIApplication:
    """Answer *plain* as a coroutine function."""

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        await plain(scope, receive, send)

    return asgi


def route(site: Site) -> Route:
    """Answer what the face reads once for each request, as the WSGI face does with its own."""
    only = site.table.only
    nothing = answering(site, _not_found)
    chosen = _chosen(_choosing(site, nothing), site.lifespans.serve)
    simple = only is not None and only.depth < 2 and only.longest < _LONG_PATH
    # The table is spelt as WSGI spells paths, which for these is the same.
    if only is None or not simple or site.merge_slashes or not all(map(str.isascii, only.entries)):
        return None, nothing, chosen
    at_root = only.entries.get("")
    root = nothing if at_root is None else at_root._answer
    segments = only.segments
    return (segments.get, root, chosen) if segments else (None, root, _alone(root, chosen))


def _alone(root: Answer, chosen: ASGIApplication) -> ASGIApplication:
    """Serve a site of one application."""

    def alone(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if "path" not in scope or (scope.get("root_path")):
            return chosen(scope, receive, send)
        return root(scope, receive, send, None)

    return alone


def _chosen(
    choose: Callable[[Scope, str], tuple[Answer, str]], lifespan: ASGIApplication
) -> ASGIApplication:
    """Serve any site."""

    def chosen(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return lifespan(scope, receive, send)
        answer, path = choose(scope, scope["path"])
        return answer(scope, receive, send, path)

    return chosen


def _choosing(site: Site, nothing: Answer) -> Callable[[Scope, str], tuple[Answer, str]]:
    """Answer the look-up that knows hosts, deep prefixes, outer prefixes and long paths."""
    table = site._table
    only = table.only
    unknown_host = answering(site, _misdirected)
    merge = answering(site, _merged) if site.merge_slashes else None

    def choose(scope: Scope, path: str) -> tuple[Answer, str]:
        path = below(scope.get("root_path", ""), path)
        if merge is not None and "//" in path and scope["type"] == "http":
            return merge, path
        prefixes = only or table.choose(host_of(scope), port_of(scope))
        if prefixes is None:
            return unknown_host, path
        mount = prefixes.find(wire(path))[0]
        return (nothing if mount is None else mount._answer), path

    return choose


def below(root: str, path: str) -> str:
    """Answer what of *path* is below *root*; servers that do not repeat *root* there exist."""
    root = root.rstrip("/")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("/", ""):
        return path[len(root) :]
    return path


def host_of(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"host":
            return str(value, "latin-1")
    server = scope.get("server")
    return str(server[0]) if server else ""


def port_of(scope: Scope) -> str:
    """Answer the port of the listening socket, "" if it has none."""
    real = scope.get(CONNECTION)
    server = scope.get("server") if real is None else real.server
    return str(server[1]) if server and server[1] is not None else ""


# One mount.


def isolated(mount: Mount) -> Answer:
    """Answer what gives a request or WebSocket to *mount*'s application, and bears with it."""
    application, flights = mount._asked, mount._flights
    enter, leave = flights.enter, flights.leave
    place = _placing(mount)
    # The commonest case, in line: a prefix, and nothing in front of the site.
    prefix = mount.prefix if mount.path_style == "spec" else ""
    state = mount._lifespan.state if mount._lifespan is not None else None

    async def answer(scope: Scope, receive: Receive, send: Send, path: str | None) -> None:
        enter(None)
        if mount.retired:
            flights.done()
            await mount._site.plain_asgi(scope, receive, send)
            return
        reply: Any
        if scope["type"] == "http":
            reply = Reply()
            reply.send, reply.phase = send, NOTHING
        else:
            reply = SocketReply(receive, send)
            receive = reply.hear
        try:
            own = scope.copy()  # type: ignore[attr-defined]  # the specification says: a dict
            if prefix and path is None:
                own["root_path"] = prefix
            else:
                place(own, path)
            if state is not None:
                # Never the server's, which another mount may see as well.
                own["state"] = state.copy() if state else {}
            await application(own, receive, reply.say)
            if reply.phase != COMPLETE:
                await unfinished(mount, scope, receive, send, reply)
        except BaseException as error:  # noqa: BLE001 - a stranger's code
            await failed(mount, scope, receive, send, reply, error)
        finally:
            leave()
            if flights.awaited:
                flights.landed()

    return answer


def _placing(mount: Mount) -> Callable[[dict[str, Any], str | None], None]:
    """Answer what writes into a scope where the application is."""
    if mount.path_style != "spec":
        return _cutting(mount.prefix, keep=mount.path_style == "stripped")
    return _adding(mount.prefix)


def _adding(prefix: str) -> Callable[[dict[str, Any], str | None], None]:
    def add(own: dict[str, Any], path: str | None) -> None:
        if path is None and not prefix:
            return
        outer = own.get("root_path", "").rstrip("/")
        if outer and own["path"] == path:
            # The server did not repeat it there, as the specification asks.
            own["path"] = outer + path
            if own.get("raw_path") is not None:
                own["raw_path"] = raw(outer) + own["raw_path"]
        own["root_path"] = outer + prefix

    return add


def _cutting(prefix: str, *, keep: bool) -> Callable[[dict[str, Any], str | None], None]:
    def cut(own: dict[str, Any], path: str | None) -> None:
        outer = own.get("root_path", "").rstrip("/")
        whole = own["path"]
        rest = (whole if path is None else path)[len(prefix) :]
        own["path"] = rest or "/"
        own["root_path"] = outer + prefix if keep else ""
        own[ROOT] = outer + prefix
        if own.get("raw_path") is not None:
            own["raw_path"] = cut_raw(own["raw_path"], whole[: len(whole) - len(rest)]) or b"/"

    return cut


def raw(path: str) -> bytes:
    """Answer *path* as a request writes it."""
    from urllib.parse import quote

    return quote(path, safe="/:@!$&'()*+,;=~-._").encode("ascii")


def cut_raw(written: bytes, before: str) -> bytes:
    """Answer what of a raw path comes after *before*, which is decoded."""
    plain = before.encode("utf-8", "surrogateescape")
    if written.startswith(plain) and b"%" not in plain:
        return written[len(plain) :]
    at = 0
    for byte in plain:
        if written[at : at + 1] == b"%" and _is_hex(written[at + 1 : at + 3]):
            if int(written[at + 1 : at + 3], 16) != byte:
                break
            at += 3
        elif written[at : at + 1] == bytes((byte,)):
            at += 1
        else:
            break
    else:
        return written[at:]
    return written


def _is_hex(digits: bytes) -> bool:
    return len(digits) == 2 and all(each in b"0123456789abcdefABCDEF" for each in digits)


# What the site itself says.


def answering(site: Site, say: Callable[[Site, dict[str, Any]], pages.Answer]) -> Answer:
    """Answer what sends what the site itself says, which no mount is named for."""

    async def answer(scope: Scope, receive: Receive, send: Send, path: str | None) -> None:
        await send_answer(say(site, _environ(scope, path)), scope, send)

    return logged(answer, "-", site.access_log)


def _environ(scope: Scope, path: str | None) -> dict[str, Any]:
    """Answer a description in which *path* is what is below the site's own place."""
    environ = described(scope)
    if path is not None:
        environ["SCRIPT_NAME"] = wire(scope.get("root_path", "").rstrip("/"))
        environ["PATH_INFO"] = wire(path)
    return environ


def _not_found(site: Site, environ: dict[str, Any]) -> pages.Answer:
    return site.not_found(environ)


def _misdirected(site: Site, environ: dict[str, Any]) -> pages.Answer:
    return pages.plain("421 Misdirected Request")


def _merged(site: Site, environ: dict[str, Any]) -> pages.Answer:
    return site.merged(environ)


def minding_slash(mount: Mount, answer: Answer) -> Answer:
    """Answer *answer*, with what the mount says about a request for its bare prefix."""

    async def mind(scope: Scope, receive: Receive, send: Send, path: str | None) -> None:
        below = scope["path"] if path is None else path
        if len(below) > len(mount.prefix):
            await answer(scope, receive, send, path)
        else:
            said = mount.bare(_environ(scope, path))
            await send_answer(said, scope, send)

    return mind


# The access log.


def logged(answer: Answer, name: str, log: AccessLog | None) -> Answer:
    """Answer *answer*, with a line in *log* for each request, under the mount's *name*."""
    if log is None:
        return answer
    clock = time.perf_counter

    async def answer_and_log(scope: Scope, receive: Receive, send: Send, path: str | None) -> None:
        begun, status, size = clock(), 500, 0
        mute = scope.get("method") == "HEAD"

        async def count(message: Message) -> None:
            nonlocal status, size
            await send(message)
            body = message.get("body")
            if body is not None:
                size += len(body)
            elif "status" in message:
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close" and status == 500:
                status = 403

        try:
            await answer(scope, receive, count, path)
        finally:
            sent = 0 if mute else size
            log.record(described(scope), str(status), sent, clock() - begun, name)

    return answer_and_log
