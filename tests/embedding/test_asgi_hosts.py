"""The site inside uvicorn, Hypercorn and Granian, whose lifespan starts and ends the bus."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.embedding.hosting import Hosted, need_module

pytestmark = pytest.mark.slow

SCRIPT = """
import sitebus

application = sitebus.embed_asgi("site.ini")
"""

#: An application that has something at its startup which is of use on that loop only.
ASYNC = """
import asyncio
from witness import note

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["lock"] = asyncio.Lock()
        scope["state"]["loop"] = asyncio.get_running_loop()
        note("up")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        note("down")
        await send({"type": "lifespan.shutdown.complete"})
        return
    same = scope["state"]["loop"] is asyncio.get_running_loop()
    async with scope["state"]["lock"]:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"same loop" if same else b"another"})
"""

HOSTS = {
    "uvicorn": ["-m", "uvicorn", "--port", "8080", "script:application"],
    "hypercorn": ["-m", "hypercorn", "--bind", "127.0.0.1:8080", "script:application"],
    "granian": ["-m", "granian", "--interface", "asgi", "--port", "8080", "script:application"],
}


@pytest.fixture
def hosted(tmp_path: Path) -> Hosted:
    hosted = Hosted("gunicorn", tmp_path)
    (hosted.folder / "script.py").write_text(SCRIPT)
    (hosted.folder / "async_app.py").write_text(ASYNC)
    with (hosted.folder / "site.ini").open("a") as ini:
        ini.write("\n[mount /async]\napp = async_app:application\n")
    return hosted


def command(host: str, port: int) -> list[str]:
    need_module(host)
    return [sys.executable, *(word.replace("8080", str(port)) for word in HOSTS[host])]


@pytest.mark.parametrize("name", HOSTS)
def test_the_lifespan_starts_and_ends_the_site(hosted: Hosted, name: str) -> None:
    """Every application is on the loop that serves it, the synchronous ones in threads."""
    with hosted.running(command(name, hosted.port)) as host:
        hosted.serves_both_applications()
        assert hosted.get("/async/") == "same loop"
        assert len(hosted.pids("start")) == 1
        with hosted.request_in_flight():
            host.signal(signal.SIGTERM)
        host.wait(8)

    hosted.each_started_and_ended_once(threads=False)
    assert len(hosted.pids("up")) == len(hosted.pids("down")) == 1
    assert "Traceback" not in host.output


def test_without_a_lifespan_the_first_request_starts_it(hosted: Hosted) -> None:
    """Some hosts have none, and some are told to have none."""
    need_module("uvicorn")
    argv = [*command("uvicorn", hosted.port), "--lifespan", "off"]
    with hosted.running(argv) as host:
        hosted.serves_both_applications()
        assert hosted.get("/async/") == "same loop"
        assert len(hosted.pids("start")) == 1

        host.signal(signal.SIGINT)
        host.wait(8)


def test_a_lifespan_that_fails_fails_the_hosts_start(hosted: Hosted) -> None:
    """It asks, and is told; what asks nothing would be served broken."""
    need_module("uvicorn")
    (hosted.folder / "async_app.py").write_text(
        "async def application(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    argv = command("uvicorn", hosted.port)
    with pytest.raises(AssertionError), hosted.running(argv):
        pass

    assert hosted.child is not None
    assert hosted.child.wait(8) == 3
    assert "did not start: no database" in hosted.child.output


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_granian_has_every_worker_start_and_end_it(hosted: Hosted, interface: str) -> None:
    """Its workers end without what is registered with atexit."""
    need_module("granian")
    script = "wsgi:application" if interface == "wsgi" else "script:application"
    argv = ["-m", "granian", "--interface", interface, "--workers", "2", script]
    with hosted.running([sys.executable, *argv, "--port", str(hosted.port)]) as host:
        # One that is told to end before it has said this goes on for ever.
        for worker in (1, 2):
            host.wait_for_output(f"Started worker-{worker}")
        assert len(hosted.pids("start")) == 2 or interface == "asgi"
        hosted.serves_both_applications()

        with hosted.request_in_flight():
            host.signal(signal.SIGTERM)
        assert host.wait(8) == 0
    hosted.each_started_and_ended_once(threads=False)


def test_waitress_ends_it_when_it_is_interrupted(hosted: Hosted) -> None:
    """SIGTERM ends waitress on the spot; SIGINT is what its operators are told to send."""
    need_module("waitress")
    argv = ["-m", "waitress", "--listen", f"127.0.0.1:{hosted.port}", "wsgi:application"]
    with hosted.running([sys.executable, *argv]) as host:
        hosted.serves_both_applications()
        assert hosted.pids("start") == [host.pid]

        with hosted.request_in_flight():
            host.signal(signal.SIGINT)
        assert host.wait(8) in (0, -signal.SIGINT)
    hosted.each_started_and_ended_once()
