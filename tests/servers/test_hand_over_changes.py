"""Kept connections when what comes after a restart is not what was before it.

Those that nothing serves any more end at once, where their clients would wait for an answer for
ever; the others notice nothing.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sitebus.sockets.addresses import Address
from tests.helpers import Child, wait_for
from tests.servers.client import Client
from tests.servers.conftest import Certificate

#: How long a machine busy with other things may take for a restart.
LONG = 30.0

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from sitebus.process import Engine
from sitebus.servers import find
from sitebus.servers.tls import TLS
from sitebus.wakeup import Wakeup

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        print("entered", flush=True)
        while not os.path.exists("go on"):
            time.sleep(0.01)
    body = f"{os.getpid()} {environ['REMOTE_ADDR']}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

plan = json.load(open("plan.json"))
engine = Engine()
servers = []
for at, settings in enumerate(plan["servers"]):
    adapter = settings.pop("adapter", "cheroot")
    if "tls" in settings:
        settings["tls"] = TLS(*map(Path, settings["tls"]))
    servers.append(find(adapter)(engine, wsgi, name=str(at), **settings))
    servers[-1].subscribe()
engine.subscribe("log", lambda message, level: print(message, flush=True))
if plan.get("broken"):
    def fail(*_):
        raise OSError(8, "no exec today")
    os.execve = fail

def restart(*_):
    engine.call_in_main(lambda: engine.restart(force=True))

signal.signal(signal.SIGUSR2, restart)
signal.signal(signal.SIGTERM, lambda *_: engine.interrupt())
# A signal may come between the interpreter's look and the main thread's wait.
wakeup = Wakeup(lambda: engine.call_in_main(lambda: None))
wakeup.open()
engine.start()
wakeup.watch()
where = " ".join(str(each) for server in servers for each in server.addresses)
print(f"serving on {where} ({len(os.listdir('/dev/fd'))} open)", flush=True)
sys.exit(engine.block())
"""


class Site(Child):
    """The program, by a plan that each of its lives reads anew."""

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.folder = folder
        self.plan(plan)
        program = folder / "program.py"
        program.write_text(PROGRAM)
        super().__init__([sys.executable, program], cwd=folder)
        self.lives = 1
        self.addresses = self.wait_served()

    def plan(self, plan: dict[str, Any]) -> None:
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def wait_served(self) -> list[str]:
        wait_for(lambda: self.output.count("serving on") == self.lives, LONG)
        return self.output.rpartition("serving on ")[2].partition(" (")[0].split()

    def restart(self) -> None:
        self.lives += 1
        self.signal(signal.SIGUSR2)
        self.addresses = self.wait_served()


Start = Callable[..., Site]
Connect = Callable[[str], Client]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as running:

        def start(*servers: dict[str, Any], **more: Any) -> Site:
            return running.enter_context(Site(tmp_path, {"servers": servers, **more}))

        yield start


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    with ExitStack() as open_:

        def connect(address: str) -> Client:
            where = Address.parse(address)
            if where.kind == "unix":
                where = Address.parse(f"unix:{tmp_path / where.path}")
            client = open_.enter_context(Client(where))
            assert client.get().status == 200
            return client

        yield connect


def goes_on(site: Site, client: Client) -> bool:
    answer = client.get()
    return not answer.closes and answer.body.startswith(b"%d " % site.pid)


@pytest.mark.parametrize(
    "bind", ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0", "localhost:0", "unix:a.sock"]
)
def test_every_kind_of_address_keeps_its_connections(
    start: Start, connect: Connect, bind: str
) -> None:
    """What a listener is called is not always where its connections have come to."""
    site = start({"binds": [bind]})
    here = site.addresses[0].replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
    client = connect(here)
    for _ in range(3):
        site.restart()
        assert goes_on(site, client)
    assert site.stop() == os.EX_OK


def test_two_servers_each_keep_their_own(start: Start, connect: Connect) -> None:
    site = start({"binds": ["127.0.0.1:0", "unix:a.sock"]}, {"binds": ["[::1]:0"]})
    clients = [connect(each) for each in site.addresses]
    site.restart()
    told = [client.get().body.split()[1:] for client in clients]
    assert told == [[b"127.0.0.1"], [], [b"::1"]]


