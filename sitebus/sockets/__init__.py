"""The listening sockets of a process: bound once, shared with servers, carried through an exec.

A socket belongs to the engine and not to a server: it stays bound while nothing serves, and from
the first bind to the last exit the port never refuses a connection.
Servers get duplicates, which they may close as they like.

``O_NONBLOCK`` belongs to what the descriptors of a socket share, in this process and in any other:
one process that clears it lets another hang in ``accept``.
So a socket object is told that it does not block before it is duplicated (``socket.dup`` would
clear the flag otherwise), and nothing here ever clears it.

When a host name has several addresses, IPv4 ones come first and the first that this host has is
bound; one in use is an error, not a reason to try the next.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import cast

from sitebus.sockets import addresses, connections, files, handdown, refusals
from sitebus.sockets.addresses import Address
from sitebus.sockets.connections import Idle
from sitebus.sockets.files import SocketFile
from sitebus.sockets.handdown import HandDown, Origin, Passed

__all__ = ["BACKLOG", "Address", "HandDown", "Idle", "Listener", "Passed", "Sockets"]

#: Connections that may wait while nobody accepts; fewer cost clients retries of a second and more.
BACKLOG = 1024
#: The name under which idle connections are handed down.
_CONNECTIONS = "connections"

_Place = tuple[str, int] | tuple[str, int, int, int]
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_TCP = (socket.AF_INET, socket.AF_INET6)
_Socket = socket.socket  # a name that Listener.socket does not hide
_FAMILIES = ("AF_INET", "AF_INET6", "AF_UNIX")


class Listener:
    """A listening socket: as it was asked for, and with the address it really has.

    Attributes:
        name: What systemd calls it, if systemd made it.
    """

    __slots__ = ("address", "asked", "file", "name", "socket")

    def __init__(
        self,
        socket: _Socket,
        asked: Address,
        address: Address,
        name: str = "",
        file: SocketFile | None = None,
    ) -> None:
        self.socket = socket
        self.asked = asked
        self.address = address
        self.name = name
        self.file = file

    def __repr__(self) -> str:
        return f"<Listener {self.address} for {self.asked}>"

    @property
    def shared(self) -> tuple[int, str]:
        """The descriptor to leave to a child, and the name by which its `Sockets` find it."""
        return self.socket.fileno(), _origin(self)._replace(file=None).encode()

    def dup(self) -> _Socket:
        """Answer another descriptor of this socket, non-blocking as well; the caller closes it."""
        return self.socket.dup()

    @property
    def is_reachable(self) -> bool:
        """Whether clients still find it: a socket file may have been removed behind our back."""
        return self.file is None or self.file.is_there

    def close(self) -> None:
        """Close it; the socket file goes too if it is still the one this process made."""
        # In this order nobody can take the file for a stale one and replace it meanwhile.
        if self.file is not None and self.socket.fileno() >= 0:
            self.file.remove()
        self.socket.close()


class Sockets:
    """Every listening socket of this process.

    Args:
        environ: Where descriptors passed to this process are announced; ``os.environ`` if left out.
            It is read at the first use, and the announcement removed.

    Attributes:
        forward: Is given each idle connection that is left, at once, instead of keeping it for the
            next image; None if nobody wants them.
        fixed: Whether only sockets that were passed to this process may be had: another process
            binds, and shares them.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._listeners: list[Listener] = []
        self._passed: list[Passed] | None = None
        #: Idle connections: those that we leave, and those that were left to us.
        self._idle: list[Idle] = []
        self._lock = threading.RLock()
        self.forward: Callable[[Idle], object] | None = None
        self.fixed = False

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return tuple(self._listeners)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses really bound, in the order in which they were asked for."""
        return tuple(listener.address for listener in self._listeners)

    @property
    def unclaimed(self) -> tuple[Passed, ...]:
        """What systemd, or this process before an exec, passed and nobody has asked for."""
        with self._lock:
            return tuple(self._inbox())

    def expand(self, address: str | int | tuple[str, int] | Address) -> tuple[Address, ...]:
        """Answer the addresses that *address* stands for: ``systemd`` means every socket passed.

        Raises:
            BindError: No socket was passed, or none of that name.
        """
        asked = Address.parse(address)
        if asked.kind != "systemd":
            return (asked,)
        with self._lock:
            waiting = [(p.name, _real_address(p.fd)) for p in self._inbox() if p.name]
            bound = [(each.name, each.address) for each in self._listeners if each.name]
        found = [(name, real) for name, real in bound + waiting if real is not None]
        matching = tuple(real for name, real in found if asked.name in ("", name))
        if not matching:
            raise refusals.not_passed(asked, [name for name, _ in found])
        return matching

    def bind(
        self,
        address: str | int | tuple[str, int] | Address,
        *,
        backlog: int | None = None,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
    ) -> Listener:
        """Listen at *address*, or answer the listener that does already.

        A socket that was passed to this process for that address is taken instead of a new one.

        Args:
            address: Where; port 0 is any free one. Asked twice it is the same listener.
            backlog: How many connections may wait; :data:`BACKLOG`, or what a passed socket has.
            mode: Permissions of a unix socket's file; 0600 if left out.
            owner: User and group (numbers, -1 to leave) of a unix socket's file.

        Raises:
            BadAddress: *address* is none.
            BindError: It cannot be had; the error says why and what would work.
        """
        asked = _absolute(Address.parse(address))
        with self._lock:
            listener = self._known(asked) or self._claimed(asked)
            if listener is None:
                if self.fixed:
                    raise refusals.not_shared(asked)
                listener = self._opened(asked, backlog or BACKLOG, mode, owner)
            else:
                _adjust(listener, backlog, mode, owner)
            if listener not in self._listeners:
                self._listeners.append(listener)
            return listener

    def close(self, listener: Listener | None = None) -> None:
        """Close *listener*, or all of them and what was passed and never asked for."""
        with self._lock:
            for each in (listener,) if listener else self.listeners:
                each.close()
                self._listeners = [other for other in self._listeners if other is not each]
        if listener is None:
            self.close_unclaimed()

    def close_unclaimed(self) -> tuple[Passed, ...]:
        """Close what was passed and not asked for, and answer the sockets for the log."""
        self.close_idle()
        with self._lock:
            closed, self._passed = tuple(self._inbox()), []
        for passed in closed:
            os.close(passed.fd)
        return closed

    def leave(self, idle: Idle) -> None:
        """Keep a connection for who serves after us; its server has let go of it."""
        if self.forward is not None:
            self.forward(idle)
            return
        with self._lock:
            self._idle.append(idle)

    def receive(self, idle: Iterable[Idle]) -> None:
        """Take connections that another process has left, until they are adopted."""
        with self._lock:
            self._idle.extend(idle)

    def adopt(self, address: Address) -> list[Idle]:
        """Take the idle connections that were left to us and came by *address*, a real one."""
        with self._lock:
            self._unpack()
            spelled = str(address)
            here = [each for each in self._idle if each.address == spelled]
            self._idle = [each for each in self._idle if each.address != spelled]
        return here

    def close_idle(self) -> int:
        """Close the idle connections that were left and not adopted; answer how many."""
        with self._lock:
            self._unpack()
            idle, self._idle = self._idle, []
        for each in idle:
            each.socket.close()
        return len(idle)

    def claim(self, name: str) -> int | None:
        """Take the descriptor, of whatever kind, that was passed under *name*, if there is one."""
        with self._lock:
            found = next((p for p in self._inbox() if p.name == name), None)
            if found is not None:
                self._inbox().remove(found)
        return found.fd if found else None

    def take_over_files(self) -> None:
        """Answer for the socket files from now on: for a forked child that replaces its parent."""
        with self._lock:
            for each in self._listeners:
                if each.file is not None:
                    each.file = each.file._replace(pid=os.getpid())

    def hand_down(self, others: Mapping[str, int] | None = None) -> HandDown:
        """Prepare every socket, and *others* by name, for an exec of this process; see `HandDown`.

        The new image finds *others* again with :meth:`claim`, and those that were left with
        :meth:`adopt`; here they are gone.
        """
        with self._lock:
            rows = [(each.socket.fileno(), _origin(each)) for each in self._listeners]
            rows += [(each.fd, each.origin) for each in self._inbox()]
            idle, self._idle = self._idle, []
        rows += [(fd, Origin(name)) for name, fd in (others or {}).items()]
        box = _packed(idle) if idle else None
        if box is not None:
            rows.append((box, Origin(_CONNECTIONS)))
        return HandDown(rows, self._environ, box)

    def _unpack(self) -> None:
        if (fd := self.claim(_CONNECTIONS)) is not None:
            self._idle += connections.unpack(fd)

    def _inbox(self) -> list[Passed]:
        if self._passed is None:
            self._passed = handdown.take(self._environ)
        return self._passed

    def _known(self, asked: Address) -> Listener | None:
        for each in self._listeners:
            mine = asked in (each.asked, each.address) or asked.fd == each.socket.fileno()
            if mine and each.is_reachable:
                return each
            if mine:
                self.close(each)  # its file is gone or another's: nobody can connect any more
        return None

    def _claimed(self, asked: Address) -> Listener | None:
        """Take the passed socket that was asked for by this address, or that has it."""
        if asked.kind == "systemd":
            return self._claimed_by_name(asked)
        ways: list[Callable[[Passed], bool]] = [
            lambda passed: passed.origin.asked == asked,
            lambda passed: asked.kind == "fd" and passed.fd == asked.fd,
            lambda passed: _real_address(passed.fd) == asked,
        ]
        for way in ways:
            for passed in filter(way, tuple(self._inbox())):
                if listener := self._adopt(asked, passed):
                    return listener
        return None

    def _claimed_by_name(self, asked: Address) -> Listener:
        named = [p for p in self._inbox() if p.name and asked.name in ("", p.name)]
        same = [p for p in named if p.origin.asked == asked] or named
        listener = self._adopt(asked, same[0]) if len(same) == 1 else None
        if listener is None:
            raise refusals.not_passed(asked, [p.name for p in self._inbox() if p.name])
        return listener

    def _adopt(self, asked: Address, passed: Passed) -> Listener | None:
        sock = _adopted(asked, passed.fd)
        self._inbox().remove(passed)
        real = addresses.of_socket(sock)
        if passed.origin.file is None:
            return Listener(sock, asked, real, passed.name)
        file = SocketFile(real.path, *passed.origin.file, os.getpid())
        if file.is_there:
            return Listener(sock, asked, real, passed.name, file)
        sock.close()  # its file was removed or replaced during the exec
        return None

    def _opened(
        self, asked: Address, backlog: int, mode: int | None, owner: tuple[int, int] | None
    ) -> Listener:
        if asked.kind == "fd" and asked.fd is not None:
            sock = _adopted(asked, asked.fd)
            return Listener(sock, asked, addresses.of_socket(sock))
        if asked.kind == "unix":
            return _listen_unix(asked, backlog, mode, owner)
        return self._listen_tcp(asked, backlog)

    def _listen_tcp(self, asked: Address, backlog: int) -> Listener:
        places = _resolved(asked)
        for at, (family, place) in enumerate(places, 1):
            spelled = asked._replace(host=place[0])
            if known := self._known(spelled) or self._claimed(spelled):
                return known
            try:
                sock = _listen(family, place, backlog)
            except OSError as error:
                if error.errno in _NOT_HERE and at < len(places):
                    continue
                raise refusals.refused(asked, error, family, place[0]) from error
            return Listener(sock, asked, addresses.of_socket(sock))
        raise refusals.unresolved(asked)


def _packed(idle: list[Idle]) -> int | None:
    try:
        return connections.pack(idle)
    except OSError:
        return None  # they are closed; the rest goes on without them


def _absolute(asked: Address) -> Address:
    """Make a socket's path independent of later changes of directory."""
    if asked.kind != "unix" or asked.is_abstract or os.path.isabs(asked.path):
        return asked
    return Address.parse(f"unix:{os.path.abspath(asked.path)}")


