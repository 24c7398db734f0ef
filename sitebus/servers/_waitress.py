"""waitress's HTTP, in sitebus's own loop and on its listening sockets.

waitress parses requests, runs applications in its threads and writes responses; that is kept.
What it does around them cannot host a site whose sockets outlive the server, and is replaced:

- Its loop wakes once a second and closes silent connections up to half a minute late; ours wakes
  when there is something to do.
- Its stop loses whoever is connected; ours drains.
- A client that never reads its response is never closed (it waits to be able to write to it);
  ours is, and one that reads slowly is not.
- Without descriptors left it accepts again at once, for ever; ours pauses.
- An application's ``sys.exit()`` leaves its connection unanswered and open; ours answers 500.
- Requests that two servers could read in two ways are refused: see
  `sitebus.servers._waitress_reading`. A head or a body that does not come in time gets a 408.
- At its limit of connections it accepts nobody; ours lets the longest idle make room.
- A HEAD is answered with a body if the application makes one, and the client takes it for its next
  answer; ours is not.
- A request that is refused, or answered in a drain, has its connection closed with the rest of what
  the client says unread, which resets it, and the client may lose the answer; ours hears it out.
- The head of an answer is sent by itself, which costs as much as the rest of a request; ours goes
  with the beginning of the body.
- A thread that outlives the server writes into its closed pipe, whosever that is by then; ours
  does not.

This module and those that begin with its name know waitress from inside. What they rely on,
documented or not:

- `TcpWSGIServer` and `UnixWSGIServer`: ``(application, map, _sock=, dispatcher=, adj=, sockinfo=,
  bind_socket=False)`` put themselves into the map; ``trigger`` may be closed, since channels only
  call ``pull_trigger()``; ``accepting``, ``channel_class``, ``server_name``, ``effective_port``,
  ``fix_addr``; ``accept()`` answering None means that there is nobody; ``readable()`` calls
  ``maintenance(now)``, and nothing else closes silent connections.
- `HTTPChannel`: ``service()`` runs in a thread, everything else in the loop; ``requests`` are
  those being served, ``request`` one half read, ``total_outbufs_len`` what is not yet sent,
  ``last_activity`` (of `time.time`) the last byte; ``handle_close()`` ends a thread's wait for it,
  and comes with ``will_close`` set when all is sent; all is sent by ``_flush_some(do_close=)``.
  ``task_class(channel, request)`` makes a task,
  ``error_task_class`` one whose ``service()`` writes ``request.error.to_response(ident)`` and never
  waits. ``active_channels`` of the server has all that are open, by their numbers.
- ``parser_class(adj)`` is made with the first byte of a request; ``received(data)`` answers how
  much is its own, and ``completed`` ends it. `HTTPRequestParser` has what `Task` looks at:
  ``command``, ``headers``, ``path``, ``query``, ``request_uri``, ``url_scheme``, ``version``;
  ``body_rcv`` is the body's, and ``expect_continue`` asks for it once ``headers_finished``.
- `Task`: all that is sent goes through ``write(data)``, but for what ``wsgi.file_wrapper`` made,
  and the end of a chunked body in ``finish()``; the first ``write`` calls ``channel.write_soon``
  with the head and then with the data, in the same thread; ``build_response_header()`` runs just
  before the head is written, and says what ``request.headers["CONNECTION"]`` wants.
- `ThreadedTaskDispatcher`: ``start_new_thread(target, number)``, ``set_thread_count(0)``.
- `wasyncore.dispatcher` and ``loop(timeout, use_poll, map, count)``, where no timeout is for ever.
- Each of them logs to its ``logger``.

``tests/servers/test_waitress_contract.py`` fails when any of this changes.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from waitress import task, wasyncore
from waitress.adjustments import Adjustments

from sitebus.servers._waitress_channel import Channel, Log, LogTo, request_of
from sitebus.servers._waitress_entrance import Announced, TCPEntrance, UnixEntrance
from sitebus.servers.complaints import Complaints
from sitebus.servers.connections import (
    BREATHER,
    BROKEN,
    EXHAUSTED,
    LONGEST_WAIT,
    SHORTAGE,
    Door,
)
from sitebus.servers.waiting import NEVER
from sitebus.sockets.networks import Networks


class Bell(wasyncore.dispatcher):  # type: ignore[misc]
    """Wakes the loop, from any thread and at any time, also when there is no loop any more."""

    def __init__(self, map: dict[int, Any]) -> None:
        hears, self._rings = socket.socketpair()
        self._rings.setblocking(False)
        self._lock = threading.Lock()
        self._rung = False
        super().__init__(hears, map)

    def ring(self) -> None:
        if self._rung:
            return
        self._rung = True
        with self._lock:
            try:
                self._rings.send(b"!")
            except OSError:
                pass  # full: it rings already; closed: nobody sleeps any more

    def writable(self) -> bool:
        return False

    def handle_read(self) -> None:
        self.socket.recv(64)
        # Who rang until now is seen to in the turn that comes; the other order would lose a ring.
        self._rung = False

    def close(self) -> None:
        with self._lock:
            self._rings.close()
        super().close()


class Dispatcher(task.ThreadedTaskDispatcher):  # type: ignore[misc]
    """waitress's worker threads, by names of ours."""

    def __init__(self, name: str, logger: Log) -> None:
        super().__init__()
        self.name = name
        self.logger = logger
        # "Task queue depth is 1", for each request that has to wait.
        self.queue_logger = Log(logger.log_to, logging.CRITICAL + 1)
        self._started: list[threading.Thread] = []

    def start_new_thread(self, target: Callable[[int], None], thread_no: int) -> None:
        name = f"{self.name} worker {thread_no + 1}"
        thread = threading.Thread(target=target, name=name, args=(thread_no,), daemon=True)
        thread.start()
        self._started.append(thread)

    def end(self, timeout: float) -> list[threading.Thread]:
        """End the threads and answer those that did not within *timeout*."""
        self.set_thread_count(0)
        deadline = time.monotonic() + timeout
        threads, self._started = self._started, []
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread for thread in threads if thread.is_alive()]


