"""What a running site makes of it when ``current`` leads to another release."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.fleet.shop import current
from tests.helpers import PATIENCE, environment, wait_for
from tests.workers.site import WorkerSite

pytestmark = pytest.mark.slow

SITE = """\
[site]
name = flip
[server]
bind = 127.0.0.1:0
threads = {threads}
[logging]
access = off
[workers]
count = {count}
[mount /]
app = shop:application
[mount /files]
app = static:${{here}}/files
"""

APPLICATION = """\
import os

VERSION = {version!r}


def application(environ, start_response):
    if environ["PATH_INFO"] == "/late":
        import late

        told = late.VERSION
    else:
        told = VERSION
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{{told}} {{os.getpid()}}".encode()]
"""


def put(root: Path, version: str, *, count: int = 2, threads: int = 4, site: str = SITE) -> None:
    """Write a release as it would be staged."""
    folder = root / "releases" / version
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "a.txt").write_text(version)
    (folder / "site.ini").write_text(site.format(count=count, threads=threads))
    (folder / "shop.py").write_text(APPLICATION.format(version=version))
    (folder / "late.py").write_text(f"VERSION = {version!r}\n")


def flip(root: Path, version: str) -> None:
    (root / "next").symlink_to(f"releases/{version}")
    (root / "next").replace(root / "current")


class Flip(WorkerSite):
    """A site that is started through the link."""

    def __init__(self, root: Path, cwd: Path, file: str) -> None:
        self.root = root
        # As a shell does that was led there by the link.
        env = {"PWD": str(cwd), "PYTHONDONTWRITEBYTECODE": "1"}
        super(WorkerSite, self).__init__(file, cwd=cwd, env=env)
        self.url  # noqa: B018 - printed once all workers serve

    def get(self, path: str = "/") -> str:
        connection = HTTPConnection(*self.address, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def version(self, path: str = "/") -> str:
        return self.get(path).split()[0]

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sitebus.cli.ctl", str(self.root / "current/site.ini"), *words],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(),
        )

    def graceful(self) -> subprocess.CompletedProcess[str]:
        return self.ctl("graceful", "--wait")


@pytest.fixture(params=["absolute", "inside", "beside"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Flip]:
    """A site with release 1, 2 beside it; started in each way that there is."""
    put(tmp_path, "1")
    put(tmp_path, "2")
    flip(tmp_path, "1")
    cwd, file = {
        "absolute": (Path("/"), str(tmp_path / "current" / "site.ini")),
        "inside": (tmp_path / "current", "site.ini"),
        "beside": (tmp_path, "current/site.ini"),
    }[request.param]
    with Flip(tmp_path, cwd, file) as site:
        yield site


@pytest.fixture
def flipped(tmp_path: Path) -> Iterator[Flip]:
    """A site with release 1."""
    put(tmp_path, "1")
    flip(tmp_path, "1")
    with Flip(tmp_path, tmp_path, str(tmp_path / "current" / "site.ini")) as site:
        yield site


def test_a_roll_brings_the_new_release_and_nothing_before_it(site: Flip) -> None:
    """Workers stay in the release that they came up in, whatever they import late."""
    flip(site.root, "2")
    seen: set[str] = set()
    deadline = time.monotonic() + PATIENCE
    while len(seen) < 2 and time.monotonic() < deadline:  # each of them is asked
        told, pid = site.get("/late").split()
        seen.add(pid)
        assert told == "1"
    assert site.version() == "1"
    assert site.get("/files/a.txt") == "1"

    done = site.graceful()

    assert done.returncode == 0, done.stderr
    for _ in range(6):
        assert (site.version(), site.version("/late")) == ("2", "2")
        assert site.get("/files/a.txt") == "2"


def test_a_rollback_is_the_same_the_other_way(site: Flip) -> None:
    """And whoever is started meanwhile, after a death, comes up in what is current."""
    flip(site.root, "2")
    assert site.graceful().returncode == 0
    flip(site.root, "1")
    assert site.graceful().returncode == 0
    assert {site.version() for _ in range(6)} == {"1"}


def test_the_first_release_may_be_removed(flipped: Flip) -> None:
    """The supervisor was started there; it needs nothing of it any more."""
    put(flipped.root, "2")
    flip(flipped.root, "2")
    assert flipped.graceful().returncode == 0
    shutil.rmtree(flipped.root / "releases" / "1")
    put(flipped.root, "3")
    flip(flipped.root, "3")
    assert flipped.graceful().returncode == 0
    assert flipped.version() == "3"
    assert flipped.ctl("restart").returncode == 0
    wait_for(lambda: flipped.version() == "3", PATIENCE)


def test_a_broken_file_aborts_the_roll(flipped: Flip) -> None:
    """The old workers serve on, and the reason is told."""
    put(flipped.root, "2", site=SITE + "[mount /more]\napplication = shop:application\n")
    flip(flipped.root, "2")

    done = flipped.graceful()

    assert done.returncode != 0
    assert "application" in done.stdout + done.stderr
    assert {flipped.version() for _ in range(6)} == {"1"}
    flip(flipped.root, "1")
    assert flipped.graceful().returncode == 0
    assert current(flipped.root) == "1"


def test_what_workers_read_of_a_new_file_counts_at_once(flipped: Flip) -> None:
    """Mounts and threads are theirs; how many there are is for a restart, or for `scale`."""
    more = SITE + "[mount /more]\napp = static:${{here}}/files\n"
    put(flipped.root, "2", count=3, threads=7, site=more)
    flip(flipped.root, "2")
    assert flipped.graceful().returncode == 0
    assert flipped.get("/more/a.txt") == "2"
    assert len(flipped.wait_for_workers(2)) == 2

    done = flipped.ctl("restart")

    assert done.returncode == 0, done.stdout + done.stderr
    flipped.wait_for_workers(3)


def test_another_address_needs_a_restart(flipped: Flip) -> None:
    """The sockets are the supervisor's; workers cannot bind, and say so rather than go without."""
    put(
        flipped.root,
        "2",
        site=SITE.replace("[logging]", "[server admin]\nbind = 127.0.0.1:0\n[logging]"),
    )
    flip(flipped.root, "2")

    done = flipped.graceful()

    assert done.returncode != 0
    assert "roll aborted" in flipped.output
    assert "127.0.0.1" in done.stdout + done.stderr
    assert {flipped.version() for _ in range(6)} == {"1"}
