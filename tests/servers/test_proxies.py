"""The layers that let a request look as it did to the proxy: either interface, every server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitebus.asgi import CONNECTION, Receive, Scope, Send
from sitebus.errors import BadNetwork, BadServerOption
from sitebus.mounts import Site
from sitebus.servers import trusting
from sitebus.servers.proxies import Connection, trusting_asgi, trusting_wsgi
from tests.asgi_helpers import answer, request
from tests.asgi_helpers import ask as ask_asgi
from tests.helpers import ROOT
from tests.servers.client import Client
from tests.servers.conformance import NATIVE, Host, Kind, engine, host, kind, only, shop
from tests.servers.shop import Shop
from tests.wsgi_helpers import ask, environ_of, saying

Connect = Callable[..., Client]

#: Found here by pytest.
__all__ = ["engine", "host", "kind", "shop"]

PROXY = "10.0.0.1"
CLIENT = "203.0.113.7"
VICTIM = "198.51.100.9"
TRUSTED = ["10.0.0.0/8"]


def seen_wsgi(
    headers: dict[str, str],
    peer: str = PROXY,
    trusted: Iterable[str] = TRUSTED,
    believed: Iterable[str] = trusting.HEADERS,
    **extra: Any,
) -> dict[str, Any]:
    """Answer the environ of an application behind the layer, whose own must stay as it was."""
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return []

    named = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    environ = {**environ_of("/page"), "REMOTE_ADDR": peer, "REMOTE_PORT": "99", **named, **extra}
    before = dict(environ)
    layer = trusting_wsgi(app, trusted, tuple(believed))
    assert list(layer(environ, lambda *_: lambda _: None)) == []
    assert environ == before
    return seen[0]


def seen_asgi(
    headers: Iterable[tuple[str, str]] | dict[str, str],
    peer: tuple[str, int] | None = (PROXY, 99),
    trusted: Iterable[str] = TRUSTED,
    kind: str = "http",
    **more: Any,
) -> dict[str, Any]:
    """Answer the scope of an application behind the layer, whose own must stay as it was."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    pairs = headers.items() if isinstance(headers, dict) else headers
    lines = [(name.encode(), value.encode("latin-1", "replace")) for name, value in pairs]
    more = {"path": "/page", "host": "inner:8080", "client": peer, "kind": kind, **more}
    scope = request(headers=lines, **more)
    before = {key: list(value) if key == "headers" else value for key, value in scope.items()}

    async def nothing(*_: Any) -> Any: ...

    asyncio.run(_called(trusting_asgi(app, trusted), scope, nothing))
    assert scope == before
    return dict(seen[0])


async def _called(app: Any, scope: Scope, nothing: Any) -> None:
    await app(scope, nothing, nothing)


def header(scope: Scope, name: bytes) -> list[bytes]:
    return [value for known, value in scope["headers"] if known == name]


EVERYTHING = {
    "x-forwarded-for": f"{VICTIM}, {CLIENT}",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "Shop.example.org",
    "x-forwarded-port": "8443",
    "x-forwarded-prefix": "/shop",
}


# WSGI.


def test_wsgi_sees_the_client_and_what_it_asked_for() -> None:
    """Everything that links are made of, alike."""
    seen = seen_wsgi(EVERYTHING, SCRIPT_NAME="", REQUEST_URI="/page?x")
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == (CLIENT, "0")
    assert (seen["wsgi.url_scheme"], seen["HTTPS"]) == ("https", "on")
    assert seen["HTTP_HOST"] == "shop.example.org:8443"
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("shop.example.org", "8443")
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/shop", "/page")
    assert seen["REQUEST_URI"] == "/shop/page?x"
    assert seen["HTTP_X_FORWARDED_FOR"] == f"{VICTIM}, {CLIENT}"


def test_wsgi_keeps_what_the_connection_was() -> None:
    """What is mounted at a port is mounted at one that is listened on."""
    seen = seen_wsgi(EVERYTHING)
    assert seen[CONNECTION] == Connection((PROXY, 99), ("localhost", 8080), "http")
    assert CONNECTION not in seen_wsgi({}, peer=PROXY)
    assert CONNECTION not in seen_wsgi(EVERYTHING, peer=CLIENT)


