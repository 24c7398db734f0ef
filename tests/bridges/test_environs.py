"""What a request looks like on the other side."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.bridges.environs import environ_of, scope_of
from tests.wsgi_helpers import environ_of as cheroots


def scope(**extra: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a/b",
        "raw_path": b"/a/b",
        "root_path": "",
        "query_string": b"q=1",
        "headers": [(b"host", b"example.org:8000")],
        "client": ("192.0.2.1", 4242),
        "server": ("127.0.0.1", 8000),
        **extra,
    }


def test_an_environ_is_what_the_specification_asks_for() -> None:
    """Checked by the standard library's own validator, with the two streams added."""
    import io
    import sys
    import wsgiref.validate

    told = scope(headers=[(b"host", b"x"), (b"content-type", b"a/b"), (b"content-length", b"0")])
    environ = environ_of(told)
    assert environ["asgi.scope"] is told
    validate: Any = wsgiref.validate
    validate.check_environ(environ | {"wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr})
    del environ["asgi.scope"]
    assert environ == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a/b",
        "QUERY_STRING": "q=1",
        "REQUEST_URI": "/a/b?q=1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "4242",
        "HTTP_HOST": "x",
        "CONTENT_TYPE": "a/b",
        "CONTENT_LENGTH": "0",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input_terminated": True,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def test_the_least_that_a_scope_may_have_is_enough() -> None:
    """Servers leave out what is optional."""
    environ = environ_of({"type": "http", "method": "GET", "path": "/x", "headers": []})
    assert environ["SERVER_NAME"] == "localhost"
    assert environ["SERVER_PORT"] == "80"
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("", "")
    assert environ["REQUEST_URI"] == "/x"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("", "/a/b", ("", "/a/b")),
        ("/a", "/a/b", ("/a", "/b")),
        ("/a/", "/a/b", ("/a", "/b")),
        ("/a", "/a", ("/a", "")),
        ("/a", "/a/", ("/a", "/")),
        ("/a", "/ab", ("/a", "/ab")),
        ("/a", "/b", ("/a", "/b")),
        ("/", "/b", ("", "/b")),
        ("/\xe4", "/\xe4/\xf6", ("/\xc3\xa4", "/\xc3\xb6")),
    ],
)
def test_a_root_path_is_a_script_name(root: str, path: str, expected: tuple[str, str]) -> None:
    """Whole segments only; and servers that do not repeat it in the path exist."""
    environ = environ_of(scope(root_path=root, path=path, raw_path=None))
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == expected


@pytest.mark.parametrize(
    ("raw", "path", "expected"),
    [
        (b"/%ff%2f", "/\ufffd/", "/\xff/"),
        (b"/%e4%f6/x", "/\ufffd\ufffd/x", "/\xe4\xf6/x"),
        (b"/pre/%ff", "/\ufffd", "/\xff"),
        (b"/%ff/%fe", "/other\ufffd", "/other\xef\xbf\xbd"),
        (b"/%EF%BF%BD", "/\ufffd", "/\xef\xbf\xbd"),
        (None, "/\ufffd", "/\xef\xbf\xbd"),
        (None, "/\udcff", "/\xff"),
        (b"/%C3%A4", "/\xe4", "/\xc3\xa4"),
    ],
)
def test_the_bytes_of_a_path_survive(raw: bytes | None, path: str, expected: str) -> None:
    """Decoding loses what is not UTF-8; the original has it, unless somebody changed the path."""
    assert environ_of(scope(path=path, raw_path=raw))["PATH_INFO"] == expected


def test_several_headers_of_a_name_are_one() -> None:
    """A list by commas; but for cookies, whose values may have commas."""
    environ = environ_of(
        scope(
            headers=[
                (b"accept", b"a"), (b"cookie", b"a=1"), (b"accept", b"b"), (b"cookie", b"b=2,3"),
                (b"content-length", b"5"), (b"content-length", b"5"), (b"x-latin", b"caf\xe9"),
            ]
        )
    )  # fmt: skip
    assert environ["HTTP_ACCEPT"] == "a,b"
    assert environ["HTTP_COOKIE"] == "a=1; b=2,3"
    assert environ["CONTENT_LENGTH"] == "5"
    assert environ["HTTP_X_LATIN"] == "caf\xe9"


