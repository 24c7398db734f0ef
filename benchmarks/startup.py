"""From spawning a process to its first answer, and from SIGTERM to its end, beside others.

    python -m benchmarks.startup

All serve one tiny application; they take turns, and the table holds medians. A site with a file has
a control socket, as it has by default.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROUNDS = 15

APPLICATION = """\
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
"""

SITE = """\
[server]
bind = 127.0.0.1:{port}

[mount /]
app = hello:application
"""

QUICKSTART = """\
import sys
import sitebus
from hello import application

sitebus.quickstart(application, bind=f"127.0.0.1:{sys.argv[1]}")
"""

BARE = """\
import sys
from cheroot import wsgi
from hello import application

server = wsgi.Server(("127.0.0.1", int(sys.argv[1])), application)
server.start()
"""

CHERRYPY = """\
import sys
import cherrypy


class Root:
    @cherrypy.expose
    def index(self):
        return "hello"


cherrypy.config.update({
    "server.socket_port": int(sys.argv[1]),
    "engine.autoreload.on": False,
    "log.screen": False,
})
cherrypy.quickstart(Root())
"""


def free_port() -> int:
    """Below 32768: a client that retries above could connect to itself."""
    for port in range(20000 + os.getpid() % 10000, 32768):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


def once(command: Sequence[str], folder: Path, port: int) -> tuple[float, float]:
    """Answer seconds to the first answer and from SIGTERM to the end."""
    # Installed packages have their bytecode; so shall the ones measured here.
    environ = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    # The control socket is not to be found among those of this machine.
    environ["XDG_RUNTIME_DIR"] = str(folder)
    child = subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        first = _first_answer(port, began)
        time.sleep(0.1)
        asked = time.perf_counter()
        child.send_signal(signal.SIGTERM)
        child.wait(20)
        return first, time.perf_counter() - asked
    finally:
        child.kill()
        child.wait()


def _first_answer(port: int, began: float) -> float:
    while time.perf_counter() < began + 20:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                if client.recv(100).startswith(b"HTTP/1.1 200"):
                    return time.perf_counter() - began
        except ConnectionError:
            time.sleep(0.001)
    raise RuntimeError("no answer")


def main() -> None:
    port = free_port()
    python = sys.executable
    contenders = {
        "sitebus-serve": [python, "-m", "sitebus", "hello:application", "-b", f"127.0.0.1:{port}"],
        "sitebus-serve site.ini": [python, "-m", "sitebus", "site.ini"],
        "sitebus.quickstart": [python, "quick.py", str(port)],
        "bare cheroot": [python, "bare.py", str(port)],
        "CherryPy quickstart": [python, "cherry.py", str(port)],
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hello.py").write_text(APPLICATION)
        (folder / "site.ini").write_text(SITE.format(port=port))
        (folder / "quick.py").write_text(QUICKSTART)
        (folder / "bare.py").write_text(BARE)
        (folder / "cherry.py").write_text(CHERRYPY)
        for command in contenders.values():
            once(command, folder, port)  # a warm-up, which writes the bytecode
        for _ in range(ROUNDS):
            for contender, command in contenders.items():
                taken[contender].append(once(command, folder, port))
    theirs = statistics.median(first for first, _ in taken["CherryPy quickstart"])
    print("median of", ROUNDS, "rounds        first answer   / CherryPy   SIGTERM to gone")
    for contender, times in taken.items():
        first = statistics.median(each for each, _ in times)
        gone = statistics.median(each for _, each in times)
        print(f"{contender:24} {first * 1e3:9.0f} ms {first / theirs:11.2f} {gone * 1e3:12.0f} ms")


if __name__ == "__main__":
    main()
