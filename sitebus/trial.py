"""Try a command line in a child, before this process gives itself up for it.

The child is the same program with the same arguments, up to the point where it would start: there
the bus publishes ``trial`` instead, for whoever loads something at a start, tells this process how
that went, and ends. It binds nothing that this process holds, serves nothing, and asks for nothing.

`Trial` is this process's side; what begins with `is_one` is the child's.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from sitebus.errors import (
    EX_SOFTWARE,
    AppNotFound,
    CannotRestart,
    SitebusError,
    TrialFailed,
    status_of,
)

if TYPE_CHECKING:
    from subprocess import Popen

    from sitebus.reexec import Command

#: Set for the child: the descriptor to report on, the pid of who waits for the report, and what
#: tells the descriptor from others of the same number.
VARIABLE = "SITEBUS_TRIAL"
#: Set for the child: the addresses it need not try to bind, one a line.
HELD = "SITEBUS_TRIAL_HELD"

#: What a program is told by the process that starts it, and what is not for a child of ours.
_NOT_FOR_CHILDREN = (
    *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
    *("SITEBUS_HANDED_DOWN", "NOTIFY_SOCKET", "WATCHDOG_PID"),
)

#: The last of what a failing program printed is what matters; bytes.
_MOST_KEPT = 64 << 10

#: How often the child is looked at, should it end without a word; seconds.
_GLANCE = 0.1

#: A frame of a traceback, or the first words of a message about a file.
_FRAME = r'^\s*File "(.+?)", line (\d+)'
_PLACE = r"^(?:[\w-]+: )?([^\s:][^:\n]*):(\d+): "
_STRANGERS = r"[/\\](?:site|dist)-packages[/\\]|^<"


class Trial:
    """One run of *command* as a trial.

    Args:
        command: What would be run instead of this process.
        timeout: Seconds it may take.
        held: Addresses that this process holds.
    """

    def __init__(self, command: Command, timeout: float, held: Iterable[str] = ()) -> None:
        self.command = command
        self.timeout = timeout
        self.held = tuple(held)
        self.cancelled = False
        self._child: Popen[bytes] | None = None

    def run(self) -> None:
        """Return when the program has proved that it can start.

        Raises:
            TrialFailed: It cannot, or it was not done in time.
            CannotRestart: It could not even be run, or `cancel` was called.
        """
        reading, writing = os.pipe()
        try:
            try:
                self._child = child = self._spawn(writing)
            finally:
                os.close(writing)
            try:
                report, output = self._listen(reading, child)
            finally:
                _end(child)
        finally:
            os.close(reading)
        if self.cancelled:
            raise CannotRestart(self.command.argv, "the process is on its way out")
        if report.get("ok") is not True:
            raise self._failure(report, output, child.returncode)

    def cancel(self) -> None:
        """Have `run` end soon; any thread may call it."""
        self.cancelled = True
        if self._child is not None:
            _kill(self._child)

    def _spawn(self, writing: int) -> Popen[bytes]:
        import subprocess

        environ = {k: v for k, v in os.environ.items() if k not in _NOT_FOR_CHILDREN}
        environ[VARIABLE] = f"{writing} {os.getpid()} {os.fstat(writing).st_ino}"
        environ[HELD] = "\n".join(self.held)
        try:
            return subprocess.Popen(
                self.command.argv,
                executable=self.command.executable,
                cwd=self.command.directory,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                # Ctrl-C at the terminal is for this process, which ends the child.
                process_group=0,
            )
        except OSError as error:
            reason = f"no child could be started to try it in ({error})"
            raise CannotRestart(self.command.argv, reason) from error

    def _listen(self, reading: int, child: Popen[bytes]) -> tuple[dict[str, Any], str]:
        """Take in what the child reports and prints until it has said how it went, or cannot."""
        assert child.stdout is not None
        ear = _Ear(reading, child.stdout.fileno())
        deadline = time.monotonic() + self.timeout
        if self.cancelled:
            _kill(child)
        while (left := deadline - time.monotonic()) > 0:
            # What the program forks has its pipes as well: they may stay open when it is gone.
            ended = child.poll() is not None
            if ear.listen(0 if ended else min(left, _GLANCE)) or ended:
                return ear.told()
        return {"late": True}, ear.printed()

    def _failure(self, report: Mapping[str, Any], output: str, status: int) -> TrialFailed:
        if report.get("late"):
            said = f"the new code was not ready to serve within {self.timeout:g} s (try_timeout)"
            return failure(said, f"{output}\n{said}".strip())
        if report:
            return failure(report["message"], report["text"], report["missing"])
        if status == 0:
            said = "it ended without starting the bus"
            return failure(said, f"{output}\n{said}".strip())
        lines = output.strip().splitlines() or [f"it ended with status {status} and said nothing"]
        return failure(lines[-1].strip(), output.strip() or lines[-1])


class _Ear:
    """What a child reports, and the last that it prints."""

    def __init__(self, reading: int, printing: int) -> None:
        import select

        self._report = self._output = b""
        self._reading = reading
        self._printing = printing
        self._poll = select.poll()
        for fd in (reading, printing):
            self._poll.register(fd, select.POLLIN)

    def listen(self, seconds: float) -> bool:
        """Take in what comes first within *seconds*; tell whether the report is complete."""
        complete = False
        for fd, _ in self._poll.poll(seconds * 1000):
            chunk = os.read(fd, 1 << 16)
            if fd == self._reading:
                self._report += chunk
                complete = not chunk or chunk.endswith(b"\n")
            else:
                self._output = (self._output + chunk)[-_MOST_KEPT:]
                if not chunk:
                    self._poll.unregister(fd)
        return complete

    def told(self) -> tuple[dict[str, Any], str]:
        """Answer the report, if there is a whole one, and what was printed before it."""
        import json

        os.set_blocking(self._printing, False)
        with suppress(BlockingIOError):
            self._output = (self._output + os.read(self._printing, _MOST_KEPT))[-_MOST_KEPT:]
        with suppress(ValueError):
            return json.loads(self._report), self.printed()
        return {}, self.printed()

    def printed(self) -> str:
        """Answer the last of what was printed."""
        return self._output.decode("utf-8", "backslashreplace")


class Place(NamedTuple):
    """Where a failure is, as far as its text says."""

    file: str
    line: int

    @property
    def is_own(self) -> bool:
        """Whether it is in the site's own code, not in an installed package or in Python's."""
        return not _is_strangers(self.file)


def places(text: str) -> list[Place]:
    """Answer the files and lines that *text*, a traceback or a message, names, the likeliest last.

    Frames of installed packages and of the standard library come before those of the site itself.
    """
    import re

    found = [Place(file, int(line)) for file, line in re.findall(_FRAME, text, re.MULTILINE)]
    if not found:
        said = re.findall(_PLACE, text, re.MULTILINE)
        found = [Place(file, int(line)) for file, line in reversed(said)]
    real = [each for each in found if os.path.isfile(each.file)]
    return sorted(real, key=lambda each: each.is_own)


def _is_strangers(file: str) -> bool:
    import re

    return bool(re.search(_STRANGERS, file)) or file.startswith(os.path.dirname(os.__file__))


def text_of(error: BaseException) -> str:
    """Answer the traceback of a stranger's failure; a sentence of ours needs none."""
    if isinstance(error, SitebusError):
        return str(getattr(error, "traceback_text", "")).rstrip()
    import traceback

    return "".join(traceback.format_exception(error)).rstrip()


