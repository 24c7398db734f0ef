"""The ASGI face of a site: where requests go, what applications see, and what failures cost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sitebus.asgi import ASGIApplication, Message, Receive, Scope, Send
from sitebus.errors import DuplicateMount, LifespanFailed, WouldDeadlock
from sitebus.loop import LoopThread
from sitebus.mounts import Site
from tests.asgi_helpers import Living, answer, ask, asked, request, saying
from tests.helpers import ROOT, wait_for
from tests.wsgi_helpers import environ_of


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.crossing.close()


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    made = LoopThread()
    yield made
    made.stop()


def run(loop: LoopThread, coroutine: Any) -> Any:
    return loop.submit(coroutine).result(10).get()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/", "root '' '/' '/'"),
        ("/other", "root '' '/other' '/other'"),
        ("/blog", "blog '/blog' '/blog' '/blog'"),
        ("/blog/", "blog '/blog' '/blog/' '/blog/'"),
        ("/blog/a/b", "blog '/blog' '/blog/a/b' '/blog/a/b'"),
        ("/blogs", "root '' '/blogs' '/blogs'"),
        ("//blog/x", "root '' '//blog/x' '//blog/x'"),
        ("*", "root '' '*' '%2A'"),
        ("xblog/y", "root '' 'xblog/y' 'xblog/y'"),
        ("/" + "a" * 5000, None),
        ("/" + "a/" * 5000, None),
    ],
)
def test_the_longest_prefix_of_whole_segments_wins(site: Site, path: str, text: str | None) -> None:
    """And the path stays as it was: the specification strips nothing."""
    site.mount(saying("root"))
    site.mount(saying("blog"), "/blog")
    expected = text or f"root '' {path!r} {path!r}"
    assert ask(site.asgi, path).text == expected


def test_deep_prefixes_and_hosts_are_found_as_on_the_other_face(site: Site) -> None:
    """One table serves both."""
    site.mount(saying("deep"), "/a/b")
    site.mount(saying("über"), "/über")
    site.mount(saying("api"), "/v1", host="api.example.org")
    assert ask(site.asgi, "/a/b/c").text == "deep '/a/b' '/a/b/c' '/a/b/c'"
    assert ask(site.asgi, "/über/x").text == "über '/über' '/über/x' '/%C3%BCber/x'"
    assert ask(site.asgi, "/v1/x", host="API.example.org:80").text.startswith("api '/v1'")
    assert ask(site.asgi, "/v1/x").status == 404


@pytest.mark.parametrize(
    ("root", "path", "text"),
    [
        ("/out", "/out/blog/x", "'/out/blog' '/out/blog/x' '/out/blog/x'"),
        ("/out/", "/out/blog/x", "'/out/blog' '/out/blog/x' '/out/blog/x'"),
        ("/out", "/blog/x", "'/out/blog' '/out/blog/x' '/out/blog/x'"),
        ("/blog", "/blog/blog/x", "'/blog/blog' '/blog/blog/x' '/blog/blog/x'"),
    ],
)
def test_an_outer_prefix_is_kept(site: Site, root: str, path: str, text: str) -> None:
    """Also of servers that do not repeat it in the path, as hypercorn and granian do not."""
    site.mount(saying("blog"), "/blog")
    assert ask(site.asgi, path, root_path=root).text == f"blog {text}"


@pytest.mark.parametrize(
    ("style", "path", "raw", "text"),
    [
        ("stripped", "/app/a/b", b"/app/a%2Fb", "'/app' '/a/b' '/a%2Fb'"),
        ("stripped", "/app", b"/app", "'/app' '/' '/'"),
        ("flat", "/app/x", b"/%61pp/x", "'' '/x' '/x'"),
        ("flat", "/app/", b"/app/", "'' '/' '/'"),
        ("spec", "/app/a/b", b"/app/a%2Fb", "'/app' '/app/a/b' '/app/a%2Fb'"),
    ],
)
def test_a_path_is_told_in_the_style_that_is_asked_for(
    site: Site, style: Any, path: str, raw: bytes, text: str
) -> None:
    """Two frameworks route by other rules than the specification's."""
    site.mount(saying("app"), "/app", path_style=style)
    assert ask(site.asgi, path, raw_path=raw).text == f"app {text}"


