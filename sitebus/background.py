"""Two forks: the process goes on in the background, and its launcher waits to tell how it went.

Three processes take part:

* the *launcher* is the command that was run. It waits, passes Ctrl-C on, and leaves with status 0
  once the daemon is ready, or with the status of a daemon that could not be;
* the *keeper*, its child, leads a session of its own, has the daemon as its child so that it learns
  of its death and status whatever happens, and ends with the waiting;
* the *daemon* leads no session, so that no terminal can become its own. Only there `launch` comes
  back.

The daemon says that it is ready by one byte in a pipe, into which the kernel's news of its death
are written as well (``signal.set_wakeup_fd``): end-of-file would not do, for children of the daemon
may keep the pipe open. What the environment says of the daemon outlives an exec.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from sitebus.errors import EX_SOFTWARE, CannotDaemonize

#: Says the pid of the daemon: whoever finds its own pid there is one already.
MARK = "SITEBUS_DAEMON"

#: What the daemon writes; the numbers of signals are lower.
READY = b"\xff"

#: What the launcher passes on, and as what: a terminal that goes away is no reason to reload.
FORWARDED = {
    getattr(signal, name): getattr(signal, sent)
    for name, sent in (
        ("SIGINT", "SIGINT"),
        ("SIGTERM", "SIGTERM"),
        ("SIGHUP", "SIGTERM"),
        ("SIGQUIT", "SIGQUIT"),
    )
    if hasattr(signal, name)
}


def is_daemon() -> bool:
    """Whether this very process was made a daemon, be it by an earlier image of it."""
    return os.environ.get(MARK) == str(os.getpid())


def launch() -> int:
    """Fork twice, and come back in the daemon only; answer the pipe in which it `say_ready`s.

    Raises:
        CannotDaemonize: There are other threads, or no process was to be had; this one goes on.
    """
    _refuse_threads()
    flush()
    before = _Signals()
    reader, writer = os.pipe()
    try:
        keeper = _fork()
        if keeper == 0:
            os.close(reader)
            ready = _keep(writer, before)
            os.environ[MARK] = str(os.getpid())
            return ready
        os.close(writer)
        _follow(keeper, reader, before)
    except OSError as error:
        for fd in (reader, writer):
            with contextlib.suppress(OSError):
                os.close(fd)
        before.put_back()
        raise _no_process(error) from error


def say_ready(pipe: int) -> None:
    """Let the launcher leave, and close the pipe."""
    # Nobody may be left to hear it; the site serves all the same.
    with contextlib.suppress(OSError):
        os.write(pipe, READY)
    with contextlib.suppress(OSError):
        os.close(pipe)


def flush() -> None:
    """Write out what would otherwise be written twice, or to the wrong file."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


def native_threads() -> int:
    """Answer how many threads there are that Python knows nothing of, where the system tells."""
    with contextlib.suppress(OSError):
        return max(0, len(os.listdir("/proc/self/task")) - threading.active_count())
    return 0


def _refuse_threads() -> None:
    others = [t.name for t in threading.enumerate() if t is not threading.current_thread()]
    if others:
        names = ", ".join(map(repr, others))
        raise CannotDaemonize(
            f"there are other threads, {names}, which would not go on in it",
            "start them later, in a listener of 'start' after priority 65",
        )


class _Signals:
    """How signals were answered before the forks; none that is passed on comes until put back."""

    def __init__(self) -> None:
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        # Ignored, as it may be, nobody would learn how a child ended.
        self.child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # A plugin's socket pair would be shared, and the daemon would hear the launcher's signals.
        self.wakeup = signal.set_wakeup_fd(-1)

    def put_back(self) -> None:
        signal.set_wakeup_fd(self.wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self.child if self.child is not None else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)


def _fork() -> int:
    if not native_threads():
        return os.fork()
    import warnings

    with warnings.catch_warnings():
        # OpenBLAS, for one, looks after its own; whoever asks is told by `native_threads`.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _keep(writer: int, before: _Signals) -> int:
    """In the keeper: fork the daemon, in which alone this comes back, and tell how it fares."""
    try:
        os.setsid()
        news, ready = os.pipe()
        os.set_blocking(ready, False)
        signal.set_wakeup_fd(ready, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        daemon = os.fork()
    except OSError as error:
        _say(writer, f"!{error.errno}\n")
        os._exit(EX_SOFTWARE)
    if daemon == 0:
        before.put_back()
        os.close(news)
        os.close(writer)
        return ready
    try:
        # From here on the launcher passes signals on: to the whole session, keeper included, which
        # goes on blocking them.
        _say(writer, "forked\n")
        _say(writer, _outcome(daemon, news))
    finally:
        os._exit(0)


def _outcome(daemon: int, news: int) -> str:
    """Wait until the daemon is ready or dead."""
    while True:
        if READY in os.read(news, 512):
            return "ready"
        dead, status = os.waitpid(daemon, os.WNOHANG)
        if dead:
            return str(os.waitstatus_to_exitcode(status))


def _follow(keeper: int, reader: int, before: _Signals) -> NoReturn:
    """In the launcher: wait, and leave.

    Raises:
        OSError: The keeper could not fork.
    """
    with open(reader, encoding="ascii", closefd=False) as keepers:
        first = keepers.readline()
        if first.startswith("!"):
            os.waitpid(keeper, 0)
            raise OSError(int(first[1:]), os.strerror(int(first[1:])))
        signalled = _pass_signals_on(keeper, before)
        told = keepers.read()
        os.waitpid(keeper, 0)
        if not told:
            _send(keeper, signal.SIGTERM)
        _leave(told, signalled)


def _pass_signals_on(keeper: int, before: _Signals) -> list[int]:
    """Pass each signal on to the keeper's session; answer the list of those that ask for an end."""
    signalled: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        sent = FORWARDED[signal.Signals(number)]
        if sent in (signal.SIGINT, signal.SIGTERM):
            signalled.append(number)
        _send(keeper, sent)

    for number in FORWARDED:
        # nohup, and a shell that runs a command in the background, ask for that.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_SETMASK, before.mask)
    return signalled


def _send(keeper: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(keeper, number)


def _leave(told: str, signalled: list[int]) -> NoReturn:
    """End the launcher with the status, and the sentence, that the daemon's fate asks for."""
    status, sentence = verdict(told, signalled)
    if sentence:
        with contextlib.suppress(OSError):
            os.write(2, f"sitebus: {sentence}\n".encode())
    os._exit(status)


def verdict(told: str, signalled: list[int]) -> tuple[int, str]:
    """Answer the launching command's exit status, and what it says.

    Args:
        told: What the keeper said: ``ready``, or the status of the dead daemon; nothing if it was
            itself killed.
        signalled: The signals that asked for an end meanwhile.
    """
    if not told:
        return EX_SOFTWARE, "the process that watched the daemon was killed; the daemon ends, too"
    code = 0 if told == "ready" else int(told)
    if code > 0:
        return code, ""  # the daemon has said why
    if signalled:
        return 128 + signalled[0], ""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return 128 - code, f"the daemon was killed by {name} before it served"
    if told == "ready":
        return 0, ""
    return EX_SOFTWARE, "the daemon ended before it served"


def _say(writer: int, line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(writer, line.encode("ascii"))


def _no_process(error: OSError) -> CannotDaemonize:
    remedy = "raise the limit" if error.errno == errno.EAGAIN else "run it in the foreground"
    reason = (error.strerror or str(error)).lower()
    return CannotDaemonize(f"no further process could be made ({reason})", remedy)
