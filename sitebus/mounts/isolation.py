"""Call an application so that whatever it does costs its own request, and nothing else.

An application may raise anything (``SystemExit`` and ``KeyboardInterrupt`` would stop a server),
break the rules of WSGI, or fail half way through its body. As long as no byte is out that becomes a
500; afterwards the connection is broken off, so that no client takes half a body for a whole one.

The status and the headers are held back until the first byte of the body is there, since a server
need not be able to take them back. What the failure looks like to a client is the caller's
business, through ``Report``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from sitebus.errors import ResponseBroken, ResponseRefused

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from _typeshed import OptExcInfo

    Headers = list[tuple[str, str]]
    Write = Callable[[bytes], object]

#: Status lines seen to be well formed, of responses that have a body. Filled as they come;
#: applications may invent new ones, but not without end.
GOOD_STATUSES: set[str] = {"200 OK", "302 Found", "404 Not Found"}
_MOST_STATUSES = 1000

#: To a client these end with their headers: it would read a body as its next response.
_BODILESS = ("204", "304")

#: Names and values of headers seen to be well formed; filled in the same way. Most values are sent
#: with every response, and looking into them would cost more than looking them up.
GOOD_NAMES: set[str] = set()
GOOD_VALUES: set[str] = set()
_MOST_NAMES = 1000
_MOST_VALUES = 4000
_LONGEST_VALUE = 500
_CONTROL_CHARACTERS = frozenset(map(chr, [*range(32), 127])) - {"\t"}
_NAME_CHARACTERS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")

#: Stands for the status of an exchange whose status has been given to the server already. Made at
#: run time: no application's own string is this object.
_FORWARDED = str(b"forwarded", "ascii")


class Report(Protocol):
    """What becomes of a failure: it is recorded, and told to the client if that is possible."""

    name: str

    def record(self, environ: WSGIEnvironment, error: BaseException) -> None:
        """Log *error*; must not raise."""

    def page(self, environ: WSGIEnvironment, error: BaseException) -> tuple[str, Headers, bytes]:
        """Answer the status, headers and body that the client gets instead."""


class Exchange:
    """``start_response`` and ``write`` as the application sees them, for one request."""

    __slots__ = ("begin", "environ", "headers", "lost", "mute", "send", "status")

    #: The server's start_response; None once the exchange is over.
    begin: StartResponse | None
    environ: WSGIEnvironment
    #: What the application said; "" as long as it has not, ``_FORWARDED`` once the server knows.
    status: str
    headers: Headers
    #: True if the response has no body whatever the application gives; set with ``_FORWARDED``.
    mute: bool
    #: The server's write, once it has the status.
    send: Write
    #: The error of the server's own write: the client has gone, which is nobody's fault.
    lost: BaseException

    def start(self, status: str, headers: Headers, exc_info: OptExcInfo | None = None) -> Write:
        """Be the application's ``start_response``."""
        if self.status:
            return self._start_again(status, headers, exc_info)
        self.status = status
        self.headers = headers
        return self  # which is ``write``: a bound method would have to be made for it

    def _start_again(self, status: str, headers: Headers, exc_info: OptExcInfo | None) -> Write:
        if self.begin is None:
            raise RuntimeError("start_response was called after the response was complete")
        if not exc_info:
            raise RuntimeError("start_response was called a second time without exc_info")
        try:
            if self.status is _FORWARDED:
                self._check(status, headers)
                # The server raises exc_info if the headers are out, as it must.
                self.send = self.begin(status, headers, exc_info)
            else:
                self.status, self.headers = status, headers
        finally:
            exc_info = None  # or the traceback keeps this frame, which keeps the traceback
        return self

    def __call__(self, data: bytes) -> None:
        """Be the ``write`` that ``start_response`` answers: send the status, and *data* at once."""
        if self.begin is None:
            raise RuntimeError("write was called after the response was complete")
        if type(data) is not bytes:
            raise TypeError(f"write takes bytes, not {type(data).__name__}")
        if self.status is not _FORWARDED:
            self.forward()
        if self.mute:
            return
        try:
            self.send(data)
        except BaseException as error:
            self.lost = error
            raise

    def forward(self) -> None:
        """Give the status and headers to the server, after a look at them."""
        begin, status = self.begin, self.status
        if status == "":
            raise RuntimeError("the application did not call start_response")
        assert begin is not None
        self._check(status, self.headers)
        self.begin = None  # it stays so if the server refuses
        self.send = begin(status, self.headers)
        self.begin, self.status = begin, _FORWARDED

    def _check(self, status: str, headers: Headers) -> None:
        check_status(status)
        check_headers(headers)
        self.mute = status[:3] in _BODILESS or self.environ.get("REQUEST_METHOD") == "HEAD"

    def was_lost_to(self, error: BaseException) -> bool:
        """Tell whether *error* came from the server's side of ``write``."""
        return getattr(self, "lost", None) is error


