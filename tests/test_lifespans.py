"""Lifespans: which come up when, what wrong ones cost, and the bus that runs them."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sitebus.asgi import ASGIApplication, Receive, Scope, Send
from sitebus.assembly.lifespans import LifespanKeeper
from sitebus.errors import CommandCancelled, LifespanFailed
from sitebus.loop import LoopThread
from sitebus.mounts import Site
from sitebus.process import Engine
from tests.asgi_helpers import Living, answer, asked, request, saying
from tests.helpers import Child, wait_for


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


def speaking(*words: str, ends: BaseException | None = None) -> ASGIApplication:
    """An application that says *words* at its lifespan, one more each time it is asked."""

    async def speak(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await answer(send, "here")
            return
        for each in words:
            await receive()
            for word in each.split():
                await send({"type": f"lifespan.{word}"})
        if ends is not None:
            raise ends

    return speak


COMPLETE = ("startup.complete", "shutdown.complete")


# One application.


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("shutdown.complete",), "the application sent lifespan.shutdown.complete; "
         "lifespan.startup.complete or .failed was expected"),
        (("started",), "the application sent lifespan.started; "),
        (("",), "it ended without an answer"),
        ((), "it has none"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_no_startup(
    site: Site, loop: LoopThread, words: tuple[str, ...], sentence: str
) -> None:
    """Or a typing error would go unnoticed until the shutdown."""
    site.mount(speaking(*words), "/x", lifespan="on")
    with pytest.raises(LifespanFailed) as caught:
        run(loop, site.lifespans.start())
    assert sentence in str(caught.value)


def test_a_second_answer_is_told(site: Site, loop: LoopThread) -> None:
    """With what the application said, once it ends."""
    site.mount(speaking("startup.complete startup.complete", "shutdown.complete"), "/x")
    run(loop, site.lifespans.start())
    (failure,) = run(loop, site.lifespans.stop())
    assert "sent lifespan.startup.complete; the lifespan asks for nothing now" in str(failure)


def test_the_answer_to_the_startup_is_none_to_the_shutdown(site: Site, loop: LoopThread) -> None:
    """Whoever says so has not ended."""
    site.mount(speaking("startup.complete", "startup.complete"), "/x")
    run(loop, site.lifespans.start())
    (failure,) = run(loop, site.lifespans.stop())
    assert "lifespan.shutdown.complete or .failed was expected" in str(failure)


def test_an_application_may_have_nothing_to_end(site: Site, loop: LoopThread) -> None:
    """It returns as soon as it is up."""
    site.mount(speaking("startup.complete"), "/x")
    run(loop, site.lifespans.start())
    assert run(loop, site.lifespans.stop()) == []


@pytest.mark.parametrize("ends", [SystemExit(3), KeyboardInterrupt()])
def test_a_lifespan_cannot_end_the_loop(
    site: Site, loop: LoopThread, ends: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Every other application lives on it."""
    site.mount(speaking("", ends=ends), "/x")
    run(loop, site.lifespans.start())
    assert "raised at its startup" in caplog.text
    assert run(loop, asked(site.asgi, request("/x"))).text == "here"
    run(loop, site.lifespans.stop())
    site.mount(speaking("", ends=ends), "/y", lifespan="on")
    with pytest.raises(LifespanFailed, match=f"it raised {type(ends).__name__}"):
        run(loop, site.lifespans.start())


def test_a_traceback_for_a_reason_becomes_one_sentence(site: Site, loop: LoopThread) -> None:
    """Starlette's applications give one; it is for the log."""

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        text = 'Traceback:\n  File "shop.py", line 3, in connect\nOSError: no database\n'
        await send({"type": "lifespan.startup.failed", "message": text})

    site.mount(failing, "/x")
    with pytest.raises(LifespanFailed) as caught:
        run(loop, site.lifespans.start())
    assert str(caught.value) == "the application at /x did not start: OSError: no database"
    assert 'File "shop.py", line 3' in caught.value.traceback_text


# While the site starts, serves and stops.


class Slow(Living):
    """Comes up only when it may."""

    def __init__(self, log: list[str]) -> None:
        super().__init__("slow", log)
        self.begun = threading.Event()
        self.may = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and not self.may:
            self.begun.set()
            await asyncio.Event().wait()
        await super().__call__(scope, receive, send)


