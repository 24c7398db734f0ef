"""Restarts that nobody notices: kept connections go on in the next image of the process.

Clients of every manner hold on to what they have (`benchmarks.soak.clients`); none of their
requests may be lost, and none of the kept connections.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from benchmarks.soak import clients
from benchmarks.soak.clients import Load, New, Polite, Strict, Thoughtful, Unhurried
from benchmarks.soak.wire import Connection
from sitebus.errors import ServerNotInstalled
from sitebus.servers import find
from sitebus.sockets.addresses import Address
from tests.helpers import Child, SiteProcess, wait_for

RESTARTS = 10
#: How long a machine busy with other things may take for one of them.
LONG = 30.0
#: Idle connections, and how many milliseconds of processor time it may take until the next server
#: has made its own of them: twice what it takes a machine with nothing else to do.
IDLE, MOST = 2000, 100.0
#: Of any time: a machine busy with other things is no news, but a wait of ours would be.
LONGEST = 500.0
#: Those who ask at the moment of the restart.
BUSY = 50

#: Each with the interface that it speaks by itself.
KEEPING = {"cheroot": "wsgi", "uvicorn": "asgi"}

SITE = """
[server]
adapter = {adapter}
bind = 127.0.0.1:0 unix:site.sock
threads = 20

[mount /]
app = benchmarks.soak.applications:{speech}

[logging]
access = off
"""

#: Times what stands between a client and who reads its request, but for the start of Python.
TIMED = """
import signal
import sys
import time

from benchmarks.soak import applications
from sitebus.process import Engine, Priority
from sitebus.servers import find
from sitebus.sockets import connections


class Stopwatch:
    began = last = None

    def start(self):
        self.began = self.now()

    def note(self):
        self.last = self.now()

    def now(self):
        return time.process_time(), time.monotonic()

    def tell(self, what):
        ends = self.last or self.now()
        print(what, *((end - begin) * 1000 for begin, end in zip(self.began, ends)), flush=True)


adapter, speech, bind = sys.argv[1:]
engine = Engine()
server = find(adapter)(engine, getattr(applications, speech), binds=[bind])
server.subscribe()
collecting, packing, unpacking, adopting = (Stopwatch() for _ in range(4))

# From the first moment of the stop until the last connection is let go of, then until all are in
# the kernel's hands ...
engine.subscribe("stop", collecting.start, Priority.DRAIN - 1)
leave, pack, unpack = engine.sockets.leave, connections.pack, connections.unpack


def timed_leave(idle):
    leave(idle)
    collecting.note()


def timed_pack(idle):
    packing.start()
    box = pack(idle)
    collecting.tell("collected")
    packing.tell("packed")
    return box


engine.sockets.leave = timed_leave
connections.pack = timed_pack

# ... until the next image has taken them from there, and until its server watches them.
def timed_unpack(fd):
    unpacking.start()
    idle = unpack(fd)
    unpacking.tell("unpacked")
    adopting.start()
    return idle


def hear(message, level):
    if "kept connections" in message:
        adopting.tell("adopted")
    if level >= 30:
        print(message, flush=True)