@pytest.mark.parametrize("peer", [CLIENT, "", "::1", "nonsense"])
def test_wsgi_of_others_is_as_it_came(peer: str) -> None:
    """A client that is no proxy can say what it likes."""
    seen = seen_wsgi(EVERYTHING | {"forwarded": f"for={VICTIM};proto=https"}, peer=peer)
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == (peer, "http")
    assert (seen["HTTP_HOST"], seen["SERVER_PORT"]) == ("localhost:8080", "8080")
    assert seen["SCRIPT_NAME"] == ""


def test_wsgi_over_a_unix_socket_has_a_peer_without_address() -> None:
    """It is believed if unix sockets are."""
    seen = seen_wsgi(EVERYTHING, peer="", trusted=["unix"], REMOTE_PORT="")
    assert seen["REMOTE_ADDR"] == CLIENT
    assert seen[CONNECTION].client is None


def test_wsgi_that_came_over_https_to_the_proxy_only() -> None:
    """The way from the proxy to here may be encrypted, and the client's not."""
    seen = seen_wsgi({"x-forwarded-proto": "http"}, HTTPS="on", **{"wsgi.url_scheme": "https"})
    assert seen["wsgi.url_scheme"] == "http"
    assert "HTTPS" not in seen


@pytest.mark.parametrize(
    ("headers", "host", "port"),
    [
        ({"x-forwarded-host": "a.example"}, "a.example", "80"),
        ({"x-forwarded-host": "a.example", "x-forwarded-proto": "https"}, "a.example", "443"),
        ({"x-forwarded-host": "a.example:443", "x-forwarded-proto": "https"}, "a.example", "443"),
        ({"x-forwarded-host": "a.example:443"}, "a.example:443", "443"),
        ({"x-forwarded-port": "443"}, "localhost:443", "443"),
        ({"x-forwarded-port": "443", "x-forwarded-proto": "https"}, "localhost", "443"),
        ({"x-forwarded-host": "[::1]", "x-forwarded-port": "81"}, "[::1]:81", "81"),
        ({"x-forwarded-proto": "https"}, "localhost:8080", "8080"),
        ({"forwarded": f'for={CLIENT};host="a:82"'}, "a:82", "82"),
    ],
)
def test_wsgi_has_one_host_and_one_port(headers: dict[str, str], host: str, port: str) -> None:
    """Whichever of the two an application looks at."""
    seen = seen_wsgi(headers)
    assert (seen["HTTP_HOST"], seen["SERVER_PORT"]) == (host, port)
    assert seen["SERVER_NAME"] == (host.rpartition(":")[0] if host[-1].isdigit() else host)


@pytest.mark.parametrize("own", ["a.example", "a.example:", "a.example:8080", "[::1]", "[::1]:"])
def test_a_port_stands_behind_the_name_alone(own: str) -> None:
    """A colon may be there without one (RFC 3986, section 3.2.3)."""
    seen = seen_wsgi({"x-forwarded-port": "81"}, HTTP_HOST=own)
    name = own.removesuffix("8080").removesuffix(":")
    assert (seen["HTTP_HOST"], seen["SERVER_NAME"]) == (f"{name}:81", name)


def test_wsgi_has_a_prefix_in_front_of_what_was_there() -> None:
    """A server may be told of one, too."""
    seen = seen_wsgi({"x-forwarded-prefix": "/a/"}, SCRIPT_NAME="/b", RAW_URI="http://x/page")
    assert seen["SCRIPT_NAME"] == "/a/b"
    assert seen["RAW_URI"] == "http://x/page"


def test_headers_that_are_not_to_be_believed_are_not() -> None:
    """A proxy that writes one kind may pass on the others as a client wrote them."""
    headers = {"forwarded": f"for={VICTIM}", "x-forwarded-for": CLIENT, "x-forwarded-prefix": "/x"}
    usual = seen_wsgi(headers, believed=["x-forwarded-for"])
    assert (usual["REMOTE_ADDR"], usual["SCRIPT_NAME"]) == (CLIENT, "")
    assert seen_wsgi(headers)["REMOTE_ADDR"] == PROXY


