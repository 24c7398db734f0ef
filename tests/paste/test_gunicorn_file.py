"""A PasteDeploy file that says gunicorn, served for real: its options do what they did there."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.embedding.hosting import free_port
from tests.helpers import PATIENCE, SiteProcess, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="worker processes need Linux"),
]

INI = """\
[app:main]
use = call:shop:make

[server:main]
use = egg:gunicorn#main
bind = 127.0.0.1:{port}
workers = 2
threads = 3
worker_class = gthread
timeout = 1
graceful_timeout = 2
pidfile = %(here)s/site.pid
accesslog = %(here)s/access.log
loglevel = warning
preload_app = true
"""

#: Who answers; and a request that holds a thread, and says how many were held in its process.
SHOP = """\
import os, threading
from pathlib import Path

HERE = Path(__file__).parent
PAUSE = threading.Event()
inside = []

(HERE / f"imported-{os.getpid()}").touch()

def make(global_conf, **settings):
    return application

def application(environ, start_response):
    told = os.getpid()
    if environ["PATH_INFO"] == "/hold":
        inside.append(told)
        most = len(inside)
        (HERE / f"inside-{os.getpid()}-{most}").touch()
        while not (HERE / "go").exists():
            PAUSE.wait(0.01)
        inside.remove(told)
        told = f"{told} {most}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(told).encode()]
"""

THREADS, WORKERS = 3, 2


class Shop:
    """The directory of the file, and its visitors."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        (directory / "shop.py").write_text(SHOP)
        (directory / "production.ini").write_text(INI.format(port=self.port))

    def ask(self, path: str) -> str:
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE).text

    def held(self) -> Counter[str]:
        """Answer how many requests were inside at once, at most, by process."""
        names = (path.name.split("-") for path in self.directory.glob("inside-*"))
        most: Counter[str] = Counter()
        for _, pid, count in names:
            most[pid] = max(most[pid], int(count))
        return most


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def serve(shop: Shop) -> SiteProcess:
    return SiteProcess("production.ini", cwd=shop.directory)


def test_it_listens_forks_and_writes_where_the_file_says(shop: Shop) -> None:
    """Address, workers, preloading, pid file, access log and level; the rest is told."""
    with serve(shop) as site:
        assert site.url == f"http://127.0.0.1:{shop.port}"
        seen: set[str] = set()

        def both_answered() -> bool:
            with ThreadPoolExecutor(8) as visitors:
                seen.update(visitors.map(shop.ask, ["/"] * 16))
            return len(seen) == WORKERS

        wait_for(both_answered, PATIENCE, "both workers to answer")
        assert str(site.pid) not in seen
        # Nobody who answers has imported the application: it came with the fork.
        importers = {path.name.split("-")[1] for path in shop.directory.glob("imported-*")}
        assert not importers & seen
        assert (shop.directory / "site.pid").read_text().strip() == str(site.pid)
        assert site.stop() == 0

    assert not (shop.directory / "site.pid").exists()
    assert "GET / HTTP/1.1" in (shop.directory / "access.log").read_text()
    assert "Bus STARTED" not in site.output
    assert "production.ini:9: [server:main] worker_class is ignored: " in site.output
    assert "production.ini:10: [server:main] timeout is ignored: " in site.output


def test_threads_are_those_of_each_worker(shop: Shop) -> None:
    """More visitors than threads: each worker has three inside, and nobody ever four."""
    with serve(shop) as site, ThreadPoolExecutor(12) as visitors:
        site.wait_ready()
        answers = [visitors.submit(shop.ask, "/hold") for _ in range(12)]
        # They come to whoever is awake: one of two has its hands full in any case.
        wait_for(lambda: max(shop.held().values(), default=0) == THREADS, PATIENCE)
        (shop.directory / "go").touch()
        told = [answer.result(PATIENCE).split() for answer in answers]
        assert site.stop() == 0
    assert max(int(most) for _, most in told) == THREADS


def test_the_end_waits_as_long_as_graceful_timeout_says(shop: Shop) -> None:
    """A visitor who never comes to an end is cut off then, in a worker as well."""
    with serve(shop) as site, ThreadPoolExecutor(1) as visitors:
        site.wait_ready()
        held = visitors.submit(shop.ask, "/hold")
        wait_for(shop.held, PATIENCE, "the visitor to be inside")
        # Longer than `timeout`, which would have ended a worker of gunicorn's.
        began = time.monotonic()
        site.stop()
        took = time.monotonic() - began
        assert held.exception(PATIENCE) is not None
    # Two seconds as said, and what ends beside; without a word it would be 30.
    assert 2 <= took < 8
