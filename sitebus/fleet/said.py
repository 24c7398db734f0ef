"""What hosts say, as it is understood here: answers, and the errors that they tell of.

A host may say anything. What the agent would not say is an error of that host's, and no more than
that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from sitebus.errors import (
    CallTimeout,
    FleetError,
    JobFailed,
    NoSite,
    RemoteError,
    SiteDenied,
    SiteRefused,
    VersionMismatch,
)

T = TypeVar("T")

#: As much is told of what a host says of an error.
_MOST = 2000

#: What the agent calls its errors, and what they are here.
_KINDS: dict[str, type[RemoteError]] = {
    "NoSite": NoSite,
    "Ended": NoSite,
    "SiteRefused": SiteRefused,
    "SiteDenied": SiteDenied,
    "VersionMismatch": VersionMismatch,
    "JobFailed": JobFailed,
}


def read(said: str) -> dict[str, Any] | None:
    """Answer what was said; None if the agent would not say it."""
    try:
        told: Any = json.loads(said)
    except (ValueError, RecursionError):
        return None
    sensible = isinstance(told, dict) and isinstance(told.get("failed", {}), dict)
    return told if sensible else None


def senseless(host: str) -> RemoteError:
    """Answer the error for a host that does not say what the agent would."""
    return RemoteError(host, "what it answers makes no sense; see who it is", kind="Senseless")


def shaped(host: str, shape: Callable[[Any], T], said: Any) -> T:
    """Answer what was said in the shape that is needed here.

    Raises:
        RemoteError: It does not fit.
    """
    try:
        return shape(said)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
        raise senseless(host) from None


def failure(host: str, what: str, told: dict[str, Any]) -> FleetError:
    """Answer the error that a host has told of."""
    kind, sentence = str(told.get("kind")), str(told.get("sentence"))[:_MOST]
    fields = told.get("fields")
    if told.get("ours"):
        if kind == "TimedOut":
            return CallTimeout(host, sentence)
        error = _KINDS.get(kind, RemoteError)
    else:
        error, sentence = RemoteError, f"{what} raised {kind}: {sentence}"
    return error(
        host,
        sentence,
        kind=kind,
        remote_traceback=str(told.get("traceback", "")),
        fields=fields if isinstance(fields, dict) else {},
    )
