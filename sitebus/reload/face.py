"""What visitors see of a site's reloads: that one failed, and that there is something new.

`Face` stands between the server and the site, only while ``[reload]`` is on. It marks responses
with ``X-Sitebus-Reload: failed`` while the code on disk cannot be served, shows why, and keeps
browsers up to date over an event stream. Who tells it what happened is `sitebus.plugins.showing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from sitebus.asgi import ASGIApplication, Receive, Scope, Send

OnError = Literal["overlay", "page", "keep"]

#: Where the event stream is, on every host of the site.
EVENTS = "/__sitebus__/reload"
HEADER = ("X-Sitebus-Reload", "failed")

#: A stream that has said nothing for so long says that it is there; a client that went away is
#: noticed by it. Seconds.
HEARTBEAT = 15.0

#: Added to a page that changes with the reloads: caches must not keep it.
FRESH = ("Cache-Control", "no-store")
WHOLE = ("etag", "last-modified", "cache-control", "expires", "accept-ranges")
#: With these a server would answer that a page has not changed, or send it compressed.
_CONDITIONS = (
    *("HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_RANGE", "HTTP_RANGE"),
    "HTTP_ACCEPT_ENCODING",
)

#: A page knows which image made it, after how many refreshments: what it missed before it listened,
#: it learns then. It loads itself but once for that, lest a cache of old pages keep it at it.
SCRIPT = """\
<script data-sitebus-reload>(() => {
let shown = "%s";
const events = new EventSource("%s");
events.addEventListener("boot", (event) => {
  const present = event.data + "." + event.lastEventId;
  if (present !== shown && present !== sessionStorage.getItem("sitebus-reload")) {
    sessionStorage.setItem("sitebus-reload", present);
    location.reload();
  }
  shown = present;
});
events.addEventListener("refresh", () => location.reload());
window.addEventListener("pagehide", () => events.close());
})();</script>
"""

_OVERLAY = """\
<div data-sitebus-reload style="position:fixed;inset:auto 0 0 0;z-index:2147483647;max-height:60vh;\
overflow:auto;padding:1em;background:#300;color:#fff;font:14px/1.4 monospace;text-align:left">
<strong>{title}</strong>
<pre style="white-space:pre-wrap;color:inherit;background:none;margin:1em 0 0">{text}</pre>
</div>
"""

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1>
<pre>{text}</pre>
<p>The site tries again as soon as a file changes.</p>
</body></html>
"""


class Failure(NamedTuple):
    """Why what is on disk cannot be served."""

    title: str
    text: str


class Box(Protocol):
    """Where one page's events are put, from any thread; None is the end."""

    def put(self, said: bytes | None, /) -> object: ...


class Streams:
    """The event streams of the pages that are open.

    Args:
        boot: Says which image of the program this is.
        most: How many there may be; each occupies a thread of the server. If none, pages ask again
            and again.
    """

    def __init__(self, boot: str, most: int) -> None:
        self.boot = boot
        self.most = most
        self._refreshed = 0
        self._open: list[Box] = []
        self._changing = Lock()
        self._closed = False

    def __len__(self) -> int:
        return len(self._open)

    @property
    def present(self) -> str:
        """What a page has to have come from to be up to date."""
        return f"{self.boot}.{self._refreshed}"

    def refresh(self) -> None:
        """Have every page load itself again, also one that listens only later."""
        with self._changing:
            self._refreshed += 1
            for box in self._open:
                box.put(b"event: refresh\ndata:\n\n")

    def close(self) -> None:
        """End every stream, and any that is opened from now on: nothing must hold a drain up."""
        with self._changing:
            self._closed = True
            for box in self._open:
                box.put(None)

    def open(self) -> None:
        """Let streams be opened again."""
        self._closed = False

    def stream(self) -> Iterator[bytes]:
        """Answer one page's events, until it goes, `close` is called, or others need the room."""
        box: SimpleQueue[bytes | None] = SimpleQueue()
        try:
            yield self.join(box)
            while True:
                try:
                    said = box.get(timeout=HEARTBEAT)
                except Empty:
                    said = b":\n\n"
                if said is None:
                    return
                yield said
        finally:
            self.leave(box)

    def join(self, box: Box) -> bytes:
        """Have *box* filled from now on, and answer what comes first."""
        with self._changing:
            self._open.append(box)
            if self._closed:
                box.put(None)
            elif len(self._open) > self.most:
                # The page that has waited longest comes back in a while.
                self._open[0].put(b"retry: 10000\n\n")
                self._open[0].put(None)
            boot = f"id: {self._refreshed}\nevent: boot\ndata: {self.boot}\n\n"
        return f"retry: 100\n{boot}".encode()

    def leave(self, box: Box) -> None:
        """Fill *box* no more."""
        with self._changing:
            if box in self._open:
                self._open.remove(box)