class Late(Living):
    """Comes up once it is told to."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__(name, log)
        self.begun = threading.Event()
        self.go = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun.set()
        await asyncio.to_thread(self.go.wait, 10)
        await super().__call__(scope, receive, send)


def test_a_stop_waits_for_nothing_that_comes_up(site: Site, loop: LoopThread) -> None:
    """It is mounted all the same, and comes up with the next start."""
    log: list[str] = []
    slow = Slow(log)
    site.mount(Living("a", log), "/a")
    run(loop, site.lifespans.start())
    thread = threading.Thread(target=site.mount, args=(slow, "/slow"))
    thread.start()
    assert slow.begun.wait(5)
    run(loop, site.lifespans.stop())
    thread.join(5)
    assert not thread.is_alive()
    assert log == ["a up", "a down"]
    assert [mount.name for mount in site.mounts] == ["/a", "/slow"]
    slow.may = True
    run(loop, site.lifespans.start())
    run(loop, site.lifespans.stop())
    assert log[2:] == ["a up", "slow up", "slow down", "a down"]


@pytest.mark.parametrize("begun", [True, False])
def test_what_is_unmounted_while_the_site_starts_does_not_stay_up(
    site: Site, loop: LoopThread, begun: bool
) -> None:
    """Whether its own startup has begun by then or not."""
    log: list[str] = []
    slow = Late("slow", log)
    mount = site.mount(slow, "/slow")
    after = site.mount(Living("after", log), "/after")
    starting = loop.submit(site.lifespans.start())
    assert slow.begun.wait(5)
    (mount if begun else after).unmount()
    slow.go.set()
    starting.result(10).get()
    expected = ["slow up", "slow down", "after up"] if begun else ["slow up"]
    wait_for(lambda: sorted(log) == sorted(expected))
    run(loop, site.lifespans.stop())
    assert log[-1] == ("after down" if begun else "slow down")


def test_a_stop_waits_for_what_goes(site: Site, loop: LoopThread) -> None:
    """The loop may end right after it."""
    log: list[str] = []
    going, may_go = threading.Event(), asyncio.Event()

    async def leaving(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        going.set()
        await may_go.wait()
        log.append("gone")
        await send({"type": "lifespan.shutdown.complete"})

    mount = site.mount(leaving, "/x")
    run(loop, site.lifespans.start())
    mount.unmount()
    assert going.wait(5)
    loop.loop.call_soon_threadsafe(loop.loop.call_later, 0.05, may_go.set)
    run(loop, site.lifespans.stop())
    assert log == ["gone"]


def test_what_is_mounted_just_when_the_site_starts_comes_up(site: Site, loop: LoopThread) -> None:
    """After the look at whether it serves, and before the mount is there."""
    log: list[str] = []
    join = site.lifespans.join

    def joined(mount: Any) -> Any:
        epoch = join(mount)
        if not site.lifespans.live:
            run(loop, site.lifespans.start())
        return epoch

    site.lifespans.join = joined  # type: ignore[method-assign]
    site.mount(Living("x", log), "/x")
    assert log == ["x up"]
    run(loop, site.lifespans.stop())
    assert log == ["x up", "x down"]


def test_many_may_mount_at_once_while_the_site_comes_and_goes(site: Site, loop: LoopThread) -> None:
    """Whatever is mounted is up while the site is, and nothing else."""
    log: list[str] = []

    def change(name: str) -> None:
        for number in range(20):
            mount = site.mount(Living(f"{name}{number}", log), f"/{name}", replace=True)
            if number % 3 == 0:
                mount.unmount()

    threads = [threading.Thread(target=change, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        run(loop, site.lifespans.start())
        run(loop, site.lifespans.stop())
    run(loop, site.lifespans.start())
    for mount in site.mounts:
        assert mount._lifespan is not None
        assert mount._lifespan.running
    run(loop, site.lifespans.stop())
    wait_for(lambda: sum("up" in each for each in log) == sum("down" in each for each in log))


def test_a_second_server_ends_nothing(site: Site, loop: LoopThread) -> None:
    """Whoever had the applications come up has them end."""
    log: list[str] = []
    site.mount(Living("a", log), "/a")
    run(loop, site.lifespans.start())
    events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    got = run(loop, asked(site.asgi, {"type": "lifespan", "asgi": {}}, events))
    assert got.types == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert log == ["a up"]
    run(loop, site.lifespans.stop())


def test_a_server_that_gives_up_its_lifespan_ends_them(site: Site) -> None:
    """Some cancel it instead of saying that they end."""
    log: list[str] = []
    site.mount(Living("a", log), "/a")

    async def serve() -> None:
        up = asyncio.Event()
        events = iter([{"type": "lifespan.startup"}])

        async def receive() -> Any:
            for event in events:
                return event
            up.set()
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            pass

        scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
        serving = asyncio.ensure_future(site.plain_asgi(scope, receive, send))
        await up.wait()
        serving.cancel()
        await asyncio.wait({serving})
        assert serving.cancelled()

    asyncio.run(serve())
    assert log == ["a up", "a down"]


# On a bus.


class Told:
    """What the keeper tells of."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.refused: list[str] = []
        self.accepted = 0
        self.leaves = True

    def refuse(self, error: Exception) -> None:
        self.refused.append(str(error))
        if self.leaves:
            self.engine.exit()

    def accept(self) -> None:
        self.accepted += 1


