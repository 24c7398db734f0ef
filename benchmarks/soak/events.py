"""What an operator does to a site while it is asked: each event waits until it has come true."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from benchmarks.soak.site import NotDone, Site
from benchmarks.soak.wire import Lost

#: What deploys get wrong: what compiling tells, what importing tells, and what is not there.
_MISTAKES = ("def half(:\n", "raise RuntimeError('not today')\n", "import nobody_wrote_this\n")


class Operator:
    """Does to *site* what operators and developers do, at moments that *random* chooses.

    Args:
        site: The site, which serves.
        random: Chooses what comes when, and which mistake is made.
        done: Is told how often each event came true.

    Attributes:
        complaints: Those that did not come true, in words.
    """

    #: Those that leave the process image alone, and all.
    HARMLESS = ("graceful", "swap", "failing deploy")
    ALL = ("restart", "code change", *HARMLESS)

    def __init__(self, site: Site, random: Random, done: Counter[str]) -> None:
        self.site = site
        self.random = random
        self.done = done
        self.complaints: list[str] = []
        self._number = 0
        self._events: dict[str, Callable[[], None]] = {
            "restart": self.restart,
            "code change": self.change,
            "graceful": self.graceful,
            "swap": self.swap,
            "failing deploy": self.fail,
        }

    def rounds(self, events: Sequence[str]) -> Iterator[str]:
        """Answer *events* in a random order, then in another, and so on: each gets its turn."""
        while events:
            yield from self.random.sample(events, len(events))

    def do(self, event: str) -> None:
        """Have one event come true, or note that it did not."""
        try:
            self._events[event]()
        except (NotDone, Lost) as error:
            self.complaints.append(f"{event}: {error}")
        else:
            self.done[event] += 1

    def restart(self) -> None:
        """Have the site run itself again."""
        boot = self.site.told()["boot"]
        self.site.signal(signal.SIGUSR2)
        self._until(lambda told: told["boot"] != boot, "run itself again")

    def change(self) -> None:
        """Deploy other code, which the site notices by itself."""
        version = self._next()
        self.site.release(version)
        self._until(lambda told: told["version"] == version, "serve the code that changed")

    def graceful(self) -> None:
        """Have it open its log files again, and whatever else a graceful means."""
        told = self.site.told()
        self.site.signal(signal.SIGUSR1)
        self._until(lambda now: now["gracefuls"] > told["gracefuls"], "reload in place")

    def swap(self) -> None:
        """Put an application in the place of another, or take one away and bring it back."""
        if self.random.random() < 0.5:
            self.site.ask(f"/control/pass?{self._next()}")
            return
        number = self._next()
        self.site.ask(f"/control/swap?{number}")
        body = self.site.ask("/swapped").body
        if body != f"swapped {number}".encode():
            raise NotDone(f"it answers {body!r:.100} where application {number} was mounted")

    def fail(self) -> None:
        """Deploy what does not work, and take it back: the old code goes on serving."""
        before = self.site.told()
        self.site.release(before["version"], broken=self.random.choice(_MISTAKES))
        after = self._until(lambda told: told["failed"], "notice the mistake")
        self.site.release(before["version"])
        self._until(lambda told: not told["failed"], "notice that it was mended")
        if after["boot"] != before["boot"]:
            raise NotDone("it did not go on with the code that worked")

    def _next(self) -> str:
        self._number += 1
        return str(self._number)

    def _until(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        def told() -> dict[str, Any] | None:
            found = self.site.told()
            return found if condition(found) else None

        found = self.site.wait_for(told, what)
        assert found is not None
        return found
