"""What the tests share: waiting with a deadline, counting what is open, running a site as a child.

Nothing here knows how sitebus works inside; a child is judged by what it prints, answers and
leaves behind, as its user would.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parent.parent

#: How long a child may take for anything, on a machine that is busy with other things.
PATIENCE = 20.0

#: In a site as well, warnings are errors; WebOb imports cgi where it still exists.
WARNINGS = "error,ignore:'cgi' is deprecated:DeprecationWarning"

#: Where sites under test have their control sockets, rather than among those of this machine.
RUNTIME = tempfile.mkdtemp(prefix="sitebus-tests-")
atexit.register(shutil.rmtree, RUNTIME, ignore_errors=True)

URL = re.compile(r"https?://[^\s/]+:\d+|unix:\S+")


def wait_for(condition: Callable[[], T], timeout: float = 5.0, what: str = "") -> T:
    """Answer what *condition* answers as soon as that is true.

    Raises:
        AssertionError: it was not true in time.
    """
    end = time.monotonic() + timeout
    pause = threading.Event()
    while not (answer := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        pause.wait(0.005)
    return answer


def open_descriptors() -> frozenset[int]:
    """Answer the descriptors that this process has open."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            # Listing opens the folder itself, which is closed again by now.
            return frozenset(filter(_is_open, map(int, os.listdir(folder))))
    raise AssertionError("this system does not tell which descriptors are open")


def _is_open(fd: int) -> bool:
    with suppress(OSError):
        os.fstat(fd)
        return True
    return False


@contextmanager
def nothing_left(timeout: float = 5.0) -> Iterator[None]:
    """Fail when the block leaves a thread or a descriptor behind."""
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    yield
    # A thread that is done is seen a moment longer.
    wait_for(lambda: not set(threading.enumerate()) - threads, timeout, "threads to end")
    left = open_descriptors() - descriptors
    assert not left, f"left open: {[_name_of(fd) for fd in left]}"


def _name_of(fd: int) -> str:
    with suppress(OSError):
        return f"{fd} ({os.readlink(f'/proc/self/fd/{fd}')})"
    return str(fd)


def environment(**extra: str) -> dict[str, str]:
    """Answer an environment in which a child finds this sitebus, and nothing of the caller's."""
    foreign = ("SITEBUS_", "LISTEN_", "NOTIFY_", "PYTHON", "COV_", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    ours = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    return kept | ours | {"XDG_RUNTIME_DIR": RUNTIME} | extra


class Child:
    """A program under test: its output is read all the time, and it never outlives its block."""

    def __init__(
        self, argv: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] = {}
    ) -> None:
        self.argv = [str(part) for part in argv]
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._closed = False
        self.process = subprocess.Popen(
            self.argv,
            cwd=cwd,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Its own session: what it starts can be ended with it, by its id.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        """Everything printed so far, on both streams."""
        with self._news:
            return "".join(self._lines)

    def wait_for_output(
        self, pattern: str | re.Pattern[str], timeout: float = PATIENCE
    ) -> re.Match[str]:
        """Answer the first match of *pattern* in the output."""
        regex = re.compile(pattern, re.MULTILINE) if isinstance(pattern, str) else pattern
        with self._news:
            self._news.wait_for(lambda: regex.search("".join(self._lines)) or self._closed, timeout)
            found = regex.search("".join(self._lines))
        assert found, f"{regex.pattern!r} was not printed by {self!r}"
        return found

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Answer the exit status, once all output is read."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s: {self!r}") from None
        self._reader.join(timeout)
        return status

    def stop(self) -> int:
        """Ask it to end, as an operator would, and answer its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def __repr__(self) -> str:
        shown = self.output or "(nothing)\n"
        return f"{' '.join(self.argv)}\nstatus {self.process.poll()}, printed:\n{shown}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error is not None:
            print(repr(self))

    def close(self) -> None:
        """End it and whatever it started, however it feels about that."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()


class SiteProcess(Child):
    """``sitebus-serve`` with *arguments*, as a child process."""

    def __init__(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] = {},
        options: Sequence[str] = (),
    ) -> None:
        argv = [sys.executable, *options, "-m", "sitebus", *arguments]
        super().__init__(argv, cwd, {"PYTHONWARNINGS": WARNINGS, **env})

    @property
    def url(self) -> str:
        """The first address that it says it serves on."""
        return self.wait_for_output(URL).group()