def missing(error: BaseException) -> set[str]:
    """Answer what was not there and would mend *error*, as far as it tells: files and folders."""
    found: set[str] = set()
    for cause in _causes(error):
        if isinstance(cause, OSError) and isinstance(cause.filename, str):
            found.add(os.path.abspath(cause.filename))
        elif isinstance(cause, ImportError) and cause.name:
            found.update(_sources(cause.name))
        elif isinstance(cause, AppNotFound):
            parts = cause.reference.replace("#", ":").split(":")
            found.update(os.path.abspath(each) for each in parts if os.sep in each)
            found.update(_sources(parts[0]))
    return found


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Answer *error*, what it wraps, and what led to it."""
    seen: set[int] = set()
    left: list[object] = [error]
    while left:
        each = left.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            left += [getattr(each, "error", None), each.__cause__, each.__context__]


def _sources(module: str) -> Iterator[str]:
    """Answer what *module* would be on the site's own path: a file, a package, a folder."""
    for folder in {os.path.abspath(each) for each in sys.path}:
        path = os.path.join(folder, *module.split("."))
        if not _is_strangers(path):
            yield from (f"{path}.py", path, os.path.join(path, "__init__.py"))


def failure(message: str, text: str, missing: Iterable[str] = ()) -> TrialFailed:
    """Answer why a program cannot start, with the place that *text* or the message tells."""
    found = places(text)
    where = found[-1] if found else Place("", 0)
    files = {each.file for each in found}
    if " ".join(text.split()) == " ".join(message.split()):
        text = ""  # it would be read twice
    return TrialFailed(message, text, where.file, where.line, files.union(missing))


