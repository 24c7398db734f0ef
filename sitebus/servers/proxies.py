"""Let a request look as it did to the proxy in front of us, if the proxy may be believed.

Layers around a WSGI or ASGI application; `sitebus.servers.forwarded` decides what is believed.
The address of the connection comes from the server, as ``REMOTE_ADDR`` or ``client``. None at all
is a unix socket's. The headers themselves stay in the request, believed or not.

What the connection itself was is kept under `CONNECTION`: a port that a proxy tells of is no port
that anybody listens on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus.asgi import CONNECTION
from sitebus.errors import BadServerOption
from sitebus.servers.forwarded import Answer, read
from sitebus.servers.trusting import HEADERS
from sitebus.sockets.networks import Networks

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from sitebus.asgi import ASGIApplication, Receive, Scope, Send

#: A client asks more than once: so many answers are remembered, to headers of so many characters.
_REMEMBERED = 1024
_SHORT = 500

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Connection(NamedTuple):
    """How a request came in, whatever a proxy says of it; ports are 0 where there is none."""

    client: tuple[str, int] | None
    server: tuple[str, int] | None
    scheme: str


def trusting_wsgi(
    app: WSGIApplication,
    trusted: Networks | Iterable[str],
    headers: Collection[str] = HEADERS,
) -> WSGIApplication:
    """Answer *app*, which sees requests as the *trusted* proxies tell of them.

    Args:
        app: What is asked in the end.
        trusted: Addresses, networks, ``unix`` or ``*``; of nobody else is anything believed.
        headers: Those that are believed, of `sitebus.servers.trusting.HEADERS`.

    Raises:
        BadNetwork: *trusted* has what is none.
        BadServerOption: *headers* has another.
    """
    belief = _Belief(trusted, headers)
    keys = tuple(f"HTTP_{name.upper().replace('-', '_')}" for name in belief.names)
    if not belief:
        return app

    def trusting(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for key in keys:
            if key in environ:
                said = tuple([environ.get(each, "") for each in keys])
                answer = belief.read(environ.get("REMOTE_ADDR") or "", said)
                if answer is not None:
                    environ = _seen_wsgi(environ, answer)
                break
        return app(environ, start_response)

    return trusting


def trusting_asgi(
    app: ASGIApplication,
    trusted: Networks | Iterable[str],
    headers: Collection[str] = HEADERS,
) -> ASGIApplication:
    """Answer *app*, an ASGI 3 application; see `trusting_wsgi`."""
    belief = _Belief(trusted, headers)
    networks, wire = belief.networks, belief.wire
    if not belief:
        return app

    async def trusting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" or scope["type"] == "websocket":
            client = scope.get("client")
            peer = client[0] if client else ""
            # Before the headers are looked through, which takes longer.
            if peer in networks:
                for name, _ in scope["headers"]:
                    if name in wire:
                        answer = belief.read(peer, belief.said(scope["headers"]))
                        if answer is not None:
                            scope = _seen_asgi(scope, answer)
                        break
        await app(scope, receive, send)

    return trusting


class _Belief:
    """Who is believed, and in which headers."""

    def __init__(self, trusted: Networks | Iterable[str], headers: Collection[str]) -> None:
        self.networks = trusted if isinstance(trusted, Networks) else Networks(trusted)
        chosen = _checked([headers] if isinstance(headers, str) else headers)
        self.names = tuple(name for name in HEADERS if name in chosen)
        self.wire = {name.encode(): name for name in self.names}
        self._remembered = lru_cache(_REMEMBERED)(self._read)

    def __bool__(self) -> bool:
        return bool(self.networks and self.names)

    def read(self, peer: str, said: tuple[str, ...]) -> Answer | None:
        """Answer what is believed of headers in the order of their names; "" is none."""
        if sum(map(len, said)) > _SHORT:
            return self._read(peer, said)
        return self._remembered(peer, said)

    def said(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, ...]:
        """Answer the headers of a scope in the order of their names."""
        found: dict[str, str] = {}
        for name, value in headers:
            if name in self.wire:
                key, text = self.wire[name], str(value, "latin-1")
                found[key] = f"{found[key]},{text}" if key in found else text
        return tuple([found.get(name, "") for name in self.names])

    def _read(self, peer: str, said: tuple[str, ...]) -> Answer | None:
        return read(peer, dict(zip(self.names, said, strict=True)), self.networks)


def _checked(headers: Iterable[str]) -> set[str]:
    """Answer *headers* in lower case; one that means nothing would never be missed."""
    chosen = {name.lower() for name in headers}
    if strange := sorted(chosen - set(HEADERS)):
        reason = f"there are {', '.join(HEADERS)}"
        raise BadServerOption("trusted_headers", strange[0], reason)
    return chosen


def _host(name: str, port: int | None, scheme: str) -> str:
    return name if port is None or port == _DEFAULT_PORTS[scheme] else f"{name}:{port}"


def _place(host: str, scheme: str, answer: Answer) -> tuple[str, int, str] | None:
    """Answer the site's name, its port, and both as a ``Host``, if a proxy has told of them."""
    if answer.host:
        port = answer.port or _DEFAULT_PORTS[scheme]
        return answer.host, port, _host(answer.host, port, scheme)
    if answer.port is None or not host:
        return None
    # The proxy has left the Host as it was, perhaps without the port.
    name, colon, its_port = host.rpartition(":")
    if not colon or (its_port and not its_port.isdecimal()):
        name = host
    return name, answer.port, _host(name, answer.port, scheme)


