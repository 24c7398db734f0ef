"""What a WSGI application says, given to granian as ASGI; and how many may speak at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sitebus.errors import BadMessage, ClientGone
from sitebus.servers._granian_input import Client
from sitebus.servers._granian_outgoing import left_after, length_of, too_long
from sitebus.servers.connections import LONGEST_WAIT

if TYPE_CHECKING:
    from sitebus.servers._granian_wsgi import WsgiCaller

Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]
Serve = Callable[[Any], None]
Scope = dict[str, Any]

#: So many statuses are remembered; applications could think up any number.
MOST_CODES = 500
#: After so many pieces of a response it is time to know whether the client is still there.
PIECES = 4


class Slots:
    """How many requests may be in the application at once; more wait, without a thread."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Serve, Any]] = deque()

    def run(self, serve: Serve, watcher: Any) -> None:
        """Serve it now, or leave it to the next that is done; *serve* must not raise."""
        lock = self._lock
        with lock:
            if not self._free:
                self._waiting.append((serve, watcher))
                return
            self._free -= 1
        while True:
            serve(watcher)
            del watcher
            with lock:
                if not self._waiting:
                    self._free += 1
                    return
                serve, watcher = self._waiting.popleft()

    def waiting(self) -> list[Scope]:
        """Answer whose requests wait."""
        with self._lock:
            return [watcher.scope for _, watcher in self._waiting]


class Response:
    """What an application says of its response; `start` is its ``start_response``."""

    # On the class: most responses never change more than the first two.
    status = 0
    headers: Headers = []  # noqa: RUF012 - replaced, never changed
    #: Whether the client was sent something of it.
    begun = False
    #: What is asked for its body, or whether it has left.
    client: Client | None = None
    #: Whether it has a body at all: not if only its head was asked for.
    method = "GET"
    _pieces = 0
    #: How many bytes of its body there must be from now on, if it said that.
    _left: int | None = None
    _sent = 0
    _waited = 0.0

    def __init__(self, caller: WsgiCaller, proto: Any) -> None:
        self._caller = caller
        self._proto = proto

    # To call the instance itself would take longer.
    def start(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        if exc_info is not None:
            if self.begun:
                raise exc_info[1].with_traceback(exc_info[2])
        elif self.status:
            raise BadMessage("a second response", "start_response() may be called once")
        self.status = _codes.get(status) or _code(status)
        self.headers = headers
        return self.write

    def write(self, data: bytes) -> None:
        """Send a piece of the body, and wait until there is room for the next.

        Raises:
            ClientGone: There is nobody to send it to, or it takes nothing.
        """
        if not data:
            return  # granian would take it for the end
        if not self.begun:
            self.begin()
        body = memoryview(data).tobytes()
        if self._left is not None:
            self._left = left_after(self._left, len(body), is_last=False)
        wait = self._proto.send({"type": "http.response.body", "body": body, "more_body": True})
        add = getattr(wait, "add_done_callback", None)
        if add is not None:
            self._wait_room(wait, add)
        self._sent += len(body)
        self._pieces += 1
        if self._pieces > PIECES:
            self._look_round()

    def begin(self) -> None:
        """Say how the response begins."""
        if not self.status:
            raise BadMessage("no response", "it must call start_response()")
        caller = self._caller
        headers = caller.headers(self.headers)
        self._left = length_of(headers, self.status, self.method)
        self._proto.send({"type": "http.response.start", "status": self.status, "headers": headers})
        self.begun = True
        if not caller.draining:
            caller.streams.add(get_ident())

    def send_whole(self, body: bytes, *more: tuple[bytes, bytes]) -> None:
        """Send head and body at once; of a body that is longer than it says, as much as it says.

        Raises:
            BadMessage: It is longer, and was sent; or shorter, and was not.
        """
        headers = self._caller.headers(self.headers)
        headers += more
        length = length_of(headers, self.status, self.method)
        surplus = 0 if length is None else len(body) - length
        if surplus < 0:
            left_after(-surplus, 0, is_last=True)
        proto = self._proto
        proto.send({"type": "http.response.start", "status": self.status, "headers": headers})
        self.begun = True
        proto.send({"type": "http.response.body", "body": body[:length] if surplus else body})
        if surplus:
            raise too_long(surplus)

    def finish(self) -> None:
        """Say that it is whole."""
        if not self.begun:
            self.begin()
        if self._left:
            left_after(self._left, 0, is_last=True)
        self._proto.send({"type": "http.response.body", "body": b"", "more_body": False})

    def let_go(self) -> None:
        """Know granian's part no more."""
        self._proto = None

    def _wait_room(self, wait: Any, add: Callable[..., object]) -> None:
        room: SimpleQueue[Any] = SimpleQueue()
        add(room.put, context=None)
        began = monotonic()
        try:
            room.get(timeout=max(0.0, min(self._patience(), LONGEST_WAIT)))
        except Empty:
            wait.cancel()
            raise ClientGone("all of its response was sent") from None
        self._waited += monotonic() - began

    def _patience(self) -> float:
        """Answer how many seconds may be waited for the client, which is to take some of it."""
        timeout, least = self._caller.timeout, self._caller.min_rate
        return min(timeout, timeout + self._sent / least - self._waited) if least else timeout

    def listen(self) -> Client:
        """Answer who can be asked what the client says."""
        if self.client is None:
            self.client = Client(self._proto)
        return self.client

    def _look_round(self) -> None:
        client = self.listen()
        client.listen()
        if client.is_gone:
            raise ClientGone("all of its response was sent")


#: What is known of the statuses that were said before.
_codes: dict[str, int] = {}


def _code(status: str) -> int:
    code = int(status[:3])
    if code < 100:
        raise BadMessage(f"the status {status!r}", "it begins with a number from 100 to 999")
    if len(_codes) < MOST_CODES:
        _codes[status] = code
    return code
