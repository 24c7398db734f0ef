"""What bad clients get: one sentence, or the door; and never any harm to the site."""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from sitebus.control import connections
from sitebus.control.server import MOST_CLIENTS
from sitebus.process import Engine
from tests.control.clients import NOBODY, Connection, answered, as_nobody, ask, following, raw
from tests.control.conftest import Make
from tests.helpers import nothing_left, open_descriptors, wait_for

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")

GET = b"GET /v1/version HTTP/1.1\r\nHost: x\r\n"


def status_of(answer: bytes) -> int:
    return int(answer.split()[1])


def sentence_of(answer: bytes) -> str:
    sentence = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert isinstance(sentence, str)
    return sentence


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /v1/version HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/version HTTP/1.1\nHost: x\n\n", 400),
        (GET + b" folded\r\n\r\n", 400),
        (GET + b"Content-Length: -1\r\n\r\n", 400),
        (GET + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (GET + b"Content-Length: 262145\r\n\r\n", 413),
        (GET + b"X: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (GET + b"X: y\r\n" * 300 + b"\r\n", 431),
        (b"GET /" + b"x" * 20_000, 414),
        (b"GET /v1/version HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused(control: Path, request_: bytes, status: int) -> None:
    """Whoever sends it, the connection is closed behind the answer, and the next one is served."""
    answer = raw(control, request_)
    assert status_of(answer) == status
    assert b"Connection: close" in answer
    assert sentence_of(answer)
    assert ask(control, "GET", "/v1/version").status == 200


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "sentence"),
    [
        ("GET", "/v1/staus", None, 404, "did you mean /v1/status?"),
        ("GET", "/", None, 404, "nothing here"),
        ("GET", "/v1/workers/1/kill/now", None, 404, "nothing here"),
        ("DELETE", "/v1/status", None, 405, "this takes GET"),
        ("GET", "/v1/stop", None, 405, "this takes POST"),
        ("GET", "/v1/jobs/99", None, 404, "no job '99'"),
        ("GET", "/v1/jobs/99?wait=soon", None, 400, "wait should be a number of seconds"),
        ("GET", "/v1/jobs/99?wait=nan", None, 400, "wait should be a number of seconds"),
        ("GET", "/v1/jobs/99?wait=1e9", None, 400, "wait should be a number of seconds"),
        ("GET", "/v1/events?follow=maybe", None, 400, "follow should be yes or no"),
        ("POST", "/v1/scale", "three", 400, "the body should be a JSON object"),
        ("POST", "/v1/scale", {}, 400, "count should be a number from 1 to 1024"),
        ("POST", "/v1/scale", {"count": True}, 400, "count should be a number"),
        ("POST", "/v1/scale", {"count": -1}, 400, "count should be a number"),
        ("POST", "/v1/scale", {"cuont": 3}, 400, "the body may say count, and says 'cuont'"),
        ("POST", "/v1/stop", {"now": True}, 400, "the body may say nothing"),
        ("POST", "/v1/ready", {"ready": "on"}, 400, "ready should be true or false"),
        ("POST", "/v1/publish", {"channel": 7}, 400, "channel should be a text"),
        ("POST", "/v1/publish", {"channel": "shop.price", "args": 7}, 400, "a JSON array"),
        ("POST", "/v1/restart", {"force": 1}, 400, "force should be true or false"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    control: Path, method: str, target: str, body: object, status: int, sentence: str
) -> None:
    """In one sentence."""
    answer = ask(control, method, target, body)
    assert answer.status == status
    assert sentence in answer.error
    assert ("Allow" in answer.fields) is (status == 405)


def test_a_head_is_refused_without_a_body(control: Path) -> None:
    """A body would be taken for the next answer."""
    request = b"HEAD /v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = raw(control, request)
    assert status_of(answer) == 405
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b'{"count": 1} x'])
def test_what_is_no_json_is_refused(control: Path, body: bytes) -> None:
    """However deep."""
    head = b"POST /v1/scale HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    answer = raw(control, head % len(body) + body)
    assert (status_of(answer), sentence_of(answer)) == (400, "the body is not JSON")


def test_requests_may_follow_one_another(control: Path) -> None:
    """On one connection, and without waiting for answers."""
    answer = raw(control, (GET + b"\r\n") * 50 + GET + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 51


def test_a_connection_may_be_kept(control: Path) -> None:
    """A dashboard asks again and again."""
    connection = Connection(control)
    for _ in range(3):
        connection.request("GET", "/v1/version")
        assert answered(connection.getresponse()).status == 200
    connection.close()


def test_a_client_may_ask_whether_to_send_its_body(control: Path) -> None:
    """As curl does with long ones."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(control))
        sock.sendall(
            b"POST /v1/ready HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\nContent-Length: 15\r\n\r\n"
        )
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b'{"ready": true}')
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("sent", [b"", b"GET /v1/ver", GET + b"Content-Length: 5\r\n\r\nab"])
def test_a_slow_client_is_given_up(
    make: Make, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """It would keep its place for ever."""
    monkeypatch.setattr(connections, "PATIENCE", 0.1)
    assert raw(make(), sent) == b""


def test_a_client_that_takes_no_answer_is_given_up(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it is memory."""
    monkeypatch.setattr(connections, "PATIENCE", 0.2)
    path = make()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        request = b"GET /v1/bus HTTP/1.1\r\nHost: x\r\n\r\n"
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            sock.sendall(request * 1_000_000)


def test_a_client_that_leaves_is_forgotten(control: Path, engine: Engine) -> None:
    """In the middle of a wait, too."""
    release = threading.Event()
    engine.subscribe("graceful", lambda: release.wait(10))
    before = open_descriptors()
    connection = Connection(control)
    connection.request("POST", "/v1/graceful?wait=60")
    connection.close()
    wait_for(lambda: open_descriptors() <= before, what="its descriptor to be closed")
    release.set()
    assert ask(control, "GET", "/v1/version").status == 200


def test_too_many_clients_are_told_so(control: Path) -> None:
    """And there is room again once some have left."""
    with ExitStack() as held:
        for _ in range(MOST_CLIENTS):
            sock = held.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(control))
        answer = ask(control, "GET", "/v1/version")
        assert answer.status == 503
        assert answer.error == "there are too many clients already; try again"
    wait_for(lambda: ask(control, "GET", "/v1/version").status == 200)


def test_without_descriptors_clients_wait(control: Path, engine: Engine) -> None:
    """They are served when there are some again; meanwhile the thread does not spin."""
    logged: list[str] = []
    engine.subscribe("log", lambda message, level=20: logged.append(message))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 1, hard))
        try:
            with ExitStack() as held:
                fill(held)
                sock.connect(str(control))
                wait_for(lambda: any("cannot accept: Too many" in each for each in logged))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sock.sendall(GET + b"\r\n")
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
    assert len([each for each in logged if "cannot accept" in each]) < 3


