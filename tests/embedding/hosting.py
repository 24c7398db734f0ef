"""A site inside a host that is run for real, and what it writes down of its own life.

Site and command are those of the how-to page: what it shows is in the folder, and what it says to
type is typed there, word for word but for the port, which is 8080 on the page and a free one here.
To that come an application that takes as long as the test wants, and a plugin that has a thread of
its own and keeps a journal. That thread is no daemon: Python does not end while it runs, so a host
that tells of its end too late, or not at all, never ends.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from tests.helpers import PATIENCE, ROOT, Child, wait_for
from tests.test_docs import PORT, blocks_of

EXAMPLES = ROOT / "examples"
#: Where a reader's shell finds the programs that are installed beside this Python.
BIN = str(Path(sys.executable).parent)
PAGE = ROOT / "docs" / "howto" / "embedding.rst"
LIBRARIES = next(path for path in sys.path if path.endswith("site-packages"))

#: How long a host may take to end that has nothing more to do, in seconds. Measured were 0.1 for
#: those of ASGI, 0.4 for Apache, 0.6 for gunicorn, and 1.0 for uWSGI, whose master looks once a
#: second; two are for a machine that is busy. What waits in vain does so for 5 seconds or more.
PROMPT = 3.0

#: The journal of every process of the site, and the one request that takes its time.
WITNESS = """
import atexit, os, threading
from multiprocessing import parent_process
from multiprocessing.util import Finalize
from pathlib import Path
from sitebus.plugins import Plugin, listens

HERE = Path(__file__).parent

def note(what):
    with open(HERE / "journal", "a") as journal:
        journal.write(f"{what} {os.getpid()}\\n")

# This is imported when the host embeds the site: nothing of that has a thread yet.
HOSTS = {each for each in threading.enumerate() if "sitebus" not in each.name}

def threads():
    others = set(threading.enumerate()) - HOSTS - {threading.main_thread()}
    # What Python did not make, it knows as dummies: those are the host's as well.
    made = (each.name for each in others if not isinstance(each, threading._DummyThread))
    note(f"left {sorted(made)}")

# The last of all; a child of multiprocessing calls nothing but its own finalizers.
if parent_process():
    Finalize(None, threads, exitpriority=-100)
else:
    atexit.register(threads)

class Journal(Plugin):
    @listens("start")
    def start(self):
        note("start")
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.work, name="of the plugin")
        self.thread.start()

    def work(self):
        note("at work")
        self.over.wait()
        note("work over")

    @listens("stop")
    def stop(self):
        self.over.set()
        self.thread.join()
        note("joined")

    @listens("exit")
    def exit(self):
        note("exit")

def slow(environ, start_response):
    (HERE / "entered").touch()
    pause = threading.Event()
    while not (HERE / "go").exists():
        pause.wait(0.01)
    note("answered")
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
    places = (BIN, *folders, os.environ.get("PATH", ""))
    found = shutil.which(name, path=os.pathsep.join(places))
    need(name, found)
    return str(found)


def commands() -> list[str]:
    """Answer what the page says to type."""
    shell = [block.text for block in blocks_of(PAGE) if block.language == "sh"]
    return re.sub(r"\\\n *", "", "".join(shell)).splitlines()


def typed(words: str) -> str:
    """Answer the one command of the page that has these *words*."""
    (found,) = (line for line in commands() if words in line)
    return found


def shown(caption: str) -> str:
    """Answer the file that the page shows."""
    (found,) = (block.text for block in blocks_of(PAGE) if block.caption == caption)
    return found


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
            file.write_text(PORT.sub(str(self.port), file.read_text()))
        (self.folder / "witness.py").write_text(WITNESS)
        with (self.folder / "site.ini").open("a") as ini:
            ini.write(MORE)

    def running(
        self, words: str, *more: str, env: Mapping[str, str] = {}
    ) -> AbstractContextManager[Child]:
        """Run what the page has with *words*, and *more* behind it, until the block ends."""
        command = typed(words)
        host = next(word for word in shlex.split(command) if "=" not in word)
        program(host, "/usr/sbin")
        line = shlex.join(more)
        return self.running_exactly(self.shell(f"{command} {line}".strip()), env)

    def shell(self, command: str) -> tuple[str, ...]:
        """Have a shell run *command*; it becomes the host, so signals go there."""
        return ("bash", "-c", PORT.sub(str(self.port), command))

    @contextmanager
    def running_exactly(self, argv: Sequence[str], env: Mapping[str, str] = {}) -> Iterator[Child]:
        """Run the host until the block ends, and wait for its first answer."""
        told = {
            "PATH": os.pathsep.join((BIN, os.environ.get("PATH", ""))),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{self.folder}",
        }
        with Child(argv, self.folder, {**told, **env}) as child:
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

    def each_started_and_ended_once(self) -> None:
        """Every process that started the site ended it, in order, and left no thread at all."""
        journal = self.journal
        started, ended = (Counter(self.pids(what)) for what in ("start", "exit"))
        assert started, journal
        assert started == ended, journal
        assert set(started.values()) == {1}, journal
        for pid in started:
            told = [entry.what for entry in journal if entry.pid == pid]
            assert told[0] == "start", journal
            assert "at work" in told, journal
            # Whoever was inside has been answered before anything was taken from him.
            assert told[-len(ENDED) :] == ENDED, journal


#: What a process writes down at its end.
ENDED = ["work over", "joined", "exit", "left []"]

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


def end(child: Child, number: int = signal.SIGTERM) -> int:
    """Ask the host to end, and answer its status."""
    child.signal(number)
    return ended(child)


def ended(child: Child) -> int:
    """Wait for a host that has been asked to end, and whose last request is answered."""
    return child.wait(PROMPT)
