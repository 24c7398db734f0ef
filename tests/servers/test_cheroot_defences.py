"""What clients and circumstances do to cheroot, and what they cannot do to it here.

Each attack is made twice: on cheroot as it is, where it must succeed, or the defence defends
nothing any more; and on ours. Both run in processes of their own, which can be ended.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from sitebus.process import Engine
from sitebus.servers.cheroot import CherootServer
from sitebus.sockets.addresses import Address
from tests.helpers import wait_for
from tests.servers.client import Client, hello
from tests.servers.conftest import Certificate

Kind = Literal["bare", "ours"]
#: How long what takes no time may take on a busy machine.
SOON = 3.0
HEAD = b"HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


class Victim:
    """A server that is attacked."""

    def __init__(self, kind: Kind, limit: int = 0, **settings: Any) -> None:
        descriptor = settings.get("descriptor")
        prefix = ["sh", "-c", f'ulimit -n {limit}; exec "$0" "$@"'] if limit else []
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.servers.attacked", kind, json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            pass_fds=() if descriptor is None else (descriptor,),
        )
        self.logged: list[str] = []
        self._ports: list[int] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        wait_for(lambda: self._ports, 20, "the server to serve")
        self.address = Address.parse(("127.0.0.1", self._ports[0]))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith("log"):
                self._ports.append(int(line) if line.strip().isdigit() else 0)
            # One that spins logs without end; what it said first is enough.
            elif len(self.logged) < 1000:
                self.logged.append(line.strip())

    @property
    def processor_time(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


Attacked = Callable[..., Victim]


@pytest.fixture
def attacked(kind: Kind) -> Iterator[Attacked]:
    """Start the server to be attacked."""
    with ExitStack() as victims:

        def start(bare: dict[str, Any] | None = None, **settings: Any) -> Victim:
            if kind == "bare":
                settings = {
                    {"threads": "numthreads"}.get(name, name): value
                    for name, value in settings.items()
                    if name != "max_waiting"
                } | (bare or {})
            victim = Victim(kind, **settings)
            victims.callback(victim.end)
            return victim

        yield start


#: The attack succeeds on cheroot as it is, and not on ours.
twice = pytest.mark.parametrize(
    ("kind", "holds"), [("bare", False), ("ours", True)], ids=["bare", "ours"]
)


def asked(victim: Victim, request: bytes, patience: float = SOON) -> bytes:
    """Answer what comes for *request*, to the end of the connection or of patience."""
    received = b""
    with Client(victim.address) as client:
        client.socket.settimeout(patience)
        with suppress(OSError):
            client.send(request)
            while data := client.socket.recv(65536):
                received += data
    return received


def answers(client: Client, path: str = "/", patience: float = SOON) -> bool:
    """Tell whether *path* is answered in time."""
    client.socket.settimeout(patience)
    try:
        return client.get(path).status == 200
    except OSError:
        return False


def post(path: str, body: bytes) -> bytes:
    return b"POST %b %bContent-Length: %d\r\n\r\n%b" % (path.encode(), HEAD, len(body), body)


@twice
def test_01_a_line_of_a_body_in_chunks_ends(attacked: Attacked, holds: bool) -> None:
    """One such request kept a thread and a processor busy for ever."""
    request = b"POST /readline %bTransfer-Encoding: chunked\r\n\r\n" % HEAD
    answer = asked(attacked(), request + b"8\r\none\ntwo\n\r\n0\r\n\r\n")
    assert (b"b'one\\n'" in answer) is holds


@twice
@pytest.mark.parametrize("how", ["/lines", "/all-lines"])
def test_02_a_body_ends_where_it_ends(attacked: Attacked, holds: bool, how: str) -> None:
    """Iterated, it went on with the next request, and waited for that."""
    answer = asked(attacked(), post(how, b"one\ntwo\n"))
    assert (b"[b'one\\n', b'two\\n']" in answer) is holds


@twice
def test_03_a_mute_tls_client_holds_up_nobody(
    attacked: Attacked, holds: bool, certificates: tuple[Certificate, Certificate]
) -> None:
    """The handshake was made by the thread that accepts."""
    [certificate, _] = certificates
    victim = attacked(tls=[str(certificate.certificate), str(certificate.key)])
    context = ssl.create_default_context(cafile=str(certificate.root))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        Client(victim.address) as mute,
        socket.create_connection(("127.0.0.1", victim.address.port), timeout=SOON) as other,
    ):
        mute.send(b"\x16\x03\x01")
        try:
            with context.wrap_socket(other, server_hostname="localhost") as secure:
                secure.sendall(b"GET / %b\r\n" % HEAD)
                answered = secure.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            answered = False
    assert answered is holds


@twice
@pytest.mark.parametrize("said", [b"", b"GET / HT"], ids=["nothing", "half a word"])
def test_04_who_says_too_little_holds_no_thread(
    attacked: Attacked, holds: bool, said: bytes
) -> None:
    """As many such connections as threads stopped the server."""
    victim = attacked(threads=2)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(Client(victim.address)).send(said)
        with Client(victim.address) as client:
            assert answers(client) is holds


@twice
def test_05_connections_are_kept(attacked: Attacked, holds: bool) -> None:
    """Of fifteen clients some had to connect anew for each request."""
    victim = attacked(threads=2)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(victim.address)) for _ in range(15)]
        kept = [not client.get().closes for client in clients]
    assert all(kept) is holds


@twice
@pytest.mark.skipif(sys.platform != "linux", reason="what a full queue does is the system's")
def test_06_a_burst_of_connections_is_queued(attacked: Attacked, holds: bool) -> None:
    """The sixth of a burst waited a second and more, until its packet was sent again."""
    import signal

    victim = attacked()
    victim.process.send_signal(signal.SIGSTOP)
    with ExitStack() as stack:
        made = [stack.enter_context(socket.socket()) for _ in range(40)]
        for each in made:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", victim.address.port))
        threading.Event().wait(0.2)
        connected = [each for each in made if _is_connected(each)]
    assert (len(connected) == len(made)) is holds


def _is_connected(sock: socket.socket) -> bool:
    with suppress(OSError):
        sock.getpeername()
        return True
    return False


@twice
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="asks Linux's /proc")
def test_07_out_of_descriptors_it_waits(attacked: Attacked, holds: bool) -> None:
    """It spun, and filled the log, as long as somebody was waiting to be accepted."""
    victim = attacked(limit=64, threads=2)
    with Client(victim.address) as first, Client(victim.address) as kept:
        assert answers(first)
        assert answers(kept)
        assert answers(kept, "/hoard")
        before = victim.processor_time
        with Client(victim.address) as newcomer:
            newcomer.ask()
            threading.Event().wait(2.0)
            share = (victim.processor_time - before) / 2.0
            shortages = [line for line in victim.logged if "ccept" in line]
            recovered = answers(kept, "/release")
            recovered = recovered and newcomer.answer().status == 200
    assert (share < 0.05 and len(shortages) == 1 and recovered) is holds


@twice
def test_08_who_shares_its_socket_does_not_hold_it_up(attacked: Attacked, holds: bool) -> None:
    """Too late for a connection that another process had taken, it waited a second for the next."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as shared:
        victim = attacked(descriptor=os.dup(shared.fileno()))
        address = Address.parse(shared.getsockname())
        shared.setblocking(False)
        with Client(address) as kept:
            kept.get()
            # It ends with the first that waited.
            slowest = _race_for_connections(shared, address, kept, SOON if holds else 20 * SOON)
        assert victim.process.poll() is None
    assert (slowest < 0.5) is holds


