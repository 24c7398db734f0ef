"""Refuse the heads that granian lets through, though two servers could read them in two ways.

Its parser (hyper) refuses what is no HTTP by itself. What it takes for HTTP, and passes on, is
looked at here: the body's coding and length, the host, the target and the method.
What it does not pass on cannot be looked at: ``docs/howto/granian.rst`` has the list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sitebus.servers.complaints import Complaints
from sitebus.servers.heads import Refusal

Headers = Sequence[tuple[bytes, bytes]]

#: So many hosts and names are remembered; clients could think up any number, of any length.
MOST_KNOWN, LONGEST_KNOWN = 500, 64

_NUMBER = re.compile(rb"[0-9]{1,18}")
_TOKENS = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]|\[v[0-9A-Fa-f]+\.[0-9A-Za-z._~!$&'()*+,;=:-]+\]|"
    rb"(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?"
)

#: What is to be looked at, of all that a header may have.
_WATCHED = frozenset({b"host", b"transfer-encoding", b"content-length", b"content-type"})

#: Hosts that were looked at, and have nothing against them.
known_hosts: set[bytes] = set()
#: What applications know a field by; nothing if they are not to see it.
known_names: dict[bytes, str] = {}


def refusal(scope: dict[str, Any]) -> Refusal | None:
    """Answer why the request with this ASGI scope is not to be served; None for nearly all."""
    host = None
    for name, value in scope["headers"]:
        if name in _WATCHED:
            if host is not None or name != b"host":
                return refusal_of_any(scope)
            host = value
    if host in known_hosts and scope["raw_path"][:1] == b"/" and scope.get("method") != "CONNECT":
        return None
    return refusal_of_any(scope)


def refusal_of_any(scope: dict[str, Any]) -> Refusal | None:
    """Answer the same as `refusal`, for those that are not like nearly all."""
    said: dict[bytes, list[bytes]] = {name: [] for name in _WATCHED}
    for name, value in scope["headers"]:
        if name in said:
            said[name].append(value)
    if len(said[b"content-type"]) > 1:
        return Refusal(400, "A field that may be there once is there twice.")
    version = scope["http_version"]
    if scope["type"] == "websocket" and (said[b"content-length"] or said[b"transfer-encoding"]):
        return Refusal(400, "A request to switch protocols has a body.")
    return (
        _bad_target(scope)
        or _bad_body(said[b"content-length"], said[b"transfer-encoding"], version)
        or _bad_host(said[b"host"], version)
    )


def _bad_target(scope: dict[str, Any]) -> Refusal | None:
    method, target = scope.get("method", "GET"), scope["raw_path"]
    if method == "CONNECT":
        return Refusal(405, "This server is no proxy.")
    if target[:1] == b"/" or (target == b"*" and method == "OPTIONS"):
        return None
    return Refusal(400, "The target of the request is neither a path nor a URL.")


def _bad_host(hosts: list[bytes], version: str) -> Refusal | None:
    if len(hosts) > 1:
        return Refusal(400, "A field that may be there once is there twice.")
    # granian adds an empty one where there is none, HTTP/2's :authority included.
    host = hosts[0] if hosts else b""
    if not host:
        is_old = version in ("1", "1.0")
        return None if is_old else Refusal(400, "The request has no Host.")
    if not _HOST.fullmatch(host):
        return Refusal(400, "The Host is not a name or an address.")
    if len(known_hosts) < MOST_KNOWN and 0 < len(host) <= LONGEST_KNOWN:
        known_hosts.add(host)
    return None


def _bad_body(lengths: list[bytes], codings: list[bytes], version: str) -> Refusal | None:
    if codings:
        return _bad_coding(codings, lengths, version)
    if len(set(lengths)) > 1 or not all(map(_NUMBER.fullmatch, lengths)):
        return Refusal(400, "The Content-Length is not a number.")
    return None


def _bad_coding(codings: list[bytes], lengths: list[bytes], version: str) -> Refusal | None:
    if lengths:
        return Refusal(400, "The request has both a Transfer-Encoding and a Content-Length.")
    if version != "1.1":
        return Refusal(400, "Only HTTP/1.1 knows a Transfer-Encoding.")
    names = [each.strip().lower() for each in b",".join(codings).split(b",")]
    if names == [b"chunked"]:
        return None
    if not all(map(_TOKENS.fullmatch, codings)):
        return Refusal(400, "The Transfer-Encoding is not a list of names.")
    if set(names) == {b"chunked"}:
        return Refusal(400, "The Transfer-Encoding says chunked more than once.")
    return Refusal(501, "The only Transfer-Encoding that this server knows is chunked.")


def cgi_name(name: bytes) -> str:
    """Answer what applications know a field by; nothing if they are not to see it."""
    # With an underscore it would pass for the field with a dash, which a proxy may have checked.
    # Libraries take HTTP_PROXY for the setting of that name, and clients could set it.
    if b"_" in name or name == b"proxy":
        found = ""
    else:
        key = name.decode("ascii").upper().replace("-", "_")
        found = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
    if len(known_names) < MOST_KNOWN and len(name) <= LONGEST_KNOWN:
        known_names[name] = found
    return found


def size(scope: dict[str, Any]) -> int:
    """Answer about how long the request's head was."""
    told = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return told + len(scope["raw_path"]) + len(scope["query_string"])


def shown(scope: dict[str, Any]) -> str:
    """Answer what was asked for, for the log."""
    # As it was asked for: decoded, it could forge lines of the log.
    path = scope["raw_path"][:200].decode("latin-1").encode("unicode_escape").decode("ascii")
    return f"{scope.get('method', 'WebSocket')} {path}"


def tell_of(complaints: Complaints, scope: dict[str, Any], refused: Refusal) -> None:
    """Say in the log that a request was refused."""
    kind = refused.kind
    client = scope["client"]
    who = client[0] if client and client[0] else "a client"
    complaints.tell(kind, f"Refused a request from {who}: {kind}. {refused.why}")
