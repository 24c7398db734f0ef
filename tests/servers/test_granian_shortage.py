"""granian in a process that has no descriptors left: it waits, and then it serves everybody.

The process is a child: it is its descriptors that run out, and its processor time that counts.
"""

from __future__ import annotations

import os
import random
import re
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from sitebus.servers import _granian_epoll
from sitebus.sockets.addresses import Address
from tests.helpers import Child, wait_for
from tests.servers.client import Client
from tests.servers.conftest import Certificate

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere nobody tells who watches a socket"
)

LIMIT = 200
#: How long anybody may have to wait once there are descriptors; seconds.
AFTERWARDS = 1.0

SITE = """
import logging, os, resource, sys
from pathlib import Path
from sitebus.plugins.signals import SignalHandler
from sitebus.process import Engine
from sitebus.servers.granian import GranianServer
from sitebus.servers.tls import TLS

limit, binds, files = int(sys.argv[1]), sys.argv[2].split(), sys.argv[3:]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
hoard, asked, find = [], [], logging.getLogger

def find_and_tell(name=None):
    asked.append(name)
    return find(name)

def application(environ, start_response):
    what, _, count = environ["PATH_INFO"].strip("/").partition("/")
    if what == "hoard":
        try:
            while True:
                hoard.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
    elif what == "free":
        for _ in range(min(int(count or limit), len(hoard))):
            os.close(hoard.pop())
    body = " ".join(filter(None, asked)).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

engine = Engine()
engine.subscribe("log", lambda message, level: print(f"log: {message}\\n", end=""))
tls = TLS(Path(files[0]), Path(files[1])) if files else None
server = GranianServer(engine, application, binds=binds, tls=tls, threads=4, timeout=30.0)
server.subscribe()
SignalHandler(engine).subscribe()
engine.start()
logging.getLogger = find_and_tell
print("serves", *(each.port or 0 for each in server.addresses))
engine.block()
"""


