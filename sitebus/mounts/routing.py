"""Which mount a request is for: hosts, ports and path prefixes, as one immutable table.

Decides how a mount's place is written (the normal form of hosts and prefixes) and how a request
finds it. The table knows nothing of WSGI or ASGI: it holds whatever it is given under each place,
so both faces of a site share it. Nothing is normalised in a request's path before matching: whether
``//admin`` is ``/admin`` must be decided by one party, and that is the application.

A table is never changed. ``with_entry`` and ``without_entry`` answer a new one that shares what
did not change, so a reader that took the old one sees either the old site or the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

from sitebus.errors import BadHost, BadPrefix

T = TypeVar("T")

NOTHING: Mapping[str, Any] = MappingProxyType({})

#: How many different ``Host`` values are remembered; clients choose them, so there is an end.
_REMEMBERED_HOSTS = 1024


class Place(NamedTuple):
    """Where a mount is: any host and any port unless said."""

    prefix: str
    host: str = ""
    port: int | None = None

    @classmethod
    def of(cls, prefix: str, host: str | None = None, port: int | None = None) -> Place:
        """Bring *prefix*, *host* (``name``, ``name:port``, ``*.suffix``) and *port* into form.

        Raises:
            BadPrefix: The prefix could never match, or could match in two ways.
            BadHost: The host or the port could not be that of a request.
        """
        name, said = host_pattern(host) if host else ("", None)
        if said is not None and port is not None and said != port:
            raise BadHost(host, f"port={port} was asked for beside it")
        return cls(normal_prefix(prefix), name, _checked_port(said if port is None else port, host))

    @property
    def table(self) -> tuple[str, int | None]:
        return self.host, self.port

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{self.host or '*' * bool(port)}{port}{self.prefix or '/'}"


def normal_prefix(prefix: str) -> str:
    """Answer the one way to write *prefix*: "" for the root, else "/a/b"; one "/" may follow.

    Raises:
        BadPrefix: It could never match a path, or could be meant in two ways.
    """
    if prefix in ("", "/"):
        return ""
    if not prefix.startswith("/"):
        raise BadPrefix(prefix, f"a prefix begins with a slash: '/{prefix}'")
    normal = prefix.removesuffix("/")
    for segment in normal[1:].split("/"):
        _check_segment(prefix, segment)
    return normal


def _check_segment(prefix: str, segment: str) -> None:
    if not segment:
        raise BadPrefix(prefix, "it has an empty segment ('//')")
    if segment in (".", ".."):
        raise BadPrefix(prefix, f"browsers resolve the segment {segment!r} before they ask")
    for character in "?#%\\":
        if character in segment:
            raise BadPrefix(prefix, f"it has {character!r}; write the path decoded, without query")
    if not segment.isprintable() or segment != segment.strip():
        raise BadPrefix(prefix, "it has a control character, or a space at a segment's end")


def wire_prefix(prefix: str) -> str:
    """Answer *prefix* as WSGI spells paths: each byte of its UTF-8 as one character."""
    return prefix if prefix.isascii() else prefix.encode().decode("latin-1")


def host_pattern(host: str) -> tuple[str, int | None]:
    """Bring a mount's host into form and cut off its port; the name is "" for ``*``, any host.

    Raises:
        BadHost: It could not be the host of a request.
    """
    if "://" in host or "/" in host:
        raise BadHost(host, "write the name alone, without scheme or path")
    name, port = _cut_port(host, strict=True)
    if name == "*" and "." not in host:
        return "", port
    if not name.isascii():
        name = _idna(name, host)
    bare = name.removeprefix("*.")
    if not bare or "*" in bare:
        raise BadHost(host, "a '*' stands only for the whole left end, as in '*.example.org'")
    if any(character.isspace() or character in "@?#,\\" for character in bare):
        raise BadHost(host, "it is not a host name")
    return name, port


def _idna(name: str, host: str) -> str:
    star = "*." if name.startswith("*.") else ""
    try:
        return star + name.removeprefix("*.").encode("idna").decode()
    except UnicodeError as error:
        raise BadHost(host, f"it is not a host name ({error})") from None


def request_host(host: str) -> str:
    """Answer the name in a request's ``Host``: lower case, without port and trailing dot."""
    return _cut_port(host, strict=False)[0]


def _cut_port(host: str, *, strict: bool) -> tuple[str, int | None]:
    text = host.strip().lower()
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        if strict and not bracket:
            raise BadHost(host, "an IPv6 address needs its closing bracket")
        return f"[{_short_address(address)}]", _port_number(port.removeprefix(":"), host, strict)
    if text.count(":") > 1:
        return f"[{_short_address(text)}]", None
    name, _, port = text.partition(":")
    return name.removesuffix("."), _port_number(port, host, strict)


def _short_address(address: str) -> str:
    import socket

    try:
        return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))
    except (OSError, ValueError):
        return address


def _port_number(text: str, host: str, strict: bool) -> int | None:
    if not strict or not text:
        return None
    if not _is_port(text):
        raise BadHost(host, f"{text!r:.20} is not a port number")
    return int(text)


def _checked_port(port: int | None, host: str | None) -> int | None:
    if port is not None and not 0 < port < 65536:
        raise BadHost(host or "*", f"there is no port {port}")
    return port


