"""Whatever is written where a stranger can write: configuration files, hosts and paths.

How many examples are tried is fixed; where ``CI`` is set, they are the same each time.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sitebus.config import read
from sitebus.errors import ConfigErrors, ForeignFile
from sitebus.mounts import Site
from sitebus.mounts.routing import Place, Table
from tests.wsgi_helpers import ask

# Configuration.

_SECTIONS = st.sampled_from(
    ["[site]", "[server]", "[server x]", "[mount /]", "[mount a:1/b]", "[app a]", "[filter a]",
     "[include]", "[env]", "[logging]", "[signals]", "[plugin p]", "[", "[]", "[ mount / ]",
     "[mount //]", "[mount /../x]", "[mount *.*/]", "[\0]"]
)  # fmt: skip
_KEYS = st.sampled_from(
    ["name", "bind", "app", "use", "use = config", "filters", "files", "threads", "timeout",
     "tls_cert", "drain_timeout", "max_header", "set x", "", "=", "a.b", "uvicorn.http", "\u202e"]
)  # fmt: skip
_VALUES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["${here}", "${", "$$", "${env:X}", "${a}${a}", "${site:name}", "%(a)s", "1e999", "-1",
         "0x1", "9" * 400, "1d", "1w2w", "no", "[::1]:99999", "unix:", "unix:\0", "fd:99",
         "127.0.0.1:-1",
         "site.ini", "./*", "/", "\\", "  continued", "a:b:c", "\ud800"]
    ),
)  # fmt: skip
_LINES = st.one_of(
    _SECTIONS,
    st.builds("{} = {}".format, _KEYS, _VALUES),
    st.builds("  {}".format, _VALUES),
    st.sampled_from(["", "# note", "; note", "\ufeff", "\x0c", "\x85", "\u2028"]),
)
_TEXTS = st.lists(_LINES, max_size=25).map("\n".join)


def read_bytes(data: bytes) -> str:
    """Answer what is said of a file: what it means, or what is wrong with it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "site.ini")
        path.write_bytes(data)
        try:
            return read(path, environ={}).explain()
        except (ConfigErrors, ForeignFile) as error:
            return str(error)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
@example(b"\xff\xfe[\0s\0i\0t\0e\0]\0")
@example(b"\xef\xbb\xbf[site]\r\nname = x\r\n")
@example(b"[site]\rname = x\r")
@example(b"\0" * 100)
def test_any_bytes_are_a_configuration_or_a_sentence(data: bytes) -> None:
    """A file may be a picture, or in another encoding, or half of one."""
    assert read_bytes(data)


@settings(max_examples=300, deadline=None)
@given(_TEXTS)
@example("[site]\n" + "".join(f"set a{n} = ${{a{n + 1}}}${{a{n + 1}}}\n" for n in range(60)))
@example("[include]\nfiles = site.ini")
def test_what_nearly_is_a_configuration_is_one_or_a_sentence(text: str) -> None:
    """Every part of it may be right, and the whole nonsense."""
    assert read_bytes(text.encode("utf-8", "surrogatepass"))


# Look-up.

_PREFIXES = ("", "/a", "/a/b", "/é", "/b c")
_PIECES = st.sampled_from(
    ["/", "//", "a", "b", "/a", "/a/b", "é", ".", "..", "%2f", "%2e", "\0", "\n", "\\", ";", "?",
     "#", "*", " ", "\x7f", "\ud800", "\uffff", "A", "/é",
     "/b c"]
)  # fmt: skip
_PATHS = st.one_of(st.text(max_size=30), st.lists(_PIECES, max_size=10).map("".join))
_HOSTS = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(
            ["example", ".org", ".", ":", ":80", "[", "]", "::1", "*", "@", "/", " ", "\0",
             "\u0130", "xn--", "a" * 300, ","]
        ),
        max_size=6,
    ).map("".join),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(_HOSTS, st.text(max_size=8), _PATHS)
def test_any_host_and_path_are_somebodys(host: str, port: str, path: str) -> None:
    """And it is the longest prefix of whole segments that takes it; nobody is asked to guess."""
    table: Table[str] = Table()
    for prefix in _PREFIXES:
        for name in ("", "example.org", "*.example.org"):
            table = table.with_entry(Place(prefix, name), prefix, prefix)
    chosen = table.choose(host, port)
    assert chosen is not None
    found, length = chosen.find(path)
    fitting = [each for each in _PREFIXES if path == each or path.startswith(f"{each}/")]
    assert found == max(fitting, key=len, default="")
    assert path[:length] == found


@settings(max_examples=20, deadline=None)
@given(st.text(min_size=1, max_size=20))
def test_hosts_are_not_remembered_for_ever(text: str) -> None:
    """Clients choose them."""
    table: Table[str] = Table()
    table = table.with_entry(Place("", "example.org"), "", "x")
    for number in range(1500):
        table.choose(f"{text}{number}", "80")
    assert len(table._chosen) <= 1024


def _said(place: str, seen: list[str]) -> Any:
    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        seen.append(place)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return asgi


def _wsgi(place: str, seen: list[str]) -> Any:
    def wsgi(environ: Any, start_response: Any) -> Any:
        seen.append(place)
        start_response("200 OK", [])
        return []

    return wsgi


def _through_asgi(site: Site, path: str, host: bytes) -> None:
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": None, "query_string": b"", "root_path": "",
        "headers": [(b"host", host)], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    asyncio.run(site.asgi(scope, receive, send))  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(_HOSTS, _PATHS)
def test_both_faces_of_a_site_choose_the_same(host: str, path: str) -> None:
    """Whichever server asks, a request has one application, and no other can be reached."""
    seen: list[str] = []
    one, other = Site(), Site()
    for prefix in _PREFIXES:
        one.mount(_wsgi(prefix, seen), prefix or "/", interface="wsgi")
        other.mount(_said(prefix, seen), prefix or "/", interface="asgi", lifespan="off")
    # As servers decode: what is no UTF-8 stays visible.
    data = path.encode("utf-8", "surrogatepass")
    name = host.encode("utf-8", "surrogatepass")
    ask(one.wsgi, "/x", PATH_INFO=data.decode("latin-1"), host=name.decode("latin-1"))
    _through_asgi(other, data.decode("utf-8", "replace"), name)
    assert len(seen) == 2
    assert seen[0] == seen[1]
