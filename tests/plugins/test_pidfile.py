"""One process owns the pid file; readers find it whole, and nothing else is ever harmed."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sitebus.errors import CannotWritePidFile, PidFileInUse
from sitebus.plugins import pidfile as module
from sitebus.plugins.pidfile import PIDFile
from sitebus.process import Engine, ProcessBus
from tests.helpers import PATIENCE, Child, environment, wait_for
from tests.plugins.launching import public_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")

OWNER = """
import sys
from sitebus.errors import SitebusError
from sitebus.plugins.pidfile import PIDFile
from sitebus.process import Engine
bus = Engine()
PIDFile(bus, sys.argv[1]).subscribe()
try:
    bus.start()
except SitebusError as error:
    print("refused:", error, flush=True)
    sys.exit(error.status)
print("owner", flush=True)
sys.stdin.read()
bus.exit()
"""


class Owner:
    """Another process that wants the pid file, and keeps it until told to end."""

    def __init__(self, path: Path, *before: str) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", OWNER, str(path)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def verdict(self) -> str:
        """Whether it got the file, and if not, why."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> int:
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)


@contextmanager
def owner(path: Path) -> Iterator[Owner]:
    """A process that owns *path*."""
    other = Owner(path)
    try:
        assert other.verdict() == "owner\n"
        yield other
    finally:
        other.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site.pid"


@pytest.fixture
def plugin(bus: Engine, path: Path) -> PIDFile:
    plugin = PIDFile(bus, path)
    plugin.subscribe()
    return plugin


def names(path: Path) -> list[str]:
    """Everything in the directory."""
    return sorted(os.listdir(path.parent))


def test_it_is_there_from_start_to_exit(bus: Engine, plugin: PIDFile, path: Path) -> None:
    """With the pid and a line end, readable for everyone, writable for nobody else."""
    bus.start()
    assert path.read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    bus.stop()
    assert path.exists()
    bus.start()
    bus.exit()
    assert names(path) == []


def test_a_second_process_is_told_who_the_first_is(path: Path) -> None:
    """And neither harms its file nor takes it along when it leaves."""
    with owner(path) as first:
        second = Owner(path)
        sentence = second.verdict()
        assert f"already running as pid {first.pid}, {sys.executable} -c" in sentence
        assert second.end() == 69
        assert path.read_text() == f"{first.pid}\n"
        assert names(path) == ["site.pid"]


def test_it_is_removed_by_its_owner_only(bus: Engine, plugin: PIDFile, path: Path) -> None:
    """A forked child, or a process whose file was replaced, leaves what is there alone."""
    bus.start()
    child = os.fork()
    if not child:
        plugin.exit()
        os._exit(0)
    os.waitpid(child, 0)
    assert path.exists()
    path.unlink()
    path.write_text("1\n")
    bus.exit()
    assert path.read_text() == "1\n"


def test_a_file_of_a_killed_process_is_taken_over(bus: Engine, plugin: PIDFile, path: Path) -> None:
    """A kill -9 must not need an operator before the next start."""
    with owner(path) as killed:
        killed.kill()
        assert path.read_text() == f"{killed.pid}\n"
        bus.start()
    assert path.read_text() == f"{os.getpid()}\n"
    assert names(path) == ["site.pid"]


def test_a_stale_pid_that_somebody_else_has_now_is_no_owner(
    bus: Engine, plugin: PIDFile, path: Path
) -> None:
    """Pids come again; after a boot the old one often is a living stranger's."""
    path.write_text(f"{os.getppid()}\n")
    bus.start()
    assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("text", ["", pytest.param(f"{os.getpid()}", id="our own"), "999999999\n"])
def test_whatever_was_a_pid_file_once_is_replaced(
    bus: Engine, plugin: PIDFile, path: Path, text: str
) -> None:
    """Left empty by a full disk of others, without a line end by magicbus."""
    path.write_text(text)
    bus.start()
    assert path.read_text() == f"{os.getpid()}\n"


