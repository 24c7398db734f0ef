"""Hosts to drive from one place: each with an address, an sshd, a site and directories of its own.

As root they are network namespaces, whose links are cut and mended. Where there are none to be had
they are this machine, several times, reached without ssh; for the project's own runs that is a
failure.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.fleet import shop
from tests.fleet.folders import MARK, kill, started_below, temporary_folder
from tests.fleet.netns import Network, NoNamespaces, network
from tests.fleet.sshd import (
    Loopback,
    Sshd,
    free_port,
    loopback_sshd,
    make_key,
    program,
    session_environment,
)
from tests.helpers import PATIENCE, WARNINGS, Child, SiteProcess, wait_for

__all__ = ["Host", "Loopback", "Rig", "Sshd", "hosts", "loopback_sshd", "make_key"]

#: What every test may rely on to be there at first.
FIRST = "r1"


class HostSite(SiteProcess):
    """``sitebus-serve`` on one of the hosts."""

    def __init__(self, command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        Child.__init__(self, command, cwd, env)


class Host:
    """One of the hosts, as somebody sees it who may do anything to it.

    Attributes:
        name: What the fleet calls it.
        number: 1 for the first.
        address: Where it is.
        port: Where its site serves.
        folder: All its files; short, since sockets have their names in it.
        root: The root of its site: ``releases/``, ``current`` and ``shared/``.
        runtime: Its runtime directory, and that of who comes by ssh.
        sshd: None if it is reached without.
        site: The site, while this object runs it.
    """

    def __init__(self, folder: Path, number: int, net: Network | None, identity: Path) -> None:
        self.name = f"web{number}"
        self.number = number
        self.folder = folder / self.name
        self.root = self.folder / "shop"
        self.runtime = self.folder / "run"
        self.network = net
        self.address = net.address(number) if net else "127.0.0.1"
        self.port = 8080 if net else free_port()
        self.site: HostSite | None = None
        self._session = {
            **session_environment(self.folder / "home", self.runtime),
            **self.site_variables(),
        }
        self.root.mkdir()
        self.sshd = self._make_sshd(identity) if net else None

    def _make_sshd(self, identity: Path) -> Sshd:
        return Sshd(
            self.folder / "sshd",
            identity,
            self.address,
            inside=self.inside,
            environ=self._session,
        )

    def site_variables(self) -> dict[str, str]:
        """Answer what the site of this host finds in its environment, as its own."""
        return {
            "SHOP_BIND": f"{self.address}:{self.port}",
            "SHOP_HOST": self.name,
            MARK: str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    @property
    def inside(self) -> list[str]:
        """What makes a command run on this host."""
        return self.network.inside(self.number) if self.network else []

    @property
    def socket(self) -> Path:
        """The control socket of its site."""
        return self.runtime / "sitebus" / f"{shop.NAME}.sock"

    @property
    def endpoint(self) -> tuple[str, int]:
        """Where clients find the site."""
        return self.address, self.port

    def rows(self) -> dict[str, str]:
        """Answer what the ``[host ...]`` section of a fleet.ini says of it."""
        command = [sys.executable, "-m", "sitebus", "current/site.ini"]
        rows = {"root": str(self.root), "socket": str(self.socket)}
        if self.network is None:
            # Its environment is the caller's, whose site this is not.
            told = {**self._session, "HOME": os.environ.get("HOME", "/")}
            command = ["env", *(f"{key}={value}" for key, value in told.items()), *command]
            rows["method"] = "local"
        return {**rows, "start": shlex.join(command)}

    # What it serves.

    def install(self, version: str = FIRST) -> None:
        """Put a release in place without asking anybody."""
        shop.install(self.root, version)

    @property
    def current(self) -> str:
        """The release that is in place."""
        return shop.current(self.root)

    def begin(self) -> HostSite:
        """Have its site run, and answer at once."""
        command = [*self.inside, sys.executable, "-m", "sitebus", "current/site.ini"]
        self.site = HostSite(command, self.root, {**self._session, "PYTHONWARNINGS": WARNINGS})
        return self.site

    def serve(self) -> HostSite:
        """Have its site run, and answer once it serves."""
        site = self.begin()
        site.wait_ready()
        return site

    def ask(self, path: str = "/") -> tuple[int, bytes]:
        """Answer the status and the body of what the site says."""
        connection = HTTPConnection(*self.endpoint, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def serves(self, version: str) -> bool:
        """Tell whether its site runs as it was begun here, and that release is what it serves."""
        running = self.site is not None and self.site.process.poll() is None
        if not running or self.current != version:
            return False
        return bool(json.loads(self.ask()[1])["version"] == version)

    # What may happen to it.

    def cut(self) -> None:
        """Cut its link: what is connected is not told, and there is no way to it."""
        assert self.network is not None
        self.network.cut(self.number)

    def mend(self) -> None:
        """Mend its link."""
        assert self.network is not None
        self.network.mend(self.number)

    def kill_sessions(self) -> None:
        """Kill whatever sshd has for the connections there are."""
        assert self.sshd is not None
        self.sshd.kill_sessions()

    def kill_site(self) -> None:
        """Kill its site, all processes at once."""
        assert self.site is not None
        os.killpg(self.site.pid, signal.SIGKILL)
        self.site.wait()

    @contextmanager
    def small_disk(self, size: str) -> Iterator[None]:
        """Have so much room, and no more, for its releases; there are none yet."""
        folder = self.root / "releases"
        folder.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        subprocess.run(mount, check=True, timeout=30)
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)

    def processes(self) -> dict[int, str]:
        """Answer the command line of each process that runs on it."""
        assert self.network is not None
        found = {}
        for pid in self.network.pids(self.number):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if line:  # else it has ended
                found[pid] = line.replace(b"\0", b" ").decode(errors="replace").strip()
        return found

    def guests(self) -> dict[int, str]:
        """Answer those of its processes that are neither sshd's nor its site's."""
        own = (" -m sitebus", "sitebus.workers", "sshd")
        return {
            pid: line
            for pid, line in self.processes().items()
            if not any(word in line for word in own)
        }

    def wait_for_guest(self, command: str) -> None:
        """Return once somebody from elsewhere runs *command* on it."""
        what = f"{command!r} on {self.name}"
        wait_for(lambda: any(command in line for line in self.guests().values()), PATIENCE, what)

    def wait_for_guests(self, *commands: str) -> None:
        """Return once these are all that run on it for somebody from elsewhere."""
        what = f"{commands} alone on {self.name}"
        wait_for(lambda: sorted(self.guests().values()) == sorted(commands), PATIENCE, what)

    def close_site(self) -> None:
        """End its site, however it feels about that, with whatever else serves in its stead."""
        if self.site is not None:
            self.site.close()
            self.site = None
        # What others have started here.
        kill(self._started())
        self.socket.unlink(missing_ok=True)

    def _started(self) -> set[int]:
        """Answer the processes of its site, whoever has started that."""
        if self.network is None:
            return started_below(self.folder)
        own = self.sshd.pids if self.sshd else set()
        return self.processes().keys() - self.guests().keys() - own

    def close(self) -> None:
        self.close_site()
        if self.sshd is not None:
            self.sshd.stop()


class Rig:
    """Several hosts, and what somebody needs who drives them.

    Attributes:
        folder: For whatever else there is.
        hosts: In order.
        identity: The private key that every host lets in that is reached by ssh.
        known_hosts: A file that knows every host's key.
        method: ``ssh`` or ``local``.
    """

    def __init__(self, folder: Path, count: int, net: Network | None) -> None:
        self.folder = folder
        self.identity = make_key(folder / "identity") if net else folder / "identity"
        self.hosts = [Host(folder, number, net, self.identity) for number in range(1, count + 1)]
        self.known_hosts = folder / "known_hosts"
        self.method = "local" if net is None else "ssh"
        self.remember()

    def __getitem__(self, name: str) -> Host:
        (found,) = (host for host in self.hosts if host.name == name)
        return found

    def remember(self) -> None:
        """Write down the host keys as they are now."""
        known = [host.sshd.known for host in self.hosts if host.sshd]
        self.known_hosts.write_text("".join(known))

    def start(self) -> None:
        for host in self.hosts:
            if host.sshd:
                host.sshd.start()

    def serve(self, version: str = FIRST) -> None:
        """Have each host serve that release."""
        for host in self.hosts:
            host.install(version)
            host.begin()
        for host in self.hosts:
            assert host.site
            host.site.wait_ready()

    def reset(self, version: str = FIRST) -> None:
        """Have each host serve that release; what was done to those that do not is forgotten."""
        changed = [host for host in self.hosts if not host.serves(version)]
        for host in changed:
            host.close_site()
            shutil.rmtree(host.root)
            host.root.mkdir()
            host.install(version)
            host.begin()
        for host in changed:
            assert host.site
            host.site.wait_ready()

    def releases(self) -> list[str]:
        """Answer what is in place on each host, which is what its site answers."""
        for host in self.hosts:
            assert json.loads(host.ask()[1])["version"] == host.current
        return [host.current for host in self.hosts]

    def load(self, *names: str) -> shop.Load:
        """Answer load on all hosts, or those named."""
        chosen = [host for host in self.hosts if not names or host.name in names]
        return shop.Load({host.name: host.endpoint for host in chosen})

    def write_ini(
        self,
        path: Path | None = None,
        *,
        fleet: Mapping[str, object] = {},
        site: Mapping[str, object] = {},
        hosts: Mapping[str, Mapping[str, object]] = {},
        extra: str = "",
    ) -> Path:
        """Write a fleet.ini of all hosts, with these rows more (or others), and answer its path."""
        path = path or self.folder / "fleet.ini"
        usual = {"python": sys.executable, "connect_timeout": "20s", "keepalive": "2s"}
        if self.method == "ssh":
            usual["identity"] = str(self.identity)
            usual["known_hosts"] = str(self.known_hosts)
        usual |= {"journal": str(self.folder / "journal")}
        sections: dict[str, Mapping[str, object]] = {
            "fleet": {**usual, **fleet},
            "site": {"ini": "current/site.ini", **site},
            "hosts": {host.name: host.address for host in self.hosts},
        }
        for host in self.hosts:
            sections[f"host {host.name}"] = {**host.rows(), **hosts.get(host.name, {})}
        lines = []
        for section, rows in sections.items():
            lines += [f"[{section}]", *(f"{key} = {value}" for key, value in rows.items()), ""]
        path.write_text("\n".join(lines) + extra)
        return path

    def close(self) -> None:
        for host in self.hosts:
            host.close()


@contextmanager
def _networks(count: int) -> Iterator[Network | None]:
    """Have namespaces for the block, or None if there are none to be had."""
    with ExitStack() as stack:
        try:
            if program() is None:
                raise NoNamespaces("sshd is not installed")
            made = stack.enter_context(network(count))
        except NoNamespaces as error:
            if os.environ.get("CI"):
                pytest.fail(f"no hosts in network namespaces: {error}")
            made = None
        yield made


@contextmanager
def hosts(count: int = 3, *, local: bool = False) -> Iterator[Rig]:
    """Have so many hosts, where sshd runs and no site yet; if *local*, they are this machine."""
    places = nullcontext() if local else _networks(count)
    with temporary_folder() as folder, places as net:
        rig = Rig(folder, count, net)
        try:
            rig.start()
            yield rig
        finally:
            rig.close()
