"""Send entries of the corpus to a site, and look at it afterwards.

A site is served by one adapter on a plain port and, where it can, on one for HTTPS. The client is
an event loop with so many connections at once; each comes from an address of its own (all of
127.0.0.0/8 is this machine, on Linux), by which the applications' records are found again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from sitebus.mounts import Site
from sitebus.process import Engine
from sitebus.servers.hosting import Faces, SiteServer
from sitebus.servers.tls import TLS
from tests.helpers import open_descriptors, wait_for
from tests.hostile.answers import read_answers
from tests.hostile.bodies import MOST
from tests.hostile.conversation import LIMIT, SLACK, Conversation, Outcome
from tests.hostile.entries import Entry, block
from tests.hostile.judge import judge, too_much
from tests.hostile.recorder import Recorder
from tests.servers.conformance import SINGLE, Kind

#: Threads of applications, and how many conversations there are at once: none waits for a thread.
THREADS = 96


class Variant(NamedTuple):
    """An adapter, with what can be chosen about how it reads requests."""

    kind: Kind
    parser: str = ""

    @property
    def native(self) -> dict[str, Any]:
        return {"http": self.parser} if self.parser else {}

    def __str__(self) -> str:
        return f"{self.kind}-{self.parser}" if self.parser else str(self.kind)


VARIANTS = (
    Variant(Kind("cheroot", "wsgi")),
    Variant(Kind("uvicorn", "asgi"), "httptools"),
    Variant(Kind("uvicorn", "asgi"), "h11"),
    Variant(Kind("hypercorn", "asgi")),
    Variant(Kind("waitress", "wsgi")),
    Variant(Kind("granian", "wsgi")),
    Variant(Kind("granian", "asgi")),
    Variant(Kind("wsgiref", "wsgi")),
)
#: What the addresses of clients begin with.
FIRST = "127.1."
#: Where applications are mounted; at the root, one of the interface that the server speaks.
PLACES = ("", "/w", "/a")


class Report(NamedTuple):
    """What is wrong.

    Attributes:
        entries: With the entries of each category.
        site: With the site, afterwards.
        printed: What was written to standard error.
    """

    entries: dict[str, list[str]]
    site: list[str]
    printed: str


class Log(logging.Handler):
    """All that is logged, by the bus and by libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, str]] = []

    def __call__(self, message: str, level: int) -> None:
        self.lines.append((level, message))

    def emit(self, record: logging.LogRecord) -> None:
        self(self.format(record), record.levelno)


class Ground:
    """A site that serves the recording applications by one adapter."""

    def __init__(self, variant: Variant, tls: TLS | None = None) -> None:
        self.variant = variant
        self.recorder = Recorder()
        self.log = Log()
        self._numbers = itertools.count(int(IPv4Address(f"{FIRST}0.1")))
        self.engine = Engine()
        self.engine.subscribe("log", self.log)
        self.site = self._make_site()
        faces = Faces(self.site.wsgi, lambda: self.site.asgi, lambda: variant.kind.speech)
        self.plain = self._serve(faces)
        self.secure: SiteServer | None = None
        if tls is not None and variant.kind.adapter.abilities.tls:
            # An engine binds an address only once.
            self.secure = self._serve(faces, tls=tls, name="secure", binds=["127.0.0.2:0"])

    def _make_site(self) -> Site:
        site, speech = Site(), self.variant.kind.speech
        site.mount(getattr(self.recorder, speech)(""), "/", interface=speech, lifespan="off")
        site.mount(self.recorder.wsgi("/w"), "/w", interface="wsgi", lifespan="off")
        site.mount(self.recorder.asgi("/a"), "/a", interface="asgi", lifespan="off")
        site.crossing.threads = THREADS
        site.crossing.patience, site.crossing.min_rate = LIMIT, 500
        site.crossing.loop = lambda: self.engine.loop
        return site

    def _serve(self, faces: Faces, **settings: Any) -> SiteServer:
        limits = {"timeout": LIMIT, "header_timeout": LIMIT, "linger": 0.05}
        limits |= {"max_header": 16 << 10, "max_body": MOST, "drain_timeout": 2 * SLACK}
        server = self.variant.kind.make(
            self.engine, faces, threads=THREADS, native=self.variant.native, **limits, **settings
        )
        server.subscribe()
        return server

    def open(self) -> None:
        """Serve, and have everything made that is made for the first request."""
        logging.getLogger().addHandler(self.log)
        self.engine.start()
        for place in PLACES:
            self.answers(f"{place}/x")
        self.fill_threads()

    def close(self) -> float:
        """Stop; answer how many seconds that took."""
        began = time.monotonic()
        self.engine.exit()
        took = time.monotonic() - began
        self.site.crossing.close()
        logging.getLogger().removeHandler(self.log)
        return took

    def answers(self, path: str) -> None:
        """Ask for *path* as anybody would.

        Raises:
            AssertionError: The answer is not a good one.
        """
        with _asked(self.plain, path) as client:
            _read_good(client)

    def fill_threads(self) -> None:
        """Have every thread run an application at the same time: none is busy with anything else.

        Raises:
            AssertionError: One is.
        """
        self.recorder.opened.clear()
        with ExitStack() as stack:
            stack.callback(self.recorder.opened.set)
            clients = [stack.enter_context(_asked(self.plain, "/w/gate")) for _ in range(THREADS)]
            wait_for(lambda: self.recorder.waiting == THREADS, what="every thread to be free")
            self.recorder.opened.set()
            for client in clients:
                _read_good(client)

    def run(self, corpus: Mapping[str, Iterable[Entry]]) -> Report:
        """Send all entries at once, so far as there are threads; tell what is wrong then."""
        placed = [
            (category, each)
            for category, entries in corpus.items()
            for entry in entries
            for each in self._placed(entry)
        ]
        with _printed() as printed:
            before = Before(self)
            outcomes = asyncio.run(self._converse([entry for _, entry in placed]))
            site = before.differences()
        report = Report({category: [] for category in corpus}, site, "".join(printed))
        for (category, entry), outcome in zip(placed, outcomes, strict=True):
            if wrong := self._judge(entry, outcome):
                report.entries[category].append(f"{entry.name}: {'; '.join(wrong)}")
        return report

    def _judge(self, entry: Entry, outcome: Outcome) -> list[str]:
        kind = self.variant.kind
        records = self.recorder.of(outcome.peer)
        return judge(entry, outcome, records, kind.speech == "wsgi", kind.server in SINGLE)

    def _placed(self, entry: Entry) -> Iterator[Entry]:
        if entry.tls and self.secure is None:
            return
        if entry.is_mounted and not entry.tls:
            # At the root, and where there is a bridge between server and application.
            bridged = "/a" if self.variant.kind.speech == "wsgi" else "/w"
            yield from (entry.at(place) for place in ("", bridged))
        else:
            yield entry

    async def _converse(self, entries: Sequence[Entry]) -> list[Outcome]:
        free = asyncio.Semaphore(THREADS)

        async def one(entry: Entry) -> Outcome:
            server = self.secure if entry.tls else self.plain
            assert server is not None
            async with free:
                peer = str(IPv4Address(next(self._numbers)))
                return await Conversation(entry, peer).hold(where(server))

        return await asyncio.gather(*map(one, entries))


