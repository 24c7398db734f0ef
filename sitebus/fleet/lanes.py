"""The processes that a fleet has on one host: one for the agent, and others for strangers' code.

The *trunk* is what ssh, or another program, brings: the agent runs in it, with a thread for each
thing that is asked for, so that none waits for another.
What others wrote runs in a *lane*, a process of its own beside it; one that takes longer than it
may is ended, and the next call has another lane at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from sitebus.errors import ConnectFailed, FleetError, HostLost
from sitebus.fleet import troubles, ways
from sitebus.fleet.calls import End

if TYPE_CHECKING:
    from sitebus.fleet._mitogen import Link, Trust
    from sitebus.fleet.inventory import HostEntry

#: How long the agent may take to give a sign of life, after something took too long; seconds.
_PATIENCE = 1.0
#: What is told where a process has ended that ran what others wrote.
_ENDED = (
    "the process that ran it there has ended, or the link to it broke; what was under way may be "
    "done or not"
)
#: How many lanes are kept that nothing runs in.
_SPARE = 1


class Lanes:
    """The processes on one host.

    Args:
        entry: How it is reached.
        connect: Goes all the way to it; answers the last process of the way.
    """

    def __init__(self, entry: HostEntry, connect: Callable[[], Link]) -> None:
        self.entry = entry
        self._connect = connect
        self._trunk: Link | None = None
        self._is_suspect = False
        self._idle: list[Link] = []
        self._busy: set[Link] = set()
        self._lock = threading.RLock()

    @property
    def is_connected(self) -> bool:
        """Whether there is a trunk, as far as is known."""
        trunk = self._trunk
        return trunk is not None and not trunk.is_lost

    @property
    def has_spare(self) -> bool:
        """Whether there is a lane that nothing runs in."""
        return bool(self._idle)

    def trunk(self) -> Link:
        """Answer the agent's process, a new one if need be.

        Raises:
            ConnectFailed: There is no way to the host.
        """
        with self._lock:
            if self._trunk is not None and not self._is_alive(self._trunk):
                self._drop_all()
            if self._trunk is None:
                self._trunk = self._connect()
            self._is_suspect = False
            return self._trunk

    def _is_alive(self, trunk: Link) -> bool:
        if trunk.is_lost:
            return False
        if not self._is_suspect:
            return True
        feed = trunk.ask("ping")
        try:
            feed.get(_PATIENCE)
        except (TimeoutError, FleetError):
            return False
        finally:
            feed.close()
        return True

    def _drop_all(self) -> None:
        trunk, self._trunk = self._trunk, None
        self._idle.clear()
        self._busy.clear()
        if trunk is not None:
            trunk.end()

    def ended_aside(self, how: End) -> None:
        """Take note of how something ended that ran in the trunk."""
        if how is End.LATE:
            self._is_suspect = True

    def lane(self) -> Link:
        """Answer a process that nothing runs in, and that is the caller's until `ended_alone`.

        Raises:
            ConnectFailed: There is none to be had.
        """
        with self._lock:
            trunk = self.trunk()
            while self._idle:
                lane = self._idle.pop()
                if not lane.is_lost:
                    self._busy.add(lane)
                    return lane
        # Others may use the trunk meanwhile.
        lane = self._open_lane(trunk)
        with self._lock:
            self._busy.add(lane)
        return lane

    def _open_lane(self, trunk: Link) -> Link:
        executable = str(trunk.told["executable"])
        try:
            lane = trunk.trust.connect(
                self.entry.name,
                "local",
                trunk,
                python_path=[executable],
                connect_timeout=self.entry.connect_timeout,
            )
        except trunk.trust.connect_error as error:
            if trunk.is_lost:
                raise HostLost(self.entry.name, trunk.loss) from None
            raise ConnectFailed(
                self.entry.name, f"cannot start another {executable} there: {troubles.last(error)}"
            ) from None
        lane.loss = _ENDED
        try:
            lane.greet("settle")
        except BaseException:
            lane.shut()
            raise
        return lane

    def ended_alone(self, lane: Link, how: End) -> None:
        """Take back a process; one that may still run something is ended."""
        with self._lock:
            self._busy.discard(lane)
            keep = how is End.GOOD and not lane.is_lost and len(self._idle) < _SPARE
            if keep:
                self._idle.append(lane)
        if not keep and not lane.is_lost:
            lane.shut()

    def close(self, timeout: float) -> None:
        """End them all, with all that they have started."""
        with self._lock:
            trunk, self._trunk = self._trunk, None
            lanes = [*self._idle, *self._busy]
            self._idle.clear()
            self._busy.clear()
        for lane in lanes:
            with suppress(HostLost):
                lane.shut()
        if trunk is not None:
            trunk.end(timeout)


def connect(
    trust: Trust,
    entry: HostEntry,
    steps: list[ways.Step],
    jumps: list[HostEntry],
    through: Callable[[], Link | None],
) -> Link:
    """Go all the way to a host, *through* the process where the first step is made, if any.

    The *jumps* are the hosts that pass the connection on.

    Raises:
        ConnectFailed: There is no way; what stands in it.
    """
    link = through()
    made: list[Link] = []
    try:
        for step in steps:
            link = _step(trust, entry, step, jumps, link)
            made.append(link)
        made[-1].greet("hello")
    except BaseException:
        for each in reversed(made):
            each.end()
        raise
    made[-1].way = tuple(reversed(made[:-1]))
    return made[-1]


def _step(
    trust: Trust, entry: HostEntry, step: ways.Step, jumps: list[HostEntry], link: Link | None
) -> Link:
    try:
        return trust.connect(entry.name, step.method, link, **step.options)
    except trust.connect_error as error:
        raise troubles.connect_error(entry, str(error), step.method, jumps) from None
