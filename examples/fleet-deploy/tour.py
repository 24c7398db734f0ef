"""Drive a fleet as its operator would, while visitors ask it and count what goes wrong."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from sitebus import fleet

HERE = Path(__file__).parent
FLEET = [sys.executable, "-m", "sitebus.cli.fleet"]
#: How long a host has to be well before the next one's turn comes: here, nobody waits for long.
BRIEF = "--soak 0.3"


def say(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")
    sys.stdout.flush()


def operator(command: str) -> int:
    """Run a command as it stands in the docs, and answer its status."""
    say(f"$ sitebus-fleet {command}")
    path = str(HERE / "fleet.ini")
    return subprocess.run([*FLEET, "--fleet", path, *shlex.split(command)], check=False).returncode


def addresses() -> list[str]:
    """Answer where each host of the fleet serves, such as 127.0.0.1:40000."""
    with fleet.open(HERE / "fleet.ini") as hosts:
        return [host.engine.status()["addresses"][0] for host in hosts.hosts()]


class Visitor(threading.Thread):
    """Somebody who asks one host again and again."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.answers: Counter[str] = Counter()
        self.failures = 0
        self.leave = threading.Event()
        self._address = address

    def run(self) -> None:
        while not self.leave.wait(0.01):
            connection = HTTPConnection(self._address, timeout=20)
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                body = response.read().decode().strip()
            except (OSError, HTTPException):
                self.failures += 1
                continue
            finally:
                connection.close()
            self.failures += response.status != 200
            self.answers[body] += 1


@contextmanager
def visitors() -> Iterator[None]:
    """Have every host visited; say at the end what the visitors saw."""
    crowd = [Visitor(address) for address in addresses()]
    for visitor in crowd:
        visitor.start()
    try:
        yield
    finally:
        for visitor in crowd:
            visitor.leave.set()
            visitor.join()
    answers = sum((visitor.answers for visitor in crowd), Counter[str]())
    failures = sum(visitor.failures for visitor in crowd)
    say(f"{answers.total()} requests, {failures} failed: {dict(sorted(answers.items()))}")


def tour() -> list[int]:
    """Answer the statuses of the commands that change releases."""
    statuses = [operator(f"deploy {HERE}/releases/one {BRIEF}")]
    if statuses != [0]:
        return statuses
    with visitors():
        statuses.append(operator(f"deploy {HERE}/releases/two {BRIEF}"))
        statuses.append(operator(f"deploy {HERE}/releases/broken {BRIEF}"))
        statuses.append(operator(f"rollback {BRIEF}"))
        operator("status")
    return statuses


if __name__ == "__main__":
    with TemporaryDirectory(prefix="fleet-") as place:
        os.environ |= {
            "PLACE": place,
            "SERVE": f"{sys.executable} -m sitebus",
            "XDG_STATE_HOME": f"{place}/state",
        }
        try:
            statuses = tour()
        finally:
            operator("exit --yes")
    say(f"statuses: {statuses}")
    sys.exit(statuses != [0, 0, 1, 0])
