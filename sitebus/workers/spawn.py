"""Start a process by exec, know it by a descriptor, and hear of its end.

A child gets the standard streams and the descriptors it is given by number, nothing else; nothing
of Python runs between fork and exec, so any thread may spawn. The signals that an operator sends
are blocked until the child has said what they mean to it: a Ctrl-C is for the whole terminal.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress

from sitebus.reexec import CONTROL_SIGNALS

#: What a child blocks at first; `release` lets them through.
HELD = CONTROL_SIGNALS
#: What Python ignores, and what exec would leave ignored.
_IGNORED = tuple(getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name))


class Process:
    """A process that serves us.

    Args:
        pid: its number, which belongs to nobody else until `reap` has answered.
        pidfd: a descriptor of it, which is ours from here on; a new one if it is left out.
        of_ours: whether it is a child of this process. How another ended is for its parent to say,
            who sets `status`; unless it has become ours since, as all orphans of a container do.
    """

    def __init__(self, pid: int, pidfd: int | None = None, *, of_ours: bool = True) -> None:
        self.pid = pid
        self.of_ours = of_ours
        self._pidfd = os.pidfd_open(pid) if pidfd is None else pidfd
        self.status: int | None = None

    def fileno(self) -> int:
        """Answer the descriptor that is readable once the process has ended."""
        return self._pidfd

    def reap(self) -> int | None:
        """Answer the exit status, minus the signal's number if one ended it; None if it lives."""
        if self.status is not None:
            return self.status
        try:
            # By the descriptor: the number of one who is no child of ours may be another's by now.
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            # Somebody else has taken the news, or is to bring them.
            self.status = 0 if self.of_ours else None
        else:
            if ended is not None:
                killed = ended.si_code != os.CLD_EXITED
                self.status = -ended.si_status if killed else ended.si_status
        return self.status

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return not select.select([self._pidfd], [], [], 0)[0]

    def end(self) -> None:
        """End it at once, and wait for that, but no longer than a second."""
        self.kill(signal.SIGKILL)
        select.select([self._pidfd], [], [], 1.0)
        self.reap()

    def detach(self) -> int:
        """Let go of the descriptor, and answer it."""
        pidfd, self._pidfd = self._pidfd, -1
        return pidfd

    def kill(self, number: int) -> None:
        """Send signal *number*, unless the process has ended."""
        if self.status is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Forget it."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def spawn(argv: list[str], environ: Mapping[str, str], fds: Iterable[int]) -> Process:
    """Run *argv*, whose first word is a path, with *fds* open at the same numbers.

    Raises:
        OSError: the system will not.
    """
    # Duplicated to itself a descriptor stays open over the exec (POSIX.1-2024, glibc 2.29).
    actions = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds]
    pid = os.posix_spawn(
        argv[0], argv, environ, file_actions=actions, setsigmask=HELD, setsigdef=_IGNORED
    )
    try:
        return Process(pid)
    except OSError:  # no descriptor to be had: nobody would ever look after it
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def release() -> None:
    """Let through what `spawn` has blocked; in the child, once it has its handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
