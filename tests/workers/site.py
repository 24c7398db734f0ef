"""A site of several processes, for tests that ask it, change it, and harm it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.helpers import PATIENCE, SiteProcess, wait_for

#: Answers what is asked for; what it says of itself is in another module, which a test may change.
APPLICATION = """\
import json
import os
import signal
import threading
import time

import release

HEARD = []


def application(environ, start_response):
    path = environ["PATH_INFO"]
    status = "200 OK"
    if path == "/slow":
        open("slow", "w").close()
        time.sleep(float(environ["QUERY_STRING"] or 1.5))
    elif path == "/health":
        status = release.HEALTH
    elif path == "/end":
        os._exit(3)
    elif path == "/publish":
        import sitebus

        sitebus.engine.publish("shop.news", environ["QUERY_STRING"])
    elif path == "/log":
        import sitebus

        sitebus.engine.log("a word from the application")
    elif path in ("/exit", "/stop", "/restart"):
        import sitebus

        try:
            getattr(sitebus.engine, path[1:])()
        except Exception as error:
            HEARD.append(str(error))
    shared = environ["wsgi.multiprocess"]
    told = {"pid": os.getpid(), "version": release.VERSION, "heard": HEARD, "shared": shared}
    body = json.dumps(told).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]


class Listener:
    def __init__(self, bus):
        self.bus = bus

    def subscribe(self):
        self.bus.subscribe("shop.news", HEARD.append)
        self.bus.subscribe("shop.count", lambda: len(HEARD))
        self.bus.subscribe("shop.secret", lambda: {1, 2})
        self.bus.subscribe("shop.broken", lambda: 1 // 0)
        self.bus.subscribe("shop.log", lambda text: self.bus.log(text))

    def unsubscribe(self):
        pass
"""

RELEASE = 'VERSION = {version!r}\nHEALTH = "200 OK"\n'


def write(folder: Path, *, adapter: str = "cheroot", **workers: object) -> Path:
    """Write a site whose ``[workers]`` say *workers*, and answer its file."""
    (folder / "shop.py").write_text(APPLICATION)
    release(folder, "one")
    told = {"count": 2, **workers}
    lines = [f"{name} = {value}" for name, value in told.items()]
    file = folder / "site.ini"
    file.write_text(
        "[site]\nname = shop\n"
        f"[server]\nadapter = {adapter}\nbind = 127.0.0.1:0\n"
        "[logging]\naccess = off\n"
        "[mount /]\napp = shop:application\n"
        "[plugin listener]\nuse = shop:Listener\n" + "\n".join(["[workers]", *lines, ""])
    )
    return file


def release(folder: Path, version: str, text: str = "") -> None:
    """Put a new release of the application in place, at once."""
    draft = folder / "release.draft"
    draft.write_text(text or RELEASE.format(version=version))
    # Bytecode is told from its source by the second.
    moment = time.time() + len(list(folder.iterdir())) + sum(version.encode())
    os.utime(draft, (moment, moment))
    draft.replace(folder / "release.py")


class WorkerSite(SiteProcess):
    """``sitebus-serve`` on what `write` wrote, or with *arguments*."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str] = {}) -> None:
        super().__init__(
            "site.ini",
            *arguments,
            cwd=folder,
            env={"PYTHONDONTWRITEBYTECODE": "1", **env},
        )
        self.folder = folder
        self.url  # noqa: B018 - printed once all workers serve

    @property
    def address(self) -> tuple[str, int]:
        match = re.search(r"http://([\d.]+):(\d+)", self.url)
        assert match
        return match[1], int(match[2])

    def ask(self, path: str = "/", timeout: float = PATIENCE) -> dict[str, Any]:
        """Answer what a worker, any of them, says."""
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            assert response.status == 200, response.status
            found: dict[str, Any] = json.loads(response.read())
            return found
        finally:
            connection.close()

    @property
    def workers(self) -> dict[int, str]:
        """Answer the pid of each worker process, and its command line."""
        return {pid: line for pid, line in children(self.pid).items() if "sitebus.workers" in line}

    def wait_for_workers(self, count: int) -> set[int]:
        """Wait until there are so many, and answer their pids."""
        wait_for(lambda: len(self.workers) == count, PATIENCE, f"{count} workers")
        return set(self.workers)

    def roll(self, times: int = 1) -> None:
        """Have every worker replaced, and wait for the end of it."""
        done = self.output.count("roll done")
        self.signal(signal.SIGHUP)
        wait_for(lambda: self.output.count("roll done") >= done + times, 60, "the roll")


def children(pid: int) -> dict[int, str]:
    """Answer the command line of each child of a process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(stat[1]) == pid and stat[0] != "Z":
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found[int(entry.name)] = line
    return found


def alive(pid: int) -> bool:
    """Tell whether there is such a process, a zombie not counted."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Clients:
    """Clients of both kinds: some keep their connection and insist on it, some bring new ones."""

    def __init__(self, address: tuple[str, int], kept: int = 6, single: int = 2) -> None:
        self.address = address
        self.failures: list[str] = []
        self.versions: Counter[str] = Counter()
        self.pids: Counter[int] = Counter()
        self._stop = threading.Event()
        self._threads = [
            *(threading.Thread(target=self._run, args=(True,)) for _ in range(kept)),
            *(threading.Thread(target=self._run, args=(False,)) for _ in range(single)),
        ]

    def _run(self, keeps: bool) -> None:
        for connection in self._connections(keeps):
            try:
                connection.request("GET", "/", headers={} if keeps else {"Connection": "close"})
                response = connection.getresponse()
                told = json.loads(response.read())
                assert response.status == 200, response.status
            except (OSError, http.client.HTTPException, AssertionError, ValueError) as error:
                self.failures.append(f"{'kept' if keeps else 'single'}: {error!r}")
                connection.close()
                continue
            self.versions[told["version"]] += 1
            self.pids[told["pid"]] += 1

    def _connections(self, keeps: bool) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        while not self._stop.wait(0.01):
            yield connection
            if not keeps:
                connection.close()
        connection.close()

    def go_on(self, requests: int = 50) -> None:
        """Wait until so many more are answered."""
        enough = self.versions.total() + requests
        wait_for(lambda: self.versions.total() >= enough or self.failures, 30)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