def test_the_servers_scope_is_never_changed(site: Site) -> None:
    """Servers go on using it, for their logs for one."""

    async def greedy(scope: Scope, receive: Receive, send: Send) -> None:
        scope.clear()
        await answer(send, "done")

    site.mount(greedy, "/x")
    scope = request("/x/y")
    before = dict(scope)
    assert asyncio.run(asked(site.asgi, scope)).text == "done"
    assert scope == before


def test_asgi_2_applications_are_served(site: Site) -> None:
    """Some frameworks' middleware still is."""

    class Old:
        def __init__(self, scope: Scope) -> None:
            self.scope = scope

        async def __call__(self, receive: Receive, send: Send) -> None:
            await answer(send, f"old {self.scope['path']}")

    assert site.mount(Old, "/old").interface == "asgi2"
    assert ask(site.asgi, "/old/x").text == "old /old/x"


def test_filters_are_middleware_of_the_applications_own_interface(site: Site) -> None:
    """The outermost comes first."""

    def adding(text: str) -> Any:
        def wrap(app: ASGIApplication) -> ASGIApplication:
            async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
                async def more(message: Message) -> None:
                    if message.get("body"):
                        message = {**message, "body": message["body"] + text.encode()}
                    if message["type"] == "http.response.start":
                        message = {**message, "headers": []}
                    await send(message)

                await app(scope, receive, more)

            return wrapped

        return wrap

    site.mount(saying("x"), "/x", filters=[adding(" outer"), adding(" inner")])
    assert ask(site.asgi, "/x").text.endswith(" inner outer")


@pytest.mark.parametrize("style", ["spec", "stripped", "flat"])
def test_cookies_can_be_kept_to_the_prefix(site: Site, style: Any) -> None:
    """Two applications of one framework must not log each other's users out."""
    app = saying("x", set_cookie="session=1; Path=/")
    site.mount(app, "/ä b", cookie_path="prefix", path_style=style)
    assert ask(site.asgi, "/ä b/x").headers["set-cookie"] == "session=1; Path=/%C3%A4%20b"


@pytest.mark.parametrize(("slash", "status"), [("pass", 200), ("redirect", 308), ("strict", 404)])
def test_a_bare_prefix_gets_what_its_mount_says(site: Site, slash: Any, status: int) -> None:
    """As on the other face."""
    site.mount(saying("x"), "/x", slash=slash)
    got = ask(site.asgi, "/x", query_string=b"a=1")
    assert got.status == status
    if slash == "redirect":
        assert got.headers["Location".lower()] == "/x/?a=1"
    assert ask(site.asgi, "/x/").status == 200


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer no request at all."""


async def no_body(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def body_first(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.body", "body": b"x"})


async def two_starts(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def text_body(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": "text"})


async def bad_status(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": "200 OK", "headers": []})


async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.answer"})


async def raising(scope: Scope, receive: Receive, send: Send) -> None:
    raise KeyError("x")


async def raising_late(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise KeyError("x")


async def leaving(scope: Scope, receive: Receive, send: Send) -> None:
    raise SystemExit(3)


async def cancelled(scope: Scope, receive: Receive, send: Send) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    "app",
    [nothing, no_body, body_first, two_starts, text_body, bad_status, unknown, raising,
     raising_late, leaving, cancelled],
)  # fmt: skip
def test_a_failure_is_a_logged_500(
    site: Site, app: ASGIApplication, caplog: pytest.LogCaptureFixture
) -> None:
    """And costs its own request only."""
    site.mount(app, "/bad")
    site.mount(saying("good"), "/good")
    assert ask(site.asgi, "/bad").status == 500
    assert len(caplog.records) == 1
    assert caplog.records[0].name == "sitebus.mount./bad"
    assert ask(site.asgi, "/good").status == 200


async def after_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, "whole")
    await send({"type": "http.response.body", "body": b"more"})


async def half(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})


@pytest.mark.parametrize(("app", "whole"), [(after_the_end, True), (half, False)])
def test_what_comes_too_late_for_a_500_is_logged(
    site: Site, app: ASGIApplication, whole: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What is unfinished stays so: the server breaks it off, and no client takes it for whole."""
    site.mount(app)
    got = ask(site.asgi)
    assert got.complete is whole
    assert "more" not in got.text
    assert len(caplog.records) == 1


