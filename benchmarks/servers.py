"""Requests per second through sitebus with one mount beside each bare server library.

    python -m benchmarks.servers [SECONDS] [ROUNDS] [NAME ...]

Names are those of adapters, all by default; one that is not installed is left out. Library and
sitebus are child processes on one core with the same settings, the load comes from another core
(wrk where it is installed, else a client of our own). Both run all the time and take turns, so that
a machine that slows down slows both.

What counts is the processor time that a request costs the server: it is steady where the machine
has other things to do. Ratios are medians of the rounds' ratios, bare to sitebus: 1 is as good.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks import hosting
from sitebus.errors import ServerNotInstalled, UnknownServer

Speech = Literal["wsgi", "asgi"]
Way = Literal["bare", "site"]

TARGET = 0.98
#: For servers whose own part of a request is compiled.
TARGET_COMPILED = 0.95
COMPILED = frozenset({"granian"})
SECONDS = 1.0
ROUNDS = 9
CLIENTS = 32
THREADS = hosting.THREADS
TIMEOUT = hosting.TIMEOUT
BACKLOG = hosting.BACKLOG
BODY = hosting.BODY
#: How long a server may take to answer for the first time.
PATIENCE = 20.0


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    length = b"%d" % len(BODY)
    headers = [(b"content-type", b"text/plain"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


APPLICATIONS: dict[Speech, Any] = {"wsgi": wsgi, "asgi": asgi}


# The libraries as their own users run them, with the settings that a busy site needs.


def _listening() -> socket.socket:
    made = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(made.getsockname()[1], flush=True)
    return made


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run on the loop that sitebus would use."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(coroutine)
    else:
        uvloop.run(coroutine)


def bare_cheroot(speech: Speech) -> None:
    hosting.bare()


def bare_waitress(speech: Speech) -> None:
    from waitress.server import create_server

    server = create_server(
        wsgi,
        sockets=[_listening()],
        threads=THREADS,
        asyncore_use_poll=True,
        connection_limit=1000,
        channel_timeout=TIMEOUT,
        ident="sitebus",
    )
    server.run()


def bare_uvicorn(speech: Speech) -> None:
    import uvicorn

    config = uvicorn.Config(asgi, log_config=None, access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[_listening()])


def bare_hypercorn(speech: Speech) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{_listening().detach()}"]
    config.backlog = BACKLOG
    _run(serve(asgi, config))  # type: ignore[arg-type]


def bare_granian(speech: Speech) -> None:
    from granian.constants import Interfaces
    from granian.server import Server

    with _listening() as found:
        port = found.getsockname()[1]
    Server(
        f"benchmarks.servers:{speech}",
        port=port,
        interface=Interfaces(speech if speech == "wsgi" else "asginl"),
        blocking_threads=THREADS if speech == "wsgi" else 1,
        backlog=BACKLOG,
        log_enabled=False,
    ).serve()


def bare_wsgiref(speech: Speech) -> None:
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True
        request_queue_size = BACKLOG

    server = Server(("127.0.0.1", 0), Quiet)
    server.set_app(wsgi)
    print(server.server_port, flush=True)
    server.serve_forever()


class Library(NamedTuple):
    """One server library, and what it speaks by itself."""

    name: str
    speaks: tuple[Speech, ...]
    bare: Callable[[Speech], None]


LIBRARIES = (
    Library("cheroot", ("wsgi",), bare_cheroot),
    Library("waitress", ("wsgi",), bare_waitress),
    Library("wsgiref", ("wsgi",), bare_wsgiref),
    Library("uvicorn", ("asgi",), bare_uvicorn),
    Library("hypercorn", ("asgi",), bare_hypercorn),
    Library("granian", ("wsgi", "asgi"), bare_granian),
)


def site(name: str, speech: Speech) -> None:
    """The adapter, and a site with one mount."""
    from sitebus.mounts import Site
    from sitebus.process import Engine
    from sitebus.servers import find
    from sitebus.servers.hosting import Faces, SiteServer

    shelf = Site()
    shelf.mount(APPLICATIONS[speech], "/")
    faces = Faces(shelf.wsgi, lambda: shelf.plain_asgi, shelf.speech)
    adapter = find(name)
    assert issubclass(adapter, SiteServer)
    engine = Engine()
    server = adapter(
        engine,
        faces,
        binds=["127.0.0.1:0"],
        threads=THREADS,
        timeout=TIMEOUT,
        backlog=BACKLOG,
    )
    server.subscribe()
    engine.start()
    print(server.addresses[0].port, flush=True)
    engine.block()


def serve(way: Way, name: str, speech: Speech) -> None:
    # waitress warns of each request that has to wait for a thread.
    logging.disable(logging.WARNING)
    if way == "site":
        site(name, speech)
    else:
        next(each for each in LIBRARIES if each.name == name).bare(speech)


class Contender:
    """One server as a child process, maybe with children of its own."""

    def __init__(self, way: Way, name: str, speech: Speech) -> None:
        self.way = way
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.servers", "--serve", way, name, speech],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        port = self.process.stdout.readline()
        if not port:
            self.close()
            raise RuntimeError(f"{way} {name} ({speech}) did not start")
        self.address = ("127.0.0.1", int(port))
        self._wait_answering()

    def _wait_answering(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError), socket.create_connection(self.address, timeout=5) as client:
                client.sendall(hosting.CLOSE)
                if client.recv(100).startswith(b"HTTP/1."):
                    return
            time.sleep(0.05)
        self.close()
        raise RuntimeError(f"{self.process.args!r} does not answer")

    @property
    def processor_time(self) -> float:
        """The seconds that it and its children have used so far."""
        return sum(map(_processor_time, _family(self.process.pid)))

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Result(NamedTuple):
    """What one round measured."""

    rate: float
    #: Microseconds of the server's processor time for each request.
    cost: float
    #: What the load saw go wrong.
    trouble: str = ""


def measure(contender: Contender, request: bytes, seconds: float) -> Result:
    before = contender.processor_time
    if shutil.which("wrk"):
        answered, rate, trouble = _wrk(contender.address, request, seconds)
    else:
        rate, trouble = hosting.rate(contender.address, request, seconds), ""
        answered = rate * seconds
    return Result(rate, (contender.processor_time - before) / max(answered, 1) * 1e6, trouble)


def _wrk(address: tuple[str, int], request: bytes, seconds: float) -> tuple[float, float, str]:
    # It counts whole seconds only.
    said = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{max(1, round(seconds))}s"]
    if request is hosting.CLOSE:
        said += ["-H", "Connection: close"]
    told = subprocess.run(
        [*said, f"http://{address[0]}:{address[1]}/"], capture_output=True, text=True, check=True
    ).stdout
    answered = re.search(r"(\d+) requests in", told)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert answered, told
    assert rate, told
    troubles = re.findall(r"(?:Non-2xx.*|Socket errors.*)", told)
    return float(answered[1]), float(rate[1]), "; ".join(troubles)


@contextmanager
def pair(name: str, speech: Speech) -> Iterator[tuple[Contender, Contender]]:
    """Run both on one core, and leave this process on another."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    running: list[Contender] = []
    try:
        running.append(Contender("bare", name, speech))
        running.append(Contender("site", name, speech))
        os.sched_setaffinity(0, {cores[-1]})
        yield running[0], running[1]
    finally:
        os.sched_setaffinity(0, cores)
        for each in running:
            each.close()