def test_nobody_to_trust_is_no_layer() -> None:
    """It costs nothing where it is not asked for."""
    app = saying("x")
    assert trusting_wsgi(app, []) is app
    assert trusting_wsgi(app, ["*"], []) is app

    async def other(scope: Scope, receive: Receive, send: Send) -> None: ...

    assert trusting_asgi(other, []) is other


def test_a_name_is_nobody_to_trust() -> None:
    """It is said when the layer is made."""
    with pytest.raises(BadNetwork, match="localhost"):
        trusting_wsgi(saying("x"), ["localhost"])
    with pytest.raises(BadNetwork, match="localhost"):
        trusting_asgi(seen_asgi, ["localhost"])  # type: ignore[arg-type]


def test_a_header_that_is_none_is_told() -> None:
    """It would be trusted in vain, and nobody would miss it."""
    chosen = ["x-forwarded-proto", "X-Forwarded-Fro"]
    with pytest.raises(BadServerOption, match="'x-forwarded-fro': there are forwarded, x-"):
        trusting_wsgi(saying("x"), TRUSTED, chosen)
    with pytest.raises(BadServerOption, match="'x-forwarded-fro': there are forwarded, x-"):
        trusting_asgi(seen_asgi, TRUSTED, chosen)  # type: ignore[arg-type]


def test_headers_may_be_spelled_as_everybody_spells_them() -> None:
    """In lower case nobody writes them but programs."""
    headers = {"x-forwarded-for": CLIENT, "x-forwarded-prefix": "/x"}
    seen = seen_wsgi(headers, believed=["X-Forwarded-For"])
    assert (seen["REMOTE_ADDR"], seen["SCRIPT_NAME"]) == (CLIENT, "")


def test_a_site_is_found_by_the_host_of_the_client() -> None:
    """And its application knows its whole path."""
    site = Site()
    site.mount(saying("shop"), "/blog", host="shop.example.org")
    site.mount(saying("other"), "/blog")
    layer = trusting_wsgi(site.wsgi, TRUSTED)
    headers = {"HTTP_X_FORWARDED_HOST": "shop.example.org", "HTTP_X_FORWARDED_PREFIX": "/a"}
    assert ask(layer, "/blog/x", REMOTE_ADDR=PROXY, **headers).text == "shop '/a/blog' '/x'"
    assert ask(layer, "/blog/x", REMOTE_ADDR=CLIENT, **headers).text == "other '/blog' '/x'"


# ASGI.


def test_asgi_sees_the_client_and_what_it_asked_for() -> None:
    """Everything that links are made of, alike; the path has the prefix in it."""
    seen = seen_asgi(EVERYTHING)
    assert seen["client"] == (CLIENT, 0)
    assert (seen["scheme"], seen["server"]) == ("https", ("shop.example.org", 8443))
    assert header(seen, b"host") == [b"shop.example.org:8443"]
    assert (seen["root_path"], seen["path"]) == ("/shop", "/shop/page")
    assert seen["raw_path"] == b"/shop/page"
    assert seen[CONNECTION] == Connection((PROXY, 99), ("127.0.0.1", 8080), "http")


def test_asgi_of_others_is_the_very_scope() -> None:
    """Not even a copy is made."""
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await answer(send, "")

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        given.append(scope)
        await layer(scope, receive, send)

    given: list[Scope] = []
    layer = trusting_asgi(app, TRUSTED)
    lines = [(name.encode(), value.encode()) for name, value in EVERYTHING.items()]
    ask_asgi(listen, headers=lines, client=(CLIENT, 1))
    ask_asgi(listen, client=(PROXY, 1))
    ask_asgi(listen, headers=[(b"x-forwarded-for", b"unknown")], client=(PROXY, 1))
    assert all(mine is theirs for mine, theirs in zip(given, scopes, strict=True))