def test_a_client_that_has_left_is_nobodys_fault(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Every long stream ends that way."""

    async def lost(scope: Scope, receive: Receive, send: Send) -> None:
        await half(scope, receive, send)
        try:
            raise ConnectionResetError
        except OSError as error:
            raise RuntimeError("the framework's own") from error

    site.mount(half, "/half")
    site.mount(lost, "/lost")
    gone = [{"type": "http.request"}, {"type": "http.disconnect"}]
    assert not ask(site.asgi, "/half", incoming=gone).complete
    assert not ask(site.asgi, "/lost", incoming=gone).complete
    assert not caplog.records


def test_a_cancelled_request_stays_cancelled(site: Site) -> None:
    """Servers cancel what a stop cannot wait for."""
    reached = asyncio.Event()

    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        reached.set()
        await asyncio.Event().wait()

    mount = site.mount(stuck)

    async def cancel() -> bool:
        task = asyncio.ensure_future(asked(site.asgi, request()))
        await reached.wait()
        assert mount.in_flight == 1
        task.cancel()
        await asyncio.wait({task})
        return task.cancelled()

    assert asyncio.run(cancel())
    assert mount.in_flight == 0


def test_a_stream_begins_with_its_first_piece(site: Site) -> None:
    """Server-sent events are of no use later."""

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        await send({"type": "http.response.body"})

    site.mount(stream)
    got = ask(site.asgi)
    assert got.text == "012"
    assert got.complete
    assert got.types == ["http.response.start", *["http.response.body"] * 4]


def test_trailers_and_other_extensions_pass(site: Site) -> None:
    """What a server offers, its applications may use."""

    async def trailing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": []})
        headers = [(b"content-length", b"1")]
        await send(
            {"type": "http.response.start", "status": 200, "headers": headers, "trailers": True}
        )
        await send({"type": "http.response.body", "body": b"x"})
        await send({"type": "http.response.trailers", "headers": []})

    site.mount(trailing)
    assert ask(site.asgi).types == [
        "http.response.early_hint", "http.response.start", "http.response.body",
        "http.response.trailers",
    ]  # fmt: skip


def connect(site: Site, path: str, **more: Any) -> Any:
    incoming = more.pop("incoming", [{"type": "websocket.connect"}])
    return asyncio.run(asked(site.asgi, request(path, kind="websocket", **more), incoming))


def test_websockets_reach_their_mount(site: Site) -> None:
    """By the same rules as requests."""

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        said = (await receive())["text"]
        await send({"type": "websocket.send", "text": f"{scope['root_path']} {said}"})
        await send({"type": "websocket.close", "code": 1000})

    site.mount(echo, "/ws")
    said = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]
    got = connect(site, "/ws/x", incoming=said)
    assert got.types == ["websocket.accept", "websocket.send", "websocket.close"]
    assert got.messages[1]["text"] == "/ws hello"


def test_a_websocket_that_nobody_answers_is_refused(site: Site) -> None:
    """With a 404 where the server can send one."""
    site.mount(lambda environ, start_response: [], "/wsgi", interface="wsgi")
    for path in ("/none", "/wsgi"):
        assert connect(site, path).types == ["websocket.close"]
        can: dict[str, Any] = {"websocket.http.response": {}}
        got = connect(site, path, extensions=can)
        assert got.types == ["websocket.http.response.start", "websocket.http.response.body"]
        assert got.status == 404


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_a_websocket_is_closed_whatever_its_application_does(
    site: Site, accepts: bool, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Or its client would wait for ever."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if accepts:
            await send({"type": "websocket.accept"})
        if fails:
            raise KeyError("x")

    site.mount(app)
    got = connect(site, "/", incoming=[])
    assert got.types[-1] == "websocket.close"
    assert got.messages[-1]["code"] == (1011 if fails or not accepts else 1000)
    assert len(caplog.records) == (1 if fails or not accepts else 0)


# From one face to the other.


def test_wsgi_applications_are_reached_through_the_asgi_face(site: Site) -> None:
    """Whatever the server speaks, the site is the same."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{environ['SCRIPT_NAME']} {environ['PATH_INFO']}".encode("latin-1")]

    site.mount(app, "/w/ä")
    assert ask(site.asgi, "/w/ä/x", root_path="").text == "/w/ä /x"
    assert ask(site.asgi, "/out/w/ä/x", root_path="/out").text == "/out/w/ä /x"