def compare(
    name: str, speech: Speech, seconds: float, rounds: int
) -> Iterator[tuple[str, list[Result], list[Result]]]:
    """Yield, for both ways of asking, what the bare library and sitebus did."""
    with pair(name, speech) as contenders:
        for asking, request in (("kept", hosting.KEEP), ("each", hosting.CLOSE)):
            found: dict[Way, list[Result]] = {"bare": [], "site": []}
            for number in range(rounds + 1):
                for each in contenders if number % 2 else contenders[::-1]:
                    result = measure(each, request, seconds)
                    if number:  # the first round is for warming up
                        found[each.way].append(result)
            yield asking, found["bare"], found["site"]


def report(name: str, speech: Speech, asking: str, bare: list[Result], ours: list[Result]) -> None:
    rate = statistics.median(s.rate / b.rate for s, b in zip(ours, bare, strict=True))
    # The kernel counts in hundredths of a second: a round of nothing would divide by it.
    cost = statistics.median(b.cost / max(s.cost, 0.1) for s, b in zip(ours, bare, strict=True))
    target = TARGET_COMPILED if name in COMPILED else TARGET
    print(
        f"{name:10} {speech} {asking}"
        f" {_middle(b.rate for b in bare):8.0f} {_middle(s.rate for s in ours):8.0f} {rate:6.3f}"
        f" {_middle(b.cost for b in bare):8.1f} {_middle(s.cost for s in ours):8.1f} {cost:6.3f}"
        f"   {target:.2f} {'ok' if cost >= target else 'MISSED'}"
    )
    for trouble in sorted({result.trouble for result in (*bare, *ours)} - {""}):
        print(f"           {trouble}")


def _middle(values: Iterable[float]) -> float:
    return statistics.median(values)


def installed(name: str) -> bool:
    from sitebus.servers import find

    try:
        find(name)
    except (UnknownServer, ServerNotInstalled) as error:
        print(f"{name:10} {error}")
        return False
    return name == "wsgiref" or importlib.util.find_spec(name) is not None


def main(seconds: float = SECONDS, rounds: int = ROUNDS, names: Sequence[str] = ()) -> None:
    load = f"wrk, {CLIENTS}" if shutil.which("wrk") else f"own client, {hosting.CLIENTS}"
    print(f"{load} connections (kept, or one for each request), {rounds} rounds of {seconds:g} s")
    print("                     requests a second      ratio    us a request        ratio  target")
    print("                     bare     site                   bare     site")
    for library in LIBRARIES:
        if names and library.name not in names:
            continue
        if not installed(library.name):
            continue
        for speech in library.speaks:
            for asking, bare, ours in compare(library.name, speech, seconds, rounds):
                report(library.name, speech, asking, bare, ours)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])  # type: ignore[arg-type]
    else:
        numbers = [kind(text) for kind, text in zip((float, int), sys.argv[1:3], strict=False)]
        main(*numbers, names=sys.argv[3:])  # type: ignore[misc]