def fill(held: ExitStack) -> None:
    """Take every descriptor that the system still gives."""
    while True:
        try:
            held.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return


def test_a_reader_that_does_not_read_is_dropped(control: Path, engine: Engine) -> None:
    """What waits for it stays within bounds, and nobody who publishes waits for it."""
    gc.collect()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(control))
        sock.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
        for _ in range(3000):
            engine.publish("worker.ready", "x" * 1000)

        def is_closed() -> bool:
            engine.publish("worker.ready", "more")
            try:
                sock.send(b"", socket.MSG_DONTWAIT)
                return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0 or _hung_up(sock)
            except OSError:
                return True

        wait_for(is_closed, 10, "it to be dropped")


def _hung_up(sock: socket.socket) -> bool:
    import select

    poll = select.poll()
    poll.register(sock, select.POLLHUP)
    return bool(poll.poll(0))


def test_a_reader_that_keeps_up_gets_everything(control: Path, engine: Engine) -> None:
    """However fast it comes, as long as the ring holds it."""
    with following(control, "/v1/events?channel=worker.*") as events:
        for number in range(900):
            engine.publish("worker.ready", number, "x" * 500)
        assert [next(events)[2]["args"][0] for _ in range(900)] == list(range(900))


def rude(path: Path, dice: random.Random) -> None:
    """Do what no client should, and leave when it suits."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(0.05)
        sock.connect(str(path))
        whole = b"".join(dice.choices(RUDE, k=dice.randint(1, 4)))
        at = 0
        try:
            while at < len(whole) and dice.random() < 0.95:
                size = dice.choice((1, 7, 300, 70_000))
                at += sock.send(whole[at : at + size])
            if dice.random() < 0.3:
                sock.shutdown(socket.SHUT_WR)
            if dice.random() < 0.5:
                sock.recv(dice.choice((1, 100_000)))
        except OSError:
            pass  # it has had enough of us


RUDE = (
    GET + b"\r\n",
    b"GET /v1/bus HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/threads HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/jobs/c1?wait=60 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/graceful?wait=60 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200_000,
    b"\0" * 1000,
    b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n{}",
)


@pytest.mark.parametrize("seed", range(4))
def test_a_storm_of_rude_clients_leaves_no_trace(control: Path, engine: Engine, seed: int) -> None:
    """Descriptors and threads are what they were, and the next client is served."""
    dice = random.Random(seed)
    before = open_descriptors()
    with nothing_left():
        for number in range(150):
            rude(control, dice)
            engine.publish("worker.ready", number)
        wait_for(lambda: not ask(control, "GET", "/v1/status").said["jobs"])
        wait_for(lambda: open_descriptors() <= before, what="the clients to be forgotten")
    assert ask(control, "GET", "/v1/version").status == 200


@needs_root
def test_another_user_cannot_connect(control: Path) -> None:
    """Nobody has said that they may."""
    os.chmod(control.parent, 0o755)
    assert "Permission" in as_nobody(lambda: ask(control, "GET", "/v1/version"))


def reachable(path: Path) -> None:
    """Let others come as far as the socket: the folders of tests are private."""
    for folder in path.parents:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)


@needs_root
def test_a_stranger_who_connects_is_told_so(make: Make) -> None:
    """Where the file lets anybody in, it still matters who it is."""
    path = make(mode=0o666)
    reachable(path)
    status, said, _ = as_nobody(lambda: ask(path, "POST", "/v1/stop"))
    assert status == 403
    assert said["error"] == f"user {NOBODY} may not control this site; see [control] operators"
    assert ask(path, "GET", "/v1/status").said["state"] == "STARTED"


@needs_root
def test_strangers_keep_nobody_out(make: Make) -> None:
    """They hold no place."""
    path = make(mode=0o666)
    reachable(path)

    def crowd() -> int:
        held = [socket.socket(socket.AF_UNIX) for _ in range(200)]
        for sock in held:
            sock.connect(str(path))
        return len(held)

    assert as_nobody(crowd) == 200
    assert ask(path, "GET", "/v1/version").status == 200


@needs_root
@pytest.mark.parametrize("who", ["nobody", str(NOBODY), "@nogroup"])
def test_a_viewer_may_look_and_change_nothing(make: Make, who: str) -> None:
    """Named by name, by number, or by a group."""
    path = make(viewers=(who,))
    reachable(path)
    assert as_nobody(lambda: ask(path, "GET", "/v1/status"))[0] == 200
    status, said, _ = as_nobody(lambda: ask(path, "POST", "/v1/stop"))
    assert status == 403
    expected = f"user {NOBODY} may look, and change nothing; see [control] operators"
    assert said["error"] == expected


@needs_root
def test_an_operator_may_change_something(make: Make) -> None:
    """Named in the configuration."""
    path = make(operators=("nobody",))
    reachable(path)
    assert as_nobody(lambda: ask(path, "POST", "/v1/ready", {"ready": False}))[0] == 200
    assert ask(path, "GET", "/v1/status").said["ready_wanted"] is False