connections.unpack = timed_unpack
engine.subscribe("log", hear)
signal.signal(
    signal.SIGUSR2, lambda *_: engine.call_in_main(lambda: engine.restart(force=True))
)
signal.signal(signal.SIGTERM, lambda *_: engine.interrupt())
engine.start()
print("serving on", server.addresses[0], flush=True)
sys.exit(engine.block())
"""

Start = Callable[[str], "Site"]


class Site(SiteProcess):
    """``sitebus-serve`` on a TCP port and on a unix socket."""

    def __init__(self, folder: Path, adapter: str) -> None:
        ini = folder / "site.ini"
        ini.write_text(SITE.format(adapter=adapter, speech=KEEPING[adapter]))
        super().__init__(ini, cwd=folder)
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        self.addresses = Address("tcp", host, int(port)), Address.parse(f"unix:{folder}/site.sock")
        self.lives = 1

    def restart(self) -> None:
        """Have it run itself again, and wait until the new image serves."""
        self.lives += 1
        self.signal(signal.SIGUSR2)
        wait_for(lambda: self.output.count("serving on http") == self.lives, LONG, repr(self))


def available(adapter: str) -> None:
    """Skip what is not installed, but never in CI."""
    try:
        find(adapter)
    except ServerNotInstalled as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(params=KEEPING)
def adapter(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    available(name)
    return name


@pytest.fixture
def site(adapter: str, tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, adapter) as site:
        yield site


def restart_under(load: Load, site: Site, between: int) -> None:
    """Restart again and again; *between* two restarts so many requests are answered."""
    with load:
        for _ in range(RESTARTS):
            wait_for(answered(load, between), LONG, f"{between} answers; {site!r}")
            site.restart()
        wait_for(answered(load, between), LONG, f"{between} answers; {site!r}")


def answered(load: Load, more: int) -> Callable[[], bool]:
    goal = load.ok + more
    return lambda: load.failed > 0 or load.ok >= goal


def nothing_lost(load: Load, site: Site) -> None:
    assert load.failed == 0, f"{load.examples}\n{site!r}"
    reopened = {kind: each.reopened for kind, each in load.tallies.items() if each.reopened}
    assert not reopened, site
    assert site.stop() == os.EX_OK
    assert "Traceback" not in site.output


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_restarts_under_a_mixed_load_lose_nothing(site: Site) -> None:
    """New connections wait, kept ones go on, and a request under way is answered."""
    load = Load(site.addresses, {New: 4, Strict: 4, Polite: 2, Unhurried: 3})

    restart_under(load, site, between=300)

    nothing_lost(load, site)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_restarts_lose_nothing_of_eighty_clients_who_think(site: Site) -> None:
    """Their requests come at any moment: no time to linger would be long enough for them."""
    load = Load(site.addresses, {Thoughtful: 40})

    restart_under(load, site, between=100)

    nothing_lost(load, site)
    assert load.tallies[Thoughtful.kind].opened == 80


class Timed(Child):
    """A server that says how long handing over took it."""

    def __init__(self, folder: Path, adapter: str, bind: str) -> None:
        program = folder / "timed.py"
        program.write_text(TIMED)
        super().__init__([sys.executable, program, adapter, KEEPING[adapter], bind], cwd=folder)
        self.address = Address.parse(self.wait_for_output(r"^serving on (\S+)$")[1])
        self.lives = 1

    def restart(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.lives += 1
        self.signal(signal.SIGUSR2)
        meanwhile()
        wait_for(lambda: self.output.count("serving on") == self.lives, LONG, repr(self))

    def took(self, *parts: str) -> list[tuple[float, float]]:
        """Answer the milliseconds of each restart: of processor time, and in all."""
        return [
            (sum(cpu for cpu, _ in each), sum(wall for _, wall in each))
            for each in zip(*(self.figures(part) for part in parts), strict=True)
        ]

    def figures(self, what: str) -> list[tuple[float, float]]:
        found = re.findall(rf"^{what} ([\d.]+) ([\d.]+)$", self.output, re.MULTILINE)
        return [(float(cpu), float(wall)) for cpu, wall in found]


def ask_all(kept: list[Connection], random: Random) -> None:
    """Have them all send before the first is heard: that is how a crowd comes back."""
    asked = [clients.echo()(random) for _ in kept]
    for connection, wanted in zip(kept, asked, strict=True):
        connection.send(clients.request(wanted.target))
    for connection, wanted in zip(kept, asked, strict=True):
        answer = connection.answer()
        clients.check(answer, wanted)
        assert not answer.closes


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:timed.sock"])
def test_thousands_of_idle_connections_are_handed_over_at_once(
    adapter: str, bind: str, tmp_path: Path, room: None
) -> None:
    """Nobody asks while they are on their way for longer than a request may take anyway."""
    random = Random(1)
    with ExitStack() as kept, Timed(tmp_path, adapter, bind) as server:
        address = server.address
        if address.kind == "unix":
            address = Address.parse(f"unix:{tmp_path / address.path}")
        idle, busy = (
            [kept.enter_context(Connection(address)) for _ in range(count)]
            for count in (IDLE, BUSY)
        )
        # Fewer at once than a server sends newcomers away for.
        for start in range(0, IDLE, 500):
            ask_all(idle[start : start + 500], random)
        ask_all(busy, random)

        for _ in range(5):
            server.restart()
            ask_all(idle + busy, random)
        took = server.took("collected", "packed", "unpacked", "adopted")
        server.restart(lambda: ask_all(busy, random))
        ask_all(idle + busy, random)

        assert len(took) == 5, server
        # What else the machine does can only add to it.
        assert min(cpu for cpu, _ in took) < MOST, server
        assert min(wall for _, wall in took) < LONGEST, server
        assert server.stop() == os.EX_OK


@pytest.fixture
def room() -> Iterator[None]:
    """Let this process, and what it starts, have as many descriptors as the test opens."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * IDLE
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
