"""One thread for many descriptors and moments: prompt, asleep otherwise, and hard to hurt."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from sitebus.relay import READ, WRITE, Poller
from tests.helpers import PATIENCE, nothing_left, open_descriptors, wait_for


@pytest.fixture
def pipe(poller: Poller) -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    poller.stop()
    os.close(reading)
    os.close(writing)


def settle(poller: Poller) -> None:
    """Wait until all that was asked for so far is done."""
    done = threading.Event()
    assert poller.call_soon(done.set)
    assert done.wait(5)


def thread_of(poller: Poller) -> threading.Thread:
    (thread,) = (each for each in threading.enumerate() if each.name == poller.name)
    return thread


def test_making_one_starts_nothing() -> None:
    """A site without workers pays nothing for the possibility."""
    with nothing_left():
        threads, descriptors = threading.active_count(), open_descriptors()
        poller = Poller()
        assert threading.active_count() == threads
        assert open_descriptors() == descriptors
        poller.stop()


def test_it_starts_when_it_is_needed(poller: Poller) -> None:
    """Nobody has to know who comes first."""
    found = []
    poller.call_soon(lambda: found.append(poller.is_current))
    settle(poller)
    assert found == [True]
    assert not poller.is_current
    assert thread_of(poller).daemon


def test_a_descriptor_calls_back_while_it_is_ready(poller: Poller, pipe: tuple[int, int]) -> None:
    """What is not read at once is told of again."""
    reading, writing = pipe
    read: list[bytes] = []
    poller.watch(reading, READ, lambda events: read.append(os.read(reading, 1)))
    os.write(writing, b"abc")
    wait_for(lambda: b"".join(read) == b"abc")


def test_only_what_was_asked_for_is_told(poller: Poller, pipe: tuple[int, int]) -> None:
    """Who writes does not want to know what can be read."""
    told: list[int] = []
    writing = pipe[1]

    def ready(events: int) -> None:
        told.append(events)
        poller.unwatch(writing)

    poller.watch(writing, READ | WRITE, ready)
    wait_for(lambda: told)
    settle(poller)
    assert told == [WRITE]


def test_watching_again_replaces_what_is_called(poller: Poller, pipe: tuple[int, int]) -> None:
    """A link says only what it wants now."""
    first: list[int] = []
    second: list[bytes] = []
    poller.watch(pipe[0], READ, first.append)
    poller.watch(pipe[0], READ, lambda events: second.append(os.read(pipe[0], 9)))
    done = threading.Event()
    poller.call_soon(done.set)
    assert done.wait(PATIENCE)
    os.write(pipe[1], b"x")
    wait_for(lambda: second)
    assert first == []


def test_what_is_forgotten_may_be_closed_at_once(poller: Poller) -> None:
    """Its number may be somebody else's in the next moment."""
    called: list[int] = []
    for _ in range(100):
        reading, writing = os.pipe()
        poller.watch(reading, READ, called.append)
        poller.unwatch(reading)
        called.clear()
        os.write(writing, b"x")
        os.close(reading)
        os.close(writing)
        settle(poller)
        assert called == []


def test_forgetting_what_nobody_watches_is_no_error(poller: Poller, pipe: tuple[int, int]) -> None:
    """Whoever cleans up need not know how far it came."""
    poller.unwatch(pipe[0])
    poller.call_soon(lambda: poller.unwatch(pipe[0]))
    settle(poller)


def test_news_of_a_forgotten_descriptor_do_not_reach_its_heir(poller: Poller) -> None:
    """Both were ready in the same turn, one forgot the other, and its number went on."""
    pipes = [os.pipe(), os.pipe()]
    silent = os.pipe()
    turns: list[int] = []
    wrong: list[int] = []

    def ready(events: int) -> None:
        turns.append(events)
        for reading, _ in pipes:
            poller.unwatch(reading)
            os.dup2(silent[0], reading)
            poller.watch(reading, READ, wrong.append)

    def ask() -> None:
        for reading, writing in pipes:
            os.write(writing, b"x")
            poller.watch(reading, READ, ready)

    poller.call_soon(ask)
    wait_for(lambda: turns)
    settle(poller)
    assert (turns, wrong) == ([READ], [])
    poller.stop()
    for fd in (*silent, *pipes[0], *pipes[1]):
        os.close(fd)


def test_a_file_cannot_be_watched(
    poller: Poller, errors: list[BaseException], tmp_path: Path
) -> None:
    """It is always ready; who asks is told, or on_error is."""
    with (tmp_path / "file").open("w") as file:
        poller.watch(file.fileno(), READ, lambda events: None)
        settle(poller)
    assert [type(each) for each in errors] == [PermissionError]
    errors.clear()


def test_work_is_done_in_order(poller: Poller) -> None:
    """What was asked for first is done first."""
    done: list[int] = []
    for number in range(1000):
        poller.call_soon(lambda number=number: done.append(number))  # type: ignore[misc]
    settle(poller)
    assert done == list(range(1000))