class Face:
    """The site as visitors see it while it is being worked on; a WSGI application.

    ``asgi`` is the same as an ASGI application.

    Args:
        app: The site, as a WSGI application.
        asgi: The site, as an ASGI application; what is served through `asgi`.
        on_error: What pages show while the code on disk cannot be served: an ``overlay``, a
            ``page`` of their own instead of the site, or nothing (``keep``); the header is on all.
        details: Whether visitors may see why, which quotes code.
        browser: Whether pages reload themselves.
        boot: Says which image of the program this is.
        most: How many event streams there may be.
    """

    def __init__(
        self,
        app: WSGIApplication,
        asgi: ASGIApplication | None = None,
        *,
        on_error: OnError = "overlay",
        details: bool = True,
        browser: bool = False,
        boot: str = "",
        most: int = 4,
    ) -> None:
        self.app = app
        self.asgi_app = asgi
        self.on_error = on_error
        self.details = details
        self.browser = browser
        self.streams = Streams(boot, most)
        self.failure: Failure | None = None
        self._unable: Failure | None = None

    @property
    def cold(self) -> bool:
        """Whether the site could not start: there is no old code to go on with."""
        return self._unable is not None

    def fail(self, title: str, text: str, *, cold: bool = False) -> None:
        """Show a failure from now on; after a *cold* one, there is nothing else to show."""
        self.failure = Failure(title, text)
        if cold and self._unable is None:
            self._unable = self.failure
        self.refresh()

    def revert(self) -> None:
        """What is on disk is again what this process has loaded, or failed to."""
        if self.failure is not self._unable:
            self.failure = self._unable
            self.refresh()

    def recover(self) -> None:
        """Show the site as it is."""
        self._unable = None
        self.revert()

    def refresh(self) -> None:
        """Have the pages that are open load themselves again."""
        self.streams.refresh()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self.browser and environ.get("PATH_INFO") == EVENTS:
            return self._events(environ, start_response)
        failure = self.failure
        if failure is not None and (self.cold or self.on_error == "page"):
            return self._page(failure, environ, start_response)
        snippet = self.snippet(failure) if _is_visited(environ) else b""
        if failure is None and not snippet:
            return self.app(environ, start_response)
        if snippet and _wants_html(environ):
            environ = {k: v for k, v in environ.items() if k not in _CONDITIONS}
        marking = _Marking(start_response, snippet, failure is not None)
        return marking.body(self.app(environ, marking.start_response), environ)

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be the ASGI application."""
        from sitebus.reload import face_asgi

        await face_asgi.serve(self, scope, receive, send)

    def snippet(self, failure: Failure | None) -> bytes:
        """Answer what is put into a page."""
        parts = [self._script] if self.browser else []
        if failure is not None and self.on_error == "overlay" and self.details:
            parts.append(_OVERLAY.format_map(_escaped(failure)))
        # Whatever the page's charset is.
        return "".join(parts).encode("ascii", "xmlcharrefreplace")

    @property
    def _script(self) -> str:
        return SCRIPT % (self.streams.present, EVENTS)

    def _events(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        headers = [("Content-Type", "text/event-stream"), FRESH, ("X-Accel-Buffering", "no")]
        start_response("200 OK", headers)
        return self.streams.stream() if environ.get("REQUEST_METHOD") == "GET" else []

    def _page(
        self, failure: Failure, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        headers, body = self.page(failure, html=_wants_html(environ))
        start_response("500 Internal Server Error", headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]

    def page(self, failure: Failure, *, html: bool) -> tuple[list[tuple[str, str]], bytes]:
        """Answer the headers and the body of the page that is shown instead of the site."""
        kind, text = "text/plain", "500 Internal Server Error\n"
        if self.details and html:
            kind, text = "text/html", _PAGE.format_map(_escaped(failure))
            if self.browser:
                text = text.replace("</body>", self._script + "</body>")
        elif self.details:
            text = f"{failure.title}\n\n{failure.text}\n"
        body = text.encode("utf-8", "backslashreplace")
        headers = [
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            FRESH,
            HEADER,
        ]
        return headers, body


class _Marking:
    """One response on its way out: marked, and with a snippet in it if it is a page."""

    def __init__(self, start_response: StartResponse, snippet: bytes, failed: bool) -> None:
        self._start_response = start_response
        self._insert = Insert(snippet)
        self._failed = failed

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        headers = [*headers, HEADER] if self._failed else list(headers)
        headers = self._insert.headers(status, headers)
        write = self._start_response(status, headers, exc_info)
        return lambda data: write(self._insert.into(data))

    def body(self, chunks: Iterable[bytes], environ: WSGIEnvironment) -> Iterable[bytes]:
        if environ.get("REQUEST_METHOD") == "HEAD":
            return chunks
        return _Body(chunks, self._insert)


class Insert:
    """A snippet on its way into one page."""

    def __init__(self, snippet: bytes) -> None:
        self.snippet = snippet
        self._due = False

    def headers(self, status: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Answer the response's headers, changed if the snippet goes into it."""
        self._due = bool(self.snippet) and is_page(status, headers)
        if not self._due:
            return headers
        longer = len(self.snippet)
        changed = [
            (name, str(int(value) + longer) if name.lower() == "content-length" else value)
            for name, value in headers
            if name.lower() not in WHOLE
        ]
        return [*changed, FRESH]

    def into(self, chunk: bytes) -> bytes:
        """Put the snippet before the end of the page's body, if *chunk* has that."""
        if not self._due:
            return chunk
        at = chunk.lower().rfind(b"</body>")
        if at < 0:
            return chunk
        self._due = False
        return chunk[:at] + self.snippet + chunk[at:]

    def last(self) -> bytes:
        """What a page that never ended its body still lacks."""
        rest = self.snippet if self._due else b""
        self._due = False
        return rest


