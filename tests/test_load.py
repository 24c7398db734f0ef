"""The load client of the benchmarks counts what it claims: each loss, under its own name."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

import pytest

from benchmarks.load import Load, Result
from benchmarks.soak.wire import Failure
from tests.helpers import PATIENCE, nothing_left
from tests.test_soak_clients import (
    Behaviour,
    Host,
    babbles,
    cuts_off,
    drops_after,
    echoes,
    fails,
    heard,
    mixes_up,
    resets,
)

#: How many connections are made before the client is told to leave.
VISITS = 3


def seen_by(behave: Behaviour, *, keeps: bool, visits: int = VISITS) -> Result:
    """Let one client come until it has connected so often; answer what it saw."""
    enough = threading.Event()
    guests = 0

    def receive(guest: socket.socket) -> None:
        nonlocal guests
        guests += 1
        if guests >= visits:
            enough.set()
        behave(guest)

    with (
        nothing_left(),
        closing(Host(receive)) as host,
        Load(host.address.port, int(keeps), int(not keeps)) as load,
    ):
        assert enough.wait(PATIENCE)
        return load.finish()


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize(
    ("behave", "failure"),
    [
        (heard, Failure.EOF_UNANSWERED),
        (cuts_off, Failure.EOF_MIDWAY),
        (resets, Failure.RESET),
        (mixes_up, Failure.WRONG),
        (babbles, Failure.WRONG),
        (fails, Failure.SERVER_ERROR),
    ],
)
def test_each_loss_has_its_name(behave: Behaviour, failure: Failure, keeps: bool) -> None:
    """A table of failures that calls one by another's name would send its reader astray."""
    seen = seen_by(behave, keeps=keeps)

    assert set(seen.failures) == {failure}
    assert seen.failed >= VISITS
    assert seen.answered == 0


def test_whoever_closes_a_kept_connection_without_a_word_has_failed() -> None:
    """The client does not look before it asks: what is kept is promised."""
    seen = seen_by(drops_after(2), keeps=True)

    assert seen.failures.keys() <= {Failure.EOF_REUSED, Failure.RESET}
    assert seen.failed >= VISITS - 1


def test_a_connection_may_be_closed_with_a_word() -> None:
    """This is how a server leaves that owes nobody anything."""
    seen = seen_by(drops_after(2, b"Connection: close"), keeps=True)

    assert not seen.failures
    assert seen.answered >= 2 * (VISITS - 1)


@pytest.mark.parametrize("keeps", [True, False])
def test_answers_are_counted(keeps: bool) -> None:
    """Each is timed, and so is the longest time without one."""
    seen = seen_by(echoes, keeps=keeps, visits=1 if keeps else VISITS)

    assert not seen.failures
    assert seen.answered
    assert 0 < seen.p99 <= seen.longest < PATIENCE


def test_a_refusal_is_counted() -> None:
    """Nobody listens: this is the worst that a roll can do."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]

    with nothing_left(), Load(port, 1, 1) as load:
        seen = load.finish()

    assert seen.failures.keys() == {Failure.REFUSED}
    assert seen.answered == 0
