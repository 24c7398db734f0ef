"""What visitors see while the code on disk cannot be served, and when there is something new."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from sitebus.plugins.showing import ReloadFace
from sitebus.process import Engine
from sitebus.reload.face import EVENTS, Face
from tests.helpers import wait_for

PAGE = b"<html><body><p>hello</p></BODY></html>"


class Answer:
    """What a server got."""

    def __init__(self, face: Face, **environ: str) -> None:
        env: dict[str, Any] = {"HTTP_ACCEPT": "text/html,*/*", "QUERY_STRING": ""}
        setup_testing_defaults(env)
        env |= environ
        before = dict(env)
        written: list[bytes] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Any:
            self.status = status
            self.headers = {name.lower(): value for name, value in headers}
            return written.append

        body = validator(face)(env, start_response)
        try:
            self.body = b"".join([*written, *body])
        finally:
            body.close()  # type: ignore[attr-defined]
        kept = [key for key in before if not key.startswith("wsgi.")]  # the validator wraps two
        assert [env[key] for key in kept] == [before[key] for key in kept]


def site(body: Iterable[bytes] = (PAGE,), status: str = "200 OK", **headers: str) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        app.asked = environ  # type: ignore[attr-defined]
        told = {"Content-Type": "text/html; charset=utf-8"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        start_response(status, list(told.items()))
        return iter(body) if environ["REQUEST_METHOD"] != "HEAD" else iter(())

    return app


def test_a_healthy_site_is_passed_through_untouched() -> None:
    answer = Answer(Face(site(ETag='"1"')))
    assert answer.body == PAGE
    assert answer.headers["etag"] == '"1"'
    assert "x-sitebus-reload" not in answer.headers


@pytest.mark.parametrize("on_error", ["overlay", "page", "keep"])
def test_a_failed_reload_cannot_be_missed(on_error: Any) -> None:
    """A page that silently stays old hides the mistake."""
    face = Face(site(), on_error=on_error)
    face.fail("not reloaded", "views.py:3: <oops>")
    answer = Answer(face)
    assert answer.headers["x-sitebus-reload"] == "failed"
    assert (b"views.py:3: &lt;oops&gt;" in answer.body) is (on_error != "keep")
    assert (b"hello" in answer.body) is (on_error != "page")

    face.recover()
    assert Answer(face).body == PAGE


@pytest.mark.parametrize(
    "body", [[PAGE], [PAGE[:12], PAGE[12:]], [bytes([each]) for each in PAGE], [b"<p>no end"]]
)
def test_an_overlay_is_put_into_pages_however_they_come(body: list[bytes]) -> None:
    length = len(b"".join(body))
    face = Face(site(body, Content_Length=str(length), ETag='"1"'))
    face.fail("not reloaded", "why")
    answer = Answer(face)
    assert b"why" in answer.body
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert "etag" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "application/json"},
        {"Content_Encoding": "gzip"},
        {"status": "206 Partial Content", "Content_Range": "bytes 0-3/9"},
        {"Content_Disposition": 'attachment; filename="page.html"'},
    ],
)
def test_what_is_no_whole_page_keeps_its_bytes(headers: Any) -> None:
    face = Face(site(**headers))
    face.fail("not reloaded", "why")
    answer = Answer(face)
    assert answer.body == PAGE
    assert answer.headers["x-sitebus-reload"] == "failed"


def test_a_head_request_tells_the_length_of_the_page_with_its_overlay() -> None:
    face = Face(site(Content_Length=str(len(PAGE))))
    face.fail("not reloaded", "why")
    whole, head = Answer(face), Answer(face, REQUEST_METHOD="HEAD")
    assert head.body == b""
    assert head.headers == whole.headers


def test_a_browser_is_not_told_that_nothing_changed() -> None:
    """It would go on showing the page without the overlay."""
    app = site()
    face = Face(app)
    face.fail("not reloaded", "why")
    Answer(face, HTTP_IF_NONE_MATCH='"1"', HTTP_ACCEPT_ENCODING="gzip")
    assert "HTTP_IF_NONE_MATCH" not in app.asked
    assert "HTTP_ACCEPT_ENCODING" not in app.asked


def test_a_piece_of_a_page_stays_a_piece() -> None:
    """A script that asked for it would put the overlay into the page's midst."""
    app = site((b"<li>one more</li>",), ETag='"1"')
    face = Face(app, browser=True)
    face.fail("not reloaded", "why")
    answer = Answer(face, HTTP_SEC_FETCH_DEST="empty", HTTP_IF_NONE_MATCH='"1"')
    assert answer.body == b"<li>one more</li>"
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["x-sitebus-reload"] == "failed"
    assert "HTTP_IF_NONE_MATCH" in app.asked
    assert b"why" in Answer(face, HTTP_SEC_FETCH_DEST="document").body


