"""What visitors see of reloads where an ASGI server serves the site."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from sitebus.asgi import ASGIApplication, Message, Receive, Scope, Send
from sitebus.reload.face import EVENTS, Face
from tests.asgi_helpers import Got, asked, request

PAGE = (b"<html><body><p>hel", b"lo</p></body></html>")
HTML = (b"accept", b"text/html")


def page(
    chunks: Iterable[bytes | bytearray | memoryview] = PAGE, *more: tuple[bytes, bytes]
) -> ASGIApplication:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/html"), (b"etag", b"1"), *more]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})

    return app


def faced(app: ASGIApplication, **options: Any) -> Face:
    return Face(lambda environ, start_response: [], app, **options)


def visit(face: Face, path: str = "/", method: str = "GET", **headers: bytes) -> Got:
    pairs = [HTML, *((name.replace("_", "-").encode(), each) for name, each in headers.items())]
    return asyncio.run(asked(face.asgi, request(path, headers=pairs, method=method)))


def test_a_healthy_site_is_passed_through_untouched() -> None:
    """Most of the time there is nothing to say."""
    got = visit(faced(page()))
    assert got.text.encode() == b"".join(PAGE)
    assert got.headers["etag"] == "1"
    assert "x-sitebus-reload" not in got.headers


@pytest.mark.parametrize("on_error", ["overlay", "page", "keep"])
def test_a_failed_reload_cannot_be_missed(on_error: Any) -> None:
    """As where a WSGI server serves it."""
    face = faced(page(), on_error=on_error)
    face.fail("not reloaded", "views.py:3: <oops>")
    got = visit(face)
    assert got.headers["x-sitebus-reload"] == "failed"
    assert ("views.py:3: &lt;oops&gt;" in got.text) is (on_error != "keep")
    assert ("hel" in got.text) is (on_error != "page")
    assert got.messages[0]["status"] == (500 if on_error == "page" else 200)
    face.recover()
    assert visit(face).text.encode() == b"".join(PAGE)


def test_the_snippet_goes_before_the_end_of_the_body() -> None:
    """And the length that was told is right."""
    body = b"<html><body></body></html>"
    face = faced(page([body], (b"content-length", str(len(body)).encode())), browser=True)
    got = visit(face)
    assert got.text.index("<script") < got.text.index("</body>")
    assert int(got.headers["content-length"]) == len(got.text)
    assert "etag" not in got.headers
    assert got.headers["cache-control"] == "no-store"


def test_a_page_that_ends_without_its_end_gets_it_too() -> None:
    """Many pages leave it out, as HTML lets them."""
    assert "<script" in visit(faced(page([b"<p>hello"]), browser=True)).text


def test_what_is_no_page_stays_as_it_is() -> None:
    """Nor what is packed, nor a piece that a script asks for."""
    packed = faced(page(PAGE, (b"content-encoding", b"gzip")), browser=True)
    assert visit(packed).text.encode() == b"".join(PAGE)
    piece = visit(faced(page(), browser=True), sec_fetch_dest=b"empty")
    assert piece.text.encode() == b"".join(PAGE)


def test_a_page_is_asked_for_whole() -> None:
    """A 304 or a packed page could not be changed."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await page()(scope, receive, send)

    visit(faced(app, browser=True), if_none_match=b"1", accept_encoding=b"gzip", x_own=b"1")
    names = [name for name, _ in seen[0]["headers"]]
    assert b"x-own" in names
    assert not {b"if-none-match", b"accept-encoding"} & set(names)


def test_a_site_that_could_not_start_shows_why() -> None:
    """Whatever is asked for."""
    face = faced(page(), on_error="keep")
    face.fail("The site cannot start", "shop.py:1: no such thing", cold=True)
    got = visit(face, "/any")
    assert got.messages[0]["status"] == 500
    assert "no such thing" in got.text
    assert visit(face, method="HEAD").text == ""


async def _stream(face: Face, act: Any) -> list[Message]:
    sent: list[Message] = []
    heard = asyncio.Event()
    gone: asyncio.Queue[Message] = asyncio.Queue()

    async def send(message: Message) -> None:
        sent.append(message)
        heard.set()

    serving = asyncio.create_task(_called(face, gone, send))
    while len(sent) < 2:
        heard.clear()
        await asyncio.wait_for(heard.wait(), 10)
    act(gone)
    await asyncio.wait_for(serving, 10)
    return sent


async def _called(face: Face, gone: asyncio.Queue[Message], send: Send) -> None:
    await face.asgi(request(EVENTS), gone.get, send)


@pytest.mark.parametrize("ending", ["close", "gone"])
def test_open_pages_hear_of_what_is_new(ending: str) -> None:
    """Until the site drains, or the page is closed; nothing is left of it."""
    face = faced(page(), browser=True, boot="one")

    def act(gone: asyncio.Queue[Message]) -> None:
        face.refresh()
        if ending == "close":
            face.streams.close()
        else:
            gone.put_nowait({"type": "http.disconnect"})

    sent = asyncio.run(_stream(face, act))
    text = b"".join(each.get("body", b"") for each in sent)
    assert b"event: boot\ndata: one" in text
    assert b"event: refresh" in text
    assert sent[-1] == {"type": "http.response.body"}
    assert len(face.streams) == 0


def test_websockets_and_lifespans_pass() -> None:
    """They are no pages."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    face = faced(app, browser=True)
    face.fail("not reloaded", "x")
    asyncio.run(asked(face.asgi, request(kind="websocket")))
    assert seen == ["websocket"]


def test_a_body_may_be_any_bytes() -> None:
    """As where nothing is put into it."""
    face = faced(page([memoryview(b"<body>x"), bytearray(b"</body>")]), browser=True)
    assert visit(face).text.startswith("<body>x<script")