def test_work_from_many_threads_is_all_done(poller: Poller) -> None:
    """No wake-up is lost between asking and sleeping."""
    done: list[int] = []

    def ask() -> None:
        for number in range(2000):
            poller.call_soon(lambda: done.append(1))
            if number % 100 == 0:
                settle(poller)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    settle(poller)
    assert len(done) == 12_000


def test_work_that_asks_for_more_lets_others_in(poller: Poller, pipe: tuple[int, int]) -> None:
    """Nobody gets the thread for himself."""
    read: list[bytes] = []

    def again() -> None:
        if not read:
            poller.call_soon(again)

    poller.watch(pipe[0], READ, lambda events: read.append(os.read(pipe[0], 9)))
    poller.call_soon(again)
    os.write(pipe[1], b"x")
    wait_for(lambda: read)


def test_a_signal_handler_may_ask(poller: Poller) -> None:
    """Also one that comes while its thread is just asking."""
    done: list[str] = []
    handled: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        handled.append(number)
        poller.call_soon(lambda: done.append("handler"))

    ours = threading.get_ident()
    enough = threading.Event()

    def bombard() -> None:
        while not enough.is_set():
            signal.pthread_kill(ours, signal.SIGUSR1)

    thread = threading.Thread(target=bombard)
    before = signal.signal(signal.SIGUSR1, handle)
    asked = 0
    try:
        thread.start()
        while len(handled) < 50 or asked < 50:
            poller.call_soon(lambda: done.append("main"))
            asked += 1
    finally:
        enough.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    settle(poller)
    assert done.count("main") == asked
    assert done.count("handler") == len(handled)


def asked_at_collection(turn: int, poller: Poller, done: list[str]) -> bool:
    """Start *poller*, asked for more in that collection; answer whether there were so many."""
    collections = itertools.count()

    def ask(phase: str, info: dict[str, int]) -> None:
        ours = threading.current_thread() is threading.main_thread() and phase == "stop"
        if ours and next(collections) == turn:
            poller.call_soon(lambda: done.append("finalized"))

    before = gc.get_threshold()
    gc.callbacks.append(ask)
    gc.set_threshold(1)
    try:
        poller.call_soon(lambda: done.append("main"))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(ask)
    return next(collections) > turn


def test_what_is_finalized_while_it_starts_may_ask() -> None:
    """Wherever the collector runs, the work is done, by the one thread that there is."""
    for turn in itertools.count():
        with nothing_left():
            poller, done = Poller("test poller"), list[str]()
            happened = asked_at_collection(turn, poller, done)
            settle(poller)
            assert thread_of(poller).is_alive()
            poller.stop()
        if not happened:
            break
        assert sorted(done) == ["finalized", "main"]
    assert turn > 5


def test_moments_come_in_order_and_not_before(poller: Poller) -> None:
    """The order of asking does not matter."""
    fired: list[tuple[str, float]] = []
    now = time.monotonic()
    for name, after in (("late", 0.06), ("early", 0.02), ("past", -1.0)):
        poller.call_at(
            now + after,
            lambda name=name: fired.append((name, time.monotonic())),  # type: ignore[misc]
        )
    wait_for(lambda: len(fired) == 3)
    assert [name for name, _ in fired] == ["past", "early", "late"]
    assert fired[1][1] >= now + 0.02
    assert fired[2][1] >= now + 0.06


@pytest.mark.parametrize("inside", [False, True], ids=["other thread", "own thread"])
def test_a_cancelled_moment_does_not_come(poller: Poller, inside: bool) -> None:
    """A deadline that was met is nobody's business."""
    fired: list[str] = []

    def ask() -> None:
        soon = time.monotonic() + 0.02
        cancel = poller.call_at(soon, lambda: fired.append("cancelled"))
        poller.call_at(soon, lambda: fired.append("kept"))
        cancel()
        cancel()

    if inside:
        poller.call_soon(ask)
    else:
        ask()
    wait_for(lambda: fired)
    settle(poller)
    assert fired == ["kept"]


def test_one_moment_may_cancel_another_of_the_same_turn(poller: Poller) -> None:
    """Due is not done."""
    fired: list[int] = []
    cancels: list[Callable[[], None]] = []

    def fire(number: int) -> None:
        fired.append(number)
        cancels[1 - number]()

    def ask() -> None:
        cancels.append(poller.call_at(0.0, lambda: fire(0)))
        cancels.append(poller.call_at(0.0, lambda: fire(1)))

    poller.call_soon(ask)
    settle(poller)
    settle(poller)
    assert fired == [0]


def test_cancelled_moments_are_not_kept(poller: Poller) -> None:
    """Every call with a deadline asks for one, an hour away, and cancels it."""

    class Token:
        """Counts its kind."""

        alive = 0

        def __init__(self) -> None:
            Token.alive += 1

        def __del__(self) -> None:
            Token.alive -= 1

        def fire(self) -> None:
            raise AssertionError("cancelled")

    # What is due first does not go, and hides the others.
    poller.call_at(time.monotonic() + 1800, lambda: None)
    for _ in range(5000):
        poller.call_at(time.monotonic() + 3600, Token().fire)()
    settle(poller)
    wait_for(lambda: Token.alive == 0)
    assert len(poller._timers) < 200


