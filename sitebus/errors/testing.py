"""What a test is told when a site, or a bus, was not as it should be.

They are assertions as well: a test that meets one has failed, and is not broken.
"""

from __future__ import annotations

from collections.abc import Sequence

from sitebus.errors.base import SitebusError


class NotInTime(SitebusError, AssertionError):
    """A condition that a test waits for did not come true."""

    def __init__(self, what: object, timeout: float) -> None:
        super().__init__(what, timeout)
        self.what = what
        self.timeout = timeout

    def __str__(self) -> str:
        return f"not within {self.timeout:g} s: {self.what}"


class LeftBehind(SitebusError, AssertionError):
    """What a test has opened or started is there after it."""

    def __init__(self, kind: str, left: Sequence[str]) -> None:
        super().__init__(kind, left)
        self.kind = kind
        self.left = tuple(left)

    def __str__(self) -> str:
        return f"the test has left {self.kind} behind: {', '.join(self.left)}"


class NotPrinted(SitebusError, AssertionError):
    """A child process has not printed what a test waits for, or ended before it did."""

    def __init__(self, what: str, child: object) -> None:
        super().__init__(what, child)
        self.what = what
        self.child = child

    def __str__(self) -> str:
        return f"{self.what} was not printed by {self.child!r}"


class StillRunning(SitebusError, AssertionError):
    """A child process has not ended."""

    def __init__(self, timeout: float, child: object) -> None:
        super().__init__(timeout, child)
        self.timeout = timeout
        self.child = child

    def __str__(self) -> str:
        return f"still running after {self.timeout:g} s: {self.child!r}"


class BusNotClean(SitebusError, AssertionError):
    """The bus of a test has not ended well, or has logged errors that the test did not expect."""

    def __init__(self, state: object, errors: Sequence[str], exit_code: int = 0) -> None:
        super().__init__(state, errors)
        self.state = state
        self.errors = tuple(errors)
        self.exit_code = exit_code

    def __str__(self) -> str:
        told = "".join(f"\n{error}" for error in self.errors)
        status = f", with status {self.exit_code}" if self.exit_code else ""
        hint = "; a test that expects this empties bus_errors" if self.errors else ""
        return f"the bus has ended in state {self.state}{status}{hint}{told}"


class NotATarget(SitebusError, TypeError):
    """A test asked for a site of something that is none."""

    def __init__(self, target: object) -> None:
        super().__init__(target)
        self.target = target

    def __str__(self) -> str:
        return (
            f"cannot serve {self.target!r}: expected a WSGI or ASGI application, a Site, a text "
            "such as 'module:name', or the path of a site.ini"
        )
