"""The site of a soak: ``sitebus-serve`` as a child process, with several mounts.

Its folder holds what a deploy changes. What it is, it tells over HTTP (``/control/told``); what it
has of the system is asked of the system, by the process id, which it keeps for life.
"""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from benchmarks import processes
from benchmarks.soak import clients
from benchmarks.soak.wire import Answer, Connection
from sitebus.servers import find
from sitebus.servers.hosting import SiteServer
from sitebus.sockets.addresses import Address

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
#: Where the applications are that clients know: WSGI, ASGI.
PREFIXES = ("/wsgi", "/asgi")
THREADS = 30
#: Fewer than there are clients of TLS, so that all of them have been made before one looks.
_FEW = 4
#: How long the site may take for anything that is asked of it; in seconds.
PATIENCE = 60.0
#: How often one looks who has to look.
_GLANCE = 0.02
#: Nothing has changed for so long: then the site has come to rest.
_CALM, _RESTLESS = 1.0, 15.0

_INI = """\
[site]
name = soak

[server]
adapter = {adapter}
bind = 127.0.0.1:0 unix:site.sock
threads = {threads}
linger = {linger}

[server secure]
adapter = {adapter}
bind = 127.0.0.2:0
tls_cert = cert.pem
tls_key = key.pem
threads = {few}
linger = 1s

[mount /wsgi]
app = front:wsgi

[mount /asgi]
app = front:asgi

[mount /static]
app = static:files

[mount /swapped]
app = front:first

[mount /control]
app = front:control

[reload]
enabled = yes
ignore = {root}/**

[logging]
access = access.log
"""

#: The applications.
FRONT = '''\
"""What the site serves; ``release`` is what a deploy changes."""

import json
import uuid

import release
import sitebus
from benchmarks.soak.applications import answer, asgi, live, reply, wsgi

BOOT = uuid.uuid4().hex
gracefuls = []
passing = []

sitebus.engine.subscribe("graceful", lambda: gracefuls.append(1))


def saying(text):
    """Make an application that says *text*: of either interface, by turns."""

    def told(environ, start_response):
        return answer(start_response, text.encode())

    async def told_async(scope, receive, send):
        if scope["type"] == "lifespan":
            await live(receive, send)
        else:
            await reply(send, text.encode())

    return told_async if text[-1] in "13579" else told


first = saying("swapped 0")


def control(environ, start_response):
    path, number = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/swap":
        sitebus.site.mount(saying(f"swapped {number}"), "/swapped", replace=True)
    elif path == "/pass" and passing:
        passing.pop().unmount()
    elif path == "/pass":
        passing.append(sitebus.site.mount(saying("passing " + number), "/passing"))
    told = {"boot": BOOT, "version": release.VERSION, "gracefuls": len(gracefuls)}
    return answer(start_response, json.dumps(told).encode())
'''

_PAGE = "A page that never changes.\n" * 100


class Vitals(NamedTuple):
    """What the site has of the system at rest, in all its processes."""

    descriptors: int
    threads: int
    #: In kilobytes.
    memory: int

    @classmethod
    def of(cls, pid: int) -> Vitals:
        """Look at a process and all that have come of it."""
        found = [cls._of_one(each) for each in (pid, *processes.descendants(pid))]
        return cls(*map(sum, zip(*found, strict=True)))

    @classmethod
    def _of_one(cls, pid: int) -> Self:
        folder = Path(f"/proc/{pid}")
        try:
            fds, tasks = (len(os.listdir(folder / part)) for part in ("fd", "task"))
            resident = re.search(r"^VmRSS:\s*(\d+)", (folder / "status").read_text(), re.MULTILINE)
        except OSError:
            return cls(0, 0, 0)  # it has just ended
        return cls(fds, tasks, int(resident[1]) if resident else 0)


class NotDone(Exception):
    """The site did not do what was asked of it."""


