"""Who serves which request since when, and where every thread of the process is.

A thread that serves has a slot, found without a lock; only its own thread puts a request there, and
only the request itself says when it has ended, from whatever thread. Whoever looks reads both.
What is made of it, slow requests and stuck threads, is `sitebus.plugins.stuck`'s business.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus.frames import current_frames, stack_of

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

#: How much of a path is told.
_MOST_TOLD = 200


class Frame(NamedTuple):
    """One line of a stack."""

    file: str
    line: int
    function: str
    module: str

    @property
    def where(self) -> str:
        """The function as its callers write it."""
        return f"{self.module}.{self.function}"


class Serving(NamedTuple):
    """One request that is being served.

    Attributes:
        thread: the identifier of the thread that began it.
        method: as the client said it, like all of these: escaped, so that they can be logged.
        path: without the query, which may hold secrets; shortened if it is long.
        client: the client's address, or nothing if the server does not say.
        mount: where its application is mounted, if the registry can tell.
        since: when it began, in seconds of `time.monotonic`.
    """

    thread: int
    method: str
    path: str
    client: str
    mount: str
    since: float

    @property
    def age(self) -> float:
        """For how many seconds it has been served."""
        return time.monotonic() - self.since

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + (f" for {self.client}" if self.client else "")


class ThreadPicture(NamedTuple):
    """What one thread was doing at one moment.

    Attributes:
        request: what it serves, if it does.
        age: for how many seconds it has been at that request; 0 without one.
        frames: where it was, outermost first.
    """

    ident: int
    name: str
    daemon: bool
    request: Serving | None
    age: float
    frames: tuple[Frame, ...]

    @property
    def stack(self) -> str:
        """Where it was, as in a traceback."""
        return stack_text(self.frames)

    @property
    def inside(self) -> tuple[Frame, ...]:
        """Where it was inside the application; everything if that cannot be told apart."""
        for number in range(len(self.frames) - 1, -1, -1):
            if self.frames[number][::2] == _DOORSTEP:
                own = __name__.partition(".")[0]
                while number < len(self.frames) and self.frames[number].module.startswith(own):
                    number += 1
                return self.frames[number:] or self.frames
        return self.frames

    def __str__(self) -> str:
        busy = f", {self.age:.1f} s at {self.request}" if self.request else ""
        daemon = ", daemon" if self.daemon else ""
        return f"{self.name} ({self.ident}{daemon}){busy}:\n{self.stack}"


def _began(picture: ThreadPicture) -> float:
    return picture.request.since if picture.request is not None else math.inf


class Request:
    """One request, from its beginning until its response is closed."""

    __slots__ = ("at_end", "environ", "outer", "since")

    #: What the server gave to the application; None when the request has ended.
    environ: WSGIEnvironment | None
    #: The request in whose midst this one began, in the same thread: hardly ever any.
    outer: Request | None
    since: float
    #: Called once at the end, in whatever thread and maybe by a finalizer.
    at_end: Callable[[], object] | None

    @property
    def ended(self) -> bool:
        return self.environ is None

    def end(self) -> None:
        """Be over; any number of times."""
        self.environ = None
        if self.at_end is not None:
            at_end, self.at_end = self.at_end, None
            if at_end is not None:
                at_end()


class Slot:
    """What one thread serves; it is gone when its thread is."""

    __slots__ = ("__weakref__", "current", "ident")

    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.current = _NOTHING

    @property
    def request(self) -> Request | None:
        """The outermost request that has not ended: the one that the client waits for."""
        found: Request | None = None
        request: Request | None = self.current
        while request is not None:
            if not request.ended:
                found = request
            request = request.outer
        return found


#: What a thread serves before its first request.
_NOTHING = Request()
_NOTHING.environ = _NOTHING.outer = _NOTHING.at_end = None
_NOTHING.since = 0.0


class Registry:
    """The threads that serve, and what they serve.

    Attributes:
        capacity: how many requests each server can serve at once; servers note it here when they
            start, and take it out when they stop.
        stuck: whether all of them have been busy for too long; whoever watches over it sets it.
        sleeper: is called when a request begins, in its thread, and must be quick; None if nobody
            sleeps.
        locate: tells from an environ where the application is mounted, for pictures only.
    """

    def __init__(self) -> None:
        self.capacity: dict[object, int] = {}
        self.stuck = False
        self.sleeper: Callable[[], object] | None = None
        self.locate: Callable[[Mapping[str, Any]], str] | None = None
        self._local = threading.local()
        self._lock = threading.Lock()
        self._slots: tuple[weakref.ref[Slot], ...] = ()

    @property
    def workers(self) -> int:
        """How many requests can be served at once, as far as servers have said."""
        return sum(tuple(self.capacity.values()))

    def watch(self, app: WSGIApplication) -> WSGIApplication:
        """Answer *app*, known while it serves: from its call until its response is closed.

        Responses are passed on piece by piece, and closed exactly when the server closes them. A
        file in the server's own ``wsgi.file_wrapper`` goes to the server as it is; that request
        ends with the call.
        """
        local, clock, make = self._local, time.monotonic, self._make_slot

        def watched(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            # On the way of every request: in line, and no more than it takes.
            try:
                slot = local.slot
            except AttributeError:
                slot = make()
            request = Request()
            request.at_end = None
            request.environ = environ
            request.since = clock()
            outer = slot.current
            if outer.environ is None and outer.outer is None:
                request.outer = None
            else:
                request.outer = _open_ones(outer)
            slot.current = request
            # Looked at only now: who goes to sleep first asks to be woken, then looks once more.
            if self.sleeper is not None:
                self._wake()
            try:
                result = app(environ, start_response)
                if type(result) is list or type(result) is tuple:
                    chunks = _Chunks(result)
                    chunks.request = request
                    return chunks
                return _body(result, request, environ)
            except BaseException:
                request.end()
                raise

        return watched

    def in_flight(self) -> list[tuple[Slot, Request]]:
        """Answer every thread that serves, with its request."""
        slots = (reference() for reference in self._slots)
        return [
            (slot, request)
            for slot in slots
            if slot is not None and (request := slot.request) is not None
        ]

    def serving(self) -> tuple[Serving, ...]:
        """Answer the requests that are being served now, one for each thread that does."""
        described = (self._describe(slot.ident, request) for slot, request in self.in_flight())
        return tuple(serving for serving in described if serving is not None)

    def threads(self) -> tuple[ThreadPicture, ...]:
        """Answer what every thread of the process is doing; the longest request comes first."""
        busy = {slot.ident: request for slot, request in self.in_flight()}
        known = {thread.ident: thread for thread in threading.enumerate()}
        # The interpreter tells of its newest thread first.
        frames = reversed(current_frames().items())
        pictures = [
            self._picture(ident, frame, known.get(ident), busy.get(ident))
            for ident, frame in frames
        ]
        # By the beginning: the ages are of slightly different moments.
        return tuple(sorted(pictures, key=_began))

    def picture(self, slot: Slot, request: Request) -> ThreadPicture | None:
        """Answer what the thread is doing for *request*; None if that has ended meanwhile."""
        frame = current_frames().get(slot.ident)
        if frame is None:
            return None
        thread = next((each for each in threading.enumerate() if each.ident == slot.ident), None)
        picture = self._picture(slot.ident, frame, thread, request)
        return picture if picture.request is not None else None

    def _picture(
        self,
        ident: int,
        frame: FrameType,
        thread: threading.Thread | None,
        request: Request | None,
    ) -> ThreadPicture:
        frames = tuple(map(_told, stack_of(frame)))
        # In this order: had it ended, the stack could be the next request's already.
        serving = self._describe(ident, request) if request is not None else None
        return ThreadPicture(
            ident,
            thread.name if thread is not None else f"foreign thread {ident}",
            thread.daemon if thread is not None else True,
            serving,
            serving.age if serving is not None else 0.0,
            frames,
        )

    def _describe(self, ident: int, request: Request) -> Serving | None:
        environ = request.environ
        if environ is None:
            return None
        path = f"{environ.get('SCRIPT_NAME') or ''}{environ.get('PATH_INFO') or ''}"
        return Serving(
            ident,
            _escaped(environ.get("REQUEST_METHOD")),
            _escaped(path) or "/",
            _escaped(environ.get("REMOTE_ADDR")),
            self.locate(environ) if self.locate is not None else "",
            request.since,
        )

    def _make_slot(self) -> Slot:
        slot: Slot = Slot(threading.get_ident())
        self._local.slot = slot
        with self._lock:
            living = (reference for reference in self._slots if reference() is not None)
            self._slots = (*living, weakref.ref(slot))
        return slot

    def _wake(self) -> None:
        # Another request may have woken it since.
        if (sleeper := self.sleeper) is not None:
            sleeper()


class _Chunks(list[bytes]):
    """A list or tuple of the application's, whose end is noticed."""

    __slots__ = ("request",)

    request: Request

    def close(self) -> None:
        self.request.end()

    # Not every server closes what it was given.
    __del__ = close


