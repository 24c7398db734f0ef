"""waitress's HTTP, in sitebus's own loop and on its listening sockets.

waitress parses requests, runs applications in its threads and writes responses; that is kept.
What it does around them cannot host a site whose sockets outlive the server, and is replaced:

- Its loop wakes once a second and closes silent connections up to half a minute late; ours wakes
  when there is something to do.
- Its stop loses whoever is connected; ours drains.
- A client that never reads its response is never closed (it waits to be able to write to it);
  ours is.
- Without descriptors left it accepts again at once, for ever; ours pauses.
- An application's ``sys.exit()`` leaves its connection unanswered and open; ours answers 500.
- A HEAD is answered with a body if the application makes one, and the client takes it for its next
  answer; ours is not.
- A thread that outlives the server writes into its closed pipe, whosever that is by then; ours
  does not.

This is the one module that knows waitress from inside. What it relies on, documented or not:

- `TcpWSGIServer` and `UnixWSGIServer`: ``(application, map, _sock=, dispatcher=, adj=, sockinfo=,
  bind_socket=False)`` put themselves into the map; ``trigger`` may be closed, since channels only
  call ``pull_trigger()``; ``accepting``, ``channel_class``, ``server_name``, ``effective_port``,
  ``fix_addr``; ``accept()`` answering None means that there is nobody; ``readable()`` calls
  ``maintenance(now)``, and nothing else closes silent connections.
- `HTTPChannel`: ``service()`` runs in a thread, everything else in the loop; ``requests`` are
  those being served, ``request`` one half read, ``total_outbufs_len`` what is not yet sent,
  ``last_activity`` (of `time.time`) the last byte; ``handle_close()`` ends a thread's wait for it.
- `Task`: all that is sent goes through ``write(data)``, but for what ``wsgi.file_wrapper`` made,
  and the end of a chunked body in ``finish()``; ``build_response_header()`` runs just before
  the head is written, and says what ``request.headers["CONNECTION"]`` wants.
- `ThreadedTaskDispatcher`: ``start_new_thread(target, number)``, ``set_thread_count(0)``.
- `wasyncore.dispatcher` and ``loop(timeout, use_poll, map, count)``, where no timeout is for ever.
- Each of them logs to its ``logger``.

``tests/servers/test_waitress_contract.py`` fails when any of this changes.
"""

from __future__ import annotations

import errno
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from waitress import channel, server, task, wasyncore
from waitress.adjustments import Adjustments

from sitebus.servers.connections import (
    BREATHER,
    BROKEN,
    EXHAUSTED,
    LAST_ROUND,
    LONGEST_WAIT,
    NEVER,
    Door,
)

LogTo = Callable[[str, int, Any], object]

#: How many bytes of a request are told of one that hangs.
_MOST_TOLD = 200


class Log(logging.Logger):
    """Tells *log_to* what waitress logs, on one line whatever a client put into it."""

    def __init__(self, log_to: LogTo, level: int = logging.WARNING) -> None:
        super().__init__("waitress", level)
        self.log_to = log_to

    def handle(self, record: logging.LogRecord) -> None:
        text = record.getMessage().encode("unicode_escape").decode("ascii")
        self.log_to(text, record.levelno, record.exc_info or False)


class ApplicationLeft(RuntimeError):
    """An application tried to end the interpreter; it costs its own request and nothing else."""


class Task(task.WSGITask):  # type: ignore[misc]
    """One request."""

    @property
    def logger(self) -> logging.Logger:
        return self.channel.logger  # type: ignore[no-any-return]

    def build_response_header(self) -> bytes:
        if self.channel.ends_here:
            self.request.headers["CONNECTION"] = "close"
        return super().build_response_header()  # type: ignore[no-any-return]

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        if self.request.command == "HEAD":
            # What comes out of it would not pass through `write`.
            environ.pop("wsgi.file_wrapper", None)
        return environ

    def write(self, data: bytes) -> None:
        super().write(b"" if self.request.command == "HEAD" else data)

    def finish(self) -> None:
        if self.request.command != "HEAD":
            super().finish()
        elif not self.wrote_header:
            self.write(b"")

    def execute(self) -> None:
        try:
            super().execute()
        except Exception:
            raise
        except BaseException as leaving:
            raise ApplicationLeft(repr(leaving)) from leaving


class Channel(channel.HTTPChannel):  # type: ignore[misc]
    """One client."""

    task_class = Task

    @property
    def logger(self) -> logging.Logger:
        return self.server.logger  # type: ignore[no-any-return]

    @property
    def ends_here(self) -> bool:
        """Whether the response that begins now is to be the last: a drain, and nobody behind it."""
        return self.server.house.draining and len(self.requests) <= 1 and self.request is None

    @property
    def is_silent(self) -> bool:
        """Whether nothing was begun that would have to be finished."""
        return not self.requests and self.request is None and not self.total_outbufs_len

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client's turn, to say something or to read what it was answered."""
        return not self.requests or bool(self.total_outbufs_len)

    def service(self) -> None:
        busy = self.server.house.busy
        me = threading.get_ident()
        busy[me] = self.requests[0]
        try:
            super().service()
        finally:
            del busy[me]


