"""The admin address, over real sockets: it answers whatever becomes of the site and its clients."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from sitebus.control.admin import AdminServer
from sitebus.control.answers import Answer, Answers, Question
from sitebus.control.families import Family
from sitebus.control.health import Health
from sitebus.control.little_http import _parsed, _written
from sitebus.control.metrics import Registry
from sitebus.errors import AddressShared, BindError
from sitebus.process import Engine
from tests.helpers import SiteProcess, open_descriptors, wait_for


@pytest.fixture
def health(engine: Engine) -> Iterator[Health]:
    health = Health(engine)
    health.subscribe()
    yield health
    health.unsubscribe()


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.counter("shop_sold_total", "Things sold.").inc(3)
    return registry


@pytest.fixture
def admin(engine: Engine, health: Health, registry: Registry) -> AdminServer:
    admin = AdminServer(engine, ["127.0.0.1:0"], health, registry.families)
    admin.subscribe()
    return admin


def get(admin: AdminServer, path: str, **headers: str) -> requests.Response:
    return requests.get(f"{admin.addresses[0].url()}{path}", headers=headers, timeout=10)


def say(admin: AdminServer, words: bytes) -> bytes:
    """Answer everything that comes back for *words*."""
    place = admin.addresses[0]
    with socket.create_connection((place.host, place.port), timeout=10) as client:
        client.sendall(words)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_probes_and_scrapers_are_answered(engine: Engine, admin: AdminServer) -> None:
    """By what they know: a status, and text."""
    engine.start()
    for path in ("/livez", "/readyz", "/healthz", "/startupz"):
        answer = get(admin, path)
        assert (answer.status_code, answer.text) == (200, "ok\n")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert get(admin, "/readyz?verbose").text == "bus: ok (STARTED)\nwanted: ok\nok\n"
    assert get(admin, "/readyz", accept="application/json").json()["status"] == "ok"
    assert get(admin, "/").status_code == 404

    answer = get(admin, "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "shop_sold_total 3\n" in answer.text
    answer = get(admin, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    (family,) = text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
    assert family.samples[0].value == 3


def test_a_site_that_is_coming_up_or_leaving_says_so(engine: Engine, admin: AdminServer) -> None:
    """From before the imports until the exit: a refused probe could mean anything."""
    seen: dict[str, int] = {}

    def look(name: str, path: str = "/readyz") -> Callable[[], object]:
        return lambda: seen.setdefault(name, get(admin, path).status_code)

    engine.subscribe("start", look("importing", "/startupz"), 74)
    engine.subscribe("start", look("alive while importing", "/livez"), 74)
    engine.subscribe("stop", look("stopping"), 0)
    engine.subscribe("exit", look("exiting"), 90)
    engine.start()
    look("started")()
    engine.stop()
    look("stopped")()
    engine.start()
    look("again")()
    engine.exit()

    assert seen == {
        "importing": 503, "alive while importing": 200, "started": 200, "stopping": 503,
        "stopped": 503, "again": 200, "exiting": 503,
    }  # fmt: skip
    with pytest.raises(requests.ConnectionError):
        get(admin, "/livez")


def test_a_unix_socket_is_its_owners(engine: Engine, health: Health, tmp_path: Path) -> None:
    """What a site tells of itself is not for every user of the machine."""
    path = tmp_path / "health"
    admin = AdminServer(engine, [f"unix:{path}"], health)
    admin.subscribe()
    engine.start()
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok\n")
    engine.exit()
    assert not path.exists()


def test_without_an_address_there_is_nothing(engine: Engine, health: Health) -> None:
    """Off costs no thread and no descriptor."""
    AdminServer(engine, (), health).subscribe()
    before, threads = open_descriptors(), threading.active_count()
    engine.start()
    assert (open_descriptors(), threading.active_count()) == (before, threads)


def test_an_address_that_is_taken_ends_the_start(engine: Engine, health: Health) -> None:
    """Nobody would find out that probes reach somebody else."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        AdminServer(engine, [f"127.0.0.1:{port}"], health).subscribe()
        with pytest.raises(BindError, match=str(port)):
            engine.start()