# WSGI.


def _seen_wsgi(environ: WSGIEnvironment, answer: Answer) -> WSGIEnvironment:
    scheme = answer.scheme or environ["wsgi.url_scheme"]
    own = dict(environ)
    own[CONNECTION] = _wsgi_connection(environ)
    if answer.client:
        own["REMOTE_ADDR"], own["REMOTE_PORT"] = answer.client[0], str(answer.client[1])
        own.pop("REMOTE_HOST", None)
    if answer.scheme:
        own["wsgi.url_scheme"] = scheme
        own.pop("HTTPS", None)
        if scheme == "https":
            own["HTTPS"] = "on"
    place = _place(environ.get("HTTP_HOST") or environ.get("SERVER_NAME", ""), scheme, answer)
    if place:
        own["SERVER_NAME"], own["SERVER_PORT"], own["HTTP_HOST"] = place[0], str(place[1]), place[2]
    if answer.prefix:
        own["SCRIPT_NAME"] = answer.prefix + own.get("SCRIPT_NAME", "")
        for key in ("REQUEST_URI", "RAW_URI"):
            if own.get(key, "").startswith("/"):
                own[key] = answer.prefix + own[key]
    return own


def _wsgi_connection(environ: WSGIEnvironment) -> Connection:
    client, port = environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT")
    return Connection(
        (client, _number(port)) if client else None,
        (environ["SERVER_NAME"], _number(environ["SERVER_PORT"])),
        environ["wsgi.url_scheme"],
    )


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


# ASGI.


def _seen_asgi(scope: Scope, answer: Answer) -> Scope:
    own: dict[str, Any] = dict(scope)
    own[CONNECTION] = _asgi_connection(scope)
    secure = own.get("scheme") in ("https", "wss")
    scheme = answer.scheme or ("https" if secure else "http")
    if answer.client:
        own["client"] = answer.client
    if answer.scheme:
        own["scheme"] = scheme if scope["type"] == "http" else scheme.replace("http", "ws")
    place = _place(_asgi_host(scope), scheme, answer)
    if place:
        own["server"] = place[:2]
        rest = [header for header in scope["headers"] if header[0] != b"host"]
        own["headers"] = [(b"host", place[2].encode("latin-1", "replace")), *rest]
    if answer.prefix:
        _prepend(own, answer.prefix)
    return own


def _prepend(own: dict[str, Any], prefix: str) -> None:
    """Put *prefix* in front of the path, which has ``root_path`` in it (ASGI HTTP, scope)."""
    root = own.get("root_path", "")
    own["root_path"] = prefix + root
    path = own["path"]
    if not path.startswith("/"):
        return  # OPTIONS * is about no path
    if not f"{path}/".startswith(f"{root.rstrip('/')}/"):
        prefix += root.rstrip("/")  # not all servers repeat the one in the other
    own["path"] = prefix + path
    if own.get("raw_path"):
        own["raw_path"] = prefix.encode("latin-1", "replace") + own["raw_path"]


def _asgi_host(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"host":
            return str(value, "latin-1")
    server = scope.get("server")
    return str(server[0]) if server else ""


def _asgi_connection(scope: Scope) -> Connection:
    client, server = scope.get("client"), scope.get("server")
    return Connection(
        (str(client[0]), client[1] or 0) if client else None,
        (str(server[0]), server[1] or 0) if server else None,
        scope.get("scheme", "http"),
    )