def _race_for_connections(
    shared: socket.socket, address: Address, kept: Client, until: float
) -> float:
    """Take connections before the victim can; answer how long a kept one waited at most."""
    slowest = 0.0
    end = time.monotonic() + until
    while time.monotonic() < end and slowest < 0.5:
        for _ in range(20):
            with Client(address), suppress(BlockingIOError):
                shared.accept()[0].close()
        began = time.monotonic()
        kept.get()
        slowest = max(slowest, time.monotonic() - began)
    return slowest


@twice
@pytest.mark.parametrize(
    "fields",
    [
        b"Host: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Host: a\r\nContent-Length: 0\r\nContent-Length: 7\r\n",
        b"Content-Length: 0\r\n",
    ],
    ids=["both lengths", "two lengths", "no host"],
)
def test_09_a_request_has_one_meaning(attacked: Attacked, holds: bool, fields: bytes) -> None:
    """What a proxy takes for one request was two, or the other way round."""
    answer = asked(attacked(), b"POST / HTTP/1.1\r\n%b\r\n0\r\n\r\n" % fields, 1.0)
    assert answer.startswith(b"HTTP/1.1 400") is holds


@twice
@pytest.mark.parametrize(
    ("request_", "stays"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n", True),
    ],
)
def test_10_what_is_asked_of_a_connection_is_done(
    attacked: Attacked, holds: bool, request_: bytes, stays: bool
) -> None:
    """In capitals or not, alone or in a list."""
    with Client(attacked().address) as client:
        client.send(request_)
        client.answer()
        client.socket.settimeout(1.0)
        try:
            stayed = bool(client.socket.recv(1))
        except TimeoutError:
            stayed = True
    assert (stayed is stays) is holds


