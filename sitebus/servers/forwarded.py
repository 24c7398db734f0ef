"""What proxies say of a request they pass on, and how much of it is to be believed; pure.

A header is only as good as who wrote it. Each proxy adds to the right of what it was given, so the
list of hops is read from the right: the last was written by whoever connected to us, the one
before it by the last one's address, and so on. The first address that is not a trusted proxy's is
the client; what stands further left is the client's own invention and is not even parsed.
Nor can anything there, however broken or long, change the answer: a client that could make us give
up would pass for the proxy, which is often somebody more trusted.

``Forwarded`` (RFC 7239) goes before ``X-Forwarded-*``. Where both say something, they must agree:
most proxies write one kind, and pass on the other as a client wrote it.
What is malformed, or is contradicted, is not believed, and the connection's own is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

from sitebus.servers.trusting import FOR, FORWARDED, HOST, PORT, PREFIX, PROTO
from sitebus.sockets.networks import Networks, address_of

T = TypeVar("T")

#: So many hops are looked at; more trusted proxies in a row than that are no proxies.
MOST_HOPS = 64
#: So many characters of a hop; an address is shorter.
LONGEST_HOP = 1024

SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,253}[a-z0-9_.])?")
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~!$&'()*+;=:@-]+){1,64}/?")

# An address with a port or without; [IPv6] as in URLs, or bare, as many proxies write it.
_NODE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9]{1,3}(?:\.[0-9]{1,3}){3}))(?::([0-9]{1,5}|_[\w.-]{1,64}))?"
    r"|([0-9A-Fa-f:.]{2,45})",
    re.ASCII,
)
_HIDDEN = re.compile(r"unknown(?::[\w.-]{1,64})?|_[\w.-]{1,64}(?::[\w.-]{1,64})?", re.I | re.ASCII)

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
# Brackets and colons belong into quotes, and not every proxy knows. Between semicolons there may
# be nothing.
_PAIR = re.compile(
    rf"[; \t]*({_TOKEN}{{1,64}})=(?:((?:{_TOKEN}|[:\[\]])+)|\"((?:[^\"\\]|\\.)*)\")[ \t]*(;|\Z)"
)
_ESCAPED = re.compile(r"\\(.)")


class Answer(NamedTuple):
    """What of a request is to be believed; what is empty is the connection's own.

    Attributes:
        client: The address of the client, and its port; 0 if that is not known.
        scheme: How the client speaks to the outermost proxy: ``http`` or ``https``.
        host: What the client calls the site, in lower case, without a port.
        port: The port of the site for the client.
        prefix: What proxies took from the front of the path, such as ``/shop``.
    """

    client: tuple[str, int] | None = None
    scheme: str = ""
    host: str = ""
    port: int | None = None
    prefix: str = ""


class _Hop(NamedTuple):
    """Where a walk ended: how many hops from the right, and what is said there."""

    depth: int = 0
    client: tuple[str, int] | None = None
    said: Mapping[str, str] = {}


def read(peer: str, headers: Mapping[str, str], trusted: Networks) -> Answer | None:
    """Answer what is to be believed of *headers* in a request that *peer* has sent.

    Args:
        peer: The address of who is connected; "" on a unix socket.
        headers: Any of `sitebus.servers.trusting.HEADERS` by name; several lines of one are joined
            by commas.
        trusted: The proxies.

    Returns:
        None if nothing is to be believed, which is not an error.
    """
    if peer not in trusted:
        return None
    standard = _walk(_elements(headers.get(FORWARDED, "")), trusted)
    usual = _walk(_addresses(headers.get(FOR, "")), trusted)
    if standard and usual and _host_of(standard) != _host_of(usual):
        return None
    hop, depth = standard or usual or _Hop(), (usual or standard or _Hop()).depth
    values = {name: _at(headers.get(name, ""), depth) for name in (PROTO, HOST, PORT, PREFIX)}
    scheme = _agreed(read_scheme(hop.said.get("proto", "")), read_scheme(values[PROTO]))
    host, port = _agreed(read_host(hop.said.get("host", "")), read_host(values[HOST])) or ("", None)
    port = port or read_port(values[PORT])
    found = Answer(hop.client, scheme or "", host, port, read_prefix(values[PREFIX]))
    return found if any(found) else None


def read_node(text: str) -> tuple[str, int] | None:
    """Answer the address of a hop, and its port or 0; None if it is none."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    bracketed, plain, port, bare = match.groups()
    wide = bracketed or bare
    if wide is not None and ":" not in wide:
        return None
    address = address_of(wide or plain)
    number = int(port) if port and port.isdigit() else 0
    return (str(address), number) if address is not None and number < 65536 else None


