"""Programs under test as child processes, ``sitebus-serve`` first of all.

A child is judged by what it prints, answers and leaves behind, as its user would. Its output is
read all the time, so that it never waits for its reader.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from sitebus.errors import NotPrinted, StillRunning
from sitebus.testing import live

#: How long a child may take for anything, on a machine that is busy with other things; seconds.
PATIENCE = 20.0

#: How long the output of a child that was killed may take to be read, in seconds.
_REST = 1.0

#: What a site prints once it serves: the end of its banner, or a record in a log of JSON lines.
_SERVING = re.compile(
    r'(?P<lines>(?:^serving on \S+\n)+)Ctrl-C to stop|"urls": (?P<json>\[.*?\])', re.MULTILINE
)

#: Meant for the process that runs the tests, should that be a child of a site or of systemd.
_FOREIGN = ("SITEBUS_", "LISTEN_", "NOTIFY_")

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Child(live.Block):
    """A program that runs while the block does, and never longer.

    Args:
        argv: The program and its arguments.
        cwd: Where it runs; here if left out.
        env: What its environment has more than that of this process.

    Attributes:
        process: The `subprocess.Popen`.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        cwd: str | Path | None = None,
        env: Mapping[str, str] = _NOTHING,
    ) -> None:
        self.argv = [str(part) for part in argv]
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._closed = False
        self.process = subprocess.Popen(
            self.argv,
            cwd=cwd,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Its own session: what it starts can be ended with it, by its id.
            start_new_session=True,
        )
        # Who forgets to close it leaves no process behind all the same.
        atexit.register(self.close)
        self._reader = threading.Thread(target=self._read, name="output of a child", daemon=True)
        self._reader.start()

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """Answer the whole environment of the program; for subclasses that want another."""
        own = {name: text for name, text in os.environ.items() if not name.startswith(_FOREIGN)}
        return own | {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1"} | dict(extra)

    def _read(self) -> None:
        assert self.process.stdout is not None
        # Closed from here alone: elsewhere, that would wait for whoever still has the other end.
        with self.process.stdout as printed:
            for line in printed:
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

    @property
    def title(self) -> str:
        """What it is, in a report."""
        status = self.process.poll()
        return f"{' '.join(self.argv)} ({'running' if status is None else f'status {status}'})"

    @property
    def told(self) -> str:
        """What it printed, in a report."""
        return self.output

    def wait_for_output(
        self, pattern: str | re.Pattern[str], timeout: float = PATIENCE, what: str = ""
    ) -> re.Match[str]:
        """Answer the first match of *pattern* in the output; *what* that is, in words.

        Raises:
            NotPrinted: There was none in time, or the program ended; an AssertionError.
        """
        regex = re.compile(pattern, re.MULTILINE) if isinstance(pattern, str) else pattern
        with self._news:
            self._news.wait_for(lambda: regex.search("".join(self._lines)) or self._closed, timeout)
            found = regex.search("".join(self._lines))
        if found is None:
            with suppress(subprocess.TimeoutExpired):
                # It has closed its output, and its status is of interest.
                self.process.wait(1 if self._closed else 0)
            raise NotPrinted(what or repr(regex.pattern), self)
        return found

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal; nothing happens if it has ended."""
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Answer the exit status, once all output is read.

        Raises:
            StillRunning: It has not ended in time; an AssertionError.
        """
        end = time.monotonic() + timeout
        self._watch(timeout)
        try:
            status = self.process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise StillRunning(timeout, self) from None
        self._reader.join(timeout)
        return status

    def _watch(self, timeout: float) -> None:
        """Return when it ends, where the system tells: `subprocess` looks every 50 ms."""
        if sys.platform != "linux":
            return
        # It has ended, or the system is too old.
        with suppress(OSError), open(os.pidfd_open(self.pid), "rb") as ended:
            told = select.poll()
            told.register(ended, select.POLLIN)
            told.poll(timeout * 1000)

    def stop(self, timeout: float = PATIENCE) -> int:
        """Ask it to end, as an operator would, and answer its exit status.

        Raises:
            StillRunning: It has not ended in time; an AssertionError.
        """
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def __repr__(self) -> str:
        shown = self.output or "(nothing)\n"
        return f"{' '.join(self.argv)}\nstatus {self.process.poll()}, printed:\n{shown}"

    def close(self) -> None:
        """End it and whatever it started, however it feels about that.

        What has begun a session of its own, as a daemon does, is left alone; should that hold on
        to the output, a second is all that it is waited for.
        """
        atexit.unregister(self.close)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(_REST)


class SiteProcess(Child):
    """``sitebus-serve`` with *arguments*, as a child process.

    It listens on a free port, whatever its file says, so that tests can run side by side; a bind in
    *arguments* is heeded. Of a file with several servers, only the file can say where each listens.

    Args:
        arguments: Those of the command line.
        cwd: Where it runs; here if left out.
        env: What its environment has more than that of this process.
        options: Of the interpreter, such as ``-Wdefault``.
        bind: Where it listens; None for what its file says.
    """

    def __init__(
        self,
        *arguments: str | Path,
        cwd: str | Path | None = None,
        env: Mapping[str, str] = _NOTHING,
        options: Iterable[str] = (),
        bind: str | None = "127.0.0.1:0",
    ) -> None:
        argv = [sys.executable, *options, "-m", "sitebus", *arguments]
        told = {} if bind is None else {"SITEBUS_SERVER__BIND": bind}
        super().__init__(argv, cwd, {**told, **env})

    @property
    def url(self) -> str:
        """The first address that it says it serves on, once it does."""
        return self.urls[0]

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address that it says it serves on, once it does; after a restart, the new ones."""
        self.wait_ready()
        *_, found = _SERVING.finditer(self.output)
        if found["json"]:
            return tuple(json.loads(found["json"]))
        return tuple(line.removeprefix("serving on ") for line in found["lines"].splitlines())

    def wait_ready(self, timeout: float = PATIENCE) -> None:
        """Return once it serves, by its own word: the banner, which ``--quiet`` leaves out.

        Raises:
            NotPrinted: It does not serve in time, or has ended; an AssertionError.
        """
        self.wait_for_output(_SERVING, timeout, "that it serves")