class Site(Child):
    """granian in a process with few descriptors, which its application takes and gives back."""

    def __init__(self, *binds: str, files: tuple[Path, ...] = (), limit: int = LIMIT) -> None:
        super().__init__([sys.executable, "-c", SITE, str(limit), " ".join(binds), *files])
        ports = self.wait_for_output(r"^serves (.*)$").group(1).split()
        self.addresses = [
            Address.parse(bind if bind.startswith("unix:") else f"{bind.partition(':')[0]}:{port}")
            for bind, port in zip(binds, ports, strict=True)
        ]

    @property
    def processor_time(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def complaints(self) -> list[str]:
        return re.findall(r"^log: (.*accept.*)$", self.output, re.MULTILINE)

    def share(self, seconds: float) -> float:
        """Answer how much of a processor it takes for so long."""
        before, since = self.processor_time, time.monotonic()
        threading.Event().wait(seconds)
        return (self.processor_time - before) / (time.monotonic() - since)


def newcomer(address: Address) -> Client:
    """Come, and ask at once."""
    client = Client(address)
    client.ask()
    return client


@pytest.fixture
def site() -> Iterator[Site]:
    with Site("127.0.0.1:0") as site:
        yield site


@pytest.mark.parametrize("kind", ["http", "https", "unix", "doors"])
def test_out_of_descriptors_it_waits(kind: str, certificate: Certificate, tmp_path: Path) -> None:
    """It took a whole processor for each door."""
    binds = {"unix": [f"unix:{tmp_path}/s"], "doors": ["127.0.0.1:0", "127.0.0.2:0"]}
    files = (certificate.certificate, certificate.key) if kind == "https" else ()
    context = ssl.create_default_context(cafile=str(certificate.root)) if files else None
    if context is not None:
        context.load_verify_locations(certificate.chain)
    with Site(*binds.get(kind, ["127.0.0.1:0"]), files=files) as site, ExitStack() as stack:
        kept = stack.enter_context(Client(site.addresses[0], context))
        assert kept.get("/hoard").status == 200
        waiting = [
            stack.enter_context(Client(address)) for address in site.addresses for _ in range(10)
        ]

        share = site.share(2.0)

        assert kept.get().status == 200, "who is inside is served"
        assert kept.get("/free").status == 200
        for client in waiting:
            if context is not None:
                client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
            client.socket.settimeout(AFTERWARDS)
            assert client.get().status == 200
        assert share < 0.05
        assert len(site.complaints) == 1
        assert "Too many open files" in site.complaints[0]


def test_who_listens_is_known_before_there_is_anything_to_hear() -> None:
    """Two of granian's threads that look for the same logger at once end the process.

    Without preparation that was one of six times with so many doors, for the whole site.
    """
    binds = [f"127.0.0.{number}:0" for number in range(1, 9)]
    with Site(*binds) as site, ExitStack() as stack:
        kept = stack.enter_context(Client(site.addresses[0]))
        assert kept.get("/hoard").status == 200
        for address in site.addresses:
            stack.enter_context(Client(address))
        wait_for(lambda: site.complaints)
        site.share(0.2)
        answer = kept.get("/free")
    assert answer.status == 200
    assert b"_granian" not in answer.body, "what granian has found it does not look for again"


def test_nobody_needs_to_wait_for_it_to_be_noticed(site: Site) -> None:
    """The last descriptor goes to one who does not wait; granian asks for one more."""
    with Client(site.addresses[0]) as kept:
        kept.get("/hoard")
        for _ in range(6):
            kept.get("/free/1")
            with newcomer(site.addresses[0]) as last:
                assert last.answer().status == 200
                assert site.share(0.5) < 0.1
                kept.get("/hoard")


def test_a_shortage_that_comes_and_goes_leaves_nobody_waiting(site: Site) -> None:
    """A door that was not looked at while they came must be looked at afterwards."""
    chance = random.Random(1)
    with Client(site.addresses[0]) as kept:
        for _ in range(15):
            assert kept.get("/hoard").status == 200
            with ExitStack() as stack:
                came = [
                    stack.enter_context(newcomer(site.addresses[0]))
                    for _ in range(chance.randrange(1, 50))
                ]
                threading.Event().wait(chance.random() * 0.12)
                assert kept.get("/free").status == 200
                for client in came:
                    client.socket.settimeout(AFTERWARDS)
                    assert client.answer().status == 200
    assert len(site.complaints) == 1


def test_under_load_a_shortage_that_comes_and_goes_leaves_nobody_waiting(site: Site) -> None:
    """Those who come at the very moment when it begins or ends, too."""
    chance = random.Random(2)
    over = threading.Event()
    waited: list[tuple[float, float]] = []

    def come_and_go() -> None:
        while not over.is_set():
            since = time.monotonic()
            with newcomer(site.addresses[0]) as client:
                assert client.answer().status == 200
            waited.append((since, time.monotonic()))

    freed: list[float] = []
    with ThreadPoolExecutor(8) as pool, Client(site.addresses[0]) as kept:
        clients = [pool.submit(come_and_go) for _ in range(8)]
        try:
            for _ in range(30):
                kept.get("/hoard")
                threading.Event().wait(chance.random() * 0.08)
                kept.get(f"/free/{chance.choice([1, 2, 5, LIMIT])}")
                threading.Event().wait(chance.random() * 0.08)
                kept.get("/free")
                freed.append(time.monotonic())
                threading.Event().wait(chance.random() * 0.08)
        finally:
            over.set()
        for client in clients:
            client.result(AFTERWARDS)
        assert site.share(1.0) < 0.05
    assert len(waited) > 300
    # The longest shortage is shorter than that.
    assert max(until - since for since, until in waited) < AFTERWARDS


def test_a_full_house_makes_room_with_few_descriptors(site: Site) -> None:
    """To have one leave, all were copied; that took more descriptors than there were."""
    with ExitStack() as stack:
        came = [stack.enter_context(newcomer(site.addresses[0])) for _ in range(LIMIT * 3 // 4)]
        assert all(client.answer().status == 200 for client in came)
        for _ in range(3):
            with newcomer(site.addresses[0]) as last:
                last.socket.settimeout(2 * AFTERWARDS)
                assert last.answer().status == 200
    assert site.process.poll() is None


def test_a_stop_is_one_while_it_waits(site: Site) -> None:
    """What is to be done for it takes descriptors too; and granian must notice."""
    with Client(site.addresses[0]) as kept:
        kept.get("/hoard")
        with newcomer(site.addresses[0]):
            wait_for(lambda: site.complaints)
            site.signal()
            assert site.wait() == 0


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def connect(listening: socket.socket) -> Iterator[Callable[[], socket.socket]]:
    with ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(listening.getsockname()))

        yield connect


def test_who_watches_is_found_and_can_be_let_sleep(
    listening: socket.socket, connect: Callable[[], socket.socket]
) -> None:
    """What came meanwhile is told afterwards, as its owner has asked to be told."""
    with select.epoll() as watching:
        watching.register(listening, select.EPOLLIN | select.EPOLLET)
        found = _granian_epoll.wait_found(listening.fileno(), 1.0)
        assert found is not None

        found.mute()
        connect()
        assert watching.poll(0.1) == []
        found.unmute()
        assert watching.poll(1.0) == [(listening.fileno(), select.EPOLLIN)]
        assert watching.poll(0) == [], "as it was: it is told once"
        found.close()


def test_what_nobody_watches_is_not_found(listening: socket.socket) -> None:
    """Then a start must not take longer than it may, nor fail."""
    with select.epoll():
        assert _granian_epoll.wait_found(listening.fileno(), 0.05) is None


def test_a_number_that_means_something_else_is_not_touched(listening: socket.socket) -> None:
    """A socket that was closed is watched still, if somebody else has it too."""
    with select.epoll() as watching, socket.socket() as other:
        number = os.dup(listening.fileno())
        watching.register(number, select.EPOLLIN)
        found = _granian_epoll.wait_found(number, 1.0)
        assert found is not None
        os.dup2(other.fileno(), number)

        assert _granian_epoll.wait_found(number, 0.05) is None
        with pytest.raises(FileNotFoundError):
            found.mute()
        found.close()
        os.close(number)
