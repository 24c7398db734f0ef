"""systemd's protocol for passing descriptors, spoken both ways: taken at a start, given at an exec.

``LISTEN_FDS`` counts descriptors from 3 on, ``LISTEN_PID`` says which process they are for, and
``LISTEN_FDNAMES`` gives each a name.
What we pass to ourselves says in the name what the socket was asked for, so that ``127.0.0.1:0``
finds its port again, what systemd called it, and which socket file is ours to remove::

    sitebus=<systemd's name>=<asked address>=<device>.<inode>

Each part is percent-encoded: a name may hold neither ``:`` nor anything beyond printable ASCII.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from sitebus.errors import BadAddress, BadInheritance, CannotRestart
from sitebus.sockets.addresses import Address

if sys.platform != "win32":
    import fcntl

FIRST = 3
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
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

    Inside the block they are open at :attr:`fds` and inheritable, and :attr:`environ` tells the new
    image of them.
    The end of the block, reached only if the exec failed, puts everything back, down to the
    descriptors that were in the way.
    """

    def __init__(self, rows: Sequence[tuple[int, Origin]], environ: Mapping[str, str]) -> None:
        self._sources = [fd for fd, _ in rows]
        self._saved: dict[int, tuple[int, bool] | None] = {}
        self.fds = range(FIRST, FIRST + len(rows))
        self.environ = {k: v for k, v in environ.items() if k not in VARIABLES}
        if rows:
            names = ":".join(origin.encode() for _, origin in rows)
            values = (str(os.getpid()), str(len(rows)), names)
            self.environ.update(zip(VARIABLES, values, strict=True))

    def __enter__(self) -> Self:
        try:
            self._place()
        except OSError as error:
            self._restore()
            reason = f"the listening sockets cannot be passed on ({error.strerror})"
            raise CannotRestart((), reason) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _place(self) -> None:
        # First all out of the way: a socket may sit where another has to go.
        lifted: list[int] = []
        try:
            lifted.extend(_copy_above(fd, self.fds.stop) for fd in self._sources)
            for source, target in zip(lifted, self.fds, strict=True):
                self._saved[target] = _save(target, self.fds.stop)
                os.dup2(source, target, inheritable=True)
        finally:
            for fd in lifted:
                os.close(fd)

    def _restore(self) -> None:
        for target, saved in self._saved.items():
            if saved is None:
                with contextlib.suppress(OSError):
                    os.close(target)
            else:
                copy, inheritable = saved
                os.dup2(copy, target, inheritable)
                os.close(copy)
        self._saved.clear()


def _copy_above(fd: int, floor: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor)


def _save(fd: int, floor: int) -> tuple[int, bool] | None:
    try:
        inheritable = os.get_inheritable(fd)
    except OSError:
        return None
    return _copy_above(fd, floor), inheritable
