"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sitebus.errors import NotInTime

T = TypeVar("T")

#: How often a condition is looked at, in seconds: for one that tells by itself, wait for that.
GLANCE = 0.005


def wait_for(condition: Callable[[], T], timeout: float = 5.0, what: str = "") -> T:
    """Answer what *condition* answers as soon as that is true.

    Args:
        condition: Called again and again, in this thread.
        timeout: Seconds.
        what: What is waited for, in words, for who reads the failure.

    Raises:
        NotInTime: It was not true in time; an AssertionError.
    """
    end = time.monotonic() + timeout
    pause = threading.Event()
    while not (answer := condition()):
        if time.monotonic() > end:
            raise NotInTime(what or condition, timeout)
        pause.wait(GLANCE)
    return answer