def test_a_document_is_not_replaced(bus: Engine, plugin: PIDFile, path: Path) -> None:
    """A slip in the configuration must not cost a file."""
    path.write_text("127.0.0.1 localhost\n")
    with pytest.raises(CannotWritePidFile, match="is no pid file, and begins with '127"):
        bus.start()
    assert path.read_text() == "127.0.0.1 localhost\n"
    assert names(path) == ["site.pid"]


def test_a_symbolic_link_is_not_followed(bus: Engine, plugin: PIDFile, path: Path) -> None:
    """In a directory of everybody's it may lead to anything that root can write."""
    target = path.with_name("passwd")
    target.write_text("1\n")
    path.symlink_to(target)
    with pytest.raises(CannotWritePidFile, match="symbolic link"):
        bus.start()
    assert target.read_text() == "1\n"
    assert path.is_symlink()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused(bus: Engine, plugin: PIDFile, path: Path, make: object) -> None:
    """At once: nobody waits for the other end of a pipe."""
    assert callable(make)
    make(path)
    with pytest.raises(CannotWritePidFile, match="no regular file") as caught:
        bus.start()
    assert caught.value.status == 73
    assert bus.exit_code == 73


def test_a_directory_that_is_missing_is_named(bus: Engine, tmp_path: Path) -> None:
    """It is the directory that somebody has to make."""
    PIDFile(bus, tmp_path / "run" / "site.pid").subscribe()
    with pytest.raises(CannotWritePidFile, match=f"there is no directory {tmp_path}/run"):
        bus.start()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_directory_that_takes_no_files_is_not_called_missing(bus: Engine) -> None:
    """It says that of the file, as if its directory were not there."""
    PIDFile(bus, "/proc/site.pid").subscribe()
    with pytest.raises(CannotWritePidFile, match=r"'/proc/site.pid': [Nn]o such file|denied"):
        bus.start()


def test_after_a_refusal_nothing_else_starts(bus: Engine, plugin: PIDFile, path: Path) -> None:
    """A second instance that served for a moment would take requests, and break them off."""
    served: list[int] = []
    bus.subscribe("start", lambda: served.append(1), 75)
    with owner(path), pytest.raises(PidFileInUse):
        bus.start()
    assert served == []
    assert bus.exit_code == 69


def test_of_twenty_who_race_one_wins(path: Path) -> None:
    """Over nothing, and over a stale file; the losers name the winner, or say that it is busy."""
    for stale in (False, True):
        if stale:
            path.write_text("999999999\n")
        racers = [Owner(path) for _ in range(20)]
        try:
            verdicts = [racer.verdict() for racer in racers]
            winners = [r for r, said in zip(racers, verdicts, strict=True) if said == "owner\n"]
            assert len(winners) == 1, verdicts
            assert path.read_text() == f"{winners[0].pid}\n"
            refused = [said for said in verdicts if said != "owner\n"]
            assert all(f"already running as pid {winners[0].pid}" in said for said in refused)
            assert sorted(racer.end() for racer in racers) == [0] + [69] * 19
        finally:
            for racer in racers:
                racer.kill()
        assert names(path) == []


def test_a_reader_never_finds_half_a_file(path: Path) -> None:
    """Whoever runs kill $(cat site.pid) must not get an empty string, or a shorter number."""
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                seen.add(path.read_text())
            except FileNotFoundError:
                pass

    path.write_text("999999999\n")
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(300):
            os.close(module._take(str(path)))  # its lock is gone: stale again
    finally:
        done.set()
        reader.join()
    assert seen <= {"999999999\n", f"{os.getpid()}\n"}


