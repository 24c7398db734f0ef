"""What goes wrong around a lodger: forks at a bad moment, crowds, and what cannot be embedded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sitebus.embedding import faces
from sitebus.embedding.lodger import Lodger
from sitebus.embedding.plans import draw_up
from sitebus.errors import ConfigErrors, EmbedsItself, LifespanFailed
from sitebus.mounts import Site
from sitebus.process import Engine
from tests.embedding.test_hands_off import ASK, folder, run
from tests.embedding.test_lodger import ONE, House, Stay, stay
from tests.helpers import wait_for

__all__ = ["folder", "stay"]


class Applicant:
    """An ASGI application that does not come up before it may."""

    def __init__(self, *, up: bool) -> None:
        self.up = up

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            # What looks up a name, or opens a file, does it in a thread of the loop's.
            await asyncio.to_thread(int)
            await send({"type": f"lifespan.startup.{'complete' if self.up else 'failed'}"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"up"})


def test_an_application_that_cannot_take_the_place_leaves_the_other_there(stay: Stay) -> None:
    """And the next try is one, instead of being taken for the same target again."""
    applicant = Applicant(up=False)
    stay.take(ONE)
    with pytest.raises(LifespanFailed):
        stay.take(applicant)
    assert stay.get().text == "one"

    applicant.up = True
    stay.take(applicant)

    assert stay.get().text == "up"
    assert len([line for line in stay.said if "is embedded now" in line]) == 1


@pytest.mark.parametrize("said", ["file", "argument"])
def test_standard_output_gets_no_access_log(
    stay: Stay, tmp_path: Path, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Apache may forbid it, and other hosts have something to say there themselves."""
    (tmp_path / "out_app.py").write_text("from tests.embedding.test_lodger import ONE as app\n")
    mount = "[mount /]\napp = out_app:app\n"
    logging = "[logging]\naccess = -\n" if said == "file" else ""
    (tmp_path / "site.ini").write_text(f"{logging}{mount}")
    stay.take(tmp_path / "site.ini", access_log="-" if said == "argument" else None)

    assert stay.get().text == "one"
    assert capsys.readouterr().out == ""
    assert any(line.startswith("[logging] access = - is not used here") for line in stay.said)


def test_what_is_ignored_of_a_paste_file_is_logged(stay: Stay, tmp_path: Path) -> None:
    """Whoever wrote it there believes that it has an effect."""
    pytest.importorskip("paste.deploy")
    (tmp_path / "paste_app.py").write_text(
        "from tests.embedding.test_lodger import TWO\ndef make(said, **own): return TWO\n"
    )
    (tmp_path / "development.ini").write_text(
        "[app:main]\nuse = call:paste_app:make\n"
        "[server:main]\nuse = egg:waitress#main\nasyncore_loop_timeout = 3\n"
    )
    stay.take(tmp_path / "development.ini")

    assert stay.get().text == "two"
    notes = [line for line in stay.said if "asyncore_loop_timeout is ignored" in line]
    assert len(notes) == 1


def test_a_paste_file_without_an_application_says_so(stay: Stay, tmp_path: Path) -> None:
    """A [mount] is not what would help there."""
    pytest.importorskip("paste.deploy")
    (tmp_path / "empty.ini").write_text("[server:main]\nuse = egg:waitress#main\n")
    with pytest.raises(ConfigErrors, match=r"there is no \[app:main\]"):
        stay.take(tmp_path / "empty.ini")


def test_a_wrong_argument_is_told_by_its_name(stay: Stay) -> None:
    """There is no command line to look for the mistake on."""
    with pytest.raises(ConfigErrors) as caught:
        stay.take(ONE, log_level="loud")
    assert str(caught.value) == (
        "embed(log_level=): level = 'loud': expected debug, info, warning, error or critical"
    )


def test_nothing_is_no_target(stay: Stay) -> None:
    """A variable that is not set should not become a site that answers 404."""
    with pytest.raises(ConfigErrors, match="nothing is named"):
        stay.take("")


def test_the_answer_of_embedding_is_not_embedded(
    stay: Stay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that names the host's script instead of the application would go in circles."""
    stay.take(ONE)
    for face in (stay.app, faces.asgi(stay.lodger)):
        with pytest.raises(EmbedsItself, match="name the application"):
            stay.take(face)
    assert stay.get().text == "one"

    (tmp_path / "circle.py").write_text("app = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import circle  # type: ignore[import-not-found]

    circle.app = stay.app
    stay.take("circle:app")
    assert stay.get().code == 500
    assert any("/ answers 500: cannot embed 'circle:app'" in line for line in stay.said)


SCOPE = {
    "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"",
    "root_path": "", "headers": [], "http_version": "1.1", "server": ("a", 80), "scheme": "http",
    "asgi": {"version": "3.0"}, "client": ("127.0.0.1", 1),
}  # fmt: skip


def test_a_crowd_before_the_start_does_not_keep_it_from_its_threads(engine: Engine) -> None:
    """Without a lifespan the first requests start the site, and there may be many of them."""
    lodger = Lodger(engine, House(), "asgi")
    lodger.take(draw_up(Applicant(up=True), Site(), None, {}))
    application = faces.asgi(lodger)

    async def ask() -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request"}

        await application(dict(SCOPE), receive, send)
        return int(sent[0]["status"])

    async def crowd() -> list[int]:
        answers = await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(64))), 8)
        await asyncio.to_thread(lodger.end)
        return answers

    assert asyncio.run(crowd()) == [200] * 64


