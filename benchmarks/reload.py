"""From saving a file to the first answer of the new code, beside the reloaders people use.

    python -m benchmarks.reload [ROUNDS] [NAME ...]

Every contender that is installed serves the same application of three modules: as it is, with an
import of its own that takes a second, and with one that an installed package takes. A client makes
20 new connections a second all the time; what is refused, reset, cut off or answered 5xx has
failed, and the slowest answer is told. In three more rounds, which do not count for the median, a
request of a second is under way when the file is saved. The floor is a fresh ``sitebus-serve``,
from spawn to first answer. NAMEs choose the contenders whose names hold one of them.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.startup import free_port

ROUNDS = 10
#: Saves with a request under way.
UNDER_WAY = 3
#: Seconds between two connections of the client that counts failures.
EVERY = 0.05
#: Where installed packages are, below a folder.
PACKAGES = "lib/site-packages"
#: How long a reload may take before it counts as none; seconds.
PATIENCE = 12.0

SITEAPP = """\
import time

import library
import models
import views

time.sleep(SECONDS)


def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1)
    body = views.VERSION.encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    import asyncio

    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    body = views.VERSION.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

CHERRYPY = """\
import sys

import cherrypy
from siteapp import application

cherrypy.tree.graft(application, "/")
cherrypy.config.update({
    "server.socket_port": int(sys.argv[1]),
    "server.thread_pool": 10,
    "log.screen": False,
})
cherrypy.engine.signals.subscribe()
cherrypy.engine.start()
cherrypy.engine.block()
"""

WERKZEUG = """\
import sys

from siteapp import application
from werkzeug.serving import run_simple

run_simple("127.0.0.1", int(sys.argv[1]), application, use_reloader=True,
           reloader_type="stat", threaded=True)
"""


def contenders(port: int) -> dict[str, list[str]]:
    """Answer every command line, for one port."""
    python, bind = sys.executable, f"127.0.0.1:{port}"
    module = [python, "-m"]
    ours = [
        *module,
        "sitebus",
        "--reload",
        "siteapp:application",
        "-b",
        bind,
        "-t",
        "10",
        "--access-log",
        "off",
    ]
    found = {
        "sitebus --reload": ours,
        "sitebus, warm": [*ours, "-o", "reload.warm=yes"],
        "sitebus, one process": [*ours, "-o", "reload.supervised=no"],
        "CherryPy": [python, "cherry.py", str(port)],
        "hupper, waitress": [
            str(Path(python).with_name("hupper")), "-m", "waitress", f"--listen={bind}",
            "siteapp:application",
        ],
        "Werkzeug, stat": [python, "werk.py", str(port)],
        "uvicorn --reload": [
            *module, "uvicorn", "--reload", "--port", str(port), "--no-access-log", "siteapp:asgi",
        ],
        "gunicorn --reload": [
            *module, "gunicorn", "--reload", "--threads", "10", "-b", bind, "siteapp:application",
        ],
        "gunicorn, inotify": [
            *module, "gunicorn", "--reload", "--reload-engine", "inotify", "--threads", "10",
            "-b", bind, "siteapp:application",
        ],
    }  # fmt: skip
    return {name: line for name, line in found.items() if _is_installed(name)}


def _is_installed(contender: str) -> bool:
    needed = {"gunicorn, inotify": ["gunicorn", "inotify"], "hupper, waitress": ["hupper"]}
    names = needed.get(contender) or [contender.partition(" ")[0].strip(",").lower()]
    return all(importlib.util.find_spec(name) for name in names)


class Result(NamedTuple):
    """What a contender did in all its rounds."""

    latencies: list[float]
    failed: int
    asked: int
    slowest: float
    under_way: int


def ask(port: int, path: str = "/") -> str:
    """Answer the body of one request over a connection of its own.

    Raises:
        OSError: It failed, whichever way.
    """
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found or b" 200 " not in head.split(b"\r\n")[0] or not body:
        raise ConnectionError(f"cut off or refused: {answer[:60]!r}")
    return body.decode()


def wait_for_version(port: int, version: str, began: float) -> float | None:
    """Answer seconds since *began* until *version* is answered; None if it never is."""
    while time.perf_counter() < began + PATIENCE:
        try:
            if ask(port) == version:
                return time.perf_counter() - began
        except OSError:
            pass  # the other client counts them
        time.sleep(0.004)
    return None


