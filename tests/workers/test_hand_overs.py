"""What goes from one process to another: idle connections, and workers over a restart."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sitebus import assembly, legacy
from sitebus.process import Engine
from sitebus.relay import Link, Poller, Rest
from sitebus.relay.dispatch import Dispatcher
from sitebus.sockets import Idle, connections
from sitebus.workers import estate
from sitebus.workers.estate import Heirloom
from sitebus.workers.launch import Launch
from sitebus.workers.shipping import Shipper
from sitebus.workers.supervision import supervise
from tests.helpers import nothing_left, wait_for
from tests.workers.site import write


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller("test")
    yield poller
    poller.stop()


def idle_connection() -> tuple[socket.socket, Idle]:
    client, server = socket.socketpair()
    return client, Idle(server, "127.0.0.1:80", ("127.0.0.1", 1), b"GET")


def test_connections_arrive_each_once_whoever_ships_them(poller: Poller) -> None:
    """Several at once go together, and none waits for one that comes later."""
    ours, theirs = Link.pair()
    got: list[Idle] = []

    def unpack(message: object, fd: int | None) -> None:
        assert message == {"is": "kept"}
        assert fd is not None
        got.extend(connections.unpack(os.dup(fd)))

    link = Link(ours, poller, lambda *_: None, lambda _: None)
    other = Link(theirs, poller, unpack, lambda _: None)
    dispatcher = Dispatcher("test", lambda error: None)
    shipper = Shipper(link, dispatcher)
    pairs = [idle_connection() for _ in range(5)]
    for _, idle in pairs[:3]:
        shipper.ship(idle)  # the dispatcher is not even started
    dispatcher.start()
    for _, idle in pairs[3:]:
        shipper.ship(idle)
    assert dispatcher.stop(5.0)
    wait_for(lambda: len(got) == 5)
    for (client, _), idle in zip(pairs, got, strict=True):
        client.sendall(b"x")
        assert idle.socket.recv(1) == b"x"
        assert idle.begun == b"GET"
        client.close()
        idle.socket.close()
    link.close()
    other.close()


def test_connections_that_nobody_takes_are_closed(poller: Poller) -> None:
    """Their clients see the end that any stop may bring, rather than nothing for ever."""
    ours, theirs = Link.pair()
    theirs.close()
    link = Link(ours, poller, lambda *_: None, lambda _: None)
    dispatcher = Dispatcher("test", lambda error: None)
    shipper = Shipper(link, dispatcher)
    client, idle = idle_connection()
    shipper.ship(idle)
    shipper.flush()
    client.settimeout(5.0)
    assert client.recv(1) == b""
    client.close()
    link.close()


def heirloom(serial: int) -> tuple[socket.socket, Heirloom]:
    ours, theirs = Link.pair()
    pidfd = os.pidfd_open(os.getpid())
    rest = Rest(b"\0begun", b"\xffunsent")
    return theirs, Heirloom(serial, 1, 42, True, [("/", "shop:app", "wsgi")], ours, pidfd, rest)


def test_what_is_left_is_found_as_it_was() -> None:
    """A name each; what was under way is bytes of any kind."""
    with nothing_left():
        legacies: dict[str, int] = {}
        theirs, left = heirloom(7)
        estate.leave({"pool": {"count": 2}}, [left], legacies)
        found = estate.take(lambda name: legacies.pop(name, None))
        assert found is not None
        told, (again,) = found
        assert told == {"pool": {"count": 2}}
        assert again[:5] == left[:5]
        assert again.rest == left.rest
        theirs.sendall(b"x")
        assert again.link.recv(1) == b"x"
        assert not legacies
        again.close()
        theirs.close()


@pytest.mark.parametrize("missing", ["worker 7 link", "worker 7 process"])
def test_a_worker_of_whom_half_is_there_is_given_up(missing: str) -> None:
    """The half is closed: without its link a worker finishes and leaves."""
    with nothing_left():
        legacies: dict[str, int] = {}
        theirs, left = heirloom(7)
        estate.leave({}, [left], legacies)
        os.close(legacies.pop(missing))
        found = estate.take(lambda name: legacies.pop(name, None))
        assert found == ({}, [])
        assert not legacies
        theirs.close()


def test_what_another_version_has_left_is_not_understood_and_harms_nobody() -> None:
    """A restart may be an upgrade."""
    with nothing_left():
        legacies = {estate.NAME: legacy.write({"workers": 7})}
        assert estate.take(lambda name: legacies.pop(name, None)) is None
        assert estate.take(lambda name: None) is None


@pytest.mark.parametrize("told", [{}, {"pool": 7, "metrics": 7}, {"pool": {"jobs": "x"}}])
def test_a_supervisor_that_cannot_go_on_with_workers_lets_them_leave(
    told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts its own then: an upgrade must not end the site."""
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    with nothing_left():
        engine = Engine()
        file = tmp_path / "site.ini"
        supervision = supervise(assembly.read(file), engine, Launch(file))
        theirs, left = heirloom(7)
        assert not supervision.supervisor._adopt(told, [left])
        assert theirs.recv(1) == b""
        theirs.close()
        supervision.close()
        engine.exit()
