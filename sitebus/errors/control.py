"""What goes wrong between a running site and who would control it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sitebus.errors.base import (
    EX_CANTCREAT,
    EX_NOPERM,
    EX_UNAVAILABLE,
    EX_USAGE,
    SitebusError,
)


class CannotControl(SitebusError):
    """The control socket cannot be made; nothing is left of the attempt."""

    status = EX_CANTCREAT

    def __init__(self, path: str, reason: str, remedy: str) -> None:
        super().__init__(path)
        self.path = path
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot make the control socket {self.path}: {self.reason}; {self.remedy}"


class ControlSocketInUse(CannotControl):
    """Somebody listens there already, or it is no socket's file."""

    status = EX_UNAVAILABLE


class MayNotControl(CannotControl):
    """This user may not make it there, or the directory is somebody else's."""

    status = EX_NOPERM


class RequestRefused(SitebusError):
    """A request to a running site was not done.

    Attributes:
        code: The status of HTTP for it.
        sentence: What is told.
        more: What is answered besides the sentence.
    """

    def __init__(self, code: int, sentence: str, more: Mapping[str, Any] | None = None) -> None:
        super().__init__(code, sentence)
        self.code = code
        self.sentence = sentence
        self.more = dict(more or {})

    def __str__(self) -> str:
        return self.sentence


class NotRunning(SitebusError):
    """There is no running site to talk to."""

    status = EX_UNAVAILABLE

    def __init__(self, what: str, remedy: str = "start it with sitebus-serve") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


class NotAllowed(SitebusError):
    """A running site does not do this for this user."""

    status = EX_NOPERM

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


class UnclearSite(SitebusError):
    """Several running sites could be meant."""

    status = EX_USAGE

    def __init__(self, what: str, sockets: tuple[str, ...]) -> None:
        super().__init__(what)
        self.what = what
        self.sockets = sockets

    def __str__(self) -> str:
        return f"{self.what}: name one of {', '.join(self.sockets)}"