@twice
def test_11_a_closed_connection_leaves_no_garbage(attacked: Attacked, holds: bool) -> None:
    """Two dozen objects for each, until somebody collected."""
    assert (_garbage_of(attacked(), 50) < 50) is holds


def _garbage_of(victim: Victim, connections: int, tls: ssl.SSLContext | None = None) -> int:
    """Answer what a collection finds after so many *connections*."""
    with Client(victim.address, tls) as counting:
        counting.get("/collect-no-more")
        for _ in range(connections):
            with Client(victim.address, tls) as client:
                client.get()
        return int(counting.get("/garbage").body)


@twice
def test_12_who_comes_too_late_is_told_at_once(attacked: Attacked, holds: bool) -> None:
    """They waited behind a full queue, and so did everybody else."""
    bare = {"accepted_queue_size": 1, "request_queue_size": 100}
    victim = attacked(threads=1, max_waiting=1, bare=bare)
    with ExitStack() as stack:
        kept, busy, *others = (stack.enter_context(Client(victim.address)) for _ in range(10))
        assert answers(kept)
        busy.ask("/wait")
        with suppress(TimeoutError):
            busy.socket.settimeout(0.3)
            busy.socket.recv(1)
        for client in others:
            client.ask()
        refused = [each for each in others[1:] if _is_told_to_come_back(each)]
    assert (len(refused) == len(others) - 1) is holds


def _is_told_to_come_back(client: Client) -> bool:
    client.socket.settimeout(0.7)
    try:
        answer = client.answer()
    except OSError:
        return False
    return (answer.status, answer.headers.get("retry-after"), answer.closes) == (503, "1", True)


@twice
def test_13_a_response_is_no_longer_than_it_said(attacked: Attacked, holds: bool) -> None:
    """Its second piece was counted from the start, and passed for another response."""
    answer = asked(attacked(), b"GET /overrun %b\r\n" % HEAD, 1.0)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\nab") is holds


def test_13_a_stop_needs_no_time(engine: Engine) -> None:
    """With less than none, cheroot's own raised an AttributeError."""
    server = CherootServer(engine, hello, binds=["127.0.0.1:0"])
    server.subscribe()
    engine.start()
    server.httpserver.shutdown_timeout = -1
    server.httpserver.stop()
    assert not server.httpserver.ready


@pytest.mark.parametrize("kind", ["bare", "ours"])
def test_14_a_stop_before_the_start_is_done_stands(engine: Engine, kind: Kind) -> None:
    """It was forgotten, and the server served on."""
    from cheroot.wsgi import Server

    listening = socket.create_server(("127.0.0.1", 0))
    with listening:
        listening.setblocking(False)
        server: Any = Server(("127.0.0.1", 0), hello) if kind == "bare" else _ours(listening)
        server.stop()
        thread = threading.Thread(target=server.start, daemon=True)
        thread.start()
        thread.join(1.0)
        assert thread.is_alive() is (kind == "bare")
        server.stop()
        thread.join(10)
    assert not [each for each in threading.enumerate() if "early" in each.name]


def _ours(listening: socket.socket) -> Any:
    from sitebus.servers._cheroot import HTTPServer
    from sitebus.servers.connections import Door

    return HTTPServer(
        [Door(listening, "localhost", "1")],
        hello,
        threads=2,
        timeout=5,
        name="early",
        server_header="",
        tls=None,
        log=lambda *_: None,
    )


def test_14_starts_and_stops_from_several_threads_end_stopped(engine: Engine) -> None:
    """The bus does one after the other."""
    server = CherootServer(engine, hello, binds=["127.0.0.1:0"], linger=0.0)
    server.subscribe()
    for _ in range(10):
        threads = [threading.Thread(target=each) for each in (engine.start, engine.stop)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        engine.stop()
        assert not server.running
    assert not [each for each in threading.enumerate() if "cheroot" in each.name]


@twice
def test_15_tls_connections_leave_no_garbage(
    attacked: Attacked, holds: bool, certificates: tuple[Certificate, Certificate]
) -> None:
    """Each kept its session's buffers with it."""
    [certificate, _] = certificates
    victim = attacked(tls=[str(certificate.certificate), str(certificate.key)])
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    assert (_garbage_of(victim, 20, context) < 20) is holds


@twice
def test_16_a_unix_socket_is_its_owners(attacked: Attacked, holds: bool, tmp_path: Path) -> None:
    """Anybody on the machine could connect."""
    path = tmp_path / "site.sock"
    attacked(unix=str(path))
    assert (not stat.S_IMODE(path.stat().st_mode) & 0o077) is holds