class Entrance:
    """A listening socket; comes before one of waitress's server classes."""

    channel_class = Channel
    accepting: bool
    active_channels: dict[int, Channel]
    del_channel: Callable[[], None]
    socket: Any
    trigger: Any

    def __init__(self, house: HTTPServer, door: Door) -> None:
        self.house = house
        self.logger = house.logger
        sock = door.socket
        super().__init__(  # type: ignore[call-arg]
            house.application,
            house.map,
            _sock=sock,
            dispatcher=house.dispatcher,
            adj=house.adjustments,
            sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
            bind_socket=False,
        )
        self._most = house.adjustments.connection_limit
        # One bell is enough for all.
        self.trigger.close()
        self.effective_port = door.port
        self.server_name = house.server_name or door.name

    def pull_trigger(self) -> None:
        self.house.bell.ring()

    def readable(self) -> bool:
        """Tell whether to look for newcomers; who has been silent is the house's business."""
        return self.accepting and self.house.welcomes and len(self.house.map) < self._most

    def accept(self) -> tuple[Any, Any] | None:
        try:
            return super().accept()  # type: ignore[misc, no-any-return]
        except OSError as error:
            self.house.refused(error)
            return None

    def let_in_who_waits(self) -> None:
        # Bounded: under load newcomers would never end.
        for _ in range(LAST_ROUND):
            known = len(self.active_channels)
            self.handle_accept()  # type: ignore[attr-defined]
            if len(self.active_channels) == known:
                return

    def shut(self) -> None:
        """Accept nothing more; who is inside stays."""
        if self.accepting:
            self.accepting = False
            self.del_channel()
            self.socket.close()

    def handle_close(self) -> None:
        # So poll says that a listening socket was shut down: nobody will come through it again.
        self.house.refused(OSError(errno.EINVAL, "the listening socket was shut down"))

    def handle_error(self) -> None:
        # One connection was lost; waitress would close the listening socket for it.
        self.logger.error("a connection was lost: %r", sys.exception())


class TCPEntrance(Entrance, server.TcpWSGIServer):  # type: ignore[misc]
    pass


class UnixEntrance(Entrance, server.UnixWSGIServer):  # type: ignore[misc]
    def fix_addr(self, addr: Any) -> tuple[str, str]:
        """Answer what WSGI applications are told of a client without address and port."""
        return "", ""


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
    ) -> None:
        self.doors = tuple(doors)
        self.application = application
        self.threads = threads
        self.adjustments = Adjustments(**adjustments)
        self.server_name = adjustments.get("server_name")
        self.logger = Log(log)
        self.dispatcher = Dispatcher(name, self.logger)
        #: What is served now, by the number of the thread.
        self.busy: dict[int, Any] = {}
        self.map: dict[int, Any] = {}
        self.serving = threading.Event()
        self.drained = threading.Event()
        self.shut = threading.Event()
        self.ready = False
        self.welcomes = True
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
        self._look_at = NEVER

    @property
    def channels(self) -> list[Channel]:
        """The connections that are open."""
        return [each for entrance in self._entrances for each in entrance.active_channels.values()]

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
        return [(thread.name, _request_of(self.busy.get(thread.ident or 0))) for thread in stuck]

    def refused(self, error: OSError) -> None:
        """Be told that nobody could be accepted, and why."""
        if error.errno in BROKEN:
            self._broken = error
        elif error.errno in EXHAUSTED:
            self.logger.error("cannot accept: %s; pausing", error.strerror)
            self.welcomes = False
            self._resume_at = time.time() + BREATHER

    def _open(self) -> None:
        self.bell = Bell(self.map)
        for door in self.doors:
            kind = UnixEntrance if door.socket.family == socket.AF_UNIX else TCPEntrance
            self._entrances.append(kind(self, door))
        self.dispatcher.set_thread_count(self.threads)

    def _leave(self) -> None:
        self.ready = False
        for each in self.channels:
            each.handle_close()
        self._close_entrances()
        if hasattr(self, "bell"):
            self.bell.close()
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
            self._look_at = now + self._timeout
        return min(self._look_at, self._resume_at)

    def _do_what_is_due(self, now: float) -> None:
        if self._resume_at <= now:
            self._resume_at, self.welcomes = NEVER, True
        channels = self.channels
        self._look_at = now + self._timeout if channels else NEVER
        for each in channels:
            # The lock: a thread that adds to a response has not tried to send it yet.
            with each.outbuf_lock:
                due = self._due(each)
                if due <= now:
                    each.handle_close()
                else:
                    self._look_at = min(self._look_at, due)

    def _due(self, client: Channel) -> float:
        """Answer when to give *client* up."""
        if self.draining and client.is_silent:
            return float(max(client.last_activity, self._drained_since)) + self._linger
        if client.waits_for_client:
            return float(client.last_activity) + self._timeout
        return NEVER


def _request_of(request: Any) -> str:
    if request is None or request.error is not None:
        return "no request"
    # As it was asked for, and escaped: it could forge lines of the log.
    asked = f"{request.command} {request.request_uri}"
    text = asked[:_MOST_TOLD].encode("unicode_escape").decode("ascii")
    return f"{text}..." if len(asked) > _MOST_TOLD else text
