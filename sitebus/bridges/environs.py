"""What a request looks like to WSGI, and what to ASGI: each made from the other.

Pure translations: nothing here waits, reads or keeps a request.

What WSGI cannot tell apart is not handed on. A header with an underscore in its name would be taken
for the one with a hyphen, which a proxy may have checked, and ``Proxy`` for the variable
``HTTP_PROXY``, which HTTP clients obey: both are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

from sitebus.asgi import CONNECTION

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from sitebus.asgi import Scope

#: The environ's names of headers, by the scope's; filled as they come, but not without end.
_KEYS: dict[bytes, str] = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
#: The scope's names of headers, by the environ's; filled in the same way.
_NAMES: dict[str, bytes] = {"CONTENT_TYPE": b"content-type", "CONTENT_LENGTH": b"content-length"}
_MOST_NAMES = 1000

#: Headers that other sides of the environ speak for.
_NOT_HEADERS = frozenset({"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"})

#: What a path may contain as it is (RFC 3986, section 3.3).
_PLAIN = "/:@!$&'()*+,;=~-._"

#: What some servers leave as it is when they decode a path.
_SLASH = re.compile(b"%2[fF]")

_PORTS = {"http": "80", "https": "443"}

#: TLS versions as ASGI numbers them and as mod_ssl, whose names WSGI servers use, writes them.
_TLS_VERSIONS = {0x0300: "SSLv3", 0x0301: "TLSv1", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2",
                 0x0304: "TLSv1.3"}  # fmt: skip
_TLS_NUMBERS = {name: number for number, name in _TLS_VERSIONS.items()}

# From ASGI to WSGI.


def environ_of(scope: Scope) -> WSGIEnvironment:
    """Answer the environ of an HTTP *scope*, without ``wsgi.input`` and ``wsgi.errors``.

    ``asgi.scope`` in it is *scope*, for what WSGI has no name for.
    """
    scheme = scope.get("scheme", "http")
    root, path = _split_path(scope)
    raw_path, query = scope.get("raw_path"), scope.get("query_string", b"").decode("latin-1")
    uri = raw_path.decode("latin-1") if raw_path else _quoted((root + path).encode("latin-1"))
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "REQUEST_URI": f"{uri}?{query}" if query else uri,
        "SERVER_PROTOCOL": _protocol(scope.get("http_version", "1.1")),
        "REMOTE_ADDR": "",
        "REMOTE_PORT": "",
        "asgi.scope": scope,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input_terminated": True,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    _add_headers(environ, scope["headers"])
    client = scope.get("client")
    if client:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    environ["SERVER_NAME"], environ["SERVER_PORT"] = _server(scope, environ, scheme)
    if scheme == "https":
        environ["HTTPS"] = "on"
        _add_tls(environ, scope.get("extensions") or {})
    return environ


def _split_path(scope: Scope) -> tuple[str, str]:
    """Answer SCRIPT_NAME and PATH_INFO."""
    path, root = _wire_path(scope), scope.get("root_path", "")
    if not root:
        return "", path
    root = root.rstrip("/")
    if not root.isascii():
        root = _wire(root)
    # Not all servers repeat the one in the other, as they should.
    if path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        path = path[len(root) :]
    return root, path


def _wire_path(scope: Scope) -> str:
    """Answer the path's bytes as WSGI spells them."""
    path: str = scope["path"]
    if path.isascii():
        return path
    raw = scope.get("raw_path")
    if raw and "\ufffd" in path:
        # Decoding has lost something; the original has it, unless somebody changed the path.
        sent = unquote_to_bytes(raw)
        lossy = sent.decode("utf-8", "replace")
        cut = lossy[: len(lossy) - len(path)].encode()
        if lossy.endswith(path) and sent.startswith(cut):
            return sent[len(cut) :].decode("latin-1")
    return _wire(path)


