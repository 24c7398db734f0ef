"""Machines of their own on this one: network namespaces that a bridge joins to each other and us.

Names carry the process that made them, so that what a killed process left is found and removed by
the next; addresses are 10.213.X.0/24, where X is claimed for as long as the process lives.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.helpers import wait_for

_OURS = re.compile(r"\b(sb(\d+)x\d+(?:h\d+)?)\b")


class NoNamespaces(Exception):
    """There can be none here."""


class Network:
    """A bridge, and hosts 1 to *count* on it, each with a namespace of its own."""

    def __init__(self, count: int) -> None:
        self._claim, number = _claimed()
        self.prefix = f"10.213.{number}"
        self._name = f"sb{os.getpid()}x{number}"
        self.count = count

    def address(self, host: int) -> str:
        return f"{self.prefix}.{host}"

    def namespace(self, host: int) -> str:
        return f"{self._name}h{host}"

    def inside(self, host: int) -> list[str]:
        """Answer what makes a command run on that host; mounts and processes are everybody's."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(host)}", "--"]

    def make(self) -> None:
        _ip("link", "add", self._name, "type", "bridge")
        _ip("address", "add", f"{self.prefix}.254/24", "dev", self._name)
        _ip("link", "set", self._name, "up")
        self._be_quick()
        for host in range(1, self.count + 1):
            self._make(host)

    def _make(self, host: int) -> None:
        space, port = self.namespace(host), self._port(host)
        _ip("netns", "add", space)
        _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", port, "master", self._name, "up")
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")

    def _be_quick(self) -> None:
        """Have the system ask once where an address is, and not for seconds."""
        folder = Path("/proc/sys/net/ipv4/neigh", self._name)
        with suppress(OSError):  # it may be read only, and then it takes these seconds
            (folder / "mcast_solicit").write_text("1")
            (folder / "retrans_time_ms").write_text("300")

    def _port(self, host: int) -> str:
        return f"{self._name}v{host}"

    def cut(self, host: int) -> None:
        """Let nothing through: what is connected is not told, and there is no way there."""
        _ip("link", "set", self._port(host), "down")
        _ip("neighbour", "flush", "to", self.address(host), "dev", self._name)

    def mend(self, host: int, port: int | None = 22) -> None:
        """Let everything through again, and return when whoever listens on *port* is reached."""
        _ip("link", "set", self._port(host), "up")
        if port is not None:
            place = (self.address(host), port)
            wait_for(lambda: _answers(place), 20, f"an answer from {place}")

    def pids(self, host: int) -> set[int]:
        """Answer every process that runs on that host."""
        return _pids(self.namespace(host))

    def remove(self) -> None:
        for host in range(1, self.count + 1):
            _remove_namespace(self.namespace(host))
        _remove_bridge(self._name)
        self._claim.close()


def _answers(place: tuple[str, int]) -> bool:
    with suppress(OSError), socket.create_connection(place, timeout=1):
        return True
    return False


def _claimed() -> tuple[socket.socket, int]:
    """Answer a number below 255 that nobody else has, and what keeps it claimed."""
    for turn in range(255):
        number = (os.getpid() + turn) % 255
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with suppress(OSError):
            # Gone with the process, however that ends; the same for all users.
            claim.bind(f"\0sitebus-tests-10.213.{number}")
            return claim, number
        claim.close()
    raise NoNamespaces("all of 10.213.0.0/16 is taken")


@contextmanager
def network(count: int) -> Iterator[Network]:
    """Have *count* hosts for the block.

    Raises:
        NoNamespaces: This user, machine or kernel has none; says why.
    """
    _check()
    sweep()
    made = Network(count)
    try:
        try:
            made.make()
        except subprocess.CalledProcessError as error:
            raise NoNamespaces(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from error
        yield made
    finally:
        made.remove()


def _check() -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise NoNamespaces("only root makes network namespaces")
    for command in ("ip", "nsenter"):
        if shutil.which(command) is None:
            raise NoNamespaces(f"the command {command} is missing")


def sweep() -> None:
    """Remove what processes left here that are no more."""
    for space, pid in _found("netns", "list"):
        if not _lives(pid):
            _remove_namespace(space)
    for bridge, pid in _found("-o", "link", "show", "type", "bridge"):
        if not _lives(pid):
            _remove_bridge(bridge)


def _found(*arguments: str) -> set[tuple[str, int]]:
    return {(name, int(pid)) for name, pid in _OURS.findall(_ip(*arguments, check=False))}


def _lives(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def _remove_namespace(space: str) -> None:
    _end_all(space)
    _ip("netns", "delete", space, check=False)


def _end_all(space: str) -> None:
    """Kill what runs there, until nothing does: it may have been about to start something."""

    def is_empty() -> bool:
        pids = _pids(space)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_for(is_empty, 10, f"the end of everything in {space}")


def _remove_bridge(name: str) -> None:
    _ip("link", "delete", name, check=False)


def _pids(space: str) -> set[int]:
    """Do as ``ip netns pids``, which is slow for who asks all the time."""
    found = set()
    with suppress(FileNotFoundError):
        wanted = os.stat(f"/run/netns/{space}").st_ino
        for name in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):  # it has ended
                if os.stat(f"/proc/{name}/ns/net").st_ino == wanted:
                    found.add(int(name))
    return found


def _ip(*arguments: str, check: bool = True) -> str:
    command: Sequence[str] = ["ip", *arguments]
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=30).stdout