def test_asgi_applications_are_reached_through_the_wsgi_face(site: Site) -> None:
    """The other way round."""
    from tests.wsgi_helpers import ask as ask_wsgi

    site.mount(saying("app"), "/app")
    assert ask_wsgi(site.wsgi, "/app/x").text.startswith("app '/app' '/app/x'")


@pytest.mark.parametrize("server", [("/run/x.sock", None), None])
@pytest.mark.parametrize("host", ["localhost", "localhost:9000"])
def test_no_client_chooses_the_port_by_which_it_came(site: Site, server: Any, host: str) -> None:
    """What is mounted on an inner port must not be reached through a socket without one."""

    def saying_wsgi(text: bytes) -> Any:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [text]

        return app

    site.mount(saying_wsgi(b"public"))
    for port in (80, 9000):
        site.mount(saying_wsgi(b"inner"), port=port)
    assert ask(site.asgi, "/x", host=host, server=server).text == "public"
    assert ask(site.asgi, "/x", host=host, server=("127.0.0.1", 9000)).text == "inner"


# Lifespans.


def test_lifespans_run_in_mount_order_and_back(site: Site, loop: LoopThread) -> None:
    """Each with its own state."""
    log: list[str] = []
    for name in "abc":
        site.mount(Living(name, log), f"/{name}")
    site.mount(saying("none"), "/none")
    run(loop, site.lifespans.start())
    assert log == ["a up", "b up", "c up"]
    assert run(loop, asked(site.asgi, request("/b"))).text == "b b"
    assert run(loop, site.lifespans.stop()) == []
    assert log[3:] == ["c down", "b down", "a down"]
    assert not site.lifespans.live


def test_a_request_cannot_change_the_state_of_others(site: Site, loop: LoopThread) -> None:
    """The specification asks for a copy, of the outermost level."""

    class Changing(Living):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await super().__call__(scope, receive, send)
            scope["state"]["name"] = "changed"

    site.mount(Changing("a", []))
    run(loop, site.lifespans.start())
    for _ in range(2):
        assert run(loop, asked(site.asgi, request())).text == "a a"
    run(loop, site.lifespans.stop())


@pytest.mark.parametrize("fails", ["startup", "hangs"])
def test_one_that_fails_undoes_those_before(site: Site, loop: LoopThread, fails: str) -> None:
    """A site is up as a whole, or not at all; and the sentence names the application."""
    log: list[str] = []
    site.mount(Living("a", log), "/a")
    site.mount(Living("b", log, fails=fails), "/b", lifespan_timeout=0.1)
    site.mount(Living("c", log), "/c")
    with pytest.raises(LifespanFailed) as caught:
        run(loop, site.lifespans.start())
    reason = "no database" if fails == "startup" else "it took longer than 0.1 s"
    assert str(caught.value) == f"the application at /b did not start: {reason}"
    assert log == ["a up", "a down"]


def test_a_failing_shutdown_holds_up_nothing(site: Site, loop: LoopThread) -> None:
    """The others end, and it is told."""
    log: list[str] = []
    site.mount(Living("a", log), "/a")
    site.mount(Living("b", log, fails="shutdown"), "/b")
    run(loop, site.lifespans.start())
    (failure,) = run(loop, site.lifespans.stop())
    assert str(failure) == "the application at /b did not end well: lost"
    assert log[-2:] == ["b down", "a down"]


def test_a_lifespan_that_must_be_is_missed(site: Site, loop: LoopThread) -> None:
    """``auto`` lets one do without."""
    site.mount(saying("x"), "/auto")
    site.mount(Living("off", []), "/off", lifespan="off")
    run(loop, site.lifespans.start())
    run(loop, site.lifespans.stop())
    site.mount(saying("x"), "/on", lifespan="on")
    with pytest.raises(LifespanFailed, match="its lifespan is on, and it raised RuntimeError"):
        run(loop, site.lifespans.start())


