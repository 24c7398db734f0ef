"""The site inside uvicorn, Hypercorn and Granian, whose lifespan starts and ends the bus."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.embedding.hosting import Hosted, ended, shown
from tests.helpers import PATIENCE, wait_for

pytestmark = pytest.mark.slow

#: An application that has something at its startup which is of use on that loop only.
ASYNC = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
from witness import note

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["lock"] = asyncio.Lock()
        scope["state"]["loop"] = asyncio.get_running_loop()
        note("up")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        with ThreadPoolExecutor() as aside:  # an executor that takes no more work would refuse it
            await asyncio.get_running_loop().run_in_executor(aside, note, "down")
        await send({"type": "lifespan.shutdown.complete"})
        return
    same = scope["state"]["loop"] is asyncio.get_running_loop()
    async with scope["state"]["lock"]:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"same loop" if same else b"another"})
"""

#: uvicorn ends by the signal that it was sent, once it has given back what was there for it before:
#: this comes last in such a process, where nothing that is registered for its end is called.
LAST = """
import os, signal, sys

def last(number, frame):
    if "witness" in sys.modules:
        sys.modules["witness"].threads()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)

signal.signal(signal.SIGTERM, last)
"""

HOSTS = ("uvicorn", "hypercorn", "granian --interface asgi")


@pytest.fixture
def hosted(tmp_path: Path) -> Hosted:
    hosted = Hosted("gunicorn", tmp_path)
    (hosted.folder / "asgi.py").write_text(shown("asgi.py"))
    (hosted.folder / "async_app.py").write_text(ASYNC)
    (hosted.folder / "sitecustomize.py").write_text(LAST)
    with (hosted.folder / "site.ini").open("a") as ini:
        ini.write("\n[mount /async]\napp = async_app:application\n")
    return hosted


@pytest.mark.parametrize("name", HOSTS)
def test_the_lifespan_starts_and_ends_the_site(hosted: Hosted, name: str) -> None:
    """Every application is on the loop that serves it, the synchronous ones in threads."""
    with hosted.running(name) as host:
        hosted.serves_both_applications()
        assert hosted.get("/async/") == "same loop"
        assert len(hosted.pids("start")) == 1
        with hosted.request_in_flight():
            host.signal(signal.SIGTERM)
        ended(host)

    hosted.each_started_and_ended_once()
    assert len(hosted.pids("up")) == len(hosted.pids("down")) == 1
    assert "Traceback" not in host.output


def test_without_a_lifespan_the_first_request_starts_it(hosted: Hosted) -> None:
    """Some hosts have none, and some are told to have none."""
    with hosted.running("uvicorn", "--lifespan", "off") as host:
        hosted.serves_both_applications()
        assert hosted.get("/async/") == "same loop"
        assert len(hosted.pids("start")) == 1

        host.signal(signal.SIGINT)
        ended(host)
    hosted.each_started_and_ended_once()


def test_a_lifespan_that_fails_fails_the_hosts_start(hosted: Hosted) -> None:
    """It asks, and is told; what asks nothing would be served broken."""
    (hosted.folder / "async_app.py").write_text(
        "async def application(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    with pytest.raises(AssertionError), hosted.running("uvicorn"):
        pass

    assert hosted.child is not None
    assert ended(hosted.child) == 3
    assert "did not start: no database" in hosted.child.output


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_granian_has_every_worker_start_and_end_it(hosted: Hosted, interface: str) -> None:
    """Its workers end without what is registered with atexit."""
    with hosted.running(f"granian --interface {interface}", "--workers", "2") as host:
        # One that is told to end before it has said this goes on for ever.
        for worker in (1, 2):
            host.wait_for_output(f"Started worker-{worker}")
        assert len(hosted.pids("start")) == 2 or interface == "asgi"
        hosted.serves_both_applications()

        with hosted.request_in_flight():
            host.signal(signal.SIGTERM)
        assert ended(host) == 0
    hosted.each_started_and_ended_once()


@pytest.mark.parametrize("name", ["uvicorn", "granian --interface asgi"])
def test_sighup_replaces_the_workers(hosted: Hosted, name: str) -> None:
    """The way to deploy with those that have it; who is inside meanwhile is served."""
    with hosted.running(name, "--workers", "2") as host:
        wait_for(lambda: len(hosted.pids("up")) == 2, PATIENCE, "both workers to start")
        hosted.wait_until_all_answer(hosted.pids("up"))
        with hosted.request_in_flight():
            host.signal(signal.SIGHUP)
            # One of them is replaced, or is to be, while the other has a visitor.
            wait_for(lambda: len(hosted.pids("up")) > 2, PATIENCE, "a new worker")
        wait_for(lambda: len(hosted.pids("up")) == 4, PATIENCE, "new workers")
        # Who is told to end before it is done with that has more to do than to end.
        wait_for(lambda: len(hosted.pids("left []")) == 2, PATIENCE, "the old ones to end")
        hosted.wait_until_all_answer(hosted.pids("up")[2:])
        hosted.serves_both_applications()

        host.signal(signal.SIGTERM)
        ended(host)
    hosted.each_started_and_ended_once()


def test_the_wrong_face_is_told_by_a_sentence(hosted: Hosted) -> None:
    """``uvicorn wsgi:application`` is soon typed, and starts; its log says what to do."""
    (hosted.folder / "asgi.py").write_text(shown("asgi.py").replace("embed_asgi", "embed"))
    with pytest.raises(AssertionError, match=r"^500 "), hosted.running("uvicorn"):
        pass

    assert hosted.child is not None
    assert "say sitebus.embed_asgi() in it, or --interface wsgi" in hosted.child.output


def test_waitress_ends_it_when_it_is_interrupted(hosted: Hosted) -> None:
    """SIGTERM ends waitress on the spot; SIGINT is what its operators are told to send."""
    with hosted.running("waitress-serve") as host:
        hosted.serves_both_applications()
        assert hosted.pids("start") == [host.pid]

        with hosted.request_in_flight():
            host.signal(signal.SIGINT)
        assert ended(host) in (0, -signal.SIGINT)
    hosted.each_started_and_ended_once()
    assert len(hosted.pids("down")) == 1