class _Body:
    """A response's body with the snippet in it."""

    def __init__(self, chunks: Iterable[bytes], insert: Insert) -> None:
        self._chunks = chunks
        self._insert = insert

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            yield self._insert.into(chunk)
        if rest := self._insert.last():
            yield rest

    def close(self) -> None:
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()


def is_page(status: str, headers: Iterable[tuple[str, str]]) -> bool:
    """Tell whether something can be put into a response: HTML to show, whole, not compressed."""
    told = {name.lower(): value.strip().lower() for name, value in headers}
    return (
        status[:3] not in ("204", "205", "206", "304")
        and status[:1] not in ("1",)
        and told.get("content-type", "").partition(";")[0].strip() == "text/html"
        and told.get("content-encoding", "identity") == "identity"
        and not told.get("content-disposition", "").startswith("attachment")
        and told.get("content-length", "0").isdigit()
    )


def _is_visited(environ: WSGIEnvironment) -> bool:
    """Tell whether a page may be asked for, and not, by a script, a piece of one."""
    return environ.get("HTTP_SEC_FETCH_DEST", "document") in ("document", "iframe", "frame")


def _wants_html(environ: WSGIEnvironment) -> bool:
    return "text/html" in str(environ.get("HTTP_ACCEPT", ""))


def _escaped(failure: Failure) -> dict[str, str]:
    import html

    return {"title": html.escape(failure.title), "text": html.escape(failure.text)}
