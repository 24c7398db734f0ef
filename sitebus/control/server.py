"""The control socket's own thread: it accepts, reads and writes, and never waits for anybody.

What is answered is `sitebus.control.api`'s business. What serves clients is imported for the first:
most starts see none, and should not wait for it.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from sitebus.listeners import ERROR

if TYPE_CHECKING:
    from sitebus.control.connections import Answer, Connection
    from sitebus.control.peers import Role, Roles
    from sitebus.control.wire import Request

#: Clients at the same time, of which some are kept for operators; strangers are not counted.
MOST_CLIENTS = 64
_FOR_OPERATORS = 8
#: Strangers that are being told so; more are closed without a word.
_MOST_STRANGERS = 16
#: When the system gives no descriptor for a client, the next try; seconds.
_PAUSE = 1.0
#: How long clients may take to read what they are being answered when the socket closes.
_FAREWELL = 1.0

Log = Callable[[str, int, object], object]


class Server:
    """Serve one listening socket in a thread of its own.

    Args:
        respond: Answers a request; called in that thread, so it must not wait.
        roles: Answers who may do what; asked for each client, in that thread.
        log: Takes a message, a level and an exception; any thread.
    """

    def __init__(
        self, respond: Callable[[Request], Answer], roles: Callable[[], Roles], log: Log
    ) -> None:
        self._respond = respond
        self._roles = roles
        self._log = log
        self._listener: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._work: deque[Callable[[], object]] = deque()
        self._clients: set[Connection] = set()
        self._resume: float | None = None
        self._ends: float | None = None
        # Reentrant: a finalizer may log, and be heard, at any point.
        self._lock = threading.RLock()

    @property
    def is_open(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    def open(self, listener: socket.socket) -> None:
        """Begin to serve *listener*, which is ours from here on."""
        reading, self._wake = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(self._wake, False)
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(reading, selectors.EVENT_READ, None)
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._ends = self._resume = None
        self._work.clear()
        self._thread = threading.Thread(
            target=self._run, args=(reading,), name="sitebus control", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answer what can be answered, close everything and end the thread; the file stays."""
        thread = self._thread
        if thread is None:
            return
        self.call_soon(self._begin_to_end)
        if thread is not threading.current_thread():
            thread.join()
        self._thread = None

    def call_soon(self, work: Callable[[], object]) -> None:
        """Have *work* called in the thread; any thread may ask, and does not wait."""
        self._work.append(work)
        self.wake()

    def wake(self) -> None:
        """Have the thread look at what is new."""
        with self._lock:
            if self._wake >= 0:
                with suppress(BlockingIOError):  # it is about to wake
                    os.write(self._wake, b"\0")

    def news(self) -> None:
        """There is something new in a ring."""
        if any(client.feed is not None for client in tuple(self._clients)):
            self.call_soon(self._feed)

    # The thread's.

    def _run(self, reading: int) -> None:
        assert self._selector is not None
        try:
            while not self._is_over():
                for key, events in self._selector.select(self._patience()):
                    self._safely(partial(self._serve, key, events, reading), key.data)
                self._work_off()
                self._give_up()
        finally:
            self._close_all(reading)

    def _serve(self, key: selectors.SelectorKey, events: int, reading: int) -> None:
        if key.data is not None:
            key.data.turn(events)
        elif key.fd == reading:
            with suppress(BlockingIOError):
                os.read(reading, 4096)
        else:
            self._accept()

    def _work_off(self) -> None:
        # No more than there is now: what is added meanwhile waits for its turn.
        for _ in range(len(self._work)):
            self._safely(self._work.popleft())

    def _safely(self, work: Callable[[], object], client: Connection | None = None) -> None:
        """Do one thing; a failure of ours costs the client that it is about, and nobody else."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor goes on
            self._tell("the control socket failed", error)
            if client is not None:
                client.close()

    def _patience(self) -> float | None:
        dues = [client.due for client in self._clients if client.due is not None]
        dues += [due for due in (self._resume, self._ends) if due is not None]
        return 0.0 if self._work else max(0.0, min(dues) - time.monotonic()) if dues else None

    def _give_up(self) -> None:
        now = time.monotonic()
        for client in tuple(self._clients):
            if client.due is not None and client.due <= now:
                self._safely(client.overdue, client)
        if self._resume is not None and self._resume <= now:
            self._resume = None
            self._attend(True)

    def _feed(self) -> None:
        for client in tuple(self._clients):
            self._safely(client.pull, client)

    def _begin_to_end(self) -> None:
        self._ends = time.monotonic() + _FAREWELL
        self._resume = None
        self._attend(False)
        for client in tuple(self._clients):
            self._safely(client.end, client)

    def _is_over(self) -> bool:
        if self._ends is None:
            return False
        return not self._clients or time.monotonic() >= self._ends

    def _close_all(self, reading: int) -> None:
        for client in tuple(self._clients):
            client.close()
        with self._lock:
            os.close(self._wake)
            self._wake = -1
        os.close(reading)
        if self._listener is not None:
            self._listener.close()
        if self._selector is not None:
            self._selector.close()
        self._work.clear()

    # Clients.

    def _attend(self, wanted: bool) -> None:
        """Accept, or leave connections where they are, in the backlog."""
        assert self._selector is not None
        assert self._listener is not None
        if wanted:
            self._selector.register(self._listener, selectors.EVENT_READ, None)
        else:
            with suppress(KeyError):
                self._selector.unregister(self._listener)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            # There is no descriptor for it, and it stays in the backlog: do not spin.
            self._attend(False)
            self._resume = time.monotonic() + _PAUSE
            self._tell(f"the control socket cannot accept: {error.strerror}")
            return
        sock.setblocking(False)
        try:
            self._welcome(sock)
        except OSError:
            sock.close()
        except ImportError:
            sock.close()
            raise

    def _welcome(self, sock: socket.socket) -> None:
        from sitebus.control.connections import Connection
        from sitebus.control.peers import Role, peer_of
        from sitebus.control.wire import refusal

        peer = peer_of(sock)
        role = self._roles().of(peer)
        client = Connection(self, sock, peer, role)
        if role is Role.STRANGER and self._count(Role.STRANGER) >= _MOST_STRANGERS:
            sock.close()
            return
        full = self._is_full(role)
        self._clients.add(client)
        self.watch(client, selectors.EVENT_READ)
        if role is Role.STRANGER:
            sentence = f"user {peer.uid} may not control this site; see [control] operators"
            client.refuse(refusal(403, sentence))
        elif full:
            client.refuse(refusal(503, "there are too many clients already; try again"))

    def _is_full(self, role: Role) -> bool:
        from sitebus.control.peers import Role

        known = len(self._clients) - self._count(Role.STRANGER)
        return known >= MOST_CLIENTS - (0 if role is Role.OPERATOR else _FOR_OPERATORS)

    def _count(self, role: Role) -> int:
        return sum(client.role is role for client in self._clients)

    def respond(self, request: Request) -> Answer:
        """Answer a request; a failure of ours is told and logged, and harms nobody else."""
        from sitebus.control.wire import refusal

        try:
            return self._respond(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor goes on
            self._tell(f"{request.head.method} of the control socket failed", error)
            return refusal(500, f"this failed, and was logged: {type(error).__name__}")

    def _tell(self, message: str, error: BaseException | None = None) -> None:
        # Log listeners are anybody's, and may wait.
        arguments = (message, ERROR, error)
        name = "sitebus control log"
        threading.Thread(target=self._log, args=arguments, name=name, daemon=True).start()

    def watch(self, connection: Connection, events: int) -> None:
        """Have `Connection.turn` called when one of *events* can be done."""
        assert self._selector is not None
        if connection not in self._clients:
            return
        try:
            self._selector.modify(connection.socket, events, connection)
        except KeyError:
            self._selector.register(connection.socket, events, connection)

    def forget(self, connection: Connection) -> None:
        """Watch it no more: it is about to be closed."""
        assert self._selector is not None
        self._clients.discard(connection)
        with suppress(KeyError, ValueError):
            self._selector.unregister(connection.socket)