def read_scheme(text: str) -> str | None:
    """Answer ``http`` or ``https``, for WebSockets as well."""
    return SCHEMES.get(text.lower())


def read_host(text: str) -> tuple[str, int | None] | None:
    """Answer the name in a ``Host``, in lower case, and its port; None if it could not be one."""
    match = _HOST.fullmatch(text.lower()) if len(text) < 300 else None
    if match is None:
        return None
    name, port = match[1], read_port(match[2]) if match[2] else None
    if match[2] and port is None:
        return None
    if name.startswith("["):
        return (name, port) if ":" in name and address_of(name[1:-1]) is not None else None
    return (name, port) if _NAME.fullmatch(name) and ".." not in name else None


def read_port(text: str) -> int | None:
    """Answer the port that a site can have; None if it is none."""
    number = int(text) if _PORT.fullmatch(text) else 0
    return number if 0 < number < 65536 else None


def read_prefix(text: str) -> str:
    """Answer a path's beginning without its last slash, "" if it could not be one."""
    prefix = text.removesuffix("/")
    if len(text) > LONGEST_HOP or not _PREFIX.fullmatch(prefix):
        return ""
    return "" if {".", ".."} & set(prefix.split("/")) else prefix


def _host_of(hop: _Hop) -> str:
    return hop.client[0] if hop.client else ""


def _agreed(first: T | None, second: T | None) -> T | None:
    """Answer what is said by one, or by both alike."""
    if first is None or second is None:
        return second if first is None else first
    return first if first == second else None


def _walk(hops: Iterator[Mapping[str, str] | None], trusted: Networks) -> _Hop | None:
    """Answer the hop that the client is at; None if there is none, or one that is malformed."""
    found = None
    for index, said in enumerate(hops):
        if said is None:
            return None
        node = said.get("for", "unknown")
        if _HIDDEN.fullmatch(node):
            # Who wrote this is known, and whom it is about is not to be.
            return _Hop(index, found.client if found else None, said)
        client = read_node(node)
        if client is None:
            return None
        found = _Hop(index, client, said)
        if client[0] not in trusted:
            break
    return found


def _addresses(text: str) -> Iterator[Mapping[str, str] | None]:
    """Answer the hops of ``X-Forwarded-For`` from the right; None for one that is malformed."""
    for item in _items(text):
        yield None if item is None else {"for": item}


def _elements(text: str) -> Iterator[Mapping[str, str] | None]:
    """Answer the hops of ``Forwarded`` from the right; None for one that is malformed.

    A comma belongs to a quoted string if, and only if, the number of quotes between it and the
    end of its hop is odd. So a quote that a client opens swallows nothing of what a proxy adds.
    """
    element = ""
    for part in _pieces(text):
        if part is None or len(part) + len(element) > LONGEST_HOP:
            yield None
            return
        element = f"{part},{element}" if element else part
        if _ESCAPED.sub("", element).count('"') % 2 == 0:
            if element.strip(" \t"):
                yield _pairs(element)
            element = ""
    if element:
        yield None


def _pairs(element: str) -> Mapping[str, str] | None:
    found: dict[str, str] = {}
    end = 0
    while match := _PAIR.match(element, end):
        name, plain, quoted, more = match.groups()
        if name.lower() in found:
            return None
        found[name.lower()] = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
        end = match.end()
        if not more or not element[end:].strip("; \t"):
            return found
    return None


def _at(text: str, index: int) -> str:
    """Answer the value that belongs to a hop; one for all is what proxies overwrite."""
    items = list(_items(text))
    if len(items) == 1:
        return items[0] or ""
    return (items[index] or "") if index < len(items) else ""


def _items(text: str) -> Iterator[str | None]:
    """Answer the values of a list from the right; None for one that is too long, or too far."""
    for part in _pieces(text):
        item = None if part is None or len(part) > LONGEST_HOP else part.strip(" \t")
        if item != "":
            yield item


def _pieces(text: str) -> Iterator[str | None]:
    """Answer what is between commas from the right; None if it goes on too long."""
    if not text:
        return
    pieces = text.rsplit(",", MOST_HOPS)
    yield from reversed(pieces[-MOST_HOPS:])
    if len(pieces) > MOST_HOPS:
        yield None
