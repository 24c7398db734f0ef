"""Whether a host serves as it should: what its site says of itself, and what its clients get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus.errors import GateClosed, NoSite, RemoteError

if TYPE_CHECKING:
    from sitebus.fleet.host import Host

#: How long a page may take that is asked for to see whether the site serves; seconds.
PAGE_PATIENCE = 10.0
#: What is asked for where the fleet's file names no page: anything but a failure will do then.
USUAL_PAGE = "/"

#: Waits for so many seconds.
Wait = Callable[[float], object]


class Standing(NamedTuple):
    """How a host stands before anything is done to it.

    Attributes:
        state: The state of its site; nothing if none runs.
        why_not: Why it is not healthy; empty if it is.
        release: What is in place there; nothing where there are no releases, or none yet.
        to: The release that is to be in place there; nothing if there is none to go back to.
        is_new: It has a place for releases, and none in it that could be lost.
    """

    state: str | None
    why_not: str
    release: str | None = None
    to: str | None = None
    is_new: bool = False

    @property
    def is_healthy(self) -> bool:
        return not self.why_not or self.is_new


def why_not_well(told: Mapping[str, Any]) -> str:
    """Answer what is wrong with a site by what it tells of itself; nothing if nothing is."""
    if told["ready"]:
        return ""
    if told["ready_wanted"]:
        return str(told["why_not_ready"] or "the site is not ready")
    # It was drained: whether it could serve is all that counts.
    if told["state"] != "STARTED":
        return f"the site is {told['state']}"
    workers = told["workers"]
    return "no worker is ready" if workers is not None and not workers["ready"] else ""


def page_of(entry: Any) -> str:
    """Answer the page that tells whether a host serves."""
    return str(entry.health or USUAL_PAGE)


def why_no_page(host: Host) -> str:
    """Answer what is wrong with what clients get; nothing if nothing is."""
    page = page_of(host.entry)
    try:
        status = host.fetch(page, timeout=PAGE_PATIENCE).status
    except RemoteError as error:
        return f"{page} cannot be asked for: {error.sentence}" if host.entry.health else ""
    worst = 400 if host.entry.health else 500
    return f"{page} answers with status {status}" if status >= worst else ""


def check(host: Host) -> None:
    """Return if a host serves as it should.

    Raises:
        GateClosed: It does not.
        FleetError: It cannot be asked.
    """
    try:
        why = why_not_well(host.engine.status())
    except NoSite as error:
        why = error.sentence
    why = why or why_no_page(host)
    if why:
        raise GateClosed(host.name, why)


def pauses(checks: int, soak: float) -> Iterator[float]:
    """Answer how long to wait before each check, so that the last one ends the soak.

    The first one is at once: what is broken from the start need not be waited for.
    """
    if checks == 1:
        yield soak
        return
    yield 0.0
    for _ in range(checks - 1):
        yield soak / (checks - 1)


def soak(host: Host, checks: int, seconds: float, wait: Wait) -> None:
    """Check a host again and again; it has to be well each time.

    Raises:
        GateClosed: Once it was not.
        FleetError: It cannot be asked.
    """
    for number, pause in enumerate(pauses(checks, seconds), 1):
        wait(pause)
        try:
            check(host)
        except GateClosed as error:
            sentence = f"{error.sentence} (check {number} of {checks})"
            raise GateClosed(host.name, sentence) from error
