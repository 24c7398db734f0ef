"""Descriptors from systemd, taken at a start, and those that we pass to ourselves over an exec.

In systemd's protocol ``LISTEN_FDS`` counts descriptors from 3 on, ``LISTEN_PID`` says which process
they are for, and ``LISTEN_FDNAMES`` gives each a name.

What we pass to ourselves keeps the names, but not the numbers: 3 and those that follow belong to
somebody in a process that runs, and a thread that closes, or writes to, what it holds to be its own
would hit what was put there. So a fresh number is taken, which nobody else knows, and told::

    SITEBUS_HANDED_DOWN=<pid>:<descriptor>.<name>:<descriptor>.<name>

Such a name says what the socket was asked for, so that ``127.0.0.1:0`` finds its port again, what
systemd called it, and which socket file is ours to remove::

    sitebus=<systemd's name>=<asked address>=<device>.<inode>

Each part is percent-encoded: a name may hold neither ``:`` nor anything beyond printable ASCII.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from sitebus.errors import BadAddress, BadInheritance, CannotRestart
from sitebus.sockets.addresses import Address

if sys.platform != "win32":
    import fcntl

FIRST = 3
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
OWN = "SITEBUS_HANDED_DOWN"
_MARK = "sitebus"
_PLAIN = "[ -9;-~]*"


class Origin(NamedTuple):
    """What the name of a passed descriptor says about it."""

    given: str = ""
    asked: Address | None = None
    file: tuple[int, int] | None = None

    @classmethod
    def decode(cls, name: str) -> Origin:
        """Read a name; one that is not of our making is systemd's."""
        from urllib.parse import unquote_to_bytes

        mark, *parts = name.split("=")
        if mark != _MARK or len(parts) != 3:
            return cls(name)
        given, asked, file = (os.fsdecode(unquote_to_bytes(part)) for part in parts)
        try:
            device, _, inode = file.partition(".")
            identity = (int(device), int(inode)) if file else None
            return cls(given, Address.parse(asked) if asked else None, identity)
        except (BadAddress, ValueError):
            return cls(name)

    def encode(self) -> str:
        """Write the name from which :meth:`decode` makes this again."""
        if re.fullmatch(_PLAIN, self.given) and self == Origin.decode(self.given):
            return self.given
        from urllib.parse import quote_from_bytes

        file = "{}.{}".format(*self.file) if self.file else ""
        parts = (self.given, str(self.asked or ""), file)
        return "=".join([_MARK, *(quote_from_bytes(os.fsencode(p), safe="/@[] ") for p in parts)])


class Passed(NamedTuple):
    """One descriptor that was passed to this process, and that nobody has asked for yet."""

    fd: int
    origin: Origin

    @property
    def name(self) -> str:
        """What systemd, or the caller of ``hand_down``, called it."""
        return self.origin.given

    def __str__(self) -> str:
        return f"fd:{self.fd} ({self.origin.asked or self.name})"


def take(environ: MutableMapping[str, str]) -> list[Passed]:
    """Take the descriptors passed to this process, so that its children get neither them nor word.

    Variables meant for another process are left alone.

    Raises:
        BadInheritance: They are meant for us and make no sense.
    """
    return [*_handed_down(environ), *_activated(environ)]


def announce(rows: Iterable[tuple[int, str]], environ: MutableMapping[str, str]) -> None:
    """Have `take` find descriptors that this process was given in another way, by their names."""
    environ[OWN] = ":".join((str(os.getpid()), *(f"{fd}.{name}" for fd, name in rows)))


def _handed_down(environ: MutableMapping[str, str]) -> list[Passed]:
    pid, *rows = environ.get(OWN, "").split(":")
    if pid != str(os.getpid()):
        return []
    value = environ.pop(OWN)
    found = []
    for row in rows:
        number, _, name = row.partition(".")
        try:
            os.set_inheritable(int(number), False)
        except (OSError, ValueError) as error:
            raise BadInheritance(OWN, value, f"descriptor {number} is not open") from error
        found.append(Passed(int(number), Origin.decode(name)))
    return found


def _activated(environ: MutableMapping[str, str]) -> list[Passed]:
    if environ.get("LISTEN_PID", "").strip() != str(os.getpid()):
        return []
    count = _count(environ.get("LISTEN_FDS", "0"))
    names = _names(environ, count)
    for fd in range(FIRST, FIRST + count):
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            reason = f"descriptor {fd} is not open"
            raise BadInheritance("LISTEN_FDS", str(count), reason) from error
    for variable in VARIABLES:
        environ.pop(variable, None)
    return [Passed(FIRST + at, Origin.decode(name)) for at, name in enumerate(names)]


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise BadInheritance("LISTEN_FDS", text, "it should be the number of sockets")
    return int(text)


def _names(environ: Mapping[str, str], count: int) -> list[str]:
    if "LISTEN_FDNAMES" not in environ:
        return ["unknown"] * count  # as sd_listen_fds_with_names(3) answers
    names = environ["LISTEN_FDNAMES"].split(":")
    if len(names) != count and (count or names != [""]):
        reason = f"there are {len(names)} names for {count} sockets"
        raise BadInheritance("LISTEN_FDNAMES", environ["LISTEN_FDNAMES"], reason)
    return names[:count]


class HandDown:
    """Descriptors made ready for an exec, for as long as the ``with`` block lasts.

    Inside the block they are open at :attr:`fds` as well, and inheritable there, and
    :attr:`environ` tells the new image of them.
    The end of the block is reached only if the exec failed.

    Args:
        rows: What is handed down.
        environ: What the new image would have without it.
        ours: One of them that nobody else knows; closed at the end.
    """

    def __init__(
        self,
        rows: Sequence[tuple[int, Origin]],
        environ: Mapping[str, str],
        ours: int | None = None,
    ) -> None:
        self._rows = rows
        self._ours = ours
        self.fds: list[int] = []
        self.environ = {k: v for k, v in environ.items() if k not in (OWN, *VARIABLES)}

    def __enter__(self) -> Self:
        try:
            for fd, _ in self._rows:
                # Not those of the standard streams, which may be closed.
                self.fds.append(fcntl.fcntl(fd, fcntl.F_DUPFD, FIRST))
        except OSError as error:
            self._close()
            reason = f"the listening sockets cannot be passed on ({error.strerror})"
            raise CannotRestart((), reason) from error
        names = [origin.encode() for _, origin in self._rows]
        told = [f"{fd}.{name}" for fd, name in zip(self.fds, names, strict=True)]
        if told:
            self.environ[OWN] = ":".join((str(os.getpid()), *told))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._ours is not None:
            self.fds.append(self._ours)
            self._ours = None
        while self.fds:
            os.close(self.fds.pop())
