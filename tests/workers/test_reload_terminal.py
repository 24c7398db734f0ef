"""The terminal of a site whose workers are replaced: a debugger in a request has it."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, environment, wait_for
from tests.reloading import SITEAPP, Answer, ask, version


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A site of two modules; tests write the other one."""
    (tmp_path / "siteapp.py").write_text(SITEAPP)
    return tmp_path


@contextmanager
def served_at_a_terminal(folder: Path) -> Iterator[tuple[Screen, tuple[str, int]]]:
    """Serve *folder* in the foreground of a terminal; answer that, and where the site is."""
    ours, theirs = pty.openpty()
    limits = ("-o", "workers.request_timeout=1s", "-o", "workers.drain_timeout=1s")
    arguments = ("--reload", "-b", "127.0.0.1:0", *limits)
    process = subprocess.Popen(
        [sys.executable, "-c", FOREGROUND, *arguments, "siteapp:application"],
        cwd=folder,
        env=environment(PYTHON_COLORS="0", TERM="dumb"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    screen = Screen(ours, theirs)
    try:
        port = int(screen.wait_for(r"serving on http://127\.0\.0\.1:(\d+)")[1])
        yield screen, ("127.0.0.1", port)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        screen.close()


#: As a shell starts it: with the terminal that its input is.
FOREGROUND = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "from sitebus.cli.serve import main; sys.exit(main())"
)


def test_a_debugger_in_a_request_has_the_terminal(folder: Path) -> None:
    """It is there as long as somebody thinks, whatever the limits of requests are."""
    (folder / "views.py").write_text(
        "class Stop:\n"
        "    def __format__(self, _):\n"
        "        secret = 'a' * 3\n"
        "        breakpoint()\n"
        "        return secret\n"
        "VERSION = Stop()\n"
    )
    with served_at_a_terminal(folder) as (terminal, address):
        answers: list[Answer] = []
        asking = threading.Thread(target=lambda: answers.append(ask(address)))
        asking.start()
        terminal.wait_for(r"\(Pdb\)")
        with suppress(TimeoutError):
            terminal.wait_for(r"request_timeout", 2.5)
        terminal.write(b"p secret * 2\n")
        terminal.wait_for("'aaaaaa'")
        terminal.write(b"c\n")
        asking.join(PATIENCE)
        assert [page.body for page in answers] == ["<html><body>aaa</body></html>"]
        assert "request_timeout" not in terminal.text


@pytest.mark.slow
def test_a_debugger_that_is_left_behind_leaves_a_terminal_that_can_be_used(folder: Path) -> None:
    """A worker that is replaced ends in order, with a thread that still reads a line."""
    views = folder / "views.py"
    stop = "class Stop:\n    def __format__(self, _):\n        breakpoint()\nVERSION = Stop()\n"
    views.write_text(stop)
    with served_at_a_terminal(folder) as (terminal, address):
        before = terminal.settings
        asking = threading.Thread(target=ask_in_vain, args=(address,))
        asking.start()
        terminal.wait_for(r"\(Pdb\)")
        wait_for(lambda: terminal.settings != before, PATIENCE)
        views.write_text(version("v2"))
        asking.join(PATIENCE)
        wait_for(lambda: terminal.settings == before, PATIENCE)


def test_a_worker_that_is_killed_leaves_a_terminal_that_can_be_used(folder: Path) -> None:
    """Else nobody would see what they type."""
    (folder / "views.py").write_text(
        "import os, signal, tty\n"
        "class Killed:\n"
        "    def __format__(self, _):\n"
        "        tty.setraw(0)\n"
        "        print('it is raw', flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "VERSION = Killed()\n"
    )
    with served_at_a_terminal(folder) as (terminal, address):
        before = terminal.settings
        with pytest.raises(OSError):  # noqa: PT011 - reset, or cut off
            ask(address)
        terminal.wait_for("it is raw")
        wait_for(lambda: terminal.settings == before, PATIENCE)


def ask_in_vain(address: tuple[str, int]) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - reset, or cut off
        ask(address)


class Screen:
    """What comes to a terminal."""

    def __init__(self, fd: int, terminal: int) -> None:
        self._fd = fd
        self._terminal = terminal
        self.text = ""
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # nobody has the other end any more
            while chunk := os.read(self._fd, 4096):
                with self._news:
                    self.text += chunk.decode()
                    self._news.notify_all()

    def wait_for(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        with self._news:
            found = self._news.wait_for(lambda: re.search(pattern, self.text), seconds)
        if found is None:
            raise TimeoutError(f"no {pattern!r} in {self.text}")
        return found

    def write(self, said: bytes) -> None:
        os.write(self._fd, said)

    @property
    def settings(self) -> list[object]:
        return termios.tcgetattr(self._terminal)

    def close(self) -> None:
        os.close(self._terminal)
        self._reader.join(PATIENCE)
        os.close(self._fd)
        print(self.text)
