"""The application that the hosts serve, release after release, and clients that count failures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

from tests.helpers import wait_for
from tests.workers.site import Clients

NAME = "shop"

APPLICATION = """\
import json
import os

import release


def application(environ, start_response):
    told = {"pid": os.getpid(), "version": release.VERSION, "host": os.environ.get("SHOP_HOST")}
    body = json.dumps(told).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(release.STATUS, headers)
    return [body]
"""

#: Where a release serves is the host's business.
SITE = """\
[site]
name = shop
[server]
bind = ${env:SHOP_BIND}
drain_timeout = 10s
[logging]
access = off
[mount /]
app = shop:application
[workers]
count = 2
probe = /
boot_timeout = 15s
export = shop.*
[control]
publish = shop.*
"""

#: What releases may be like; what their module says besides the version.
GOOD = ""
#: It boots, and answers each request with an error.
FAILING = 'STATUS = "500 Internal Server Error"'
#: It does not even boot.
BROKEN = "import no_such_module_of_the_shop"
#: It boots when the gate of its host lets it.
WAITING = 'open(os.path.join(os.environ["SHOP_ROOT"], "shared", "gate")).read()'


def on(host: str, text: str) -> str:
    """Answer *text* for one of the hosts alone: what is there differs, as it does."""
    return f'if os.environ["SHOP_HOST"] == {host!r}:\n    {text}'


def write_release(folder: Path, version: str, text: str = GOOD, site: str = SITE) -> Path:
    """Write a release there, as its developers would have it, and answer its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shop.py").write_text(APPLICATION)
    lines = ["import os", "", f"VERSION = {version!r}", 'STATUS = "200 OK"', text, ""]
    (folder / "release.py").write_text("\n".join(lines))
    (folder / "site.ini").write_text(site)
    return folder


def waiting_on(host: str, folder: Path, version: str = "r2") -> Path:
    """Write a release that waits at the gate of that host before it boots."""
    return write_release(folder / version, version, on(host, WAITING))


class Gate:
    """What a release waits at that is `WAITING`, until it is opened; by the end of the block."""

    def __init__(self, root: Path) -> None:
        self._path = root / "shared" / "gate"
        self._held: int | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(exist_ok=True)
        self._path.unlink(missing_ok=True)
        os.mkfifo(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def wait(self) -> None:
        """Return once a worker waits there."""
        wait_for(self._hold, 40, "a worker at the gate")

    def _hold(self) -> bool:
        """Take the end that a reader waits for, which reads until this is closed."""
        with suppress(OSError):  # nobody reads
            self._held = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        return self._held is not None

    def open(self) -> None:
        """Let through who waits, and whoever comes."""
        draft = self._path.with_name("open")
        draft.touch()
        draft.replace(self._path)
        if self._held is not None:
            os.close(self._held)
            self._held = None


def install(root: Path, version: str) -> None:
    """Put a first release in place, as a deploy would have done."""
    write_release(root / "releases" / version, version)
    (root / "shared").mkdir(exist_ok=True)
    # Nobody waits there.
    (root / "shared" / "gate").touch()
    draft = root / "current.draft"
    draft.symlink_to(Path("releases") / version)
    draft.replace(root / "current")


def current(root: Path) -> str:
    """Answer the name of the release that is in place."""
    return os.path.basename(os.path.realpath(root / "current"))


class Shoppers(Clients):
    """Clients of one host: some keep their connection, some bring new ones."""

    #: Seconds between an answer and the next request.
    THOUGHT = 0.04

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, kept=2, single=1)

    def _connections(self, keeps: bool) -> Iterator[HTTPConnection]:
        connection = HTTPConnection(*self.address, timeout=20)
        while not self._stop.wait(self.THOUGHT):
            yield connection
            if not keeps:
                connection.close()
        connection.close()


class Load:
    """Constant load on several hosts, by name, until the block ends."""

    def __init__(self, addresses: Mapping[str, tuple[str, int]]) -> None:
        self.shoppers = {name: Shoppers(address) for name, address in addresses.items()}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            for each in self.shoppers.values():
                stack.enter_context(each)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def failures(self) -> dict[str, list[str]]:
        """What went wrong, by host; hosts where nothing did are left out."""
        return {name: each.failures for name, each in self.shoppers.items() if each.failures}

    @property
    def answered(self) -> int:
        return sum(each.versions.total() for each in self.shoppers.values())

    def go_on(self, requests: int = 20, hosts: Sequence[str] = ()) -> None:
        """Wait until so many more are answered by each host, or those named."""
        for name in hosts or self.shoppers:
            self.shoppers[name].go_on(requests)
