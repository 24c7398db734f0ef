"""WSGI between a worker of granian and the application.

granian's own would copy the process's environment, with every secret in it, into each request's,
answer a generator's start_response() with an empty 200, and end the process at a status such as 42.
What it has of a request's body loses lines. So this is written anew, on what granian's Rust gives:

- ``call(protocol, scope)``, in one of its threads, where *scope* is an environ of the request
  alone, with SERVER_PROTOCOL of ``HTTP/1`` for 1.0, and its body in ``wsgi.input``.
- ``read(size)`` of that waits for as many bytes, or the end; it takes no negative size, and does
  not tell a body that broke off from one that ended.
- ``protocol.response_bytes(status, headers, body)`` and ``response_iter(status, headers, chunks)``,
  which returns when the last chunk is taken or the client has left. Header values are encoded in
  UTF-8; those that HTTP does not allow are left out.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from io import BytesIO
from threading import get_ident
from types import TracebackType
from typing import Any

from sitebus.errors import BadMessage, BodyTooLarge, ClientGone
from sitebus.servers._granian import Loop, scheduler
from sitebus.servers.connections import Door
from sitebus.servers.hosting import Speech
from sitebus.servers.lines import Lines

Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]
Log = Callable[[str, int, bool], object]

#: How much of a body is read at a time to find the end of a line; bytes.
BLOCK = 8192
#: What granian calls them, and what they are called.
PROTOCOLS = {"HTTP/1": "HTTP/1.0", "HTTP/2": "HTTP/2.0"}
#: So many statuses are remembered; applications could think up any number.
MOST_CODES = 500

TEXT = [("Content-Type", "text/plain")]


class Input(Lines):
    """A request's body as PEP 3333 has it.

    Args:
        body: granian's.
        length: What Content-Length says; None if nothing.
        most: How many bytes it may have; 0 for any number.
    """

    __slots__ = ("_ahead", "_body", "_left", "_most", "_room")

    def __init__(self, body: Any, length: int | None, most: int) -> None:
        self._body = body
        self._left = length
        self._most = most or sys.maxsize
        self._room = self._most
        self._ahead = b""

    def read(self, size: int | None = -1) -> bytes:
        ahead = self._ahead
        if size is None or size < 0:
            self._ahead = b""
            return ahead + self._more(sys.maxsize)
        if len(ahead) < size:
            ahead += self._more(size - len(ahead))
        self._ahead = ahead[size:]
        return ahead[:size]

    def readline(self, size: int | None = -1) -> bytes:
        most = sys.maxsize if size is None or size < 0 else size
        line = self._ahead
        end = line.find(b"\n") + 1
        while not end and len(line) < most:
            more = self._more(BLOCK)
            if not more:
                break
            end = more.find(b"\n") + 1 and len(line) + more.find(b"\n") + 1
            line += more
        end = min(end or len(line), most)
        self._ahead = line[end:]
        return line[:end]

    def end(self) -> None:
        """Let go of what granian has; there is nothing more to read."""
        self._body = BytesIO()

    def _more(self, size: int) -> bytes:
        """Wait for *size* bytes, or the end.

        Raises:
            ClientGone: The client left before that.
            BodyTooLarge: It sends too much.
        """
        # One more than there is room for, to see that there is more.
        data: bytes = self._body.read(min(size, self._room + 1, sys.maxsize)) if size else b""
        self._room -= len(data)
        if self._room < 0:
            raise BodyTooLarge(self._most)
        if self._left is not None:
            self._left -= len(data)
            if len(data) < size and self._left > 0:
                raise ClientGone("all of its request was read")
        return data


class NoBody:
    """What a request without a body has for one; the same for all, since there is nothing in it."""

    def read(self, size: int | None = -1) -> bytes:
        return b""

    readline = read

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        return []

    def __iter__(self) -> Iterator[bytes]:
        return iter(())


class Response:
    """What an application says of its response; is its ``start_response``."""

    # On the class: most responses never change more than the first two.
    status = 0
    headers: Headers = []  # noqa: RUF012 - replaced, never changed
    written: list[bytes] = []  # noqa: RUF012 - likewise
    begun = False

    def __call__(
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
        # Nothing can be sent before the application returns: granian asks for what comes next.
        self.written = self.written or []
        self.written.append(data)


#: What is known of the statuses that were said before.
_codes: dict[str, int] = {}


def _code(status: str) -> int:
    code = int(status[:3])
    if code < 100:
        raise BadMessage(f"the status {status!r}", "it begins with a number from 100 to 999")
    if len(_codes) < MOST_CODES:
        _codes[status] = code
    return code


class Acquaintance:
    """That a thread is known to a caller, for as long as there is the thread."""

    def __init__(self, known: dict[int, Any]) -> None:
        self._known = known
        self._thread = get_ident()

    def __del__(self) -> None:
        # A thread's locals go when it ends, in the thread itself.
        self._known.pop(self._thread, None)
        # Python 3.11 keeps for ever what stands for a thread that it did not make.
        active: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]
        if isinstance(active.get(self._thread), threading._DummyThread):
            active.pop(self._thread, None)


class WsgiCaller:
    """Runs *app* for the workers of one crew.

    Args:
        app: The WSGI application.
        announce: Another, called once in each thread, before it calls *app*.
        slots: Held while the application runs, if the workers have more threads than it may use.
        tls: Whether clients come over TLS.
        server_header: What the Server header says, and SERVER_SOFTWARE.
        multithread: Whether it may be called by several threads at once.
        max_head: The longest request head in bytes, if that is below granian's least; else 0.
        max_body: The longest request body in bytes; 0 for any length.
        log: Is told, as ``log(message, level, traceback)``, what goes wrong.
    """

    speech: Speech = "wsgi"

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        *,
        announce: Callable[..., object],
        slots: threading.Semaphore | None,
        tls: bool,
        server_header: str,
        multithread: bool,
        max_head: int,
        max_body: int,
        log: Log,
    ) -> None:
        self.draining = False
        self._app = app
        self._announce = announce
        self._here = threading.local()
        self._slots = slots
        self._server = ("Server", server_header)
        self._max_head = max_head
        self._max_body = max_body
        self._log = log
        #: Which request each thread answers, and who streams a response that began before a drain.
        self._busy: dict[int, dict[str, Any] | None] = {}
        self._streams: set[int] = set()
        self._base: dict[str, Any] = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": "",
            "SERVER_SOFTWARE": server_header,
            "wsgi.errors": sys.stderr,
            "wsgi.input_terminated": True,
            "wsgi.multiprocess": False,
            "wsgi.multithread": multithread,
            "wsgi.run_once": False,
            "wsgi.version": (1, 0),
        }
        if tls:
            self._base["HTTPS"] = "on"

    def scheduler(self, door: Door) -> Any:
        """Answer what a worker calls for each request through *door*."""
        base, busy = self._base, self._busy
        is_plain = self._slots is None and not self._max_head and not self._max_body
        respond = self._respond if is_plain else self._respond_carefully
        nothing = NoBody()
        # As granian says it by itself; there is nothing to be done for most.
        named = door.socket.getsockname()[0] == door.name

        # The straight way through this is what a short request costs.
        def call(protocol: Any, scope: dict[str, Any]) -> None:
            environ = base | scope
            if not named:
                environ["SERVER_NAME"] = door.name
                environ["SERVER_PORT"] = door.port
            version = scope["SERVER_PROTOCOL"]
            body = None
            if version != "HTTP/1.1":
                environ["SERVER_PROTOCOL"] = PROTOCOLS.get(version, version)
            if (
                "CONTENT_LENGTH" in scope
                or "HTTP_TRANSFER_ENCODING" in scope
                or version == "HTTP/2"
            ):  # fmt: skip
                environ["wsgi.input"] = body = self._input(scope)
            else:
                environ["wsgi.input"] = nothing
            me = get_ident()
            if me not in busy:
                self._meet()
            busy[me] = environ
            try:
                respond(protocol, environ)
            finally:
                busy[me] = None
                # Who keeps an environ, or a traceback, must not keep the worker's descriptors.
                scope["wsgi.input"] = None
                if body is not None:
                    body.end()

        return scheduler(Loop(), call)

    def _meet(self) -> None:
        """Announce the thread, which is here for the first time."""
        self._here.acquaintance = Acquaintance(self._busy)
        self._announce({}, None)

    def _input(self, scope: dict[str, Any]) -> Input:
        length = scope.get("CONTENT_LENGTH")
        return Input(scope["wsgi.input"], int(length) if length else None, self._max_body)

    @property
    def answering(self) -> bool:
        """Whether responses are under way that did not say that the connection closes."""
        return bool(self._streams)

    def leave(self) -> None:
        """Need not be told: who answers looks at ``draining``."""

    def wait_idle(self) -> None:
        """Is idle once its workers have ended: they wait for it."""

    def cut(self) -> list[str]:
        """Cannot end a thread; who is left is told by `busy`."""
        return []

    def busy(self) -> list[str]:
        """Answer what is still done, by request."""
        environs = [each for each in list(self._busy.values()) if each is not None]
        return [f"{each['REQUEST_METHOD']} {_escaped(each['PATH_INFO'])}" for each in environs]

    def _respond_carefully(self, protocol: Any, environ: dict[str, Any]) -> None:
        """Respond if the request is within its limits, once there is a slot."""
        if self._max_head and _head_size(environ) > self._max_head:
            self._refuse(protocol, 431, b"Request Header Fields Too Large")
        elif self._max_body and int(environ.get("CONTENT_LENGTH") or 0) > self._max_body:
            self._refuse(protocol, 413, b"Content Too Large")
        else:
            with self._slots or nullcontext():
                self._respond(protocol, environ)

    def _respond(self, protocol: Any, environ: dict[str, Any]) -> None:
        response = Response()
        try:
            answer = self._app(environ, response)
            if type(answer) is list and response.status and not response.written:
                headers = self._headers(response.headers)
                protocol.response_bytes(response.status, headers, b"".join(answer))
            else:
                self._send(protocol, response, answer)
        except ClientGone:
            self._refuse(protocol, 400, b"Bad Request")  # and nobody reads it
        except BodyTooLarge:
            self._refuse(protocol, 413, b"Content Too Large")
        except BaseException as error:  # noqa: BLE001 - the application's; SystemExit would be granian's
            self._report(environ, error)
            # If a response has begun already, granian takes no other.
            self._refuse(protocol, 500, b"Internal Server Error")

    def _send(self, protocol: Any, response: Response, answer: Iterable[bytes]) -> None:
        """Respond with whatever is no list; nothing is sent before the first piece is there."""
        try:
            chunks = iter(answer)
            first = b"".join(response.written) or next(filter(None, chunks), b"")
            if not response.status:
                raise BadMessage("no response", "it must call start_response()")
            headers = self._headers(response.headers)
            response.begun = True
            if not first or _length(headers) == len(first):
                protocol.response_bytes(response.status, headers, first)
                for _ in chunks:
                    pass  # nothing comes, but it may have something left to do
            else:
                self._stream(protocol, response.status, headers, self._chunks(first, chunks))
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()

    def _stream(self, protocol: Any, status: int, headers: Headers, chunks: Any) -> None:
        me = get_ident()
        if not self.draining:
            self._streams.add(me)
        try:
            protocol.response_iter(status, headers, chunks)
        finally:
            self._streams.discard(me)

    def _chunks(self, first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
        yield first
        try:
            for chunk in chunks:
                if chunk:
                    # granian would take anything else for the end.
                    yield memoryview(chunk).tobytes()
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - the application's; granian's log is not the site's
            environ = self._busy[get_ident()]
            assert environ is not None
            self._report(environ, error)

    def _headers(self, given: Headers) -> Headers:
        """Answer headers as granian takes them, with the server's own."""
        headers = list(given)
        is_named = False
        for name, value in given:
            if len(name) == 6 and name.lower() == "server":
                is_named = True
            if not value.isascii():
                headers[headers.index((name, value))] = name, _as_utf8(value)
        if not is_named:
            headers.append(self._server)
        if self.draining:
            headers.append(("Connection", "close"))
        return headers

    def _refuse(self, protocol: Any, status: int, text: bytes) -> None:
        protocol.response_bytes(status, self._headers(TEXT), text)

    def _report(self, environ: dict[str, Any], error: BaseException) -> None:
        asked = f"{environ['REQUEST_METHOD']} {_escaped(environ['PATH_INFO'])}"
        self._log(f"Unhandled error while serving {asked}: {error!r}", 40, True)


def _as_utf8(value: str) -> str:
    """Answer what has the bytes of *value* when it is encoded in UTF-8, if there is such a text."""
    with suppress(UnicodeError):
        return value.encode("latin-1").decode()
    return value


def _length(headers: Headers) -> int:
    for name, value in headers:
        if len(name) == 14 and name.lower() == "content-length":
            return int(value)
    return -1


def _head_size(environ: dict[str, Any]) -> int:
    """Answer about how long the request's head was."""
    told = sum(len(name) + len(environ[name]) for name in environ if name.startswith("HTTP_"))
    return told + len(environ["PATH_INFO"]) + len(environ["QUERY_STRING"])


def _escaped(text: str) -> str:
    # Decoded as it is, it could forge lines of the log.
    return text[:200].encode("unicode_escape").decode("ascii")