def _wire(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _quoted(path: bytes) -> str:
    return quote_from_bytes(path, safe=_PLAIN)


def _protocol(version: str) -> str:
    # There are applications that look for the digit after the dot.
    return f"HTTP/{version}" if "." in version else f"HTTP/{version}.0"


def _add_headers(environ: WSGIEnvironment, headers: Iterable[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        key = _KEYS.get(name)
        if key is None:
            key = _key(name)
        if not key:
            continue
        text = value.decode("latin-1")
        if key in environ:
            text = _joined(key, environ[key], text)
        environ[key] = text
    if "HTTP_TRANSFER_ENCODING" in environ:
        environ.pop("CONTENT_LENGTH", None)  # which does not count then (RFC 9112, section 6.3)


def _key(name: bytes) -> str:
    """Answer a header's name in the environ, or "" if it has none."""
    text = name.decode("latin-1").upper()
    if "_" in text or text == "PROXY":
        return ""
    key = f"HTTP_{text.replace('-', '_')}"
    key = {"HTTP_CONTENT_TYPE": "CONTENT_TYPE", "HTTP_CONTENT_LENGTH": "CONTENT_LENGTH"}.get(
        key, key
    )
    if len(_KEYS) < _MOST_NAMES:
        _KEYS[name] = key
    return key


def _joined(key: str, first: str, second: str) -> str:
    if key == "CONTENT_LENGTH":
        return first  # a server lets two of them pass only if they are the same
    return f"{first}; {second}" if key == "HTTP_COOKIE" else f"{first},{second}"


def _server(scope: Scope, environ: WSGIEnvironment, scheme: str) -> tuple[str, str]:
    """Answer SERVER_NAME and SERVER_PORT, neither of which may be empty."""
    host, port = scope.get("server") or ("", None)
    if port is None:  # a Unix socket's path, or nothing
        host, port = _host_and_port(environ.get("HTTP_HOST", ""))
    return host or "localhost", str(port or _PORTS.get(scheme, "80"))


def _host_and_port(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and port.isdecimal() else (host, "")


def _add_tls(environ: WSGIEnvironment, extensions: dict[str, Any]) -> None:
    """Name what the server tells of TLS as mod_ssl does."""
    told = extensions.get("tls")
    if told is None:
        return
    chain = list(told.get("client_cert_chain") or ())
    found = {
        "SSL_PROTOCOL": _TLS_VERSIONS.get(told.get("tls_version")),
        "SSL_SERVER_CERT": told.get("server_cert"),
        "SSL_CLIENT_CERT": chain[0] if chain else None,
        "SSL_CLIENT_S_DN": told.get("client_cert_name"),
        "SSL_CLIENT_VERIFY": "SUCCESS" if chain and not told.get("client_cert_error") else "NONE",
    }
    environ.update((key, value) for key, value in found.items() if value)
    # More than the extension has a place for, from the servers that are sitebus's own.
    environ.update(told.get("sitebus.environ") or {})


# From WSGI to ASGI.


def scope_of(environ: WSGIEnvironment) -> dict[str, Any]:
    """Answer the scope of *environ*, without ``state``.

    A path that is not UTF-8 has replacement characters in ``path``, and its bytes in ``raw_path``.
    """
    root = environ.get("SCRIPT_NAME", "")
    path, raw_path = _paths(root + environ.get("PATH_INFO", ""), environ)
    scheme = environ["wsgi.url_scheme"]
    tls = _tls(environ) if scheme == "https" else None
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": _version(environ.get("SERVER_PROTOCOL", "")),
        "method": environ["REQUEST_METHOD"].upper(),
        "scheme": scheme,
        "path": path,
        "raw_path": raw_path,
        "root_path": root if root.isascii() else _text(root.encode("latin-1")),
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "headers": _headers(environ),
        "client": _address(environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT"), 0),
        "server": _address(environ.get("SERVER_NAME"), environ.get("SERVER_PORT"), None),
        "extensions": {} if tls is None else {"tls": tls},
    }
    if CONNECTION in environ:
        scope[CONNECTION] = environ[CONNECTION]
    return scope


def _text(path: bytes) -> str:
    return path.decode("utf-8", "replace")


def _paths(path: str, environ: WSGIEnvironment) -> tuple[str, bytes]:
    """Answer ``path`` and ``raw_path``, the latter as the client wrote it where that is known."""
    uri = environ.get("REQUEST_URI") or environ.get("RAW_URI") or ""
    raw = uri.partition("?")[0]
    if raw == path and "%" not in raw and raw.isascii():
        return raw, raw.encode("ascii")
    if not raw.startswith("/"):
        raw = urlsplit(raw).path  # a proxy's request names the host as well
    sent, known = raw.encode("latin-1", "replace"), path.encode("latin-1")
    decoded = unquote_to_bytes(sent)
    # Where they differ, something before us has changed the path, and meant it.
    if decoded == known or _keeping_slashes(sent) == known:
        return _text(decoded), sent
    return _text(known), _quoted(known).encode("ascii")


def _keeping_slashes(path: bytes) -> bytes:
    return b"%2F".join(map(unquote_to_bytes, _SLASH.split(path)))


def _version(protocol: str) -> str:
    version = protocol.rpartition("/")[2] or "1.0"
    return version.removesuffix(".0") if version in ("2.0", "3.0") else version


def _headers(environ: WSGIEnvironment) -> list[tuple[bytes, bytes]]:
    headers = []
    for key, value in environ.items():
        name = _NAMES.get(key)
        if name is None:
            if not key.startswith("HTTP_") or key in _NOT_HEADERS:
                continue
            name = _name(key)
        elif not value and (key == "CONTENT_TYPE" or key == "CONTENT_LENGTH"):
            continue  # which is how CGI says that there is none
        headers.append((name, value.encode("latin-1")))
    return headers


def _name(key: str) -> bytes:
    name = key[5:].lower().replace("_", "-").encode("latin-1")
    if len(_NAMES) < _MOST_NAMES:
        _NAMES[key] = name
    return name


def _address(
    host: str | None, port: str | None, no_port: int | None
) -> tuple[str, int | None] | None:
    if not host:
        return None
    return host, int(port) if port and port.isdecimal() else no_port


def _tls(environ: WSGIEnvironment) -> dict[str, Any] | None:
    if "SSL_PROTOCOL" not in environ:
        return None
    client = environ.get("SSL_CLIENT_CERT")
    return {
        "server_cert": environ.get("SSL_SERVER_CERT"),
        "client_cert_chain": [client] if client else [],
        "client_cert_name": environ.get("SSL_CLIENT_S_DN"),
        "client_cert_error": None,
        "tls_version": _TLS_NUMBERS.get(environ["SSL_PROTOCOL"]),
        "cipher_suite": None,
    }
