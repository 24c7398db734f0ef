"""What a site costs while nobody asks, and how long it takes to begin and to end.

    python -m benchmarks.idle [SECONDS]

Counts the wake-ups (voluntary context switches of all threads) of an idle process, with no
connection and with ten kept-alive ones, then the time from SIGTERM to its end, and from start to
ready inside the process. Bare cheroot stands beside it. Linux only.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.hosting import BACKLOG, BODY, KEEP, THREADS, TIMEOUT, application

SECONDS = 5.0
TRIALS = 11
GOALS = {"wakeups": 0.0, "term": 50.0, "ready": 10.0, "stop": 20.0}


def bare() -> None:
    """Cheroot, its loop in the main thread, ended by an exception as its own command line does."""
    from cheroot.wsgi import Server

    server = Server(
        ("127.0.0.1", 0),
        application,
        numthreads=THREADS,
        request_queue_size=BACKLOG,
        timeout=TIMEOUT,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    began = time.perf_counter()
    server.prepare()
    took = (time.perf_counter() - began) * 1000
    try:
        print(server.bind_addr[1], took, flush=True)
        server.serve()
    finally:
        server.stop()


def sitebus() -> None:
    from sitebus.process import Engine
    from sitebus.servers.cheroot import CherootServer

    engine = Engine()
    server = CherootServer(engine, application, binds=["127.0.0.1:0"], timeout=TIMEOUT)
    server.subscribe()
    signal.signal(signal.SIGTERM, lambda *_: engine.interrupt())
    began = time.perf_counter()
    engine.start()
    print(server.addresses[0].port, (time.perf_counter() - began) * 1000, flush=True)
    engine.block()


CONTENDERS: dict[str, Callable[[], None]] = {"bare": bare, "sitebus": sitebus}


class Child:
    """One server, idle, as a child process."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.idle", "--serve", name],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        port, ready = self.process.stdout.readline().split()
        self.address = ("127.0.0.1", int(port))
        self.ready = float(ready)

    def wakeups(self, seconds: float) -> float:
        time.sleep(0.5)  # what was begun is done
        before = self._switches()
        time.sleep(seconds)
        return (self._switches() - before) / seconds

    def _switches(self) -> int:
        return sum(
            int(status.read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
            for status in Path(f"/proc/{self.process.pid}/task").glob("*/status")
        )

    def ask(self) -> socket.socket:
        client = socket.create_connection(self.address)
        client.sendall(KEEP)
        while not client.recv(65536).endswith(BODY):
            pass
        return client

    def end(self) -> float:
        """Answer the milliseconds from SIGTERM to its end."""
        began = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        took = (time.perf_counter() - began) * 1000
        self.process.communicate()
        return took


def measure(name: str, seconds: float) -> None:
    child = Child(name)
    alone = child.wakeups(seconds)
    clients = [child.ask() for _ in range(10)]
    accompanied = child.wakeups(seconds)
    for client in clients:
        client.close()
    child.end()
    trials = [(each.ready, each.end()) for each in (Child(name) for _ in range(TRIALS))]
    ready, term = (statistics.median(column) for column in zip(*trials, strict=True))
    print(f"{name}:")
    print(f"  wake-ups a second, no connection     {alone:6.2f}   goal {GOALS['wakeups']:g}")
    print(f"  wake-ups a second, 10 kept alive     {accompanied:6.2f}")
    print(f"  start to ready (imports included)    {ready:6.2f} ms   goal {GOALS['ready']:g}")
    print(f"  SIGTERM to gone                      {term:6.2f} ms   goal {GOALS['term']:g}")


def cycles() -> None:
    """Time start and stop in one process, when everything has been imported."""
    from sitebus.process import Engine
    from sitebus.servers.cheroot import CherootServer

    engine = Engine()
    CherootServer(engine, application, binds=["127.0.0.1:0"]).subscribe()
    starts, stops = [], []
    for _ in range(50):
        starts.append(_timed(engine.start))
        stops.append(_timed(engine.stop))
    engine.exit()
    print("sitebus, 50 cycles in one process:")
    print(f"  start to ready   {statistics.median(starts):6.2f} ms   goal {GOALS['ready']:g}")
    print(f"  idle stop        {statistics.median(stops):6.2f} ms   goal {GOALS['stop']:g}")


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def main(seconds: float = SECONDS) -> None:
    for name in CONTENDERS:
        measure(name, seconds)
    cycles()


if __name__ == "__main__":
    if not os.path.exists("/proc/self/task"):
        sys.exit("the wake-ups of a process are read from Linux's /proc")
    if sys.argv[1:2] == ["--serve"]:
        CONTENDERS[sys.argv[2]]()
    else:
        main(*map(float, sys.argv[1:2]))