@pytest.fixture
def told(engine: Engine, site: Site) -> Told:
    made = Told(engine)
    LifespanKeeper(engine, site, made.refuse, made.accept).subscribe()
    return made


def test_each_start_of_the_bus_has_them_come_up(engine: Engine, site: Site, told: Told) -> None:
    """And each stop ends them."""
    log: list[str] = []
    site.mount(Living("a", log), "/a")
    for _ in range(2):
        engine.start()
        engine.stop()
    assert log == ["a up", "a down"] * 2
    assert not told.refused


def test_the_first_that_is_mounted_while_the_bus_serves_comes_up(
    engine: Engine, site: Site, told: Told
) -> None:
    """The site had no use for a loop when it started."""
    log: list[str] = []
    site.mount(lambda environ, start_response: [], "/wsgi", interface="wsgi")
    engine.start()
    site.mount(Living("late", log), "/late")
    assert log == ["late up"]
    engine.stop()
    assert log == ["late up", "late down"]
    site.mount(Living("later", log), "/later")
    assert len(log) == 2
    assert not told.refused


def test_one_that_blocks_the_loop_is_named(engine: Engine, site: Site, told: Told) -> None:
    """No timeout of the loop's own would ever come."""
    may_go = threading.Event()

    async def blocking(scope: Scope, receive: Receive, send: Send) -> None:
        may_go.wait(30)

    site.mount(blocking, "/x", lifespan_timeout=0.1)
    with suppress(CommandCancelled):
        threading.Timer(3.0, may_go.set).start()
        engine.start()
    assert told.refused == [
        "the application at /x did not start: it has held the event loop up for more than 0.1 s"
    ]


def test_a_site_that_did_not_come_up_is_shown_once_it_does(
    engine: Engine, site: Site, told: Told
) -> None:
    """The bus went on, to show why."""
    told.leaves = False
    app = Living("a", [], fails="startup")
    site.mount(app, "/a")
    engine.start()
    assert told.refused == ["the application at /a did not start: no database"]
    engine.stop()
    assert told.accepted == 0
    app.fails = ""
    engine.start()
    assert told.accepted == 1
    engine.stop()
    engine.start()
    assert told.accepted == 1


def test_nothing_is_left_after_many_starts(engine: Engine, site: Site, told: Told) -> None:
    """Neither threads of bridges nor tasks."""
    from tests.wsgi_helpers import ask as ask_wsgi

    def wsgi(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    site.crossing.loop = lambda: engine.loop
    site.mount(wsgi, "/w")
    site.mount(saying("a"), "/a")
    counts = []
    for _ in range(30):
        engine.start()
        for path in ("/w", "/a"):
            future = asyncio.run_coroutine_threadsafe(asked(site.asgi, request(path)), engine.loop)
            assert future.result(10).status == 200
            assert ask_wsgi(site.wsgi, path).status.startswith("200")
        engine.stop()
        counts.append(threading.active_count())
    assert counts[-1] == counts[0]


def test_a_site_without_asgi_never_has_a_loop(tmp_path: Path) -> None:
    """Neither while it serves nor at its end: to import one takes longer than the whole stop."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nimport sitebus\n\n"
        "def application(environ, start_response):\n    return []\n\n"
        "sitebus.engine.subscribe('started', lambda: sitebus.engine.call_in_main(leave), 99)\n\n"
        "def leave():\n    sitebus.engine.exit()\n\n"
        "sitebus.quickstart(application, bind='127.0.0.1:0')\n"
        "print('loop:', 'asyncio' in sys.modules)\n"
    )
    with Child([sys.executable, program]) as child:
        assert child.wait() == 0
        assert "loop: False" in child.output
