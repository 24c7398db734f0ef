"""Requests per second through sitebus's cheroot beside bare cheroot with the same settings.

    python -m benchmarks.hosting [SECONDS] [ROUNDS]

Each server is a child process on one core, this process is the client on another. Both servers run
all the time and take turns, so that a machine that slows down slows both; the ratio is the median
of the rounds' ratios. The processor time that a request costs the server stands beside it: it is
steadier where the machine has other things to do.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

TARGET = 0.98
SECONDS = 1.0
ROUNDS = 15
CLIENTS = 8
THREADS = 10
TIMEOUT = 10
BACKLOG = 1024

KEEP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
BODY = b"hello, world\n"


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]


def bare() -> None:
    """Cheroot as its own users run it, with the settings that a busy site needs."""
    from cheroot.wsgi import Server

    server = Server(
        ("127.0.0.1", 0),
        application,
        numthreads=THREADS,
        request_queue_size=BACKLOG,
        timeout=TIMEOUT,
        server_name="sitebus",
    )
    server.keep_alive_conn_limit = None  # type: ignore[assignment]
    server.prepare()
    print(server.bind_addr[1], flush=True)
    server.serve()


def adapter() -> None:
    """The adapter alone, without a site."""
    _engine(application)


def site() -> None:
    """The adapter and a site with one mount."""
    from sitebus.mounts import Site

    shelf = Site()
    shelf.mount(application, "/")
    _engine(shelf.wsgi)


def _engine(app: Any) -> None:
    from sitebus.process import Engine
    from sitebus.servers.cheroot import CherootServer

    engine = Engine()
    settings = {"threads": THREADS, "timeout": TIMEOUT, "backlog": BACKLOG}
    server = CherootServer(engine, app, binds=["127.0.0.1:0"], **settings)
    server.subscribe()
    engine.start()
    print(server.addresses[0].port, flush=True)
    engine.block()


CONTENDERS: dict[str, Callable[[], None]] = {"bare": bare, "adapter": adapter, "site": site}


class Contender:
    """One server as a child process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.hosting", "--serve", name],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = ("127.0.0.1", int(self.process.stdout.readline()))

    @property
    def processor_time(self) -> float:
        """The seconds it has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


class Client:
    """One connection at a time, asking again as soon as it has its answer."""

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self.address = address
        self.request = request
        self.socket = self._ask_anew()

    def _ask_anew(self) -> socket.socket:
        self.socket = socket.create_connection(self.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(self.request)
        self.received = b""
        return self.socket

    def read(self) -> bool:
        """Read what is there, and tell whether an answer is complete."""
        data = self.socket.recv(65536)
        self.received += data
        if self.request is KEEP:
            return self.received.endswith(BODY)
        assert data or self.received.endswith(BODY), self.received
        return not data


def rate(address: tuple[str, int], request: bytes, seconds: float) -> float:
    """Answer how many requests a second *address* answers."""
    with selectors.DefaultSelector() as selector:
        for client in [Client(address, request) for _ in range(CLIENTS)]:
            selector.register(client.socket, selectors.EVENT_READ, client)
        began = time.perf_counter()
        answered = 0
        while time.perf_counter() < began + seconds:
            for key, _ in selector.select(1):
                if key.data.read():
                    answered += 1
                    _again(selector, key.data)
        elapsed = time.perf_counter() - began
        for key in list(selector.get_map().values()):
            key.data.socket.close()
    return answered / elapsed


def _again(selector: selectors.BaseSelector, client: Client) -> None:
    if client.request is KEEP:
        client.received = b""
        client.socket.sendall(KEEP)
        return
    selector.unregister(client.socket)
    client.socket.close()
    selector.register(client._ask_anew(), selectors.EVENT_READ, client)


def compare(contenders: list[Contender], request: bytes, seconds: float, rounds: int) -> None:
    rates: dict[str, list[float]] = {each.name: [] for each in contenders}
    costs: dict[str, list[float]] = {each.name: [] for each in contenders}
    for number in range(rounds + 1):
        for each in contenders if number % 2 else contenders[::-1]:
            before = each.processor_time
            found = rate(each.address, request, seconds)
            if number:  # the first round is for warming up
                rates[each.name].append(found)
                costs[each.name].append((each.processor_time - before) / (found * seconds) * 1e6)
    for name in rates:
        _print(name, rates[name], rates["bare"], statistics.median(costs[name]))


def _print(name: str, rates: list[float], floor: list[float], cost: float) -> None:
    ratio = statistics.median(ours / bare for ours, bare in zip(rates, floor, strict=True))
    verdict = "ok" if ratio >= TARGET else "MISSED"
    print(
        f"  {name:8} {statistics.median(rates):7.0f}/s {cost:6.1f} us   ratio {ratio:.3f}"
        + (f"   target {TARGET}  {verdict}" if name != "bare" else "")
    )


def main(seconds: float = SECONDS, rounds: int = ROUNDS) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    contenders = [Contender(name) for name in CONTENDERS]
    os.sched_setaffinity(0, {cores[-1]})
    try:
        print(f"kept-alive connections, {CLIENTS} clients, {rounds} rounds of {seconds:g} s")
        compare(contenders, KEEP, seconds, rounds)
        print(f"a connection for each request, {CLIENTS} clients")
        compare(contenders, CLOSE, seconds, rounds)
    finally:
        for each in contenders:
            each.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        CONTENDERS[sys.argv[2]]()
    else:
        main(*(kind(text) for kind, text in zip((float, int), sys.argv[1:], strict=False)))