class Before:
    """A site as it is before a run, to compare it with afterwards."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._descriptors, self._threads = open_descriptors(), _threads()
        self._began, self._logged = time.monotonic(), len(ground.log.lines)

    def differences(self) -> list[str]:
        """Answer what has not become again as it was.

        Descriptors and threads are as many as before, no thread is busy, all mounts answer, and
        what was logged is little and without alarm.
        """
        ground = self._ground
        lines = ground.log.lines[self._logged :]
        servers = 2 if ground.secure else 1
        found = too_much(lines, time.monotonic() - self._began, servers)
        if not any(number == logging.WARNING and FIRST in text for number, text in lines):
            found.append("no line tells the address of a client that was refused")
        found += [wrong for each in ground.recorder.of("") for wrong in each.ambiguities()]
        left: tuple[tuple[str, Callable[[], object]], ...] = (
            ("requests in applications", lambda: ground.recorder.inside),
            ("descriptors", lambda: list(map(_file, open_descriptors() - self._descriptors))),
            ("threads", lambda: _threads() - self._threads),
            ("a busy thread", lambda: not _is_idle()),
        )
        for what, rest in left:
            try:
                wait_for(lambda rest=rest: not rest(), LIMIT + SLACK)  # type: ignore[misc]
            except AssertionError:
                found.append(f"{what} left: {rest()}")
        for place in PLACES:
            with _noted(found, f"{place}/x"):
                ground.answers(f"{place}/x")
        with _noted(found, "all threads"):
            ground.fill_threads()
        return found


@contextmanager
def _noted(found: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except (AssertionError, OSError) as error:
        found.append(f"{what}: {error!r:.300}")


@contextmanager
def _printed() -> Iterator[list[str]]:
    """Collect what is written to standard error, by compiled code too."""
    texts: list[str] = []
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield texts
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))


def _threads() -> set[threading.Thread]:
    # Those of compiled servers come and go, in pools that are theirs.
    return {each for each in threading.enumerate() if not each.name.startswith("Dummy-")}


def _file(descriptor: int) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/self/fd/{descriptor}")
    return str(descriptor)


def _is_idle() -> bool:
    before = time.process_time()
    threading.Event().wait(0.1)
    return time.process_time() - before < 0.03


def where(server: SiteServer) -> tuple[str, int]:
    """Answer where *server* listens."""
    return server.addresses[0].host, server.addresses[0].port


def _asked(server: SiteServer, path: str) -> socket.socket:
    client = socket.create_connection(where(server), LIMIT + SLACK)
    client.sendall(block(f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close"))
    return client


def _read_good(client: socket.socket) -> None:
    received = b""
    while data := client.recv(1 << 16):
        received += data
    answers = read_answers(received, closed=True)
    assert answers.statuses == [200], received[:200]
    assert not answers.wrong, answers.wrong