class Site:
    """A site that serves from when it is entered until its block ends.

    Args:
        folder: Where its files are put.
        adapter: The server library.
    """

    def __init__(self, folder: Path, adapter: str) -> None:
        self.folder = folder
        self.printed = folder / "printed.txt"
        self.version = 0
        server = find(adapter)
        assert issubclass(server, SiteServer)
        #: Whether there are WebSockets.
        self.talks = server.abilities.websocket
        # Where idle connections cannot be handed over, they must be waited for.
        linger = 0.2 if server.abilities.hand_over else clients.THOUGHT + 0.5
        (folder / "files").mkdir()
        (folder / "files" / "page.txt").write_text(_PAGE)
        (folder / "front.py").write_text(FRONT)
        (folder / "site.ini").write_text(
            _INI.format(adapter=adapter, threads=THREADS, few=_FEW, linger=linger, root=ROOT)
        )
        self.release("0")
        #: Whom clients of TLS believe.
        self.tls = certified(folder)

    def __enter__(self) -> Self:
        with self.printed.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sitebus", "site.ini"],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Its own session: a Ctrl-C is ours, and what it starts can be ended with it.
                start_new_session=True,
            )
        try:
            port, secure = self.wait_for(self._ports, "say where it serves")
        except BaseException:
            self.close()
            raise
        self.tcp = Address("tcp", "127.0.0.1", port)
        self.secure = Address("tcp", "127.0.0.2", secure)
        self.addresses = self.tcp, Address.parse(f"unix:{self.folder}/site.sock")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ports(self) -> list[int]:
        """Answer where it serves, without TLS and with it, as soon as it says both."""
        said = self.said
        found = [re.search(rf"{each}:(\d+)", said) for each in ("//127.0.0.1", "//127.0.0.2")]
        return [int(each[1]) for each in found if each] if all(found) else []

    @property
    def said(self) -> str:
        """Everything it has printed so far."""
        return self.printed.read_text(errors="replace")

    @property
    def errors(self) -> Counter[str]:
        """Count what it has logged as errors, but for the deploys that were made to fail."""
        lines = re.findall(r"^\S+ \S+ (?:ERROR|CRITICAL) (.*)$", self.said, re.MULTILINE)
        # Where an object lies in memory makes no other error of it.
        return Counter(
            re.sub(r"0x[0-9a-f]+", "0x...", line) for line in lines if "/release.py:" not in line
        )

    @property
    def errands(self) -> list[clients.Errand]:
        """What clients may ask for at any time."""
        fixed: dict[str, Callable[[Answer], bool]] = {
            "/static/page.txt": lambda answer: answer.body == _PAGE.encode(),
            "/swapped": lambda answer: answer.status == 200 and answer.body[:8] == b"swapped ",
            # It comes and goes, and is there in full or not at all.
            "/passing": lambda answer: (
                answer.status == 404 or (answer.status == 200 and answer.body[:8] == b"passing ")
            ),
        }
        return [
            *(clients.echo(prefix) for prefix in PREFIXES),
            *(_always(clients.Wanted(target, fits)) for target, fits in fixed.items()),
        ]

    def release(self, version: str, *, broken: str = "") -> None:
        """Put another version of the code in place, at once, as a deploy does."""
        draft = self.folder / "release.py.new"
        draft.write_text(f"VERSION = {version!r}\n{broken}")
        draft.replace(self.folder / "release.py")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ask(self, target: str) -> Answer:
        """Ask on a connection of its own."""
        with Connection(self.tcp, PATIENCE) as connection:
            connection.send(clients.request(target, "Connection: close"))
            return connection.answer()

    def told(self) -> dict[str, Any]:
        """Answer what it says it is."""
        answer = self.ask("/control/told")
        if answer.status != 200:
            raise NotDone(f"it answered {answer.status} to {answer.body!r:.100}")
        failed = answer.headers.get("x-sitebus-reload") == "failed"
        return {**json.loads(answer.body), "failed": failed}

    def wait_for(self, condition: Callable[[], T], what: str) -> T:
        """Answer what *condition* answers as soon as that is true.

        Raises:
            NotDone: It did not come about, or the process has ended.
        """
        end = time.monotonic() + PATIENCE
        while not (answer := condition()):
            self._check_running()
            if time.monotonic() > end:
                raise NotDone(f"it did not {what} in {PATIENCE:g} s")
            time.sleep(_GLANCE)
        return answer

    def vitals(self) -> Vitals:
        """Wait until it has come to rest, and look at it."""
        self._check_running()
        end = time.monotonic() + _RESTLESS
        seen, since = Vitals.of(self.process.pid), time.monotonic()
        while time.monotonic() < min(end, since + _CALM):
            time.sleep(_GLANCE)
            now = Vitals.of(self.process.pid)
            if now[:2] != seen[:2]:
                since = time.monotonic()
            seen = now
        return seen

    def _check_running(self) -> None:
        if self.process.poll() is not None:
            raise NotDone(f"it ended with status {self.process.returncode}")

    def stop(self) -> int:
        """Ask it to end, as an operator would, and answer its exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise NotDone(f"it did not end in {PATIENCE:g} s") from None

    def close(self) -> None:
        """End it and whatever it started, however it feels about that."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def certified(folder: Path) -> ssl.SSLContext:
    """Make ``cert.pem`` and ``key.pem`` for localhost; answer whom to believe in them."""
    certificate = folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return ssl.create_default_context(cafile=str(certificate))


def _always(wanted: clients.Wanted) -> clients.Errand:
    return lambda random: wanted


def _environment() -> dict[str, str]:
    foreign = ("SITEBUS_", "LISTEN_", "NOTIFY_", "PYTHON", "COV_", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