def test_a_lock_that_outlives_its_owner_is_told(path: Path) -> None:
    """What the owner forked holds the lock as well; taking the file would make two sites of it."""
    program = OWNER.replace(
        'print("owner", flush=True)',
        'import os\nif not os.fork(): sys.stdin.read(); os._exit(0)\nprint("owner", flush=True)',
    )
    reading, writing = os.pipe()
    first = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, str(path)],
        env=environment(),
        stdin=reading,
        stdout=subprocess.PIPE,
    )
    os.close(reading)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"owner\n"
        first.kill()
        first.wait(PATIENCE)
        second = Owner(path)
        assert f"pid {first.pid} has ended, and what it left running" in second.verdict()
        assert second.end() == 69
    finally:
        os.close(writing)  # the child ends
        if first.stdout is not None:
            first.stdout.close()
    bus = Engine()
    PIDFile(bus, path).subscribe()
    wait_for(lambda: _can_lock(path), PATIENCE)
    bus.start()
    bus.exit()


def _can_lock(path: Path) -> bool:
    import fcntl

    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for names and for nothing else."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=8", "tiny", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_leaves_the_old_file(bus: Engine, tiny: Path) -> None:
    """Nothing half written: not the file, not a draft of it."""
    path = tiny / "site.pid"
    path.symlink_to("nowhere")  # takes a name and no room
    path.unlink()
    (tiny / "big").write_bytes(b"x" * 4096)
    PIDFile(bus, path).subscribe()
    with pytest.raises(CannotWritePidFile, match="no space left on device") as caught:
        bus.start()
    assert caught.value.status == 73
    assert os.listdir(tiny) == ["big"]


DROPS = """
import os, sys
from sitebus.plugins.pidfile import PIDFile
from sitebus.process import Engine
bus = Engine()
bus.subscribe("log", lambda message, level: print(level, message))
plugin = PIDFile(bus, sys.argv[1])
plugin.subscribe()
bus.start()
os.setresuid(65534, 65534, 65534)
bus.stop()
bus.start()
bus.exit()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_without_privileges_the_file_is_left_empty_and_told(mode: int) -> None:
    """The directory is root's; a stale pid would one day be a stranger's."""
    with public_folder() as folder:
        path = folder / "site.pid"
        folder.chmod(mode)
        with Child([sys.executable, "-c", DROPS, path]) as child:
            assert child.wait() == 0
            (line,) = [line for line in child.output.splitlines() if line.startswith("30 ")]
        assert "cannot be removed (permission denied) and was emptied" in line
        assert path.read_bytes() == b""
        assert PIDFile(Engine(), path).join(0)


def test_a_file_system_without_links_will_do(
    bus: Engine, plugin: PIDFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT has none, and some that reach over a network."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    bus.start()
    assert path.read_text() == f"{os.getpid()}\n"
    assert names(path) == ["site.pid"]


def test_a_restart_that_fails_at_the_last_moment_leaves_no_file(tmp_path: Path) -> None:
    """The exit had left it to the next image, which never came."""
    path = tmp_path / "site.pid"
    program = """
import sys
from sitebus.plugins.pidfile import PIDFile
from sitebus.process import Engine
class Leaving(Engine):
    execv = True
bus = Leaving()
PIDFile(bus, sys.argv[1]).subscribe()
bus.start()
bus.exit()
print(open(sys.argv[1]).read(), list(bus.legacies))
"""
    with Child([sys.executable, "-c", program, path]) as child:
        assert child.wait() == 0
        assert child.output == f"{child.pid}\n ['pidfile']\n"
    assert not path.exists()


class Heir(Engine):
    """An engine of the next image, to which one descriptor was handed down."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.handed: dict[str, int] = {"pidfile": fd}

    @property
    def sockets(self) -> Heir:  # type: ignore[override]
        return self

    def claim(self, name: str) -> int | None:
        return self.handed.pop(name, None)

    def close(self) -> None: ...


def test_the_next_image_owns_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the images nobody else could take the file."""
    monkeypatch.setenv(module.WHERE, str(path))
    heir = Heir(module._take(str(path)))
    before = path.stat().st_ino
    PIDFile(heir, path).subscribe()
    heir.start()
    assert path.stat().st_ino == before
    with pytest.raises(PidFileInUse):
        module._take(str(path))
    heir.exit()
    assert names(path) == []


def test_another_path_after_a_restart_leaves_no_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would ever remove it."""
    old, new = tmp_path / "old.pid", tmp_path / "new.pid"
    monkeypatch.setenv(module.WHERE, str(old))
    heir = Heir(module._take(str(old)))
    PIDFile(heir, new).subscribe()
    heir.start()
    assert os.listdir(tmp_path) == ["new.pid"]
    heir.exit()
    assert os.listdir(tmp_path) == []


