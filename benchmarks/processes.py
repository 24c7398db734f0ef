"""Servers of several processes as benchmarks run them, and what the kernel says of each process."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from sitebus.closing import Closing

#: How long a server may take to answer for the first time, and for anything else; seconds.
PATIENCE = 60.0
#: A process of `multiprocessing` that serves nobody.
_HELPER = b"resource_tracker"


def end_well() -> None:
    """Have a signal that ends this process end first what it has started, as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def children(pid: int) -> list[int]:
    """Answer the children of all threads of a process; none if it has ended."""
    found: list[int] = []
    for entry in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(word) for word in entry.read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """Answer its children, and theirs."""
    found: list[int] = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def workers(pid: int) -> set[int]:
    """Answer the processes below *pid* that have no children of their own, but for helpers."""
    return {
        each
        for each in descendants(pid)
        if not children(each) and _HELPER not in _read(each, "cmdline") and _is_alive(each)
    }


def _is_alive(pid: int) -> bool:
    return b"State:\tZ" not in _read(pid, "status")


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def kilobytes(rollup: bytes, field: str) -> int:
    """Answer one field of what the kernel says of a process's memory; 0 if it is not there."""
    for line in rollup.splitlines():
        name, colon, value = line.partition(b":")
        if colon and name == field.encode():
            return int(value.split()[0])
    return 0


def _memory(pids: Iterable[int], *fields: str) -> float:
    """Answer the sum of *fields* over *pids*, in megabytes."""
    rollups = [_read(pid, "smaps_rollup") for pid in pids]
    return sum(kilobytes(each, field) for each in rollups for field in fields) / 1024


def pss(pids: Iterable[int]) -> float:
    """Answer the megabytes that *pids* use together; what is shared counts by its shares."""
    return _memory(pids, "Pss")


def private(pids: Iterable[int]) -> float:
    """Answer the megabytes that only one of *pids* uses."""
    # Whether it was written to does not matter: who else had it would share it.
    return _memory(pids, "Private_Clean", "Private_Dirty")


def resident(pid: int) -> float:
    """Answer the megabytes that a process has in use, shared or not."""
    return _memory([pid], "Rss")


def descriptors(pid: int) -> int:
    """Answer how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def switches(pid: int) -> int:
    """Answer how often the threads of a process have gone to sleep so far."""
    return sum(
        int(status.read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
    )


def processor_time(pids: Iterable[int]) -> float:
    """Answer the seconds of processor time that *pids* have used so far."""
    ticks = 0
    for pid in pids:
        fields = _read(pid, "stat").rpartition(b")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_gone(pids: Collection[int], timeout: float) -> bool:
    """Wait until none of *pids* is alive; answer whether that came true in *timeout* seconds."""
    end = time.monotonic() + timeout
    with _watched(pids) as watched:
        while watched:
            found, _, _ = select.select(watched, [], [], max(0.0, end - time.monotonic()))
            if not found:
                return False
            for pidfd in found:
                watched.remove(pidfd)
                os.close(pidfd)
    return True


@contextmanager
def _watched(pids: Iterable[int]) -> Iterator[list[int]]:
    watched: list[int] = []
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                watched.append(os.pidfd_open(pid))
        yield watched
    finally:
        for pidfd in watched:
            os.close(pidfd)


class Server(Closing):
    """A server and its workers, in a session of their own, until the block ends.

    Args:
        command: How it is run.
        folder: Where, and what it imports from.
        port: Where it will answer.
        environ: What it finds in its environment besides ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        port: int,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.address = ("127.0.0.1", port)
        self._log = folder / f"server-{port}.log"
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        path = os.pathsep.join([str(folder), os.getcwd()])
        # Sites that run at the same time have the same name.
        runtime = folder / f"run-{port}"
        runtime.mkdir(mode=0o700, exist_ok=True)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={
                    **inherited,
                    "PYTHONPATH": path,
                    "XDG_RUNTIME_DIR": str(runtime),
                    **(environ or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def workers(self) -> set[int]:
        return workers(self.pid)

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def wait_serving(self, count: int) -> Self:
        """Wait until it answers and has *count* workers."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.is_alive:
            if self.answers() and len(self.workers) == count:
                return self
            time.sleep(0.02)
        self.close()
        told = self._log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.process.args!r} does not serve:\n{told}")

    def answers(self) -> bool:
        """Answer whether it answers a new connection now."""
        try:
            with socket.create_connection(self.address, timeout=PATIENCE) as client:
                client.sendall(b"GET /?up HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return client.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def roll(self) -> float | None:
        """Have all workers replaced, as its manual says; answer the seconds, None if it does not.

        It is done when no worker of before is left and a new connection is answered.
        """
        old = self.workers
        began = time.monotonic()
        self.process.send_signal(signal.SIGHUP)
        if not wait_gone(old, PATIENCE):
            return None
        while not self.answers():
            if not self.is_alive or time.monotonic() > began + PATIENCE:
                return None
            time.sleep(0.005)
        return time.monotonic() - began

    def end(self) -> None:
        """End it as an operator does."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)

    def close(self) -> None:
        """End whatever is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


def sitebus(
    target: str, port: int, count: int, *options: str, adapter: str = "cheroot"
) -> list[str]:
    """Answer the command line of a site with *count* workers, none for a process without any."""
    return [
        *(sys.executable, "-m", "sitebus", target, "-b", f"127.0.0.1:{port}", "-w", str(count)),
        *("-t", "10", "--access-log", "off", "-q", "-o", f"server.adapter={adapter}", *options),
    ]