class _Body:
    """What else an application returned; its own iterator is what the server goes through."""

    # No __init__: calling it would cost as much as all the rest.
    __slots__ = ("request", "result")

    request: Request
    result: Iterable[bytes] | None

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.result)  # type: ignore[arg-type]  # fails as it would without us

    def close(self) -> None:
        result, self.result = self.result, None
        try:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        finally:
            self.request.end()

    def __del__(self) -> None:
        # To close what the server did not is not our business.
        self.request.end()


class _SizedBody(_Body):
    """A body whose number of pieces can be asked: one piece tells a server the length of all."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.result)  # type: ignore[arg-type]


def _body(result: Iterable[bytes], request: Request, environ: WSGIEnvironment) -> Iterable[bytes]:
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type) and isinstance(result, wrapper):
        # Servers send such files by themselves (PEP 3333), if they recognise them.
        request.end()
        return result
    body = _SizedBody() if hasattr(type(result), "__len__") else _Body()
    body.request = request
    body.result = result
    return body


def _open_ones(request: Request | None) -> Request | None:
    """Answer *request* and the outer ones without those that have ended."""
    while request is not None and request.ended:
        request = request.outer
    each = request
    while each is not None and each.outer is not None:
        if each.outer.ended:
            each.outer = each.outer.outer
        else:
            each = each.outer
    return request


def _escaped(text: object) -> str:
    """Write what a client said so that it cannot forge lines of a log."""
    shown = str(text or "")[: _MOST_TOLD + 1].encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= _MOST_TOLD else f"{shown[:_MOST_TOLD]}..."


def _told(frame: FrameType) -> Frame:
    import linecache

    code = frame.f_code
    # Modules in an archive: their source is known to their loader alone.
    linecache.lazycache(code.co_filename, frame.f_globals)
    module = frame.f_globals.get("__name__", "?")
    return Frame(code.co_filename, frame.f_lineno or 0, code.co_qualname, str(module))


def stack_text(frames: Iterable[Frame]) -> str:
    """Write *frames* as in a traceback."""
    import traceback

    lines = [(each.file, each.line, each.function, None) for each in frames]
    return "".join(traceback.format_list(lines))


#: The file and function that stand between the server and the application.
_DOORSTEP = (__file__, "Registry.watch.<locals>.watched")
