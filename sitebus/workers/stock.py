"""What there is to make warm workers of: a process that keeps libraries, and a fork of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sitebus.workers.brood import Brood, Fork, Message
from sitebus.workers.nursery import Failure
from sitebus.workers.stamps import Stamp, is_as_it_was

#: How long a fork may take, which takes milliseconds; seconds.
FORKING = 2.0
#: How many names go into one message.
BATCH = 1000
#: The name of a fork that is made ahead; workers have theirs.
AHEAD = 0


class Wish(NamedTuple):
    """For a worker; see `Nursery.bear`."""

    serial: int
    slot: int
    whole_job: str
    lenient: bool


class Stock:
    """A zygote that keeps libraries, what it has been told, and the fork that was made ahead.

    Args:
        brood: The zygote.
        patience: How long it may take to import what it is told to; seconds.

    Attributes:
        wishes: Who is to be made of the next forks.
        tainted: Libraries that turned out to depend on the project.
        is_warm: It has imported libraries, and can be forked.
    """

    def __init__(self, brood: Brood, patience: float) -> None:
        self.brood = brood
        self.wishes: list[Wish] = []
        self.tainted: set[str] = set()
        self.is_warm = False
        self._patience = patience
        self._told: set[str] = set()
        self._stamps: list[Stamp] = []
        self._loads = 0
        self._ahead: Fork | None = None
        self._is_asked = False

    def load(self, names: Mapping[str, None]) -> None:
        """Have it import what it has not been told of yet."""
        new = [name for name in names if name not in self._told]
        if not new:
            return
        self._told.update(new)
        for start in range(0, len(new), BATCH):
            self._loads += 1
            self.brood.send({"is": "load", "names": new[start : start + BATCH]})
        late = f"libraries were not imported within {self._patience:g} s (boot_timeout)"
        self.brood.expect(self._patience, Failure(late))

    def loaded(self, message: Message) -> bool:
        """Hear that it has done so; answer whether that was all."""
        self._loads -= 1
        self.tainted |= set(message["tainted"])
        self._stamps = message["stamps"]
        return self._loads == 0

    def settle(self) -> None:
        """Have a fork that has everything."""
        self.brood.content()
        self.is_warm = True
        self.drop()
        self.fork()

    def fork(self) -> None:
        """Have a fork made, unless there is one."""
        if self.is_idle and self._ahead is None:
            self._is_asked = True
            self.brood.expect(FORKING, Failure(f"it does not fork within {FORKING:g} s"))
            self.brood.fork(AHEAD)

    def wish(self, wish: Wish) -> bool:
        """Have a worker made of the next fork; answer whether there will be one soon."""
        if not self.is_idle and not self._is_asked:
            return False
        self.wishes.append(wish)
        self.fork()
        return True

    def answered(self) -> None:
        """Hear that the fork that was asked for is there, or cannot be."""
        self._is_asked = False
        if not self._loads:
            self.brood.content()

    def keep(self, fork: Fork) -> None:
        """Take a fork for the next worker."""
        self.drop()
        self._ahead = fork

    def take(self) -> Fork | None:
        """Give the fork away, if there is one that lives."""
        fork, self._ahead = self._ahead, None
        if fork is not None and not fork.process.is_alive:
            fork.close()
            fork = None
        return fork

    def drop(self) -> None:
        """Do without the fork: it lacks something."""
        fork, self._ahead = self._ahead, None
        if fork is not None:
            fork.close()

    @property
    def is_idle(self) -> bool:
        """Whether it would fork at once."""
        return self.is_warm and not self._loads and not self._is_asked

    @property
    def is_stale(self) -> bool:
        """Whether configuration or libraries have changed since they were read."""
        return not is_as_it_was(self._stamps)
