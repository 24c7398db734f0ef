"""Where a site can listen, as a value: written, read, compared and shown; nothing is opened here.

The forms are ``127.0.0.1:8080``, ``[::1]:8080``, ``localhost:8080``, ``:8080`` (every IPv4
interface), ``8080`` (loopback only), ``unix:/run/site.sock``, ``unix:@name`` (Linux's abstract
names), ``fd:3``, ``systemd`` and ``systemd:NAME``.
Two spellings of one place are equal once parsed, but a name is not looked up: ``localhost:80``
and ``127.0.0.1:80`` differ until they are bound.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable
from typing import Literal, NamedTuple

from sitebus.errors import BadAddress

Kind = Literal["tcp", "unix", "fd", "systemd"]

LOOPBACK = "127.0.0.1"
EVERYWHERE = {"0.0.0.0": LOOPBACK, "::": "::1"}

#: What ``sockaddr_un`` holds besides its closing NUL: 108 bytes on Linux, 104 on the BSDs.
LONGEST_PATH = 107 if sys.platform.startswith("linux") else 103

# Compiled when they are used, which for most sites is never.
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_CONTROL = r"[\x00-\x1f\x7f]"


class Address(NamedTuple):
    """One place to listen; made by :meth:`parse`, written back by ``str``."""

    kind: Kind
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int | None = None
    name: str = ""

    @classmethod
    def parse(cls, value: str | int | tuple[str, int] | Address) -> Address:
        """Read an address from a configuration, a command line or a ``(host, port)`` pair.

        Raises:
            BadAddress: It is none of the known forms; the error says what would be.
        """
        match value:
            case Address():
                return value
            case int() if not isinstance(value, bool):
                return cls("tcp", LOOPBACK, _port(value, str(value)))
            case (str(host), int(port), *_):
                return cls("tcp", _host(value, host), _port(value, str(port)))
            case str():
                return _parse(value.strip())
        raise _bad(value, "it is neither text nor a port")

    @property
    def is_abstract(self) -> bool:
        """Whether it is a unix socket without a file."""
        return self.path.startswith("@")

    def url(self, scheme: str = "http") -> str:
        """Answer what a client on this host would type; for every interface that is loopback."""
        if self.kind == "unix":
            from urllib.parse import quote

            return f"{scheme}+unix://{quote(self.path, safe='')}"
        if self.kind != "tcp":
            return str(self)
        host = EVERYWHERE.get(self.host, self.host).replace("%", "%25")
        return f"{scheme}://{_joined(host, self.port)}"

    def __str__(self) -> str:
        if self.kind == "tcp":
            return _joined(self.host, self.port)
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd:{self.fd}"
        return f"systemd:{self.name}" if self.name else "systemd"


def of_socket(sock: socket.socket) -> Address:
    """Answer the address a bound socket really has."""
    name = sock.getsockname()
    if sock.family == socket.AF_INET:
        return Address("tcp", name[0], name[1])
    if sock.family == socket.AF_INET6:
        scope = f"%{socket.if_indextoname(name[3])}" if name[3] else ""
        return Address("tcp", name[0] + scope, name[1])
    if isinstance(name, bytes):
        return Address("unix", path="@" + os.fsdecode(name[1:]))
    return Address("unix", path=name)


def native(address: Address) -> str:
    """Answer the path of a unix *address* as the socket module wants it."""
    return "\0" + address.path[1:] if address.is_abstract else address.path


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bad(value: object, reason: str, remedy: str = "127.0.0.1:8080") -> BadAddress:
    return BadAddress(value if isinstance(value, str) else repr(value), reason, remedy)


def _parse(text: str) -> Address:
    if text == "systemd":
        return Address("systemd")
    scheme, colon, rest = text.partition(":")
    if colon and scheme in _SCHEMES:
        return _SCHEMES[scheme](text, rest.strip())
    if text.startswith(("/", "./", "../")):
        return _unix(text, text)
    if text.startswith("\0"):
        return _unix(text, "@" + text[1:])
    return _tcp(text)


def _tcp(text: str) -> Address:
    if "://" in text:
        raise _bad(text, "it is a URL", "host and port only, as in 127.0.0.1:8080")
    if "/" in text:
        raise _bad(text, "a path needs 'unix:' before it", "unix:/run/site.sock")
    if _number(text) is not None:
        return Address("tcp", LOOPBACK, _port(text, text))
    if text.startswith("["):
        host, colon, port = text[1:].partition("]:")
        if ":" not in host:
            raise _bad(text, "brackets hold an IPv6 address", "[::1]:8080")
    else:
        host, colon, port = text.rpartition(":")
        if ":" in host:
            raise _bad(text, "an IPv6 address needs brackets", "[::1]:8080")
    if not colon:
        raise _bad(text, "it has no port")
    return Address("tcp", _host(text, host), _port(text, port))


def _number(text: str) -> int | None:
    # int() also takes '+1', '1_0' and the digits of other scripts.
    plain = text.isascii() and text.isdigit() and len(text) <= 10
    return int(text) if plain else None


def _port(value: object, text: str | int) -> int:
    port = _number(str(text))
    if port is None or port > 0xFFFF:
        raise _bad(value, "a port is a number from 0 (any free one) to 65535")
    return port


def _host(value: object, host: str) -> str:
    if host in ("", "*"):
        return "0.0.0.0"
    if ":" in host:
        return _ipv6(value, host)
    try:
        host = (host if host.isascii() else host.encode("idna").decode("ascii")).lower()
    except UnicodeError as error:
        raise _bad(value, "the host name cannot be written in DNS") from error
    if not host.strip("0123456789."):
        return _ipv4(value, host)
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(re.fullmatch(_LABEL, label) for label in labels):
        raise _bad(value, "that is no host name")
    return host


def _ipv4(value: object, host: str) -> str:
    try:
        return socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, host))
    except OSError as error:
        raise _bad(value, "an IPv4 address has four numbers up to 255") from error


def _ipv6(value: object, host: str) -> str:
    bare, percent, scope = host.partition("%")
    try:
        packed = socket.inet_pton(socket.AF_INET6, bare)
    except (OSError, UnicodeError, ValueError) as error:
        raise _bad(value, "that is no IPv6 address", "[::1]:8080") from error
    if percent and not re.fullmatch(r"[A-Za-z0-9_.-]+", scope):
        raise _bad(value, "after % stands the name of an interface", "[fe80::1%eth0]:8080")
    if packed.startswith(bytes(10) + b"\xff\xff"):
        # Our IPv6 sockets take IPv6 only; they cannot be bound to an IPv4 address in disguise.
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed) + percent + scope


def _unix(text: str, path: str) -> Address:
    example = "unix:/run/site.sock"
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    if path in ("", "@", ".", "..") or path.endswith(("/", "/.", "/..")):
        raise _bad(text, "it names no socket file", example)
    if re.search(_CONTROL, path):
        raise _bad(text, "its path has control characters", example)
    try:
        length = len(os.fsencode(path))
    except UnicodeError as error:
        raise _bad(text, "its path cannot be written in this file system", example) from error
    if length > LONGEST_PATH:
        raise _bad(text, f"its path has {length} bytes of at most {LONGEST_PATH}", "a shorter path")
    return Address("unix", path=path)


def _fd(text: str, number: str) -> Address:
    fd = _number(number)
    if fd is None or fd > 0x7FFFFFFF:
        raise _bad(text, "a descriptor is a number", "fd:3")
    return Address("fd", fd=fd)


def _systemd(text: str, name: str) -> Address:
    if not re.fullmatch(r"[ -9;-~]{1,255}", name):
        raise _bad(
            text, "a socket's name has printable ASCII and no ':'", "systemd:NAME or systemd"
        )
    return Address("systemd", name=name)


_SCHEMES: dict[str, Callable[[str, str], Address]] = {"unix": _unix, "fd": _fd, "systemd": _systemd}