class Flights:
    """The requests that are inside one application, counted without a lock."""

    __slots__ = ("_idle", "_lost", "_running", "awaited", "enter", "leave")

    def __init__(self) -> None:
        import threading
        from collections import deque

        self._running: deque[None] = deque()
        #: How many are inside in the process that forked this one, and will never leave here.
        self._lost = 0
        self._idle = threading.Condition()
        #: How many threads wait for the last request to leave.
        self.awaited = 0
        #: ``enter(None)`` when a request begins; ``leave()`` when it is done with, and then
        #: ``landed()`` if somebody waits. Methods of C, for they are called on every request.
        self.enter = self._running.append
        self.leave = self._running.pop

    def __len__(self) -> int:
        return max(0, len(self._running) - self._lost)

    def disown(self) -> None:
        """Leave those that are inside to the process from which this one was forked."""
        import threading

        # Kept, for one of them may have forked, and leave here as well.
        self._lost = len(self._running)
        self._idle, self.awaited = threading.Condition(), 0

    def done(self) -> None:
        """Count one request less, and tell those who wait."""
        self.leave()
        if self.awaited:
            self.landed()

    def landed(self) -> None:
        """Tell those who wait if the last request has left."""
        with self._idle:
            if not len(self):
                self._idle.notify_all()

    def wait_empty(self, timeout: float | None = None) -> bool:
        """Wait until no request is inside; answer whether that came about in time."""
        with self._idle:
            # Set before the first look: a request that leaves after it sees that it must tell.
            self.awaited += 1
            try:
                return self._idle.wait_for(lambda: not len(self), timeout)
            finally:
                self.awaited -= 1


def finish(exchange: Exchange, chunks: Sequence[bytes]) -> Sequence[bytes]:
    """Send off the rarer list: an unusual status, or some of the body is out by ``write``."""
    check_chunks(chunks)
    if exchange.status is not _FORWARDED:
        exchange.forward()
    exchange.begin = None
    return [] if exchange.mute else chunks


def check_status(status: object) -> None:
    """Raise unless *status* is three digits, alone or before a space and a reason."""
    if type(status) is not str:
        raise TypeError(f"the status is of type {type(status).__name__}, not str: {status!r:.80}")
    if status in GOOD_STATUSES:
        return
    code, _, reason = status.partition(" ")
    if not (len(code) == 3 and code.isascii() and code.isdigit() and code[0] != "0"):
        raise ValueError(f"the status does not begin with a number of three digits: {status!r:.80}")
    if code[0] == "1":
        raise ValueError(f"another response must follow the status {status!r:.80}; leave it out")
    _check_text("the status", reason)
    if len(GOOD_STATUSES) < _MOST_STATUSES and code not in _BODILESS:
        GOOD_STATUSES.add(status)


def check_headers(headers: object) -> None:
    """Raise unless *headers* is a list of pairs of strings that cannot be taken for more headers.

    A line's end in one would begin the next header, or the body: whoever gets a text of theirs into
    a header could write the rest of the response.
    """
    if not isinstance(headers, list):
        raise TypeError(f"the headers are of type {type(headers).__name__}, not list")
    for header in headers:
        check_header(header)


def check_header(header: object) -> None:
    """Raise unless *header* is a name and a text that can be sent in one line."""
    if not (isinstance(header, tuple) and len(header) == 2):
        raise TypeError(f"a header is not a pair: {header!r:.80}")
    name, value = header
    if not (isinstance(name, str) and isinstance(value, str)):
        raise TypeError(f"a header is not a pair of str: {header!r:.80}")
    if name not in GOOD_NAMES:
        if not name or not name.isascii() or not _NAME_CHARACTERS.issuperset(name.lower()):
            raise ValueError(f"{name!r:.80} is not the name of a header")
        if len(GOOD_NAMES) < _MOST_NAMES:
            GOOD_NAMES.add(name)
    if not (value.isascii() and value.isprintable()):
        _check_text(f"the header {name}", value)
    # Cookies are secrets, which are not kept; and each is another.
    kept = len(value) < _LONGEST_VALUE and name.lower() != "set-cookie"
    if kept and len(GOOD_VALUES) < _MOST_VALUES:
        GOOD_VALUES.add(value)


def _check_text(what: str, text: str) -> None:
    if not _CONTROL_CHARACTERS.isdisjoint(text):
        raise ValueError(f"{what} has a control character: {text!r:.80}")
    if max(text, default="") > "\xff":
        raise ValueError(f"{what} has a character that is not of latin-1: {text!a:.80}")


def check_chunks(chunks: Iterable[object]) -> None:
    """Raise unless all of *chunks* are bytes."""
    for chunk in chunks:
        if not isinstance(chunk, bytes):
            raise TypeError(f"the body has a {type(chunk).__name__} where bytes belong")


def explained(error: BaseException, exchange: Exchange) -> BaseException:
    """Answer a clearer error where *error* is from the quick checks of the headers."""
    frames = error.__traceback__
    if frames is not None and frames.tb_next is None and exchange.begin is not None:
        try:
            check_headers(getattr(exchange, "headers", []))
        except (TypeError, ValueError) as clearer:
            return clearer
    return error


