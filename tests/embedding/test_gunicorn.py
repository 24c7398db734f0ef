"""The site inside gunicorn, with each way that it has of making workers."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.embedding.hosting import Hosted, end, ended, need_module
from tests.helpers import PATIENCE, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def hosted(tmp_path: Path) -> Hosted:
    need_module("gunicorn")
    return Hosted("gunicorn", tmp_path)


def test_the_example_starts_in_each_worker_and_never_in_the_arbiter(hosted: Hosted) -> None:
    """A bus that starts before the fork has its threads in the wrong process."""
    with hosted.running("gunicorn") as host:
        wait_for(lambda: len(hosted.pids("start")) == 2, PATIENCE, "both workers to start")
        assert host.pid not in hosted.pids("start")
        hosted.serves_both_applications()
        with hosted.request_in_flight():
            host.signal(signal.SIGHUP)
            wait_for(lambda: len(hosted.pids("start")) == 4, PATIENCE, "new workers")
        hosted.wait_until_all_answer(hosted.pids("start")[2:])

        assert end(host) == 0
    hosted.each_started_and_ended_once()


def test_preloaded_it_starts_with_the_first_request_if_no_hook_does(hosted: Hosted) -> None:
    """Somebody's own gunicorn.conf.py knows nothing of sitebus."""
    (hosted.folder / "gunicorn.conf.py").unlink()  # it would be read unasked
    bare = (sys.executable, "-m", "gunicorn", "--preload", "wsgi:application")
    with hosted.running_exactly((*bare, "--bind", f"127.0.0.1:{hosted.port}")) as host:
        assert hosted.pids("start") == [hosted.who()]
        assert host.pid not in hosted.pids("start")

        assert end(host) == 0
    hosted.each_started_and_ended_once()


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_without_preload_a_worker_starts_it_before_any_request(hosted: Hosted, kind: str) -> None:
    """What runs in the background waits for no visitor; and who is inside is served."""
    (hosted.folder / "gunicorn.conf.py").unlink()  # it would be read unasked
    bare = (sys.executable, "-m", "gunicorn", "-k", kind, "wsgi:application", "--workers", "2")
    with hosted.running_exactly((*bare, "--bind", f"127.0.0.1:{hosted.port}")) as host:
        wait_for(lambda: len(hosted.pids("start")) == 2, PATIENCE, "both workers to start")
        hosted.wait_until_all_answer(hosted.pids("start"))
        hosted.serves_both_applications()
        with hosted.request_in_flight():
            host.signal(signal.SIGTERM)
        assert ended(host) == 0
    hosted.each_started_and_ended_once()
