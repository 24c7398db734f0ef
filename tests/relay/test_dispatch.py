"""What comes over a link is done in order, whatever a listener does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from sitebus.relay.dispatch import MOST_BYTES, Dispatcher, Losses
from tests.helpers import PATIENCE, nothing_left, wait_for


@contextmanager
def running(errors: list[BaseException], most: int = 100) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher("test", errors.append, most)
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        assert dispatcher.stop(5.0)


def test_work_is_done_in_order_and_before_the_end() -> None:
    """What was posted before a stop is done; nothing is left of the thread."""
    done: list[int] = []
    with nothing_left(), running([]) as dispatcher:
        for number in range(100):
            dispatcher.post(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == list(range(100))


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_work_raises_does_not_end_the_rest(error: type[BaseException]) -> None:
    """A listener that calls sys.exit() would silence all that comes after it."""

    def fail() -> None:
        raise error

    errors: list[BaseException] = []
    done: list[int] = []
    with running(errors) as dispatcher:
        dispatcher.post(fail)
        dispatcher.post(lambda: done.append(1))
    assert done == [1]
    assert [type(each) for each in errors] == [error]


def test_work_may_end_the_dispatcher_and_start_it_again() -> None:
    """An exit that a listener asks for runs in this very thread."""
    done: list[threading.Thread] = []

    def again() -> None:
        dispatcher.stop(5.0)
        dispatcher.start()
        dispatcher.post(lambda: done.append(threading.current_thread()))

    with running([]) as dispatcher:
        dispatcher.post(again)
        wait_for(lambda: done)
        dispatcher.post(lambda: done.append(threading.current_thread()))
    assert len(done) == 2
    assert done[0] is done[1]


def test_what_can_be_done_without_waits_up_to_a_limit() -> None:
    """A listener that is slow must not cost the memory of all that a flood brings."""
    done: list[int] = []
    goes_on = threading.Event()
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        assert goes_on.wait(5.0)

    with running([], 3) as dispatcher:
        dispatcher.post(wait)
        assert begun.wait(5.0)
        taken = [dispatcher.offer(lambda: done.append(1)) for _ in range(5)]
        dispatcher.post(lambda: done.append(2))
        goes_on.set()
    assert taken == [True, True, True, False, False]
    assert dispatcher.lost == 2
    assert done == [1, 1, 1, 2]


def test_few_large_pieces_of_work_are_too_much_as_well() -> None:
    """Ten thousand messages are little memory, or some gigabytes."""
    goes_on, begun = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert goes_on.wait(5.0)

    done: list[str] = []
    with running([]) as dispatcher:
        assert dispatcher.offer(wait, MOST_BYTES)
        assert begun.wait(5.0)
        assert dispatcher.offer(partial(done.append, "half"), MOST_BYTES // 2)
        assert not dispatcher.offer(partial(done.append, "more"), MOST_BYTES // 2 + 1)
        assert dispatcher.offer(partial(done.append, "none"))
        assert dispatcher.offer(partial(done.append, "rest"), MOST_BYTES // 2)
        assert dispatcher.lost == 1
        goes_on.set()
        assert dispatcher.settle(PATIENCE)
        assert dispatcher.offer(partial(done.append, "again"), MOST_BYTES)
    assert done == ["half", "none", "rest", "again"]


def test_what_was_posted_can_be_waited_for() -> None:
    """What is said next must come after it."""
    told: list[int] = []
    dispatcher = Dispatcher("test", print)
    assert not dispatcher.settle(1)
    dispatcher.start()
    for number in range(100):
        dispatcher.post(partial(told.append, number))
    assert dispatcher.settle(PATIENCE)
    assert told == list(range(100))
    dispatcher.stop(PATIENCE)


def test_losses_are_told_once_for_each_burst() -> None:
    """Not a line for each message, when there are too many of them already."""
    posted: list[Callable[[], object]] = []
    told: list[tuple[str, int]] = []
    losses = Losses(posted.append, lambda who, count: told.append((who, count)))
    for _ in range(3):
        losses.add("worker 1")
    losses.add("worker 2", 5)
    assert len(posted) == 2
    for work in posted:
        work()
    assert told == [("worker 1", 3), ("worker 2", 5)]
    losses.add("worker 1")
    posted[-1]()
    assert told[-1] == ("worker 1", 1)