@pytest.mark.parametrize(
    ("proto", "scheme"), [("https", "wss"), ("wss", "wss"), ("http", "ws"), ("ws", "ws")]
)
def test_a_websocket_has_schemes_of_its_own(proto: str, scheme: str) -> None:
    """Whichever of them the proxy speaks of."""
    seen = seen_asgi({"x-forwarded-proto": proto, "x-forwarded-host": "a"}, kind="websocket")
    assert seen["scheme"] == scheme
    assert seen["server"] == ("a", 443 if scheme == "wss" else 80)
    assert seen_asgi({"x-forwarded-proto": proto})["scheme"] == scheme.replace("ws", "http")


def test_asgi_lines_of_one_header_are_one_list() -> None:
    """A proxy may add a line of its own below the client's."""
    lines = [("x-forwarded-for", VICTIM), ("accept", "*/*"), ("x-forwarded-for", CLIENT)]
    assert seen_asgi(lines)["client"] == (CLIENT, 0)
    hops = [("x-forwarded-for", CLIENT), ("x-forwarded-for", "10.0.0.2")]
    assert seen_asgi(hops)["client"] == (CLIENT, 0)
    quoted = [("forwarded", f'for="{VICTIM}'), ("forwarded", f"for={CLIENT}")]
    assert seen_asgi(quoted)["client"] == (CLIENT, 0)


def test_asgi_has_one_host() -> None:
    """A second one would be another answer to the same question."""
    seen = seen_asgi([("host", "evil"), ("x-forwarded-host", "a.example")])
    assert header(seen, b"host") == [b"a.example"]


def test_asgi_over_a_unix_socket_has_a_peer_without_address() -> None:
    """Servers say nothing then, or an empty name."""
    for peer in (None, ("", 0)):
        seen = seen_asgi(EVERYTHING, peer=peer, trusted=["unix"], server=("/run/s", None))
        assert seen["client"] == (CLIENT, 0)
        assert seen_asgi(EVERYTHING, peer=peer)["client"] == peer


@pytest.mark.parametrize(
    ("root", "path", "whole"),
    [
        ("", "/page", "/a/page"),
        ("/b", "/b/page", "/a/b/page"),
        ("/b", "/page", "/a/b/page"),
        ("/b", "/bee", "/a/b/bee"),
        ("/b/", "/b", "/a/b"),
        ("", "*", "*"),
    ],
)
def test_asgi_has_a_prefix_in_path_and_root_path(root: str, path: str, whole: str) -> None:
    """The one begins with the other, whether the server has kept to that or not."""
    scope: dict[str, Any] = {"root_path": root, "path": path, "raw_path": path.encode()}
    seen = seen_asgi({"x-forwarded-prefix": "/a"}, **scope)
    assert (seen["path"], seen["raw_path"]) == (whole, whole.encode())
    assert seen["root_path"] == f"/a{root}"
    assert "raw_path" in seen_asgi({"x-forwarded-prefix": "/a"}, **{**scope, "raw_path": None})


def test_a_lifespan_passes() -> None:
    """It has neither headers nor a client."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any: ...

    asyncio.run(_called(trusting_asgi(app, ["*"]), {"type": "lifespan"}, nothing))
    assert seen == ["lifespan"]


# Every server.


def proxied(style: str, *lines: str) -> bytes:
    """Answer what a proxy sends on of a client's request with *lines*, in the style of one."""
    if style == "merged":
        forged = [line.partition(": ")[2] for line in lines if line.startswith("X-Forwarded-For")]
        others = [line for line in lines if not line.startswith("X-Forwarded-For")]
        added = [f"X-Forwarded-For: {', '.join([*forged, CLIENT])}", "X-Forwarded-Proto: https"]
        told = [*added, *others]
    else:
        told = [*lines, f"X-Forwarded-For: {CLIENT}", "X-Forwarded-Proto: https"]
    head = ["GET /told HTTP/1.1", "Host: localhost", "Connection: close", *told, "", ""]
    return "\r\n".join(head).encode()


