"""A site inside a host that is run for real, and what it writes down of its own life.

The site is the example of the host, word for word but for its port, with a plugin that keeps a
journal, and an application that takes as long as the test wants.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from tests.helpers import PATIENCE, ROOT, Child, wait_for

EXAMPLES = ROOT / "examples"
LIBRARIES = next(path for path in sys.path if path.endswith("site-packages"))

#: The journal of every process of the site, and the one request that takes its time.
WITNESS = """
import atexit, os, threading
from pathlib import Path
from sitebus.plugins import Plugin, listens

HERE = Path(__file__).parent

def note(what):
    with open(HERE / "journal", "a") as journal:
        journal.write(f"{what} {os.getpid()}\\n")

def threads():
    own = [each.name for each in threading.enumerate() if "sitebus" in each.name]
    note(f"left {len(own)}")

# The first to be registered is the last to be called.
atexit.register(threads)

class Journal(Plugin):
    @listens("start")
    def start(self):
        note("start")

    @listens("exit")
    def exit(self):
        note("exit")

def slow(environ, start_response):
    (HERE / "entered").touch()
    pause = threading.Event()
    while not (HERE / "go").exists():
        pause.wait(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"slowly\\n"]

def who(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""

MORE = """
[mount /slow]
app = witness:slow

[mount /who]
app = witness:who

[plugin journal]
use = witness:Journal
"""


def need(what: str, found: object) -> None:
    """Skip the test where a host is not installed; in CI that is a failure."""
    if not found:
        if "CI" in os.environ:
            pytest.fail(f"{what} is not installed")
        pytest.skip(f"{what} is not installed")


def need_module(name: str) -> None:
    need(name, find_spec(name))


def program(name: str, *folders: str) -> str:
    """Answer the path of a program that is installed beside this Python, or anywhere."""
    places = (str(Path(sys.executable).parent), *folders, os.environ.get("PATH", ""))
    found = shutil.which(name, path=os.pathsep.join(places))
    need(name, found)
    return str(found)


def free_port() -> int:
    """Answer a port outside those that the system gives to clients."""
    while True:
        port = random.randrange(20000, 32768)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


class Entry(NamedTuple):
    """One line of the journal."""

    what: str
    pid: int


class Hosted:
    """A copy of an example, and the host that runs it."""

    def __init__(self, example: str, directory: Path) -> None:
        self.folder = directory / "site"
        self.port = free_port()
        self.child: Child | None = None
        shutil.copytree(EXAMPLES / example, self.folder, ignore=lambda *_: ["__pycache__"])
        for file in self.folder.iterdir():
            file.write_text(file.read_text().replace("8080", str(self.port)))
        (self.folder / "witness.py").write_text(WITNESS)
        with (self.folder / "site.ini").open("a") as ini:
            ini.write(MORE)

    @contextmanager
    def running(self, argv: Sequence[str], env: Mapping[str, str] = {}) -> Iterator[Child]:
        """Run the host until the block ends, and wait for its first answer."""
        path = f"{ROOT}{os.pathsep}{self.folder}"
        with Child(argv, self.folder, {"PYTHONPATH": path, **env}) as child:
            self.child = child
            self.wait_until_it_answers()
            yield child

    def wait_until_it_answers(self) -> None:
        def answers() -> bool:
            assert self.child is not None
            assert self.child.process.poll() is None, repr(self.child)
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(answers, PATIENCE, "the host to listen")
        self.get("/")

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str) -> str:
        answer = requests.get(self.url(path), timeout=PATIENCE)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        return answer.text

    def who(self) -> int:
        return int(self.get("/who"))

    def wait_until_all_answer(self, pids: Collection[int]) -> None:
        """Wait until each of *pids* has answered: one that has only begun may not know signals."""
        seen: set[int] = set()
        with ThreadPoolExecutor(4) as clients:

            def asked() -> bool:
                seen.update(clients.map(lambda _: self.who(), range(8)))
                return seen >= set(pids)

            wait_for(asked, PATIENCE, f"{set(pids)} to answer")

    @property
    def journal(self) -> list[Entry]:
        path = self.folder / "journal"
        lines = path.read_text().splitlines() if path.exists() else []
        parts = (line.rpartition(" ") for line in lines)
        return [Entry(what, int(pid)) for what, _, pid in parts]

    def pids(self, what: str) -> list[int]:
        return [entry.pid for entry in self.journal if entry.what == what]

    def serves_both_applications(self) -> None:
        assert self.get("/x") == "Plain Python, in front of /\n"
        assert self.get("/wiki/") == "Flask, at /wiki/\n"

    @contextmanager
    def request_in_flight(self) -> Iterator[None]:
        """Have a request inside an application during the block, which must be answered then."""
        with subprocess.Popen(
            [sys.executable, "-c", CLIENT, self.url("/slow")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as client:
            wait_for((self.folder / "entered").exists, PATIENCE, "the request to be inside")
            try:
                yield
            finally:
                (self.folder / "go").touch()
            told, _ = client.communicate(timeout=PATIENCE)
        (self.folder / "go").unlink()
        (self.folder / "entered").unlink()
        assert told == "200 slowly\n"

    def each_started_and_ended_once(self, threads: bool = True) -> None:
        """Every process that started the site ended it, and left no thread of ours."""
        journal = self.journal
        started, ended = (Counter(self.pids(what)) for what in ("start", "exit"))
        assert started, journal
        assert started == ended, journal
        assert set(started.values()) == {1}, journal
        if threads:
            assert set(started) <= set(self.pids("left 0")), journal


CLIENT = """
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=30) as answer:
    print(answer.status, answer.read().decode(), end="")
"""


@contextmanager
def public_folder() -> Iterator[Path]:
    """A directory that Apache's user can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="sitebus-test-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def end(child: Child, number: int = signal.SIGTERM, within: float = 8.0) -> int:
    """Ask the host to end, and answer its status."""
    child.signal(number)
    return child.wait(within)