def test_an_adapter_goes_on_with_the_connections_of_another(start: Start, connect: Connect) -> None:
    """They are plain sockets: whoever speaks HTTP/1.1 can."""
    pytest.importorskip("uvicorn")
    site = start({"binds": ["127.0.0.1:0"]})
    client, midway = connect(site.addresses[0]), connect(site.addresses[0])
    midway.send(b"GET / HTTP/1.1\r\nHo")
    for adapter in ("uvicorn", "cheroot"):
        site.plan({"servers": [{"binds": ["127.0.0.1:0"], "adapter": adapter}]})
        site.restart()
        assert goes_on(site, client)
        if adapter == "uvicorn":
            midway.send(b"st: localhost\r\n\r\n")
            assert midway.answer().status == 200
        assert goes_on(site, midway)


def test_one_that_cannot_take_them_over_leaves_nobody_waiting(
    start: Start, connect: Connect
) -> None:
    site = start({"binds": ["127.0.0.1:0"]})
    client = connect(site.addresses[0])
    site.plan({"servers": [{"binds": ["127.0.0.1:0"], "adapter": "wsgiref"}]})
    site.restart()
    assert client.is_closed()
    assert "Closed 1 kept connections that nothing serves any more" in site.output
    with Client(Address.parse(site.addresses[0])) as another:
        assert another.get().status == 200


def test_one_that_speaks_tls_takes_none_over(
    start: Start, connect: Connect, certificate: Certificate
) -> None:
    """Their clients speak plain HTTP, and would take a handshake for an answer."""
    site = start({"binds": ["127.0.0.1:0"]})
    client = connect(site.addresses[0])
    files = [str(certificate.certificate), str(certificate.key), str(certificate.chain)]
    site.plan({"servers": [{"binds": ["127.0.0.1:0"], "tls": files}]})
    site.restart()
    assert client.is_closed()
    context = ssl.create_default_context(cafile=str(certificate.root))
    with Client(Address.parse(site.addresses[0]), context) as secure:
        assert secure.get().status == 200
    assert "Traceback" not in site.output


def test_an_address_that_is_gone_takes_only_its_own_along(start: Start, connect: Connect) -> None:
    site = start({"binds": ["127.0.0.1:0", "unix:a.sock"]})
    kept, lost = map(connect, site.addresses)
    site.plan({"servers": [{"binds": ["127.0.0.1:0"]}]})
    site.restart()
    assert lost.is_closed()
    assert goes_on(site, kept)


def test_an_end_that_outranks_a_restart_leaves_nobody_waiting(
    start: Start, connect: Connect
) -> None:
    """SIGTERM while the last requests are answered: who was left already is told so."""
    site = start({"binds": ["127.0.0.1:0"]})
    busy, idle = connect(site.addresses[0]), connect(site.addresses[0])
    busy.ask("/slow")
    site.wait_for_output("^entered$")
    site.signal(signal.SIGUSR2)
    site.wait_for_output("(?i)stopping|STOP")
    site.signal(signal.SIGTERM)
    (site.folder / "go on").touch()
    assert busy.answer().status == 200
    assert idle.is_closed()
    assert site.wait() == os.EX_OK
    assert site.output.count("serving on") == 1


def test_an_exec_that_fails_leaves_nobody_waiting(start: Start, connect: Connect) -> None:
    site = start({"binds": ["127.0.0.1:0"]}, broken=True)
    client = connect(site.addresses[0])
    site.signal(signal.SIGUSR2)
    assert client.is_closed()
    assert site.wait() != os.EX_OK
    assert "no exec today" in site.output
    with pytest.raises(ConnectionRefusedError), Client(Address.parse(site.addresses[0])):
        pass


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fifty_restarts_leave_everything_level(start: Start, connect: Connect) -> None:
    """Connections, descriptors and memory are the same as ever."""
    site = start({"binds": ["127.0.0.1:0", "unix:a.sock"]})
    clients = [connect(site.addresses[at % 2]) for at in range(40)]
    begun = clients[::4]
    sizes = []
    for at in range(50):
        for client in begun:
            client.send(b"GET /%d HTTP/1.1\r\nHo" % at)
        site.restart()
        for client in begun:
            client.send(b"st: localhost\r\n\r\n")
            assert client.answer().status == 200
        assert all(goes_on(site, client) for client in clients)
        pages = Path(f"/proc/{site.pid}/statm").read_text().split()[1]
        sizes.append(int(pages) * os.sysconf("SC_PAGE_SIZE"))
    told = [line for line in site.output.splitlines() if line.startswith("serving on")]
    assert len(set(told[1:])) == 1  # with the number of descriptors
    assert max(sizes) < sizes[0] * 1.1
    assert site.stop() == os.EX_OK