class TestTrial:
    """A restart after which there would be no pid file is refused before anything stops."""

    def test_what_the_parent_holds_is_left_alone(
        self, bus: Engine, plugin: PIDFile, path: Path
    ) -> None:
        """It goes to the next image with its lock."""
        path.write_text(f"{os.getppid()}\n")
        before = path.stat()
        bus.publish("trial")
        assert path.stat() == before

    def test_a_new_path_is_tried_and_left_as_it_was(
        self, bus: Engine, plugin: PIDFile, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The configuration has changed."""
        monkeypatch.setenv(module.WHERE, str(path.with_name("old.pid")))
        bus.publish("trial")
        assert names(path) == []

    def test_a_path_of_no_use_is_told(self, bus: Engine, tmp_path: Path) -> None:
        """With the old file in the old place, and the site serving."""
        plugin = PIDFile(bus, tmp_path / "no" / "site.pid")
        with pytest.raises(CannotWritePidFile, match="there is no directory"):
            plugin.trial()

    def test_a_path_that_another_process_owns_is_told(self, bus: Engine, path: Path) -> None:
        """Two sites with one pid file, by a slip in the configuration."""
        with owner(path), pytest.raises(PidFileInUse):
            PIDFile(bus, path).trial()

    def test_a_site_goes_on_where_its_file_was_tidied_away(self, tmp_path: Path) -> None:
        """Restarted all the same, it would be down."""
        folder = tmp_path / "run"
        folder.mkdir()
        with Child([sys.executable, "-c", RESTARTS, folder / "site.pid"]) as child:
            assert child.wait() == 0
            assert "refused" in child.output
            assert f"there is no directory {folder}" in child.output


RESTARTS = """
import os, shutil, sys
from sitebus.errors import TrialFailed
from sitebus.plugins.pidfile import PIDFile
from sitebus.process import Engine
bus = Engine()
PIDFile(bus, sys.argv[1]).subscribe()
bus.start()
shutil.rmtree(os.path.dirname(sys.argv[1]))
try:
    bus.restart()
except TrialFailed as error:
    print("refused:", error)
bus.exit()
"""


def test_a_file_that_was_removed_is_made_again_by_a_start(
    bus: Engine, plugin: PIDFile, path: Path
) -> None:
    """Somebody tidied the directory while the site was stopped."""
    bus.start()
    path.unlink()
    bus.stop()
    bus.start()
    assert path.read_text() == f"{os.getpid()}\n"
    bus.exit()
    assert not path.exists()


def test_another_process_can_wait_for_start_and_end(path: Path) -> None:
    """As code for magicbus does: wait() answers the pid, join() comes back when it is gone."""
    watcher = PIDFile(Engine(), path)
    assert watcher.wait(0.05, 0.01) is None
    path.write_text("999999999\n")
    assert watcher.wait(0.05, 0.01) is None, "a dead process has not started"
    with owner(path) as other:
        assert watcher.wait(PATIENCE, 0.01) == other.pid
        assert not watcher.join(0.05, 0.01)
        other.end()
        assert watcher.join(PATIENCE, 0.01)
    with owner(path) as other:
        other.process.send_signal(signal.SIGKILL)
        other.process.wait(PATIENCE)
        assert watcher.join(PATIENCE, 0.01), "killed, with the file still there"


def test_it_stands_where_magicbus_has_it() -> None:
    """One plugin speaks both vocabularies."""
    bus = ProcessBus()
    plugin = PIDFile(bus, "site.pid")
    plugin.subscribe()
    assert plugin.start in bus.listeners["START"]
    assert plugin.exit in bus.listeners["EXIT"]