def test_an_address_of_a_server_is_not_shared(engine: Engine, health: Health) -> None:
    """Each would answer the other's clients, now and then."""
    engine.sockets.bind("127.0.0.1:0")
    AdminServer(engine, ["127.0.0.1:0"], health).subscribe()
    with pytest.raises(AddressShared, match="a server listens there"):
        engine.start()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", b"200 OK"),
        (b"GET /livez HTTP/1.0\n\n", b"200 OK"),
        (b"GET http://a:1/livez HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"GET /livez\r\n\r\n", b"400 Bad Request"),
        (b"GET  /livez HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\n\n", b"400 Bad Request"),
        (b"GET /livez HTTP/2\r\n\r\n", b"400 Bad Request"),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", b"405 Method Not Allowed"),
        (b"GET /" + b"a" * 9000, b"431 Request Header Fields Too Large"),
        (b"GET /metrics/../livez HTTP/1.1\r\n\r\n", b"404 Not Found"),
    ],
)
def test_what_a_client_says_gets_one_answer(
    engine: Engine, admin: AdminServer, words: bytes, status: bytes
) -> None:
    """A scanner of ports is a client, too."""
    engine.start()
    answer = say(admin, words)
    assert answer.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert b"\r\nConnection: close\r\n" in answer


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=100).map(
    lambda target: b"GET /readyz?" + target + b" HTTP/1.1\r\nAccept: " + target
)))  # fmt: skip
def test_nothing_that_a_client_says_is_a_failure_of_ours(words: bytes) -> None:
    """Each would be a traceback in the log, for anybody to fill it with."""
    question = _parsed(words.decode("latin-1"))
    answer = question
    if isinstance(question, Question):
        answer = Answers(Health(Engine()), list).answer(question)
    assert isinstance(answer, Answer)
    _written(answer, head=False).decode()


