"""One roll at a time: every host of a roll is locked, on the host, until the roll is over.

The lock is a line to the host that stays open; what is written there is in `agent_roll`.
"""

from __future__ import annotations

import getpass
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from sitebus.errors import AnotherRoll, CannotLock, FleetError, HostLost
from sitebus.fleet import agent_roll
from sitebus.fleet.crowd import together

if TYPE_CHECKING:
    from sitebus.fleet.calls import Duplex
    from sitebus.fleet.host import Host

#: How often hosts are told that the roll goes on, and how long without that a lock is another's.
BEAT, STALE = 10.0, 60.0
#: How long a host may take to free its lock; it is free anyway once the link is gone.
_PATIENCE = 5.0


def who() -> str:
    """Answer whom to tell others of: this user, on this machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "an unnamed user"
    return f"{user}@{socket.gethostname()}"


def places(host: Host) -> list[str]:
    """Answer where the lock of a host may be: with its releases, else with who logs in there."""
    entry = host.entry
    name = re.sub(r"\W+", "-", str(entry.socket or entry.root or entry.name)).strip("-")
    home = f"~/.sitebus-roll-{name}.lock"
    return [home] if entry.root is None else [f"{entry.root}/.sitebus-roll.lock", home]


class HostLock:
    """The lock of one host."""

    def __init__(self, host: Host, id: str, by: str) -> None:
        self.host = host
        self._told = {"id": id, "by": by}
        self._wire: Duplex | None = None
        self._answers: Iterator[bytes] = iter(())

    def take(self) -> None:
        """Have it.

        Raises:
            AnotherRoll: Somebody else has it.
            CannotLock: It cannot be written.
            FleetError: The host cannot be asked.
        """
        wire = self.host.duplex(
            agent_roll.hold, places(self.host), self._told["id"], self._told, STALE
        )
        self._wire, self._answers = wire, iter(wire)
        self._hear()

    def _hear(self) -> None:
        try:
            self._understand(next(self._answers, b"null"))
        except BaseException:
            wire, self._wire = self._wire, None
            if wire is not None:
                wire.stop()
            raise

    def _understand(self, answer: bytes) -> None:
        found = json.loads(answer)
        if found is None:
            return
        if "error" in found:
            raise CannotLock(self.host.name, f"cannot lock it for this roll: {found['error']}")
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.get("since", 0.0)))
        by, other = str(found.get("by", "somebody")), str(found.get("id", "?"))
        raise AnotherRoll(self.host.name, since, by, other)

    def beat(self) -> None:
        """Say that the roll goes on; take the lock again if the link was lost meanwhile.

        Raises:
            FleetError: As `take` does.
        """
        try:
            self._say_on()
        except HostLost:
            self.take()

    def _say_on(self) -> None:
        if self._wire is None:
            raise HostLost(self.host.name, "its lock was lost")
        self._wire.send(b"on")
        self._hear()

    def free(self) -> None:
        """Let others have it; a host that is gone has done so already."""
        wire, self._wire = self._wire, None
        if wire is not None:
            with suppress(FleetError):
                wire.close()
                # Whoever comes next finds it free.
                wire.result(_PATIENCE)


class Locks:
    """The locks of all hosts of a roll.

    Args:
        hosts: By name.
        id: Of the roll.
        lost: Called if somebody else has a lock of ours: the link to its host was gone too long.
    """

    def __init__(
        self, hosts: Mapping[str, Host], id: str, lost: Callable[[AnotherRoll], object]
    ) -> None:
        by = who()
        self._locks = {name: HostLock(host, id, by) for name, host in hosts.items()}
        self._lost = lost
        self._held: dict[str, HostLock] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="fleet locks", daemon=True)

    def take(self, name: str) -> None:
        """Lock a host; may be called by several threads at once. Raises as `HostLock.take`."""
        lock = self._locks[name]
        lock.take()
        self._held[name] = lock

    def keep(self) -> None:
        """Say to the hosts from now on that the roll goes on."""
        self._thread.start()

    def free(self) -> None:
        """Let others have them."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)
        for _ in together({name: lock.free for name, lock in self._held.items()}):
            pass
        self._held.clear()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            for ended in together({name: lock.beat for name, lock in self._held.items()}):
                # Who is out of reach is noticed, and told of, by whoever works on it.
                if isinstance(ended.error, AnotherRoll):
                    self._lost(ended.error)