class Visitor:
    """A client that makes a new connection twenty times a second, and counts what fails."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.failed = self.asked = 0
        self.slowest = 0.0
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._leave.wait(EVERY):
            threading.Thread(target=self._ask).start()

    def _ask(self) -> None:
        self.asked += 1
        began = time.perf_counter()
        try:
            ask(self.port)
            self.slowest = max(self.slowest, time.perf_counter() - began)
        except OSError:
            self.failed += 1

    def leave(self) -> None:
        self._leave.set()
        self._thread.join()


def folder_for(seconds: float, path: Path, library: float = 0.0) -> Path:
    """Put the application into *path*, and what two contenders need to run it.

    Args:
        seconds: How long it takes to import.
        path: Where it goes.
        library: How long a package takes that it imports, and that is an installed one.
    """
    (path / "siteapp.py").write_text(SITEAPP.replace("SECONDS", str(seconds)))
    (path / PACKAGES).mkdir(parents=True, exist_ok=True)
    (path / PACKAGES / "library.py").write_text(f"import time\n\ntime.sleep({library})\n")
    (path / "models.py").write_text("TABLES = ()\n")
    save(path, "0")
    (path / "cherry.py").write_text(CHERRYPY)
    (path / "werk.py").write_text(WERKZEUG)
    return path


def save(folder: Path, version: str) -> None:
    """Save the file as an editor does that truncates and writes."""
    (folder / "views.py").write_text(f"VERSION = {version!r}\n")


def started(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Run *command* in a session of its own, so that whatever it starts can be ended with it."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env={
            **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
            "PYTHONPATH": os.pathsep.join([str(folder), os.getcwd(), str(folder / PACKAGES)]),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, 9)
    except ProcessLookupError:
        pass
    child.wait()


def measure(command: Sequence[str], folder: Path, port: int, rounds: int) -> Result:
    """Save a file *rounds* times while the contender serves."""
    save(folder, "0")
    child = started(command, folder)
    try:
        if wait_for_version(port, "0", time.perf_counter()) is None:
            raise RuntimeError(f"{command} does not serve")
        time.sleep(1.5)  # some take their baseline late
        visitor = Visitor(port)
        try:
            latencies, under_way = _rounds(folder, port, rounds)
        finally:
            visitor.leave()
    finally:
        end(child)
    return Result(latencies, visitor.failed, visitor.asked, visitor.slowest, under_way)


def _rounds(folder: Path, port: int, rounds: int) -> tuple[list[float], int]:
    latencies = []
    for number in range(1, rounds + 1):
        latencies.append(_reload(folder, port, "v" * number))
        time.sleep(1.0)
    completed: list[str] = []

    def slow() -> None:
        try:
            completed.append(ask(port, "/slow"))
        except OSError:
            pass

    for number in range(rounds + 1, rounds + 1 + UNDER_WAY):
        under_way = threading.Thread(target=slow)
        under_way.start()
        time.sleep(0.2)
        _reload(folder, port, "v" * number)
        under_way.join()
        time.sleep(1.0)
    return latencies, len(completed)


def _reload(folder: Path, port: int, version: str) -> float:
    """Answer seconds from a save to the answer of what was saved."""
    # Of another length each time: else most would go on with the old bytecode.
    began = time.perf_counter()
    save(folder, version)
    took = wait_for_version(port, version, began)
    return PATIENCE if took is None else took


def floor(folder: Path, port: int, rounds: int) -> float:
    """Answer the median seconds of a fresh start to its first answer."""
    command = [sys.executable, "-m", "sitebus", "siteapp:application", "-b", f"127.0.0.1:{port}"]
    times: list[float] = []
    for _ in range(rounds + 1):
        save(folder, "0")
        began = time.perf_counter()
        child = started(command, folder)
        try:
            took = wait_for_version(port, "0", began)
        finally:
            end(child)
        times.append(PATIENCE if took is None else took)
    return statistics.median(times[1:])  # the first one writes the bytecode


def table(
    seconds: float,
    rounds: int,
    say: Callable[[str], None] = print,
    *,
    library: float = 0.0,
    names: Sequence[str] = (),
) -> None:
    """Measure and print every contender, or those of *names*, with one application."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = folder_for(seconds, Path(name), library)
        least = floor(folder, port, rounds)
        told = f"imports for {seconds:g} s, and a package for {library:g} s"
        say(f"{told}, {rounds} saves; floor {least:.3f} s")
        say(
            f"{'':20} {'median':>8} {'/floor':>7} {'max':>7} {'failed':>11} {'slowest':>8} "
            f"{'under way':>10}"
        )
        for contender, command in contenders(port).items():
            if names and not any(each in contender for each in names):
                continue
            found = measure(command, folder, port, rounds)
            median = statistics.median(found.latencies)
            say(
                f"{contender:20} {median:7.3f}s {median / least:7.2f} {max(found.latencies):6.2f}s"
                f" {found.failed:5}/{found.asked:<5} {found.slowest:7.3f}s"
                f" {found.under_way:7}/{UNDER_WAY}"
            )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    names = sys.argv[2:]
    table(0, rounds, names=names)
    print()
    table(1, max(3, rounds // 2), names=names)
    print()
    table(0, max(3, rounds // 2), library=1, names=names)


if __name__ == "__main__":
    main()