def test_headers_that_would_pass_for_others_are_dropped() -> None:
    """A proxy has removed X-Forwarded-For, and not what WSGI takes for it."""
    environ = environ_of(
        scope(headers=[(b"x_forwarded_for", b"me"), (b"proxy", b"mine"), (b"content_length", b"9")])
    )
    assert [key for key in environ if key.startswith("HTTP_") or "LENGTH" in key] == []


def test_a_length_does_not_count_beside_chunks() -> None:
    """Two parties that count differently are how requests are smuggled."""
    headers = [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")]
    environ = environ_of(scope(headers=headers))
    assert "CONTENT_LENGTH" not in environ
    assert environ["HTTP_TRANSFER_ENCODING"] == "chunked"


@pytest.mark.parametrize(
    ("server", "host", "scheme", "expected"),
    [
        (("/run/x.sock", None), b"example.org:81", "http", ("example.org", "81")),
        (("/run/x.sock", None), b"example.org", "https", ("example.org", "443")),
        (("/run/x.sock", None), b"[::1]:82", "http", ("[::1]", "82")),
        (("/run/x.sock", None), b"", "http", ("localhost", "80")),
        (None, b"[::1]", "http", ("[::1]", "80")),
        (("::1", 8080), b"example.org", "http", ("::1", "8080")),
    ],
)
def test_a_server_always_has_a_name_and_a_port(
    server: Any, host: bytes, scheme: str, expected: tuple[str, str]
) -> None:
    """On a Unix socket too: the specification allows neither to be empty."""
    environ = environ_of(scope(server=server, scheme=scheme, headers=[(b"host", host)]))
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == expected


def test_tls_is_told() -> None:
    """In the names that WSGI servers use."""
    tls = {
        "server_cert": "server", "client_cert_chain": ["client", "issuer"], "cipher_suite": 0x1301,
        "client_cert_name": "CN=me", "client_cert_error": None, "tls_version": 0x0304,
    }  # fmt: skip
    environ = environ_of(scope(scheme="https", extensions={"tls": tls}))
    assert environ["HTTPS"] == "on"
    told = {key: value for key, value in environ.items() if key.startswith("SSL_")}
    assert told == {
        "SSL_PROTOCOL": "TLSv1.3",
        "SSL_SERVER_CERT": "server",
        "SSL_CLIENT_CERT": "client",
        "SSL_CLIENT_S_DN": "CN=me",
        "SSL_CLIENT_VERIFY": "SUCCESS",
    }
    back = scope_of(cheroots() | told | {"wsgi.url_scheme": "https"})["extensions"]["tls"]
    assert back == tls | {"client_cert_chain": ["client"], "cipher_suite": None}


@pytest.mark.parametrize(
    ("version", "protocol"), [("1.0", "HTTP/1.0"), ("2", "HTTP/2.0"), ("3", "HTTP/3.0")]
)
def test_versions_translate(version: str, protocol: str) -> None:
    """CGI's have a dot, and ASGI's have none where there is nothing behind it."""
    assert environ_of(scope(http_version=version))["SERVER_PROTOCOL"] == protocol
    assert scope_of(cheroots(SERVER_PROTOCOL=protocol))["http_version"] == version


def test_a_scope_is_what_the_specification_asks_for() -> None:
    """Every type of every value."""
    environ = cheroots(
        "/app/x?a=b", SCRIPT_NAME="/pre", REQUEST_URI="/pre/app/x?a=b", REMOTE_PORT="4242",
        CONTENT_TYPE="a/b", CONTENT_LENGTH="3", HTTP_X_Y="1", HTTP_COOKIE="a=1; b=2",
    )  # fmt: skip
    assert scope_of(environ) == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/pre/app/x",
        "raw_path": b"/pre/app/x",
        "root_path": "/pre",
        "query_string": b"a=b",
        "headers": [
            (b"host", b"localhost:8080"),
            (b"content-type", b"a/b"),
            (b"content-length", b"3"),
            (b"x-y", b"1"),
            (b"cookie", b"a=1; b=2"),
        ],
        "client": ("127.0.0.1", 4242),
        "server": ("localhost", 8080),
        "extensions": {},
    }