def test_a_startup_that_raises_is_told(
    site: Site, loop: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    """The specification says to go on, which is not what its author wanted."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise KeyError("database")

    site.mount(broken)
    run(loop, site.lifespans.start())
    assert "raised at its startup" in caplog.text
    run(loop, site.lifespans.stop())


def test_what_is_mounted_while_serving_comes_up_first(site: Site, loop: LoopThread) -> None:
    """And ends when its last request is done."""
    log: list[str] = []
    site.mount(Living("a", log), "/a")
    run(loop, site.lifespans.start())
    late = site.mount(Living("late", log), "/late")
    assert log == ["a up", "late up"]
    assert run(loop, asked(site.asgi, request("/late"))).text == "late late"
    late.unmount()
    wait_for(lambda: log[-1] == "late down")
    with pytest.raises(LifespanFailed):
        site.mount(Living("bad", log, fails="startup"), "/bad")
    assert len(site.mounts) == 1
    site.mount(Living("new", log), "/a", replace=True)
    wait_for(lambda: log[-1] == "a down")
    run(loop, site.lifespans.stop())
    assert log[-1] == "new down"


def test_a_duplicate_does_not_come_up(site: Site, loop: LoopThread) -> None:
    """What is refused has no effects."""
    log: list[str] = []
    site.mount(Living("a", log), "/a")
    run(loop, site.lifespans.start())
    with pytest.raises(DuplicateMount):
        site.mount(Living("b", log), "/a")
    assert log == ["a up"]
    run(loop, site.lifespans.stop())


def test_mounting_on_the_loop_itself_is_refused(site: Site, loop: LoopThread) -> None:
    """It would wait for itself."""

    async def mount() -> None:
        site.mount(Living("x", []), "/x")

    site.mount(Living("a", []), "/a")
    run(loop, site.lifespans.start())
    with pytest.raises(WouldDeadlock, match=r"asyncio\.to_thread"):
        run(loop, mount())
    run(loop, site.lifespans.stop())


@pytest.mark.parametrize("fails", ["", "startup", "shutdown"])
def test_a_server_of_somebody_elses_can_drive_the_lifespans(site: Site, fails: str) -> None:
    """``uvicorn module:site.asgi`` serves the same site."""
    log: list[str] = []
    site.mount(Living("a", log, fails=fails), "/a")
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    got = asyncio.run(asked(site.asgi, scope, events))
    if fails == "startup":
        assert got.types == ["lifespan.startup.failed"]
        assert "no database" in got.messages[0]["message"]
    else:
        last = "failed" if fails else "complete"
        assert got.types == ["lifespan.startup.complete", f"lifespan.shutdown.{last}"]
        assert log == ["a up", "a down"]


def test_draining_on_a_loop_is_refused(site: Site) -> None:
    """What it would wait for may need that loop, and be the very request that asks."""
    refused: list[BaseException] = []

    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        mount.unmount()
        for timeout in (None, 5):
            try:
                mount.drain(timeout)
            except WouldDeadlock as error:
                refused.append(error)
        assert not mount.drain(0)
        await answer(send, "left")

    mount = site.mount(leave, "/x")
    assert ask(site.asgi, "/x").text == "left"
    assert [str(each) for each in refused] == [
        "drain of /x would wait for the event loop it runs on; "
        "use await asyncio.to_thread(mount.drain)"
    ] * 2
    assert mount.drain()

    async def drain() -> bool:
        return mount.drain()

    assert asyncio.run(drain()), "nothing to wait for"


def test_an_error_that_a_body_yet_to_come_has_nothing_to_do_with_is_told_at_once(
    site: Site,
) -> None:
    """To look for a client that has left must not wait for one that is slow."""
    read, over = threading.Event(), threading.Event()

    class Pending:
        def read(self, size: int) -> bytes:
            read.set()
            over.wait(10)
            return b""

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise FileNotFoundError("template")

    site.mount(failing)
    site.configure(on_error=lambda *_: read.wait(0.5))  # a log that takes its time
    environ = environ_of("/", REQUEST_METHOD="POST", CONTENT_LENGTH="10")
    environ["wsgi.input"] = Pending()
    said: list[str] = []

    def start(status: str, headers: Any, exc_info: Any = None) -> Any:
        said.append(status)

    thread = threading.Thread(target=site.wsgi, args=(environ, start), daemon=True)
    thread.start()
    wait_for(lambda: said or read.is_set())
    over.set()
    thread.join(10)
    assert said == ["500 Internal Server Error"]
    assert not read.is_set()


# Logs and pages.


def test_a_line_for_each_request(site: Site, tmp_path: Any) -> None:
    """As on the other face, with the mount's name and not the path."""
    from sitebus.mounts.access import AccessLog

    path = tmp_path / "access.log"
    with AccessLog(path) as log:
        site.configure(access_log=log)
        site.mount(saying("x"), "/x")
        ask(site.asgi, "/x/y", query_string=b"q=1", headers=[(b"user-agent", b"me")])
        ask(site.asgi, "/none")
    first, second = path.read_text().splitlines()
    assert '"GET /x/y?q=1 HTTP/1.1" 200 ' in first
    assert '"me" "/x"' in first
    assert '"GET /none HTTP/1.1" 404 ' in second


def test_pages_of_development(caplog: pytest.LogCaptureFixture) -> None:
    """The nearest mount, and the traceback."""
    site = Site(development=True)
    site.mount(raising, "/blog")
    html = [(b"accept", b"text/html")]
    assert "/blog" in ask(site.asgi, "/blgo", headers=html).text
    got = ask(site.asgi, "/blog", headers=html)
    assert "KeyError" in got.text
    assert got.headers["content-type"] == "text/html; charset=utf-8"
    assert caplog.record_tuples[0][1] == logging.ERROR


def test_changes_while_requests_run_leave_no_hole(site: Site, loop: LoopThread) -> None:
    """Each request sees the site before a change or after it."""
    site.mount(saying("one"), "/x")
    ended = threading.Event()

    def change() -> None:
        for _ in range(200):
            site.mount(saying("two"), "/x", replace=True)
        ended.set()

    thread = threading.Thread(target=change)
    thread.start()
    count = 0
    while not ended.is_set() or count < 100:
        assert run(loop, asked(site.asgi, request("/x"))).status == 200
        count += 1
    thread.join()


# What servers and clients do besides.


async def _served(
    app: ASGIApplication, scope: Scope, receive: Receive, *, closed: str = ""
) -> list[Message]:
    """Call *app* as a server does that raises when a message of the type *closed* is sent."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        if message["type"] == closed:
            raise RuntimeError("it is closed")
        sent.append(message)

    async def called() -> None:
        await app(scope, receive, send)

    await asyncio.wait_for(called(), 5)
    return sent


def from_list(*messages: Message) -> Receive:
    """Answer what gives these messages, and then never another."""
    left = list(messages)

    async def receive() -> Message:
        while not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


@pytest.mark.parametrize("app", [nothing, no_body])
def test_a_server_that_does_not_stop_listening_holds_nothing_up(
    site: Site, app: ASGIApplication, caplog: pytest.LogCaptureFixture
) -> None:
    """A server in another language need not heed a cancellation."""

    async def ask_it() -> list[Message]:
        over = asyncio.Event()

        async def receive() -> Message:
            while not over.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await over.wait()
            raise OSError("closed")

        try:
            return await _served(site.asgi, request(), receive)
        finally:
            over.set()

    site.mount(app)
    assert asyncio.run(ask_it())[0]["status"] == 500
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_client_that_never_stops_sending_holds_nothing_up(site: Site, kind: str) -> None:
    """Its messages are only looked through for the news that it has gone."""
    count = 0

    async def receive() -> Message:
        nonlocal count
        count += 1
        return {"type": f"{kind}.receive", "body": b"x", "text": "x", "more_body": True}

    site.mount(nothing)
    sent = asyncio.run(_served(site.asgi, request(kind=kind), receive))
    assert sent[-1]["type"] in ("http.response.body", "websocket.close")
    assert count <= 1000


def test_a_websocket_whose_end_was_heard_is_no_failure(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Not every server says a second time that the client has gone; most then take no close."""

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    site.mount(listen)
    ended = from_list({"type": "websocket.connect"}, {"type": "websocket.disconnect"})
    scope = request(kind="websocket")
    sent = asyncio.run(_served(site.asgi, scope, ended, closed="websocket.close"))
    assert [each["type"] for each in sent] == ["websocket.accept"]
    assert not caplog.records


def test_a_half_refused_websocket_is_one_failure(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """No close can follow the beginning of a response: the server breaks it off."""

    async def half_denied(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})

    site.mount(half_denied)
    got = connect(site, "/", extensions={"websocket.http.response": {}})
    assert got.types == ["websocket.http.response.start"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("starts", [True, False])
def test_what_a_failed_request_left_running_says_nothing_more(site: Site, starts: bool) -> None:
    """The response is the site's by then, or broken off."""
    refused: list[str] = []
    tasks = []

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        async def later() -> None:
            for kind in ("http.response.start", "http.response.body"):
                try:
                    await send({"type": kind, "status": 200, "headers": []})
                except Exception as error:
                    refused.append(str(error))

        tasks.append(asyncio.ensure_future(later()))
        if starts:
            await half(scope, receive, send)
        raise KeyError("x")

    async def ask_it() -> list[Message]:
        sent = await _served(site.asgi, request(), from_list())
        await asyncio.wait(tasks)
        return sent

    site.mount(failing)
    sent = asyncio.run(ask_it())
    assert [each["type"] for each in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == (200 if starts else 500)
    assert len(refused) == 2


def test_an_application_at_the_root_is_told_the_whole_path(site: Site) -> None:
    """Also by servers that do not repeat in it what is in front of the site."""
    site.mount(saying("root"))
    assert ask(site.asgi, "/x", root_path="/out").text == "root '/out' '/out/x' '/out/x'"
    assert ask(site.asgi, "/out/x", root_path="/out").text == "root '/out' '/out/x' '/out/x'"


@pytest.mark.parametrize("lifespan", ["auto", "on"])
def test_each_request_has_a_state_of_its_own(site: Site, lifespan: Any) -> None:
    """Frameworks keep what is of one request there; a server may give the same one to all."""

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["user"] = "me"
        await answer(send, "done")

    site.mount(noting, lifespan=lifespan)
    shared: dict[str, Any] = {}
    assert ask(site.asgi, state=shared).text == "done"
    assert shared == {}
    scope = request()
    del scope["state"]
    assert asyncio.run(asked(site.asgi, scope)).text == "done"


def test_a_scope_may_have_no_more_than_it_must(site: Site) -> None:
    """The specification lets servers leave out the rest."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, f"{scope.get('root_path')} {scope['path']}")

    def wsgi(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["SCRIPT_NAME"].encode(), environ["PATH_INFO"].encode()]

    for style in ("spec", "stripped", "flat"):
        site.mount(app, f"/{style}", path_style=style, slash="redirect")
    site.mount(wsgi, "/wsgi")
    site.mount(app, "/deep/er")

    def least(path: str) -> str:
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
                 "method": "GET", "path": path, "query_string": b"", "headers": []}  # fmt: skip
        got = asyncio.run(asked(site.asgi, scope))
        return got.headers.get("location") or got.text

    assert least("/spec/x") == "/spec /spec/x"
    assert least("/stripped/x") == "/stripped /x"
    assert least("/flat/x") == " /x"
    assert least("/flat") == "/flat/"
    assert least("/wsgi/x") == "/wsgi/x"
    assert least("/deep/er/x") == "/deep/er /deep/er/x"
    assert least("/none").startswith("404")


def test_a_response_to_head_has_no_size(site: Site, tmp_path: Any) -> None:
    """As on the other face: the server sends nothing of the body."""
    from sitebus.mounts.access import AccessLog

    with AccessLog(tmp_path / "access.log") as log:
        site.configure(access_log=log)
        site.mount(saying("x"), "/x")
        ask(site.asgi, "/x", method="HEAD")
    assert '"HEAD /x HTTP/1.1" 200 0 ' in (tmp_path / "access.log").read_text()


_FORKING = """
import os, sys, asyncio
from sitebus.mounts import Site
from tests.asgi_helpers import ask

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

site = Site()
site.mount(app, "/w")
assert ask(site.asgi, "/w").text == "ok"
child = os.fork()
if not child:
    os._exit(7 if ask(site.asgi, "/w").text == "ok" else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_a_forked_process_has_threads_of_its_own() -> None:
    """A fork copies what is known of them, but not them."""
    import subprocess
    import sys

    command = [sys.executable, "-W", "ignore", "-c", _FORKING]
    subprocess.run(command, check=True, timeout=30, cwd=ROOT)