def test_a_lifespan_that_is_called_off_twice_ends_the_site_all_the_same(engine: Engine) -> None:
    """A second Ctrl-C does that, while the end waits for what runs on the same loop."""
    lodger = Lodger(engine, House(), "asgi")
    lodger.take(draw_up(ONE, Site(), None, {}))
    application = faces.asgi(lodger)

    async def host() -> None:
        up, stopping, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        told = asyncio.Queue[Any]()
        told.put_nowait({"type": "lifespan.startup"})

        async def send(message: Any) -> None:
            up.set()

        async def stop() -> None:
            stopping.set()
            await go.wait()

        engine.subscribe("stop", stop)
        life = asyncio.ensure_future(application({"type": "lifespan"}, told.get, send))
        await up.wait()
        life.cancel()
        await asyncio.wait_for(stopping.wait(), 8)
        life.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(life, 8)
        go.set()
        ended = engine.machine.final
        await asyncio.to_thread(wait_for, lambda: engine.state in ended, 8, "the end")

    asyncio.run(host())


PRELUDE = """
import os, signal, sys, threading
import sitebus

parent = os.getpid()
inside, go = threading.Event(), threading.Event()

def note(what):
    os.write(2, f"{what} {os.getpid() == parent}\\n".encode())

for channel in ("start", "stop", "exit"):
    sitebus.engine.subscribe(channel, lambda name=channel: note(name))

def in_child(work):
    if (child := os.fork()) == 0:
        signal.alarm(6)
        work()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""

STORIES = {
    "while the bus starts": (
        """
def hold():
    if os.getpid() == parent:
        inside.set()
        go.wait()

sitebus.engine.subscribe("start", hold, priority=99)
beginner = threading.Thread(target=lambda: sitebus.embed("site.ini"))
beginner.start()
inside.wait()
in_child(lambda: ask(sitebus.embed("site.ini")))
go.set()
beginner.join()
ask(sitebus.embed("site.ini"))
""",
        ["start True", "start False", "stop False", "exit False", "stop True", "exit True"],
    ),
    "while a request is inside": (
        """
def slow(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        inside.set()
        go.wait()
    start_response("200 OK", [])
    return [b"hello"]

site = sitebus.Site()
site.mount(slow)
application = sitebus.embed(site)
visitor = threading.Thread(target=ask, args=(application, "/slow"))
visitor.start()
inside.wait()
in_child(lambda: ask(application))
go.set()
visitor.join()
""",
        ["start True", "start False", "stop False", "exit False", "stop True", "exit True"],
    ),
    "and embeds something else": (
        """
from app import application as other
application = sitebus.embed("site.ini")
in_child(lambda: ask(sitebus.embed(other)))
ask(application)
""",
        ["start True", "start False", "stop False", "exit False", "stop True", "exit True"],
    ),
}


@pytest.mark.parametrize("moment", STORIES)
def test_a_fork_at_a_bad_moment(folder: Path, moment: str) -> None:
    """The child has neither the thread that starts the bus nor those that serve requests."""
    code, wanted = STORIES[moment]
    asking = ASK.replace("ask(application)", 'ask(application, path="/")')
    asking = asking.replace('"PATH_INFO": "/"', '"PATH_INFO": path')
    (folder / "fork.py").write_text(asking + PRELUDE + code)
    told = run(folder, "fork.py")

    assert told.returncode == 0, told.stderr
    notes = [line for line in told.stderr.splitlines() if line in {*wanted, "stop True"}]
    assert notes == wanted, told.stderr
    assert "Traceback" not in told.stderr


AGAIN = """
import sitebus
application = sitebus.embed("site.ini")
sitebus.engine.stop()
sitebus.engine.start()
ask(application)
"""

HANGS = """
import threading
import sitebus

inside = threading.Event()

def hang():
    inside.set()
    threading.Event().wait()

sitebus.engine.subscribe("start", hang)
threading.Thread(target=lambda: sitebus.embed("site.ini"), daemon=True).start()
inside.wait()
"""


@pytest.mark.parametrize("code", [AGAIN, HANGS], ids=["started again", "still starting"])
def test_the_interpreter_ends_without_a_word_of_block(folder: Path, code: str) -> None:
    """The advice to call ``block()`` is for those who run the process; and nobody may hang."""
    (folder / "ends.py").write_text(ASK + code)
    told = run(folder, "ends.py")

    assert told.returncode == 0, told.stderr
    assert "RuntimeWarning" not in told.stderr
    assert "Traceback" not in told.stderr