@only(NATIVE)
@pytest.mark.parametrize("style", ["merged", "a line below"])
def test_no_server_lets_a_client_through_that_forges(
    kind: Kind, host: Host, shop: Shop, connect: Connect, tmp_path: Path, style: str
) -> None:
    """Each has its own way with headers of the same name, and its own word for no address."""
    layer: Any = trusting_wsgi if kind.speech == "wsgi" else trusting_asgi
    binds = ["127.0.0.1:0", *([f"unix:{tmp_path / 's'}"] if kind.can("unix") else [])]
    server = host(layer(shop.face(kind.speech), ["127.0.0.0/8", "unix"]), binds=binds)
    forged = (f"X-Forwarded-For: {VICTIM}", "X-Forwarded-For: 127.0.0.1, unknown")
    for index in range(len(binds)):
        client = connect(server, index)
        client.send(proxied(style, *forged))
        told = json.loads(client.answer().body)
        assert (told["client"], told["scheme"]) == (CLIENT, "https")


@pytest.mark.parametrize("kind", NATIVE, ids=str, indirect=True)
def test_no_server_takes_an_underscore_for_a_hyphen(
    kind: Kind, host: Host, shop: Shop, connect: Connect
) -> None:
    """Proxies pass on what they do not know, and this header they do not know."""
    layer: Any = trusting_wsgi if kind.speech == "wsgi" else trusting_asgi
    client = connect(host(layer(shop.face(kind.speech), ["127.0.0.1"])))
    client.send(proxied("merged", f"X_Forwarded_For: {VICTIM}", f"X-Forwarded_For: {VICTIM}"))
    assert json.loads(client.answer().body)["client"] == CLIENT


VALUES = st.sampled_from([CLIENT, VICTIM, PROXY, "https", "a.example:1", "/x", ",", '"', "443"])
HEADERS = st.dictionaries(
    st.sampled_from(trusting.HEADERS),
    st.lists(VALUES | st.text(st.characters(max_codepoint=255), max_size=5)).map("".join),
)


@settings(deadline=None)  # the machine may be busy
@given(HEADERS, st.sampled_from([PROXY, CLIENT]))
def test_both_interfaces_see_the_same(headers: dict[str, str], peer: str) -> None:
    """A site has applications of both."""
    wire = {name: value.encode("latin-1", "replace").decode("latin-1")
            for name, value in headers.items()}  # fmt: skip
    one = seen_wsgi(wire, peer, HTTP_HOST="inner:8080", SERVER_NAME="127.0.0.1")
    two = seen_asgi(wire, (peer, 99))
    assert (one["REMOTE_ADDR"], int(one["REMOTE_PORT"])) == two["client"]
    assert one["wsgi.url_scheme"] == two["scheme"]
    assert one["HTTP_HOST"].encode() == header(two, b"host")[0]
    assert (one["SERVER_NAME"], int(one["SERVER_PORT"])) == two["server"]
    assert one["SCRIPT_NAME"] == two["root_path"]
    assert one["SCRIPT_NAME"] + one["PATH_INFO"] == two["path"]
    assert (CONNECTION in one) is (CONNECTION in two)


# The docs.

PAGE = ROOT / "docs" / "howto" / "proxy.rst"


def headers_dealt_with(block: str) -> set[str]:
    """Answer the headers that a proxy's configuration sets or removes."""
    verbs = r"(?:proxy_set_header|RequestHeader (?:set|unset)|http-request (?:set|del)-header)"
    return {name.lower() for name in re.findall(rf"^ *{verbs} (\S+)", block, re.MULTILINE)}


@pytest.mark.parametrize("sign", ["upstream site", "<VirtualHost", "frontend web"])
def test_the_proxies_of_the_page_leave_no_header_to_clients(sign: str) -> None:
    """One that is passed on as it came would be believed."""
    blocks = re.split(r"^\.\. code-block:: \S+$", PAGE.read_text(), flags=re.MULTILINE)
    (block,) = [block for block in blocks if block.lstrip().startswith(sign)]
    code = re.split(r"^\S", block, maxsplit=1, flags=re.MULTILINE)[0]
    assert headers_dealt_with(code) - {"connection", "host"} == set(trusting.HEADERS)