def _resolved(asked: Address) -> list[tuple[int, _Place]]:
    try:
        # As bytes: text would import an encoding, and a table of Unicode, to no use.
        found = socket.getaddrinfo(
            asked.host.encode("ascii"), asked.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise refusals.unresolved(asked) from error
    places = [(family, cast("_Place", place)) for family, *_, place in found if family in _TCP]
    return sorted(places, key=lambda each: each[0] != socket.AF_INET)


def _listen(family: int, place: _Place, backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if os.name == "posix":  # elsewhere it would let two processes share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _without_delay(sock)
        sock.bind(place)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_unix(
    asked: Address, backlog: int, mode: int | None, owner: tuple[int, int] | None
) -> Listener:
    if not hasattr(socket, "AF_UNIX"):
        raise refusals.no_listener(asked, "this platform has no unix sockets")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    file = None
    try:
        sock.setblocking(False)
        if asked.is_abstract:
            sock.bind(addresses.native(asked))
            sock.listen(backlog)
        else:
            permissions = files.PRIVATE if mode is None else mode
            file = files.listen(sock, asked.path, backlog, permissions, owner)
    except OSError as error:
        sock.close()
        raise refusals.refused(asked, error) from error
    return Listener(sock, asked, asked, file=file)


def _without_delay(sock: socket.socket) -> None:
    # Connections inherit it: a server that answers in two writes would wait 40 ms between them.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _adopted(asked: Address, fd: int) -> socket.socket:
    """Take a descriptor that was passed to us; one that is no listener is left as it was."""
    if reason := _unfit(fd):
        raise refusals.no_listener(asked, reason)
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    sock.set_inheritable(False)
    if sock.family in _TCP:
        _without_delay(sock)
    return sock


def _unfit(fd: int) -> str | None:
    """Answer why connections cannot be accepted from *fd*; None if they can."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return f"descriptor {fd} is not a socket"
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.family.name not in _FAMILIES or sock.type != socket.SOCK_STREAM:
                kind = f"{sock.family.name}, {sock.type.name}"
                return f"descriptor {fd} is a socket of another kind ({kind})"
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return f"descriptor {fd} is a socket that does not listen"
    except OSError as error:
        return f"descriptor {fd} is not open" if error.errno == errno.EBADF else str(error)
    return None


def _real_address(fd: int) -> Address | None:
    if _unfit(fd):
        return None
    with socket.socket(fileno=os.dup(fd)) as sock:
        return addresses.of_socket(sock)


def _adjust(
    listener: Listener, backlog: int | None, mode: int | None, owner: tuple[int, int] | None
) -> None:
    try:
        if backlog is not None:
            listener.socket.listen(backlog)
        if listener.file is not None:
            listener.file.permit(mode, owner)
    except OSError as error:
        raise refusals.refused(listener.asked, error) from error


def _origin(listener: Listener) -> Origin:
    file = listener.file
    return Origin(listener.name, listener.asked, (file.device, file.inode) if file else None)