def test_a_head_is_all_that_head_gets(engine: Engine, admin: AdminServer) -> None:
    """Some load balancers ask so."""
    engine.start()
    answer = say(admin, b"HEAD /livez HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 3\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_failure_of_our_own_is_a_500_and_is_logged(engine: Engine, health: Health) -> None:
    """And the next question is answered as ever."""
    lines: list[str] = []
    engine.subscribe("log", lambda message, level: lines.append(message))

    def families() -> Iterator[Family]:
        raise RuntimeError("on purpose")

    admin = AdminServer(engine, ["127.0.0.1:0"], health, families)
    admin.subscribe()
    engine.start()
    assert get(admin, "/metrics").status_code == 500
    assert get(admin, "/livez").status_code == 200
    assert any("Error at the admin address" in line for line in lines)


def connected(admin: AdminServer) -> socket.socket:
    place = admin.addresses[0]
    return socket.create_connection((place.host, place.port), timeout=10)


def test_clients_that_say_nothing_hold_nobody_up(engine: Engine, admin: AdminServer) -> None:
    """As many as there is room for, and then some."""
    admin._server.most, admin._server.asking = 4, 0.5
    engine.start()
    with ExitStack() as silent:
        clients = [silent.enter_context(connected(admin)) for _ in range(6)]
        clients[0].sendall(b"GET /liv")
        began = time.monotonic()
        assert get(admin, "/livez").status_code == 200
        # Two rounds of silence are over then, at most.
        assert time.monotonic() - began < 5
        assert clients[0].recv(1) == b""
    wait_for(lambda: not admin._server._clients)


def test_an_exit_waits_for_no_silent_client(engine: Engine, admin: AdminServer) -> None:
    """A shutdown is bounded; the fixture counts threads and descriptors."""
    engine.start()
    with connected(admin) as client:
        client.sendall(b"GET /livez")
        wait_for(lambda: admin._server._clients)
        began = time.monotonic()
        engine.exit()
        assert time.monotonic() - began < 0.95
        assert client.recv(1) == b""


def test_a_process_without_descriptors_answers_again_later(
    engine: Engine, admin: AdminServer
) -> None:
    """That is when somebody needs to look at it; and it does not spin meanwhile."""
    engine.start()
    get(admin, "/livez")
    wait_for(lambda: not admin._server._clients)
    with connected(admin) as client:
        wait_for(lambda: admin._server._clients)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as late:
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
            try:
                late.connect((admin.addresses[0].host, admin.addresses[0].port))
                late.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
                late.settimeout(0.4)
                used = time.process_time()
                with suppress(TimeoutError):
                    assert not late.recv(1)
                assert time.process_time() - used < 0.2
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            late.settimeout(10)
            assert late.recv(12) == b"HTTP/1.1 200"
        client.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"


def test_a_question_on_its_way_is_answered_at_an_exit(engine: Engine, admin: AdminServer) -> None:
    """It was asked of a site that listened, and an empty answer is a failed probe."""
    engine.start()
    with connected(admin) as client:
        wait_for(lambda: admin._server._clients)
        ending = threading.Thread(target=engine.exit)
        ending.start()
        wait_for(lambda: not admin._server.is_open)
        client.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 503"
        ending.join()


# A whole site.

APPS = """
import threading

def hang(environ, start_response):
    threading.Event().wait(60)

def good(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"good"]
"""

PARTS = """
from sitebus.control.admin import AdminServer
from sitebus.control.answers import Answer, Answers, Question
from sitebus.control.builtin import Metrics
from sitebus.control.health import Health
from sitebus.control.metrics import REGISTRY
import sitebus


class Watch:
    def __init__(self, bus, port):
        health = Health(bus)
        admin = AdminServer(bus, [f"127.0.0.1:{port}"], health, REGISTRY.families)
        self.parts = health, admin, Metrics(bus, sitebus.site)
        self.bus, self.admin = bus, admin

    def subscribe(self):
        for part in self.parts:
            part.subscribe()
        self.bus.subscribe("started", self.tell)

    def unsubscribe(self):
        for part in self.parts:
            part.unsubscribe()

    def tell(self):
        self.bus.log(f"admin at {self.admin.addresses[0].port};")
"""

SITE = """
[site]
python_path = .
[server]
bind = 127.0.0.1:0
threads = 2
drain_timeout = 1s
[mount /]
app = apps:good
[mount /hang]
app = apps:hang
[plugin watch]
use = parts:Watch
port = PORT
"""


@pytest.fixture
def running(tmp_path: Path, site_process: Callable[..., SiteProcess]) -> SiteProcess:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    site = SITE.replace("PORT", str(port))
    for name, text in (("apps.py", APPS), ("parts.py", PARTS), ("site.ini", site)):
        (tmp_path / name).write_text(text)
    return site_process("site.ini", cwd=tmp_path)


def admin_of(site: SiteProcess) -> str:
    port = site.wait_for_output(r"admin at (\d+);").group(1)
    return f"http://127.0.0.1:{port}"


def test_it_answers_while_every_thread_of_the_site_hangs(running: SiteProcess) -> None:
    """That is what it is for."""
    admin, url = admin_of(running), running.url
    assert requests.get(url, timeout=10).text == "good"
    for _ in range(2):
        threading.Thread(target=lambda: _quietly(f"{url}/hang"), daemon=True).start()

    def metric(name: str) -> float:
        lines = requests.get(f"{admin}/metrics", timeout=10).text.splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    wait_for(lambda: metric("sitebus_in_flight ") == 2, 10)
    with pytest.raises(requests.Timeout):
        requests.get(url, timeout=0.3)

    assert requests.get(f"{admin}/livez", timeout=10).text == "ok\n"
    assert metric('sitebus_requests_total{code="2xx",mount="/"}') == 1
    assert metric("sitebus_oldest_request_seconds ") > 0.3
    assert metric("sitebus_rss_bytes ") > 1 << 20
    assert metric('sitebus_bus_publish_total{channel="start"}') == 1


def _quietly(url: str) -> None:
    with suppress(requests.RequestException):
        requests.get(url, timeout=60)


def test_a_restart_refuses_no_probe(running: SiteProcess) -> None:
    """A refused probe would take a site out that is about to serve."""
    admin = admin_of(running)
    statuses: list[int] = []
    over = threading.Event()

    def probe() -> None:
        while not over.is_set():
            statuses.append(requests.get(f"{admin}/readyz", timeout=10).status_code)

    prober = threading.Thread(target=probe)
    prober.start()
    try:
        wait_for(lambda: statuses)
        running.signal(signal.SIGUSR2)
        wait_for(lambda: running.output.count("admin at") == 2, 20)
        known = len(statuses)
        wait_for(lambda: len(statuses) > known + 5, 20)
    finally:
        over.set()
        prober.join()
    assert set(statuses) <= {200, 503}
    assert statuses[-1] == 200
    assert requests.get(f"{admin}/startupz", timeout=10).text == "ok\n"