@pytest.mark.parametrize(
    ("uri", "script", "info", "path", "raw"),
    [
        # As cheroot decodes: a slash that was written as %2F stays so.
        ("/a%2fb%20c", "", "/a%2Fb c", "/a/b c", b"/a%2fb%20c"),
        ("/a%252Fb", "", "/a%2Fb", "/a%2Fb", b"/a%252Fb"),
        # As others do.
        ("/a%2fb", "", "/a/b", "/a/b", b"/a%2fb"),
        ("/%C3%A4?%20", "", "/\xc3\xa4", "/\xe4", b"/%C3%A4"),
        ("/%ff", "", "/\xff", "/\ufffd", b"/%ff"),
        ("/pre/x", "/pre", "/x", "/pre/x", b"/pre/x"),
        ("http://example.org/x?y", "", "/x", "/x", b"/x"),
        # Somebody changed the path, or there is no original.
        ("/old", "", "/new \xc3\xa4", "/new \xe4", b"/new%20%C3%A4"),
        ("", "", "/a b", "/a b", b"/a%20b"),
        ("", "/pre\xc3\xa4", "", "/pre\xe4", b"/pre%C3%A4"),
        ("*", "", "*", "*", b"*"),
    ],
)
def test_the_path_and_its_original(uri: str, script: str, info: str, path: str, raw: bytes) -> None:
    """Applications that care for %2F look at the latter."""
    environ = cheroots(REQUEST_URI=uri, SCRIPT_NAME=script)
    environ["PATH_INFO"] = info
    told = scope_of(environ)
    assert (told["path"], told["raw_path"]) == (path, raw)
    assert told["path"].startswith(told["root_path"])


def test_what_is_not_known_is_none() -> None:
    """A Unix socket has no port, and its clients no address."""
    environ = cheroots(SERVER_NAME="/run/x.sock", SERVER_PORT="", REMOTE_ADDR="")
    assert scope_of(environ)["server"] == ("/run/x.sock", None)
    assert scope_of(environ)["client"] is None
    assert scope_of(cheroots(REMOTE_ADDR="192.0.2.1"))["client"] == ("192.0.2.1", 0)


_CHARACTERS = st.characters(codec="utf-8", exclude_characters="?#\x00")


@given(st.text(_CHARACTERS), st.text(_CHARACTERS))
def test_paths_come_back(root: str, rest: str) -> None:
    """Whoever stacks one bridge on the other must not lose a character."""
    root = f"/{root}".rstrip("/")
    whole = f"{root}/{rest}"
    raw = quote(whole).encode()
    environ = environ_of(scope(path=whole, root_path=root, raw_path=raw))
    assert (environ["SCRIPT_NAME"] + environ["PATH_INFO"]).encode("latin-1") == whole.encode()
    back = scope_of(environ)
    assert (back["path"], back["root_path"], back["raw_path"]) == (whole, root, raw)


@given(st.binary())
def test_any_bytes_come_back(sent: bytes) -> None:
    """Also those that are no text."""
    sent = b"/" + sent
    raw = quote(sent).encode()
    told = scope(path=sent.decode("utf-8", "replace"), raw_path=raw)
    environ = environ_of(told)
    assert environ["PATH_INFO"].encode("latin-1") == sent
    assert unquote_to_bytes(scope_of(environ)["raw_path"]) == sent


@given(
    st.lists(
        st.tuples(
            st.from_regex(rb"[a-z][a-z0-9-]{0,10}", fullmatch=True),
            st.binary(min_size=1).map(lambda value: value.translate(None, b"\r\n\x00")),
        ),
        unique_by=lambda header: header[0],
    )
)
def test_headers_come_back(headers: list[tuple[bytes, bytes]]) -> None:
    """Whatever they are, but for those that are dropped."""
    dropped = (b"proxy", b"content-length", b"content-type")
    headers = [header for header in headers if header[0] not in dropped]
    assert scope_of(environ_of(scope(headers=headers)))["headers"] == headers