def _kill(child: Popen[bytes]) -> None:
    import signal

    if child.poll() is None:
        # With whatever it started; it made itself the leader of a group before it ran.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)


def _end(child: Popen[bytes]) -> None:
    """Give it a moment to end by itself, which tells its status, and end what it has started."""
    import signal
    import subprocess

    assert child.stdout is not None
    try:
        child.wait(0.2)
    except subprocess.TimeoutExpired:
        _kill(child)
        child.wait()
    # Asked, not killed: multiprocessing's tracker is deaf to it, and cleans up.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGTERM)
    child.stdout.close()


# In the child.

#: Taken by the bus that proves itself, for good.
_beginning = threading.Lock()
#: Taken by who minds the parent.
_minding = threading.Lock()


def is_one() -> bool:
    """Tell whether this process is a trial, be it one whose parent has died meanwhile."""
    words = os.environ.get(VARIABLE, "").split()
    if len(words) != 3:
        return False
    fd, parent, identity = map(int, words)
    if parent == os.getppid():
        return True
    # What a trial starts has the variable as well, but hardly the descriptor.
    try:
        return identity != 0 and os.fstat(fd).st_ino == identity
    except OSError:
        return False


def begin() -> bool:
    """Answer True to the first who asks: the bus that this process is a trial of."""
    return _beginning.acquire(blocking=False)


def held() -> frozenset[str]:
    """Answer the addresses that need not be tried, as they were asked for."""
    return frozenset(os.environ.get(HELD, "").splitlines())


def succeed() -> NoReturn:
    """Report that the program can start, and end this process."""
    _report(b'{"ok": true}', 0)  # without the import that writing it would take


def fail(error: BaseException) -> NoReturn:
    """Report why the program cannot start, and end this process."""
    import json

    kind = type(error).__name__
    ours = isinstance(error, SitebusError)
    message = str(error) if ours else f"{kind}: {error}".rstrip(": ")
    said = {
        "ok": False,
        "message": " ".join(message.split()),
        "text": text_of(error),
        "missing": sorted(missing(error)),
    }
    _report(json.dumps(said).encode(), status_of(error))


def _report(said: bytes, status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
    fd = int(os.environ[VARIABLE].split()[0])
    with suppress(OSError), open(fd, "wb") as report:
        report.write(said + b"\n")
    os._exit(status)


def mind_parent() -> None:
    """In a trial, end this process when nobody waits for its report any more.

    Importing `sitebus` does this, so that it holds for every program, whatever it does then.
    """
    if not is_one() or not _minding.acquire(blocking=False):
        return
    import gc
    import select

    # It ends before there is much to collect, and somebody waits for it.
    gc.disable()
    fd = int(os.environ[VARIABLE].split()[0])
    # What the program starts must not keep the report open.
    os.set_inheritable(fd, False)
    poll = select.poll()
    poll.register(fd, select.POLLERR)

    def wait() -> None:
        poll.poll()
        os._exit(EX_SOFTWARE)

    threading.Thread(target=wait, name="sitebus trial", daemon=True).start()