def test_an_overlay_does_not_depend_on_the_charset_of_the_page() -> None:
    face = Face(site(Content_Type="text/html; charset=iso-8859-1"))
    face.fail("not reloaded", "caf\N{LATIN SMALL LETTER E WITH ACUTE}\udcff")
    assert b"caf&#233;" in Answer(face).body


def test_strangers_do_not_see_why() -> None:
    """A traceback quotes code; a production site that reloads shows none."""
    face = Face(site(), details=False)
    face.fail("not reloaded", "secret")
    assert b"secret" not in Answer(face).body
    face.fail("cannot start", "secret", cold=True)
    answer = Answer(face)
    assert answer.status.startswith("500")
    assert b"secret" not in answer.body


def test_a_site_without_old_code_shows_why() -> None:
    face = Face(site(), on_error="keep")
    face.fail("cannot start", "views.py:3: oops", cold=True)
    assert b"views.py:3" in Answer(face).body
    assert Answer(face, HTTP_ACCEPT="*/*").headers["content-type"] == "text/plain; charset=utf-8"


def test_write_passes_the_overlay_on() -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])(PAGE)
        return [b""]

    face = Face(app)
    face.fail("not reloaded", "why")
    assert b"why" in Answer(face).body


# Browsers.


def events(face: Face, method: str = "GET") -> Iterator[bytes]:
    environ: dict[str, Any] = {"PATH_INFO": EVENTS, "REQUEST_METHOD": method}
    setup_testing_defaults(environ)
    body = face(environ, lambda *_: lambda data: None)
    return iter(body)


def test_a_page_hears_of_news() -> None:
    face = Face(site(), browser=True, boot="1")
    assert b"EventSource" in Answer(face).body
    stream = events(face)
    assert b"event: boot\ndata: 1\n" in next(stream)
    face.refresh()
    assert b"event: refresh" in next(stream)
    face.streams.close()
    assert list(stream) == []
    assert len(face.streams) == 0


def test_a_page_learns_what_it_missed_before_it_listened() -> None:
    """News may come while it is on its way, and its stream may have had to make room."""
    face = Face(site(), browser=True, boot="1")
    page = Answer(face).body
    assert b'let shown = "1.0"' in page
    face.refresh()
    assert b"id: 1\nevent: boot\ndata: 1\n" in next(events(face))
    assert b'let shown = "1.1"' in Answer(face).body


def test_a_question_about_the_stream_is_answered_at_once() -> None:
    """A HEAD has no body, least of all one without end."""
    assert list(events(Face(site(), browser=True), "HEAD")) == []


def test_a_site_of_one_thread_keeps_it() -> None:
    """Its pages ask again and again instead."""
    face = Face(site(), browser=True, boot="1", most=0)
    told = b"".join(events(face))
    assert b"event: boot" in told
    assert b"retry: 10000" in told


def test_streams_end_before_a_drain(engine: Engine) -> None:
    """Nothing else would: a page stays open for days."""
    face = Face(site(), browser=True)
    ReloadFace(engine, face).subscribe()
    engine.start()
    heard: list[bytes] = []
    stream = events(face)
    thread = threading.Thread(target=lambda: heard.extend(stream))
    thread.start()
    wait_for(lambda: heard)
    engine.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert len(list(events(face))) == 1

    engine.start()
    stream = events(face)
    next(stream)
    engine.publish("files_refreshed", ("page.html",))
    assert b"refresh" in next(stream)


def test_no_more_threads_than_agreed_are_held() -> None:
    """An eleventh tab must not stop a site of ten threads."""
    face = Face(site(), browser=True)
    face.streams.most = 2
    streams = [events(face) for _ in range(3)]
    for stream in streams:
        next(stream)
    assert b"retry: 10000" in next(streams[0])
    assert list(streams[0]) == []
    face.refresh()
    assert all(b"refresh" in next(islice(each, 1)) for each in streams[1:])