class _Node(NamedTuple, Generic[T]):
    """One segment of a prefix: what is mounted there, and the segments that can follow."""

    entry: T | None = None
    children: Mapping[str, _Node[T]] = NOTHING

    def with_entry(self, segments: list[str], entry: T) -> _Node[T]:
        if not segments:
            return _Node(entry, self.children)
        first, *rest = segments
        child = self.children.get(first, _Node()).with_entry(rest, entry)
        return _Node(self.entry, {**self.children, first: child})

    def without_entry(self, segments: list[str]) -> _Node[T]:
        if not segments:
            return _Node(None, self.children)
        first, *rest = segments
        child = self.children[first].without_entry(rest)
        children = {**self.children, first: child}
        if child.entry is None and not child.children:
            del children[first]
        return _Node(self.entry, children)


class Prefixes(NamedTuple, Generic[T]):
    """The entries of one host, by prefix; the longest prefix of whole segments wins."""

    entries: Mapping[str, T] = NOTHING
    #: The entries whose prefix is one segment, by that segment.
    segments: Mapping[str, T] = NOTHING
    #: The length of the longest prefix, and the number of its segments.
    longest: int = 0
    depth: int = 0
    root: _Node[T] = _Node()

    def find(self, path: str) -> tuple[T | None, int]:
        """Answer the entry for *path* and the length of its prefix; (None, 0) if there is none.

        From the left, never further than the longest prefix: a long path costs no more.
        """
        node = self.root
        best, length, end = node.entry, 0, 0
        # One character more than the longest prefix, so that a segment cut short fits nothing.
        before, *segments = path[: self.longest + 1].split("/", self.depth + 1)
        if before:
            return best, length
        for segment in segments:
            child = node.children.get(segment)
            if child is None:
                break
            node = child
            end += len(segment) + 1
            if node.entry is not None:
                best, length = node.entry, end
        return best, length

    def with_entry(self, prefix: str, entry: T) -> Prefixes[T]:
        """Answer these prefixes with *entry* at *prefix*, in place of what was there."""
        depth = prefix.count("/")
        return Prefixes(
            {**self.entries, prefix: entry},
            {**self.segments, prefix[1:]: entry} if depth == 1 else self.segments,
            max(self.longest, len(prefix)),
            max(self.depth, depth),
            self.root.with_entry(prefix.split("/")[1:], entry),
        )

    def without_entry(self, prefix: str) -> Prefixes[T]:
        """Answer these prefixes without the one at *prefix*."""
        entries = {known: entry for known, entry in self.entries.items() if known != prefix}
        return Prefixes(
            entries,
            {known[1:]: entry for known, entry in entries.items() if known.count("/") == 1},
            max(map(len, entries), default=0),
            max((known.count("/") for known in entries), default=0),
            self.root.without_entry(prefix.split("/")[1:]),
        )


class Table(Generic[T]):
    """All entries of a site: a request's host and port choose the prefixes it is matched against.

    The most specific of ``host:port``, ``host``, ``*.suffix`` (longest, with the port first) and
    the default is chosen, and is final: a host with entries of its own answers for itself.
    The port is that of the listening socket, not the one the client writes into ``Host``: what is
    mounted on an inner port cannot be reached through an outer one.
    """

    __slots__ = ("_chosen", "hosts", "strict")

    def __init__(
        self,
        hosts: Mapping[tuple[str, int | None], Prefixes[T]] | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self.hosts = hosts or {}
        self.strict = strict
        self._chosen: dict[tuple[str, str], Prefixes[T] | None] = {}

    @property
    def only(self) -> Prefixes[T] | None:
        """The prefixes of every request, where the host makes no difference."""
        if self.strict or any(key != ("", None) for key in self.hosts):
            return None
        return self.hosts.get(("", None), Prefixes())

    def with_entry(self, place: Place, prefix: str, entry: T) -> Table[T]:
        """Answer this table with *entry* at *place*, its prefix spelt *prefix*."""
        known = self.hosts.get(place.table, Prefixes())
        hosts = {**self.hosts, place.table: known.with_entry(prefix, entry)}
        return Table(hosts, strict=self.strict)

    def without_entry(self, place: Place, prefix: str) -> Table[T]:
        """Answer this table without what is at *place*."""
        hosts = dict(self.hosts)
        hosts[place.table] = hosts[place.table].without_entry(prefix)
        if not hosts[place.table].entries:
            del hosts[place.table]
        return Table(hosts, strict=self.strict)

    def choose(self, host: str, port: str) -> Prefixes[T] | None:
        """Answer the prefixes for a request's ``Host`` and port, as the server tells them.

        None means that the host is unknown and this table is strict.
        """
        try:
            return self._chosen[host, port]
        except KeyError:
            chosen = self._choose(request_host(host), int(port) if _is_port(port) else None)
            if len(self._chosen) < _REMEMBERED_HOSTS and len(host) < 300:
                self._chosen[host, port] = chosen
            return chosen

    def _choose(self, name: str, port: int | None) -> Prefixes[T] | None:
        for pattern in _patterns(name):
            for key in ((pattern, port), (pattern, None)):
                if key in self.hosts:
                    return self.hosts[key]
        if self.strict:
            return None
        return self.hosts.get(("", port)) or self.hosts.get(("", None)) or Prefixes()


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6


def _patterns(name: str) -> list[str]:
    """The host, then every ``*.suffix`` it matches, the longest first."""
    patterns = [name]
    # No host name is longer; what claims to be is unknown, and costs nothing to find out.
    if len(name) < 256 and not name.startswith("["):
        labels = name.split(".")
        patterns += ["*." + ".".join(labels[start:]) for start in range(1, len(labels))]
    return patterns
