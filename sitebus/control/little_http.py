"""The least of HTTP that probes and scrapers need, from threads that nothing else can hold up.

GET and HEAD, one request for each connection, a head of 8 kB at most and within seconds. A thread
waits for clients; each is answered in one of its own, `MOST` at once, and more wait in the backlog.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from sitebus.control.answers import Answer, Question, headers, plain

#: Clients that are answered at the same time.
MOST = 32

#: How long a client may take to ask, to take its answer, and to go; seconds.
ASKING, TAKING, GOING = 3.0, 10.0, 1.0

#: How long a question may be on its way that was asked when the server closed; seconds.
ARRIVING = 0.25

_LONGEST_HEAD = 8192

#: How long to leave clients waiting where the system has no descriptor for them; seconds.
_REST = 0.25
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Respond = Callable[[Question], Answer]


class LittleServer:
    """Answers by *respond*, which may be called in several threads at once.

    Attributes:
        most: How many clients are answered at the same time.
        asking: How long a client may take to ask; seconds.
    """

    most = MOST
    asking = ASKING

    def __init__(self, respond: Respond, failed: Callable[[BaseException], object]) -> None:
        # The second is told what the first has raised; the client gets a 500.
        self._respond = respond
        self._failed = failed
        self._thread: threading.Thread | None = None
        self._wake: socket.socket
        self._lock = threading.Lock()
        self._clients: set[socket.socket] = set()

    def open(self, listeners: Iterable[socket.socket]) -> None:
        """Accept from *listeners*, which are its own from now on."""
        waking, self._wake = socket.socketpair()
        waking.setblocking(False)
        self._wake.setblocking(False)
        self._thread = threading.Thread(
            target=self._run, args=(waking, list(listeners)), name="sitebus admin", daemon=True
        )
        self._thread.start()

    @property
    def is_open(self) -> bool:
        return self._thread is not None

    def close(self, patience: float = GOING) -> None:
        """Accept no more, and give those who are being answered *patience* seconds."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._wake.shutdown(socket.SHUT_WR)
        if thread is not threading.current_thread():
            thread.join()
        began = time.monotonic()
        self._join(began + ARRIVING)
        # Who has not asked by now will not be answered.
        self._shut(socket.SHUT_RD)
        self._join(began + patience)
        # Who waits for these ends; the client's own thread closes its socket.
        self._shut(socket.SHUT_RDWR)
        with self._lock:
            self._wake.close()

    def _shut(self, how: int) -> None:
        with self._lock:
            for client in self._clients:
                with suppress(OSError):  # it has gone
                    client.shutdown(how)

    def _join(self, end: float) -> None:
        """Wait for the threads of clients until *end*."""
        for thread in threading.enumerate():
            own = isinstance(thread, _Answering) and thread.server is self
            if own and thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))

    # In the thread that accepts.

    def _run(self, waking: socket.socket, listeners: list[socket.socket]) -> None:
        with selectors.DefaultSelector() as selector, waking:
            selector.register(waking, selectors.EVENT_READ)
            try:
                self._accept_until_told(selector, waking, listeners)
            finally:
                for listener in listeners:
                    listener.close()

    def _accept_until_told(
        self,
        selector: selectors.BaseSelector,
        waking: socket.socket,
        listeners: list[socket.socket],
    ) -> None:
        rests = False
        while True:
            self._watch(selector, listeners, wanted=not rests and len(self._clients) < self.most)
            ready = [key.fileobj for key, _ in selector.select(_REST if rests else None)]
            if waking in ready and _is_over(waking):
                return
            rests = not all(self._accept(each) for each in listeners if each in ready)

    def _watch(
        self, selector: selectors.BaseSelector, listeners: list[socket.socket], *, wanted: bool
    ) -> None:
        watched = len(selector.get_map()) > 1
        for listener in listeners if wanted != watched else ():
            if wanted:
                selector.register(listener, selectors.EVENT_READ)
            else:
                selector.unregister(listener)

    def _accept(self, listener: socket.socket) -> bool:
        """Take one client; answer False if the system cannot have one more."""
        try:
            client, _ = listener.accept()
        except OSError as error:
            return error.errno not in _EXHAUSTED  # else it has gone again
        with self._lock:
            self._clients.add(client)
        try:
            _Answering(self, client).start()
        except RuntimeError:  # no more threads
            self._part(client)
            return False
        return True

    # In the thread of a client.

    def serve(self, client: socket.socket) -> None:
        """Answer one client, and let it go."""
        try:
            with suppress(OSError):
                self._converse(client)
        finally:
            self._part(client)

    def _converse(self, client: socket.socket) -> None:
        question = _read(client, self.asking)
        if question is None:
            return
        answer = self._answer(question) if isinstance(question, Question) else question
        head = isinstance(question, Question) and question.method == "HEAD"
        client.settimeout(TAKING)
        client.sendall(_written(answer, head=head))
        client.shutdown(socket.SHUT_WR)
        # What it has said and nobody has read would cut the answer off.
        end = time.monotonic() + GOING
        while (left := end - time.monotonic()) > 0:
            client.settimeout(left)
            if not client.recv(65536):
                return

    def _answer(self, question: Question) -> Answer:
        try:
            return self._respond(question)
        # It looks into a site that may be in any state.
        except BaseException as error:  # noqa: BLE001
            with suppress(Exception):
                self._failed(error)
            return plain("500 Internal Server Error")

    def _part(self, client: socket.socket) -> None:
        client.close()
        with self._lock:
            was_full = len(self._clients) >= self.most
            self._clients.discard(client)
            if was_full:
                with suppress(OSError):  # it is closed
                    self._wake.send(b"+")


class _Answering(threading.Thread):
    """The thread of one client."""

    def __init__(self, server: LittleServer, client: socket.socket) -> None:
        super().__init__(name="sitebus admin client", daemon=True)
        self.server = server
        self.client = client

    def run(self) -> None:
        self.server.serve(self.client)


def _is_over(waking: socket.socket) -> bool:
    """Read what was told; answer whether that was all."""
    try:
        return not waking.recv(4096)
    except BlockingIOError:
        return False


def _read(client: socket.socket, patience: float) -> Question | Answer | None:
    """Answer what the client asks, or what it gets instead; None if it does not go on."""
    end = time.monotonic() + patience
    said = bytearray()
    while b"\r\n\r\n" not in said and b"\n\n" not in said:
        if len(said) > _LONGEST_HEAD:
            return plain("431 Request Header Fields Too Large")
        left = end - time.monotonic()
        if left <= 0:
            return None
        client.settimeout(left)
        some = client.recv(4096)
        if not some:
            return None
        said += some
    return _parsed(said.decode("latin-1"))


def _parsed(said: str) -> Question | Answer:
    first, *rest = said.replace("\r\n", "\n").partition("\n\n")[0].split("\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return plain("400 Bad Request")
    method, target, _ = words
    if not target.startswith("/"):
        scheme, _, target = target.partition("://")
        if scheme.lower() != "http":
            return plain("400 Bad Request")
        target = f"/{target.partition('/')[2]}"
    path, _, query = target.partition("?")
    accept = ", ".join(
        value.strip()
        for name, _, value in (line.partition(":") for line in rest)
        if name.lower() == "accept"
    )
    return Question(method, path, query, accept)


def _written(answer: Answer, *, head: bool) -> bytes:
    lines = [f"HTTP/1.1 {answer.status}"]
    lines += [f"{name}: {value}" for name, value in headers(answer)]
    lines += ["Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + (b"" if head else answer.body)
