"""WSGI between a worker of granian and the application.

granian has a worker for WSGI, which is not used. It has one field for ``X-Forwarded-For`` and
``X_Forwarded_For``; its body waits for a silent client for ever, and ends where a client broke off;
its response looks whole when the application failed in the middle of it.
Its worker for ASGI has all that is needed, and costs no more. So this is WSGI on what that gives
(`sitebus.servers._granian_asgi` has a list), without an event loop:

- ``_schedule_fn(watcher)`` of a scheduler is called in one of as many threads as ``py_threads``
  says, for each request; the application runs right there.
- ``receive()``, and a ``send()`` of a piece while the one before is not taken, answer what has
  ``add_done_callback``, ``result`` and ``cancel``. Their callbacks are called in the same threads,
  by way of the loop's ``call_soon_threadsafe``. So some threads are always kept free for them
  (`Slots`): a request that finds no slot waits without a thread.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from threading import get_ident
from typing import Any
from urllib.parse import unquote_to_bytes

from sitebus.errors import BodyTooLarge, BodyTooSlow, ClientGone
from sitebus.servers import _granian_head as heads
from sitebus.servers._granian_crew import GLANCE, Loop, scheduler
from sitebus.servers._granian_head import cgi_name, known_hosts, known_names, shown
from sitebus.servers._granian_input import Client, Input, NoBody
from sitebus.servers._granian_response import Headers, Response, Scope, Slots
from sitebus.servers._granian_sockets import Place, reset
from sitebus.servers.complaints import Complaints
from sitebus.servers.connections import Door
from sitebus.servers.heads import Refusal
from sitebus.servers.hosting import Speech

Log = Callable[[str, int, bool], object]

#: What granian calls them, and what they are called.
PROTOCOLS = {"1": "HTTP/1.0", "1.1": "HTTP/1.1", "2": "HTTP/2.0"}
#: Of which two would be a choice.
SINGLE = frozenset({"HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_TRANSFER_ENCODING"})
#: So many threads of a worker never run an application.
SPARE_THREADS = 2

TEXT = [("Content-Type", "text/plain")]
_CLOSE = (b"connection", b"close")


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
        slots: How many threads may run it at once; other crews' may share them.
        tls: Whether clients come over TLS.
        server_header: What the Server header says, and SERVER_SOFTWARE.
        multithread: Whether it may be called by several threads at once.
        max_head: The longest request head in bytes, if that is below granian's least; else 0.
        max_body: The longest request body in bytes; 0 for any length.
        timeout: Seconds that a client may send nothing of a body, or take nothing of a response.
        min_rate: Bytes a second that a body must come in at least, or be taken; 0 is any.
        complaints: Is told what clients do wrong.
        log: Is told, as ``log(message, level, traceback)``, what goes wrong.
    """

    speech: Speech = "wsgi"

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        *,
        announce: Callable[..., object],
        slots: Slots,
        tls: bool,
        server_header: str,
        multithread: bool,
        max_head: int,
        max_body: int,
        timeout: float,
        min_rate: float,
        complaints: Complaints,
        log: Log,
    ) -> None:
        self.draining = False
        self.timeout = timeout
        #: The threads that stream a response which began before a drain.
        self.streams: set[int] = set()
        self._app = app
        self._announce = announce
        self._here = threading.local()
        self._slots = slots
        self._server = (b"server", server_header.encode("latin-1"))
        self._max_head = max_head
        self._max_body = max_body
        self.min_rate = min_rate
        self._complaints = complaints
        self._log = log
        #: Which request each thread answers.
        self._busy: dict[int, Scope | None] = {}
        self._calm = threading.Event()
        self._base: dict[str, Any] = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": "",
            "SERVER_SOFTWARE": server_header or "sitebus",
            "wsgi.errors": sys.stderr,
            "wsgi.input": NoBody(),
            "wsgi.input_terminated": True,
            "wsgi.multiprocess": False,
            "wsgi.multithread": multithread,
            "wsgi.run_once": False,
            "wsgi.url_scheme": "https" if tls else "http",
            "wsgi.version": (1, 0),
        }
        if tls:
            self._base["HTTPS"] = "on"

    def scheduler(self, door: Door) -> Any:
        """Answer what a worker calls for each request through *door*."""
        base = {**self._base, "SERVER_NAME": door.name, "SERVER_PORT": door.port}
        run, busy, place = self._slots.run, self._busy, Place.of(door.socket)

        # The straight way through this is what a short request costs.
        def serve(watcher: Any) -> None:
            scope = watcher.scope
            me = get_ident()
            if me not in busy:
                self._meet()
            busy[me] = scope
            try:
                self._serve(Response(self, watcher.proto), scope, base.copy(), place)
            finally:
                busy[me] = None
                watcher.done()
                # Whoever keeps a traceback keeps this frame, and must not keep a socket by it.
                del watcher
                if self.draining:
                    self._calm.set()

        return scheduler(Loop(), partial(run, serve))

    def _meet(self) -> None:
        """Announce the thread, which is here for the first time."""
        self._here.acquaintance = Acquaintance(self._busy)
        self._announce({}, None)

    @property
    def answering(self) -> bool:
        """Whether responses are under way that did not say that the connection closes."""
        return bool(self.streams)

    def leave(self) -> None:
        """Need not be told: who answers looks at ``draining``."""

    def wait_idle(self) -> None:
        """Return when no thread is in the application."""
        while any(list(self._busy.values())):
            self._calm.wait(GLANCE)
            self._calm.clear()

    def cut(self) -> list[str]:
        """Cannot end a thread; who is left is told by `busy`."""
        return []

    def busy(self) -> list[str]:
        """Answer what is still done, by request."""
        return [shown(scope) for scope in list(self._busy.values()) if scope is not None]

    def served(self) -> set[tuple[str, int]]:
        """Answer which clients are served now, or wait for a slot."""
        scopes = [scope for scope in list(self._busy.values()) if scope is not None]
        scopes += self._slots.waiting()
        return {(scope["client"][0], int(scope["client"][1] or 0)) for scope in scopes}

    def headers(self, given: Headers) -> list[tuple[bytes, bytes]]:
        """Answer headers as granian takes them, with the server's own."""
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given]
        for name, _ in headers:
            if len(name) == 6 and name.lower() == b"server":
                break
        else:
            headers.append(self._server)
        if self.draining:
            headers.append(_CLOSE)
        return headers

    def _serve(
        self, response: Response, scope: Scope, environ: dict[str, Any], place: Place
    ) -> None:
        try:
            refusal = self._fill(environ, scope)
            if (
                "CONTENT_LENGTH" in environ
                or "HTTP_TRANSFER_ENCODING" in environ
                or scope["http_version"] == "2"
            ):
                refusal = refusal or self._take_body(environ, response.listen())
            if refusal is None:
                self._respond(response, environ, scope, place)
            else:
                self._refuse(response, scope, refusal)
        except BaseException as error:  # noqa: BLE001 - our own; granian would only print it
            self._report(scope, error)

    def _fill(self, environ: dict[str, Any], scope: Scope) -> Refusal | None:
        """Put the request's head into *environ*; answer why it is not to be served."""
        path, query = scope["raw_path"].decode("latin-1"), scope["query_string"]
        environ["REQUEST_METHOD"] = method = scope["method"]
        environ["SERVER_PROTOCOL"] = PROTOCOLS[scope["http_version"]]
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = scope["client"]
        # Not granian's own, which is of text, not of bytes.
        environ["PATH_INFO"] = path if "%" not in path else _unquoted(path)
        if query:
            environ["QUERY_STRING"] = query = query.decode("latin-1")
            environ["REQUEST_URI"] = f"{path}?{query}"
        else:
            environ["QUERY_STRING"] = ""
            environ["REQUEST_URI"] = path
        host = None
        is_odd = path[:1] != "/" or method == "CONNECT" or self._max_head
        for name, value in scope["headers"]:
            key = known_names.get(name)
            if key is None:
                key = cgi_name(name)
            if key in environ:
                is_odd = is_odd or key in SINGLE
                separator = "; " if key == "HTTP_COOKIE" else ","
                environ[key] += separator + value.decode("latin-1")
            elif key:
                environ[key] = value.decode("latin-1")
                if key == "HTTP_HOST":
                    host = value
        if is_odd or host not in known_hosts or "HTTP_TRANSFER_ENCODING" in environ:
            if self._max_head and heads.size(scope) > self._max_head:
                return Refusal(431, f"The header is longer than {self._max_head} bytes.")
            return heads.refusal_of_any(scope)
        return None

    def _take_body(self, environ: dict[str, Any], client: Client) -> Refusal | None:
        most, said = self._max_body, environ.get("CONTENT_LENGTH")
        if said is not None and not (said.isascii() and said.isdigit()):
            return Refusal(400, "The Content-Length is not a number.")
        length = None if said is None else int(said)
        if most and length is not None and length > most:
            return Refusal(413, "The body of the request is too large.")
        environ["wsgi.input"] = Input(client, length, most, self.timeout, self.min_rate)
        return None

    def _respond(
        self, response: Response, environ: dict[str, Any], scope: Scope, place: Place
    ) -> None:
        if scope["method"] == "HEAD":
            response.method = "HEAD"
        try:
            answer = self._app(environ, response.start)
            if type(answer) is list and 0 < response.status < 500 and not response.begun:
                response.send_whole(b"".join(answer))
            else:
                self._send(response, answer, environ)
        except BaseException as error:  # noqa: BLE001 - the application's; SystemExit would be granian's
            self._fail(response, environ, scope, error)
            if response.begun and scope["http_version"] == "1":
                # The end of the connection is the end of the body there.
                reset(place, (scope["client"][0], int(scope["client"][1] or 0)))
        finally:
            if response.client is not None:
                self._let_go(response.client, environ)
            # Who keeps start_response(), an environ or a traceback must not keep a socket by it.
            response.let_go()
            self.streams.discard(get_ident())

    def _let_go(self, client: Client, environ: dict[str, Any]) -> None:
        client.end()
        body = environ.get("wsgi.input")
        if isinstance(body, Input):
            body.end()

    def _send(self, response: Response, answer: Iterable[bytes], environ: dict[str, Any]) -> None:
        """Respond with whatever is no list; nothing is sent before the first piece is there."""
        try:
            chunks: Iterator[bytes] = iter(answer)
            for chunk in chunks:
                if chunk and not response.begun:
                    self._check_read(response, environ)
                response.write(chunk)
            response.finish()
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()

    def _check_read(self, response: Response, environ: dict[str, Any]) -> None:
        """Raise why the body cannot be read, if that is why there is a page about an error."""
        body = environ["wsgi.input"]
        if response.status >= 500 and isinstance(body, Input):
            body.check()

    def _fail(
        self, response: Response, environ: dict[str, Any], scope: Scope, error: BaseException
    ) -> None:
        failure = getattr(environ["wsgi.input"], "failure", None)
        refusal = _REFUSALS.get(failure) if failure is not None else None
        if refusal is None:
            if isinstance(error, ClientGone):
                return  # which is nobody's fault
            self._report(scope, error)
            refusal = Refusal(500, "The server could not answer the request.")
        elif failure is not ClientGone:
            heads.tell_of(self._complaints, scope, refusal)
        if not response.begun:
            if response.client is not None:
                response.client.end()
            self._answer(response, refusal)

    def _refuse(self, response: Response, scope: Scope, refusal: Refusal) -> None:
        heads.tell_of(self._complaints, scope, refusal)
        self._answer(response, refusal)

    def _answer(self, response: Response, refusal: Refusal) -> None:
        response.status, response.headers = refusal.status, TEXT
        response.send_whole(refusal.why.encode() + b"\n", _CLOSE)

    def _report(self, scope: Scope, error: BaseException) -> None:
        self._log(f"Unhandled error while serving {shown(scope)}: {error!r}", 40, True)


#: What is answered when a body cannot be read, whatever the application makes of it.
_REFUSALS: dict[type, Refusal] = {
    BodyTooLarge: Refusal(413, "The body of the request is too large."),
    BodyTooSlow: Refusal(408, "The body of the request did not come in time."),
    ClientGone: Refusal(400, "The body of the request is not whole."),
}


def _unquoted(path: str) -> str:
    return unquote_to_bytes(path).decode("latin-1")
