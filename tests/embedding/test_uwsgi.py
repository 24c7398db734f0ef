"""The site inside uWSGI: loaded before its processes are forked, or in each of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.embedding.hosting import LIBRARIES, Hosted, end, ended, program
from tests.helpers import PATIENCE, ROOT, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def hosted(tmp_path: Path) -> Hosted:
    return Hosted("uwsgi", tmp_path)


@pytest.fixture
def uwsgi() -> str:
    return program("uwsgi")


#: It brings its own Python, which does not know of a virtual environment.
PLACES = {"PYTHONPATH": os.pathsep.join((str(ROOT), LIBRARIES))}


def test_the_example_starts_in_each_process_and_never_in_the_master(hosted: Hosted) -> None:
    """A fork copies the bus, and none of its threads."""
    with hosted.running("uwsgi", env=PLACES) as host:
        wait_for(lambda: len(hosted.pids("start")) == 2, PATIENCE, "both processes to start")
        hosted.wait_until_all_answer(hosted.pids("start"))
        assert host.pid not in hosted.pids("start")
        hosted.serves_both_applications()

        with hosted.request_in_flight():
            host.signal(signal.SIGTERM)
        assert ended(host) == 0
    hosted.each_started_and_ended_once()


def test_a_touch_of_the_script_replaces_the_processes(hosted: Hosted) -> None:
    """The way its operators deploy; who is inside meanwhile is served."""
    with hosted.running("uwsgi", env=PLACES) as host:
        wait_for(lambda: len(hosted.pids("start")) == 2, PATIENCE, "both processes to start")
        hosted.wait_until_all_answer(hosted.pids("start"))
        with hosted.request_in_flight():
            # It looks at whole seconds.
            os.utime(hosted.folder / "wsgi.py", (2**31, 2**31))
            host.wait_for_output("gracefully")
        wait_for(lambda: len(hosted.pids("start")) == 4, PATIENCE, "new processes")
        hosted.wait_until_all_answer(hosted.pids("start")[2:])
        hosted.serves_both_applications()

        assert end(host) == 0
    hosted.each_started_and_ended_once()


ON_SIGTERM = ("--hook-master-start", "unix_signal:15 gracefully_kill_them_all")
GRACEFUL = ("--master", "--lazy-apps", *ON_SIGTERM)


@pytest.mark.parametrize("how", [GRACEFUL, ()], ids=["lazy-apps", "without a master"])
def test_loaded_in_the_process_that_serves_it_starts_at_once(
    hosted: Hosted, uwsgi: str, how: tuple[str, ...]
) -> None:
    """Nobody forks after that, so nothing is waited for."""
    socket = ("--http-socket", f"127.0.0.1:{hosted.port}")
    with hosted.running_exactly([uwsgi, *socket, *how, "--wsgi-file", "wsgi.py"], PLACES) as host:
        hosted.serves_both_applications()
        assert hosted.pids("start") == [hosted.who()]
        for each in ("Bus STARTED", "spawned uWSGI worker"):
            host.wait_for_output(each)
        assert host.output.index("Bus STARTED") < host.output.index("spawned uWSGI worker") or how

        # Without a master that is how it ends, and calls nobody while a request is about to end.
        assert end(host, signal.SIGTERM if how else signal.SIGINT) == (0 if how else 30)
    if how:
        hosted.each_started_and_ended_once()