class HTTPServer:
    """waitress's servers over listening sockets that somebody else owns, and one loop for all.

    See `sitebus.servers.hosting.Hosted`.

    Args:
        doors: Where to accept; closed at the end.
        application: The WSGI application.
        threads: How many requests are served at once.
        timeout: Seconds a client may be silent; waitress's ``channel_timeout`` may say otherwise.
        name: What the threads are called.
        adjustments: What waitress is told, by its own names.
        log: Is told, as ``log(message, level, traceback)``, what waitress would log.
        header_timeout: Seconds that the head of a request may take; 0 is any.
        min_rate: Bytes a second that a body must come in at least; 0 is any.
        most: How many connections are open at once. For one more, the one that has been silent
            longest is closed; if all are busy, it waits in the kernel's queue.
        proxied: The numbers of the doors whose connections begin with a PROXY header.
        trusted: Who may connect there; everybody if it is empty.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        application: Callable[..., Any],
        *,
        threads: int,
        timeout: float,
        name: str,
        adjustments: Mapping[str, Any],
        log: LogTo,
        header_timeout: float = 0.0,
        min_rate: int = 0,
        most: int = 1 << 20,
        proxied: Collection[int] = (),
        trusted: Networks | None = None,
    ) -> None:
        self.doors = tuple(doors)
        self.application = application
        self.threads = threads
        self.adjustments = Adjustments(**adjustments)
        self.server_name = adjustments.get("server_name")
        self.header_timeout = header_timeout
        self.min_rate = min_rate
        self.proxied = proxied
        self.trusted = trusted
        self.logger = Log(log)
        self.complaints = Complaints(lambda message, level: log(message, level, False))
        self.dispatcher = Dispatcher(name, self.logger)
        #: What is served now, by the number of the thread.
        self.busy: dict[int, Any] = {}
        self.map: dict[int, Any] = {}
        self.serving = threading.Event()
        self.drained = threading.Event()
        self.shut = threading.Event()
        self.ready = False
        self._most = most
        self._is_full = False
        self.bell: Bell
        self._entrances: list[Any] = []
        self._timeout = float(adjustments.get("channel_timeout", timeout))
        self.draining = False
        self._drained_since = 0.0
        self._linger = 0.0
        self._for_good = False
        self._cut = False
        self._broken: OSError | None = None
        self._resume_at = NEVER
        self._short_at = -SHORTAGE
        self._look_at = NEVER

    @property
    def channels(self) -> list[Channel | Announced]:
        """The connections that are open."""
        return [each for entrance in self._entrances for each in entrance.active_channels.values()]

    @property
    def welcomes(self) -> bool:
        """Whether there may be room for newcomers."""
        return self._resume_at == NEVER and not self._is_full

    def make_room(self) -> bool:
        """Close who has been silent longest, if there is no room; tell whether there is some."""
        # Whom the kernel has let in before a drain is nobody else's any more.
        if self.draining or self._count() < self._most:
            return True
        longest = min(
            (each for each in self.channels if each.is_silent),
            key=lambda each: float(each.last_activity),
            default=None,
        )
        if longest is None:
            self._is_full = True
            return False
        longest.cut()
        return True

    def _count(self) -> int:
        return sum(len(each.active_channels) for each in self._entrances)

    def start(self) -> None:
        """Serve until drained or finished."""
        try:
            self._open()
            self.ready = True
            self.serving.set()
            while not self._is_over():
                self._turn()
            if self._broken is not None:
                raise self._broken
        finally:
            self._leave()

    def stop(self) -> None:
        """Drain for a moment, then end."""
        self.drain(0.0)
        self.finish(1.0)

    def drain(self, linger: float, *, for_good: bool = False) -> None:
        """Accept nothing more and answer the rest with ``Connection: close``; does not wait."""
        if not self.draining:
            self._linger, self._for_good = linger, for_good
            self._drained_since = time.time()
            self.draining = True
            self._wake()

    def finish(self, grace: float) -> list[tuple[str, str]]:
        """End at once; answer who is still busy after *grace* seconds, and with what."""
        self._cut = True
        self._wake()
        deadline = time.monotonic() + grace
        if self.serving.is_set():
            self.drained.wait(grace)
        stuck = self.dispatcher.end(max(0.0, deadline - time.monotonic()))
        for door in self.doors:
            door.socket.close()
        return [(thread.name, request_of(self.busy.get(thread.ident or 0))) for thread in stuck]

    def refused(self, error: OSError) -> None:
        """Be told that nobody could be accepted, and why."""
        if error.errno in BROKEN:
            self._broken = error
        elif error.errno in EXHAUSTED:
            now = time.time()
            if now - self._short_at > SHORTAGE:
                self.logger.error("cannot accept: %s; pausing", error.strerror)
            self._short_at = now
            self._resume_at = now + BREATHER

    def _open(self) -> None:
        self.bell = Bell(self.map)
        for at, door in enumerate(self.doors):
            kind = UnixEntrance if door.socket.family == socket.AF_UNIX else TCPEntrance
            self._entrances.append(kind(self, door, is_proxied=at in self.proxied))
        self.dispatcher.set_thread_count(self.threads)

    def _leave(self) -> None:
        self.ready = False
        for each in self.channels:
            each.cut()
        self._close_entrances()
        if hasattr(self, "bell"):
            self.bell.close()
        self.complaints.flush()
        # Whoever waits for any of these must learn that it will not come.
        for event in (self.serving, self.drained):
            event.set()

    def _close_entrances(self) -> None:
        for entrance in self._entrances:
            entrance.shut()
        self.shut.set()

    def _wake(self) -> None:
        if hasattr(self, "bell"):
            self.bell.ring()

    def _is_over(self) -> bool:
        if self._cut or self._broken is not None or not self.draining:
            return self._cut or self._broken is not None
        if not self.shut.is_set():
            for entrance in self._entrances if self._for_good else ():
                entrance.let_in_who_waits()
            self._close_entrances()
        return not self.channels

    def _turn(self) -> None:
        now = time.time()
        if self._is_full and not self.draining:
            self._is_full = self._count() >= self._most and not any(
                each.is_silent for each in self.channels
            )
        due = self._next_due(now)
        # poll counts whole milliseconds, and forgets the rest.
        wait = None if due == NEVER else max(0.0, min(due - now, LONGEST_WAIT)) + 0.001
        wasyncore.loop(wait, use_poll=True, map=self.map, count=1)
        # Only who was due before it was asked for words is closed as silent.
        if due <= now:
            self._do_what_is_due(now)

    def _next_due(self, now: float) -> float:
        """Answer when something is to be done that no event announces."""
        if self.draining:
            return min(map(self._due, self.channels), default=NEVER)
        if self._look_at == NEVER and any(each.active_channels for each in self._entrances):
            # Whoever comes or was answered from now on is due after this.
            self._look_at = now + self._horizon
        return min(self._look_at, self._resume_at)

    @property
    def _horizon(self) -> float:
        return min(self._timeout, self.header_timeout or self._timeout)

    def _do_what_is_due(self, now: float) -> None:
        if self._resume_at <= now:
            self._resume_at = NEVER
        channels = self.channels
        self._look_at = now + self._horizon if channels else NEVER
        for each in channels:
            # The lock: a thread that adds to a response has not tried to send it yet.
            with each.outbuf_lock:
                due = self._due(each)
                if due <= now:
                    each.give_up()
                else:
                    self._look_at = min(self._look_at, due)

    def _due(self, client: Channel | Announced) -> float:
        """Answer when to give *client* up."""
        if self.draining and client.is_silent:
            return max(float(client.last_activity), self._drained_since) + self._linger
        return client.due(self._timeout)
