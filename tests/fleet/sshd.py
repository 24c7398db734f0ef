"""A real sshd of our own: its keys, its configuration, its sessions."""

from __future__ import annotations

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.fleet.folders import temporary_folder
from tests.helpers import ROOT, Child
from tests.workers.site import children

#: Nothing of this machine's own: no PAM, no messages, no start files but those of `home`.
CONFIGURATION = """\
ListenAddress {address}:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
PrintMotd no
PrintLastLog no
UseDNS no
MaxStartups 200
MaxSessions 200
LogLevel VERBOSE
Subsystem sftp internal-sftp
SetEnv {environ}
"""


def program() -> str | None:
    """Answer where sshd is, if it is installed."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def make_key(path: Path) -> Path:
    """Make a pair of keys there, over those that were there before."""
    path.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=30, stdin=subprocess.DEVNULL)
    return path


class Sshd:
    """An sshd that lets the owner of one key in.

    Args:
        folder: Where its files are; nobody else's.
        identity: The private key of whom it lets in.
        address: Where it listens.
        port: Where it listens.
        inside: What makes a command run where it shall run.
        environ: What sessions find in their environment.

    Attributes:
        user: Whom its sessions run as.
        process: What runs, once it does.
    """

    def __init__(
        self,
        folder: Path,
        identity: Path,
        address: str = "127.0.0.1",
        port: int = 22,
        *,
        inside: Sequence[str] = (),
        environ: Mapping[str, str] = {},
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.address = address
        self.port = port
        self.user = getpass.getuser()
        self.process: Child | None = None
        self._inside = list(inside)
        self._environ = dict(environ)
        folder.mkdir(parents=True, exist_ok=True)
        make_key(folder / "host_key")

    @property
    def known(self) -> str:
        """What a known_hosts file says of it."""
        where = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        kind, key, *_ = (self.folder / "host_key.pub").read_text().split()
        return f"{where} {kind} {key}\n"

    def start(self) -> None:
        self._configure()
        path = program()
        assert path is not None
        command = [*self._inside, path, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self.process = Child(command)
        try:
            self.process.wait_for_output("Server listening on")
        except AssertionError:
            self.stop()
            raise

    def _configure(self) -> None:
        public = self.identity.with_name(f"{self.identity.name}.pub")
        shutil.copy(public, self.folder / "authorized_keys")
        # As other users, sshd comes here too.
        self.folder.chmod(0o755)
        if os.geteuid() == 0:
            # As its service would.
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        said = CONFIGURATION.format(
            address=self.address,
            port=self.port,
            folder=self.folder,
            environ=" ".join(f'"{name}={value}"' for name, value in self._environ.items()),
        )
        (self.folder / "sshd_config").write_text(said)

    def stop(self) -> None:
        """End it, with its sessions."""
        if self.process is not None:
            self.kill_sessions()
            self.process.close()
            self.process = None

    def change_host_key(self) -> None:
        """Be another host from now on, as one that was set up anew is."""
        self.stop()
        make_key(self.folder / "host_key")
        self.start()

    @property
    def pids(self) -> set[int]:
        """All of its processes; what they have started is not theirs."""
        return {self.process.pid, *self.sessions()} if self.process else set()

    def sessions(self) -> set[int]:
        """Answer the processes of sshd for connections that there are."""
        if self.process is None:
            return set()
        found, look = set(), [self.process.pid]
        while look:
            some = [pid for pid, line in children(look.pop()).items() if line.startswith("sshd")]
            found.update(some)
            look += some
        return found

    def kill_sessions(self) -> None:
        """Cut every connection, as by ``kill -9``; what runs in them is not told otherwise."""
        for pid in self.sessions():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def command(self, known_hosts: Path, *options: str) -> list[str]:
        """Answer how ssh gets there; what it shall run there is to follow."""
        kept = ["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]
        kept += ["-o", f"UserKnownHostsFile={known_hosts}", "-i", str(self.identity)]
        kept += ["-o", "GlobalKnownHostsFile=none", "-p", str(self.port)]
        # Of what is said twice, the first counts.
        return ["ssh", *options, *kept, "-l", self.user, self.address]


def session_environment(home: Path, runtime: Path) -> dict[str, str]:
    """Answer what sessions find: this sitebus, and no start files of this machine's user."""
    for folder in (home, runtime):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    return {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    """Answer a free port below those that the system gives to whoever asks for any."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port below 32000")


class Loopback:
    """An sshd on 127.0.0.1, and what a client needs to get in.

    Attributes:
        folder: A directory for whatever else there is; it goes with the rest.
        sshd: The sshd.
        identity: The private key that it lets in.
        known_hosts: A file that knows its host key.
    """

    def __init__(self, folder: Path, sshd: Sshd) -> None:
        self.folder = folder
        self.sshd = sshd
        self.identity = sshd.identity
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(sshd.known)

    @property
    def address(self) -> str:
        return self.sshd.address

    @property
    def port(self) -> int:
        return self.sshd.port

    @property
    def user(self) -> str:
        return self.sshd.user

    def command(self, *options: str) -> list[str]:
        """Answer how ssh gets there; what it shall run there is to follow."""
        return self.sshd.command(self.known_hosts, *options)


@contextmanager
def loopback_sshd() -> Iterator[Loopback]:
    """Have an sshd on 127.0.0.1 for the block, whoever runs this."""
    with temporary_folder() as folder:
        environ = session_environment(folder / "home", folder / "run")
        identity = make_key(folder / "identity")
        sshd = Sshd(folder / "sshd", identity, port=free_port(), environ=environ)
        sshd.start()
        try:
            yield Loopback(folder, sshd)
        finally:
            sshd.stop()
