"""The doorkeeper when the system has bad news."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sitebus.servers.connections import Door, Doorkeeper
from tests.helpers import nothing_left, wait_for


class Balky(socket.socket):
    """A listening socket whose accept fails a few times first."""

    errors: list[int]
    failed_at: list[float]

    def accept(self) -> tuple[socket.socket, Any]:
        if self.errors:
            self.failed_at.append(time.monotonic())
            raise OSError(self.errors.pop(0), "as told")
        return super().accept()


class Plain:
    """A connection that is closed when it was served."""

    def __init__(self, keeper: Doorkeeper[Plain], accepted: socket.socket) -> None:
        self.keeper = keeper
        self.socket = accepted
        self.last_used = 0.0

    def close(self) -> None:
        self.socket.close()
        self.keeper.gone(self)


class House:
    """A doorkeeper at work, and what it did."""

    def __init__(self, errors: list[int], *, opened: bool = True) -> None:
        self.listening = Balky(socket.AF_INET, socket.SOCK_STREAM)
        self.listening.errors, self.listening.failed_at = errors, []
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen()
        self.listening.setblocking(False)
        self.served: list[Plain] = []
        self.logged: list[str] = []
        self.keeper = Doorkeeper[Plain](
            [Door(self.listening, "here", "1")],
            timeout=5,
            welcome=lambda door, accepted, peer: Plain(self.keeper, accepted),
            serve=self.serve,
            log=lambda message, level: self.logged.append(message),
        )
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self.run)
        if opened:
            self.thread.start()

    def run(self) -> None:
        try:
            self.keeper.run()
        except OSError as error:
            self.failure = error

    def serve(self, connection: Plain) -> None:
        self.served.append(connection)
        connection.socket.recv(1)
        connection.close()

    def visit(self) -> None:
        with socket.create_connection(self.listening.getsockname()) as client:
            client.sendall(b"x")
            client.settimeout(5)
            assert client.recv(1) == b""

    def close(self) -> None:
        self.keeper.cut()
        self.thread.join(5)
        self.listening.close()


@pytest.fixture
def houses() -> Iterator[list[House]]:
    houses: list[House] = []
    with nothing_left():
        yield houses
        for house in houses:
            house.close()


def test_without_descriptors_it_waits_a_moment(houses: list[House]) -> None:
    """A busy loop that logs would be worse than the shortage, which is told once."""
    houses.append(house := House([errno.EMFILE] * 2))
    house.visit()

    assert len(house.served) == 1
    assert len(house.logged) == 1
    first, second = house.listening.failed_at
    assert second - first > 0.1


def test_a_drain_during_the_pause_keeps_the_doors_closed(houses: list[House]) -> None:
    """The end of the pause must not open them again."""
    houses.append(house := House([errno.EMFILE]))
    with socket.create_connection(house.listening.getsockname()):
        wait_for(lambda: house.logged)
        house.keeper.drain(0)
        assert house.keeper.ended.wait(5)
    assert house.served == []


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
def test_an_error_of_one_connection_is_its_own(houses: list[House], number: int) -> None:
    """Linux reports what happened to a connection when it is accepted."""
    houses.append(house := House([number]))
    house.visit()
    assert house.failure is None


def test_a_broken_door_is_a_crash(houses: list[House]) -> None:
    """Nothing would ever be accepted again."""
    houses.append(house := House([errno.EINVAL]))
    with socket.create_connection(house.listening.getsockname()):
        house.thread.join(5)
    assert isinstance(house.failure, OSError)
    assert house.keeper.ended.is_set()


def test_one_that_never_ran_has_nothing_to_close() -> None:
    """Draining and cutting it is no error either."""
    with nothing_left():
        keeper = Doorkeeper[Plain]([], timeout=1, welcome=None, serve=None, log=None)  # type: ignore[arg-type]
        keeper.drain(0)
        keeper.cut()


def test_who_waits_is_let_in_before_the_doors_are_closed_for_good(houses: list[House]) -> None:
    """The kernel has accepted them; nobody would ever answer."""
    houses.append(house := House([], opened=False))
    address = house.listening.getsockname()
    with socket.create_connection(address) as one, socket.create_connection(address) as two:
        one.sendall(b"x")
        two.sendall(b"x")
        house.keeper.drain(0, for_good=True)
        house.thread.start()
        assert house.keeper.ended.wait(5)
        assert one.recv(1) == two.recv(1) == b""
    assert len(house.served) == 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_who_waits_is_left_to_the_successor_otherwise(houses: list[House]) -> None:
    houses.append(house := House([], opened=False))
    with socket.create_connection(house.listening.getsockname()):
        house.keeper.drain(0)
        house.thread.start()
        assert house.keeper.ended.wait(5)
    assert house.served == []
    house.listening.accept()[0].close()