def failed(
    error: BaseException,
    exchange: Exchange,
    environ: WSGIEnvironment,
    start_response: StartResponse,
    report: Report,
) -> Iterable[bytes]:
    """Record *error* and answer a 500, or break the connection off if it is too late for one."""
    over = exchange.begin is None
    exchange.begin = None
    if exchange.was_lost_to(error):
        raise ResponseBroken(report.name) from error
    report.record(environ, error)
    if exchange.status is _FORWARDED:
        raise ResponseBroken(report.name) from error
    if over:
        # It was the server that raised, over these headers. It may have kept some of them
        # (cheroot does), so that only it can still send a clean response of its own.
        raise ResponseRefused(report.name, error) from error
    status, headers, body = report.page(environ, error)
    start_response(status, headers)
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


def streamed(
    result: object, exchange: Exchange, environ: WSGIEnvironment, report: Report, flights: Flights
) -> Iterable[bytes]:
    """Answer the iterable for the server where the application's is not a plain list."""
    if result is None or isinstance(result, (str, bytes)):
        raise TypeError(f"the application returned {type(result).__name__}, not an iterable")
    wrapper = environ.get("wsgi.file_wrapper")
    try:
        if isinstance(wrapper, type) and isinstance(result, wrapper):
            exchange.forward()
            if not exchange.mute:
                # Servers send such files by themselves (PEP 3333), if they recognise them.
                exchange.begin = None
                flights.done()
                return cast("Iterable[bytes]", result)
        return Stream(cast("Iterable[bytes]", result), exchange, environ, report, flights)
    except BaseException:
        _close(result, environ, report)
        raise


def _close(result: object, environ: WSGIEnvironment, report: Report) -> None:
    """Close what an application returned, as every server must, whatever became of it."""
    try:
        close: Callable[[], Any] | None = getattr(result, "close", None)
        if close is not None:
            close()
    except BaseException as error:  # noqa: BLE001 - the response is decided: only tell
        report.record(environ, error)


class Stream:
    """An application's iterable on its way to the server, made harmless."""

    __slots__ = (
        "_begin", "_environ", "_exchange", "_flights", "_iterator", "_report", "_result", "ended",
        "sent",
    )  # fmt: skip

    def __init__(
        self,
        result: Iterable[bytes],
        exchange: Exchange,
        environ: WSGIEnvironment,
        report: Report,
        flights: Flights,
    ) -> None:
        self._result: Iterable[bytes] | None = None
        #: How many bytes have been handed to the server.
        self.sent = 0
        #: Called with that number when the server closes the response.
        self.ended: Callable[[int], object] | None = None
        self._exchange = exchange
        self._begin = cast("StartResponse", exchange.begin)
        self._environ = environ
        self._report = report
        self._flights = flights
        self._iterator: Iterator[bytes] | None = iter(result)
        self._result = result

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = self._advance()
        except BaseException as error:  # noqa: BLE001 - see the top of this file
            self._iterator = None
            chunk = b"".join(
                failed(error, self._exchange, self._environ, self._begin, self._report)
            )
        if chunk is None:
            self._iterator = None
            raise StopIteration
        self.sent += len(chunk)
        return chunk

    def _advance(self) -> bytes | None:
        """Answer the next chunk, or None at the end; the first one sends the headers off."""
        for chunk in self._iterator or ():
            if type(chunk) is not bytes:
                check_chunks([chunk])
            if self._exchange.status is not _FORWARDED:
                if not chunk:
                    continue  # promises nothing yet; servers must have the status by then
                self._exchange.forward()
            return None if self._exchange.mute else chunk
        if self._iterator is not None and self._exchange.status is not _FORWARDED:
            self._exchange.forward()
        return None

    def close(self) -> None:
        """Close the application's iterable; its failure is recorded, and changes nothing."""
        result, self._result = self._result, None
        if result is None:
            return
        _close(result, self._environ, self._report)
        self._exchange.begin = None
        self._flights.done()
        if self.ended is not None:
            self.ended(self.sent)

    # Not every server closes what it iterates.
    __del__ = close


def log_error(report: Report, environ: WSGIEnvironment, error: BaseException) -> None:
    """Log an application's *error* to the logger ``sitebus.mount.<name>``, with its traceback."""
    import logging

    method, path = environ.get("REQUEST_METHOD", "?"), environ.get("PATH_INFO", "")
    logging.getLogger(f"sitebus.mount.{report.name}").error(
        "%s %.200r failed in %s", method, path, report.name, exc_info=error
    )


def record_safely(
    tell: Callable[[Any, WSGIEnvironment, BaseException], object],
    report: Report,
    environ: WSGIEnvironment,
    error: BaseException,
) -> None:
    """Call *tell*; should that fail too, say both on standard error."""
    try:
        tell(report, environ, error)
    except BaseException as broken:  # noqa: BLE001 - a stranger's hook, or a log on a full disk
        _last_resort(f"{report.name} failed: {error!r}; logging that failed: {broken!r}\n")


def _last_resort(text: str) -> None:
    import contextlib
    import sys

    with contextlib.suppress(Exception):
        sys.stderr.write(text)
