"""Whatever may happen to the processes of a site, in an order that a seed decides."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.helpers import PATIENCE, wait_for
from tests.workers.site import Clients, WorkerSite, alive, release, write

COUNT = 3
#: How many things happen in one run.
STEPS = 14


class Chaos:
    """Does one thing after another to *site*, as *seed* has it, and keeps account of the damage."""

    def __init__(self, site: WorkerSite, seed: int) -> None:
        self.site = site
        self.random = random.Random(seed)
        self.number = 0
        #: How many workers were ended with what they served.
        self.killed = 0
        self.deeds: list[str] = []

    def step(self) -> None:
        """Do something."""
        deeds: tuple[Callable[[], None], ...] = (
            self.kill,
            self.freeze,
            self.roll,
            self.roll,
            self.break_release,
            self.get_stuck,
            self.scale,
            self.restart,
            self.storm,
        )
        deed = self.random.choice(deeds)
        self.deeds.append(deed.__name__)
        deed()
        threading.Event().wait(self.random.uniform(0, 0.6))

    def kill(self) -> None:
        """Kill a worker, booting ones among them."""
        self._signal_one(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop a worker without a word; it is found out and killed."""
        self._signal_one(signal.SIGSTOP)

    def roll(self) -> None:
        """Bring a new release."""
        self.number += 1
        release(self.site.folder, f"release {self.number}")
        self.site.signal(signal.SIGHUP)

    def break_release(self) -> None:
        """Bring a release that cannot be imported."""
        release(self.site.folder, "bad", "raise RuntimeError('no such table')\n")
        self.site.signal(signal.SIGHUP)

    def get_stuck(self) -> None:
        """Bring a release whose import does not end."""
        release(self.site.folder, "stuck", "import time\ntime.sleep(600)\n")
        self.site.signal(signal.SIGHUP)

    def scale(self) -> None:
        """Have one more, or one fewer."""
        self.site.signal(self.random.choice((signal.SIGTTIN, signal.SIGTTOU)))

    def restart(self) -> None:
        """Run the supervisor again."""
        self.site.signal(signal.SIGUSR2)

    def storm(self) -> None:
        """Send what operators send, all at once."""
        for _ in range(10):
            self.site.signal(self.random.choice((signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN)))

    def _signal_one(self, number: signal.Signals) -> None:
        workers = sorted(self.site.workers)
        if workers:
            self.killed += 1
            with suppress(ProcessLookupError):
                os.kill(self.random.choice(workers), number)


def survive(seed: int, preload: str, tmp_path: Path) -> None:
    """Requests fail only where a worker was killed while it had them; in the end all is well."""
    limits = {"heartbeat_timeout": "2s", "boot_timeout": "3s", "drain_timeout": "3s"}
    write(tmp_path, count=COUNT, preload=preload, **limits)
    with WorkerSite(tmp_path) as site:
        before = descriptors(site.pid)
        chaos = Chaos(site, seed)
        with Clients(site.address, kept=3, single=3) as clients:
            for _ in range(STEPS):
                chaos.step()
                assert site.process.poll() is None, chaos.deeds
            release(tmp_path, "the last")
            wait_for(lambda: settled(site), 60, f"all to be well after {chaos.deeds}")
            clients.go_on(100)
        # A frozen worker holds the requests of all clients, and the connections that are kept.
        assert len(clients.failures) <= chaos.killed * 6, (chaos.deeds, clients.failures)
        assert not re.search("Error (in|among)", site.output)
        workers = set(site.workers)
        wait_for(lambda: descriptors(site.pid) <= before + 3 * 8, PATIENCE)
        assert site.stop() == 0, chaos.deeds
        wait_for(lambda: not any(map(alive, workers)), PATIENCE)


def settled(site: WorkerSite) -> bool:
    """Have everybody replaced, and tell whether only the last release answers then."""
    with suppress(AssertionError):
        site.roll()
    told = [site.ask() for _ in range(20)]
    return {each["version"] for each in told} == {"the last"}


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