def test_a_moment_far_away_can_be_waited_for(poller: Poller) -> None:
    """The system counts milliseconds in 32 bits, which is 24 days."""
    poller.call_at(time.monotonic() + 1e10, lambda: None)
    poller.call_at(float("inf"), lambda: None)
    settle(poller)
    settle(poller)


def test_what_raises_hurts_nobody_else(
    poller: Poller, pipe: tuple[int, int], errors: list[BaseException]
) -> None:
    """sys.exit() in a callback would else end the thread without a word."""
    read: list[bytes] = []

    def ready(events: int) -> None:
        read.append(os.read(pipe[0], 1))
        raise ValueError("ready")

    poller.watch(pipe[0], READ, ready)
    poller.call_soon(lambda: sys.exit(3))
    poller.call_at(0.0, lambda: 1 // 0)
    os.write(pipe[1], b"ab")
    wait_for(lambda: len(errors) == 4)
    kinds = sorted(type(each).__name__ for each in errors)
    assert kinds == ["SystemExit", "ValueError", "ValueError", "ZeroDivisionError"]
    errors.clear()
    assert read == [b"a", b"b"]
    settle(poller)


def test_an_error_that_cannot_be_told_hurts_nobody() -> None:
    """The log may be what is broken."""

    def on_error(error: BaseException) -> None:
        raise OSError("disk full")

    with nothing_left():
        poller = Poller(on_error=on_error)
        poller.call_soon(lambda: 1 // 0)
        settle(poller)
        poller.stop()


def test_errors_are_printed_if_nobody_wants_them(capsys: pytest.CaptureFixture[str]) -> None:
    """They cannot be missed by forgetting an argument."""
    poller = Poller()
    poller.call_soon(lambda: 1 // 0)
    settle(poller)
    poller.stop()
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_stopping_does_first_what_was_asked_for(poller: Poller) -> None:
    """The last message of a supervisor is not lost."""
    done: list[int] = []
    for number in range(100):
        poller.call_soon(lambda number=number: done.append(number))  # type: ignore[misc]
    poller.stop()
    assert done == list(range(100))
    assert not [each for each in threading.enumerate() if each.name == poller.name]


def test_what_has_stopped_does_not_come_back_by_itself(poller: Poller) -> None:
    """Who is late must not leave a thread behind, nor wait for one that is gone."""
    settle(poller)
    poller.stop()
    threads = threading.active_count()
    assert poller.call_soon(lambda: None) is False
    poller.watch(0, READ, lambda events: None)
    poller.unwatch(0)
    poller.call_at(0.0, lambda: None)()
    poller.stop()
    assert threading.active_count() == threads


def test_it_may_be_started_again(poller: Poller, pipe: tuple[int, int]) -> None:
    """A bus that was stopped may be started; who was watched before is forgotten."""
    old: list[int] = []
    new: list[bytes] = []
    poller.watch(pipe[0], READ, old.append)
    poller.stop()
    os.write(pipe[1], b"x")
    poller.start()
    settle(poller)
    assert old == []
    poller.watch(pipe[0], READ, lambda events: new.append(os.read(pipe[0], 9)))
    wait_for(lambda: new == [b"x"])


def test_it_may_stop_itself(poller: Poller) -> None:
    """The turn is finished, and nothing waits for itself."""
    turn: list[object] = []

    def end() -> None:
        poller.stop()
        turn.append(poller.call_soon(lambda: None))

    def begin() -> None:
        poller.call_soon(end)
        poller.call_soon(lambda: turn.append("same turn"))

    poller.call_soon(begin)  # from here, the turn could be over in between
    wait_for(lambda: not [e for e in threading.enumerate() if e.name == poller.name])
    assert turn == [False, "same turn"]


def test_starting_and_stopping_from_many_threads(poller: Poller) -> None:
    """Whatever the order, it ends in one of the two states, and nothing is left."""

    def toggle() -> None:
        for _ in range(50):
            poller.start()
            poller.call_soon(lambda: None)
            poller.stop()

    threads = [threading.Thread(target=toggle) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
        assert not each.is_alive()
    poller.stop()
    assert not [each for each in threading.enumerate() if each.name == poller.name]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="the system does not tell")
def test_it_sleeps_while_nothing_is_due(poller: Poller, pipe: tuple[int, int]) -> None:
    """A supervisor at rest costs no battery and no scheduler's time."""
    poller.watch(pipe[0], READ, lambda events: None)
    poller.call_at(time.monotonic() + 3600, lambda: None)
    settle(poller)
    status = Path(f"/proc/self/task/{thread_of(poller).native_id}/status")

    def switches() -> list[str]:
        return [line for line in status.read_text().splitlines() if "voluntary_ctxt" in line]

    def asleep() -> bool:
        return "State:\tS" in status.read_text()

    wait_for(asleep)
    before = switches()
    threading.Event().wait(0.7)
    assert switches() == before
