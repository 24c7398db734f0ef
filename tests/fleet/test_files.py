"""Files and trees that are pushed to a host: there in whole, or as they were."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sitebus import fleet
from sitebus.errors import (
    CannotWrite,
    DiskFull,
    HostLost,
    NotATree,
    SitebusError,
    TransferFailed,
)
from sitebus.fleet import agent_files
from sitebus.fleet.files import How, push
from sitebus.fleet.host import Host
from tests.fleet import inis
from tests.fleet.places import here, over_ssh
from tests.fleet.rig import Loopback, Rig, hosts
from tests.helpers import environment, wait_for

HOWS = pytest.mark.parametrize("how", ["rsync", "tar"])


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """This machine, as a host."""
    with here(tmp_path_factory.mktemp("fleet")) as host:
        yield host


@pytest.fixture
def there(tmp_path: Path) -> Path:
    folder = tmp_path / "there"
    folder.mkdir()
    return folder


def drafts(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if ".sitebus-" in name]


def test_a_file(host: Host, tmp_path: Path, there: Path) -> None:
    """With its mode and its time; the way there is told in bytes."""
    file = tmp_path / "app.conf"
    file.write_bytes(os.urandom(1_000_001))
    file.chmod(0o750)
    os.utime(file, (1_500_000_000, 1_500_000_000))
    steps: list[tuple[int, int]] = []
    pushed = host.push(file, str(there / "new.conf"), progress=lambda *step: steps.append(step))

    found = there / "new.conf"
    assert pushed == (str(found), 1_000_001, 1_000_001)
    assert found.read_bytes() == file.read_bytes()
    about = found.stat()
    assert (about.st_mode & 0o7777, about.st_mtime) == (0o750, 1_500_000_000)
    assert steps == sorted(steps)
    assert steps[0][0] < 1_000_001
    assert steps[-1] == (1_000_001, 1_000_001)
    assert os.listdir(there) == ["new.conf"]


def test_a_pipe_that_somebody_has_put_there(host: Host, tmp_path: Path, there: Path) -> None:
    """In a directory of several users' nobody holds up the others."""
    (tmp_path / "x").write_text("x")
    os.mkfifo(there / ".x.sitebus-trap")
    done: list[str] = []
    thread = threading.Thread(
        target=lambda: done.append(host.push(tmp_path / "x", str(there / "x")).path), daemon=True
    )
    thread.start()
    thread.join(20)
    assert done == [str(there / "x")]


@HOWS
def test_whatever_the_host_is_called(tmp_path: Path, there: Path, how: How) -> None:
    """What has a slash, rsync takes for something here."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "x").write_text("x")
    names = ("a/b", "user@host", "-x")
    with fleet.open(inis.write(tmp_path / "fleet.ini", hosts=names)) as several:
        for number, host in enumerate(several.hosts()):
            push(host, tmp_path / "tree", str(there / str(number)), how=how)
            assert (there / str(number) / "x").read_text() == "x"


def test_an_empty_file(host: Host, tmp_path: Path, there: Path) -> None:
    """It is one all the same."""
    (tmp_path / "none").touch()
    assert push(host, tmp_path / "none", f"{there}/") == (str(there / "none"), 0, 0)
    assert (there / "none").read_bytes() == b""


def test_a_file_into_a_directory(host: Host, tmp_path: Path, there: Path) -> None:
    """As cp would."""
    (tmp_path / "a").write_text("a")
    push(host, tmp_path / "a", str(there))
    push(host, tmp_path / "a", f"{there}/")
    assert (there / "a").read_text() == "a"


def test_a_file_is_replaced_at_once(host: Host, tmp_path: Path, there: Path) -> None:
    """Whoever reads it meanwhile has the old one or the new one."""
    contents = [bytes([each]) * 300_000 for each in b"ab"]
    for each in contents:
        (tmp_path / each[:1].decode()).write_bytes(each)
    target = there / "x"
    push(host, tmp_path / "a", str(target))
    seen, over = set(), threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.add(target.read_bytes())

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(10):
        push(host, tmp_path / "b", str(target))
        push(host, tmp_path / "a", str(target))
    over.set()
    thread.join()
    assert seen <= set(contents)


def test_what_is_not_there(host: Host, tmp_path: Path, there: Path) -> None:
    """One sentence, before anything is sent."""
    with pytest.raises(NotATree, match=r"cannot send .*/nothing: no such file"):
        push(host, tmp_path / "nothing", str(there))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotATree, match="neither a file nor a directory"):
        push(host, tmp_path / "pipe", str(there))


def test_where_it_cannot_be(host: Host, tmp_path: Path, there: Path) -> None:
    """What the system says, and where."""
    (tmp_path / "a").write_text("a")
    with pytest.raises(CannotWrite, match=r"web1: cannot write /proc/.*: no such file") as caught:
        push(host, tmp_path / "a", "/proc/nowhere/x")
    assert caught.value.status == 73
    (there / "x").write_text("mine")
    (tmp_path / "tree").mkdir()
    with pytest.raises(CannotWrite, match="it is there, and not a directory"):
        push(host, tmp_path / "tree", str(there / "x"))
    assert (there / "x").read_text() == "mine"


def tree(folder: Path, text: str = "one") -> Path:
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text(text)
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("sub/a.txt")
    (folder / "twice").hardlink_to(folder / "run")
    (folder / "größe 'x' $y").write_text("ü")
    (folder / "sub").chmod(0o555)
    return folder


def picture(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        mode = oct(path.lstat().st_mode)
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = mode
        else:
            found[name] = mode, int(path.stat().st_mtime), path.read_bytes()
    return found


@HOWS
def test_a_tree(host: Host, tmp_path: Path, there: Path, how: How) -> None:
    """All that is in it, under the name that was asked for."""
    source = tree(tmp_path / "source")
    pushed = push(host, source, str(there / "new tree"), how=how)
    assert pushed.path == str(there / "new tree")
    assert picture(there / "new tree") == picture(source)
    assert os.listdir(there) == ["new tree"]


@HOWS
def test_a_tree_takes_the_place_of_another(
    host: Host, tmp_path: Path, there: Path, how: How
) -> None:
    """What is not in the new one is gone; there is one or the other at each moment."""
    (there / "x" / "old").mkdir(parents=True)
    (there / "x" / "sub").mkdir()
    (there / "x" / "sub" / "a.txt").write_text("two")  # as large as the one that comes
    source = tree(tmp_path / "source")
    os.utime(source / "sub" / "a.txt", (1, 1))
    os.utime(there / "x" / "sub" / "a.txt", (1, 1))
    missing, over = [], threading.Event()

    def watch() -> None:
        while not over.is_set():
            if not (there / "x").is_dir():
                missing.append(1)

    thread = threading.Thread(target=watch)
    thread.start()
    push(host, source, str(there / "x"), how=how)
    over.set()
    thread.join()
    assert picture(there / "x") == picture(source)
    assert missing == []
    assert drafts(there) == []


@HOWS
def test_a_full_disk(host: Host, tmp_path: Path, small_disk: Path, how: How) -> None:
    """What was there still is; the figures are told."""
    (small_disk / "x").mkdir()
    (small_disk / "x" / "mine").write_text("mine")
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(bytes(6_000_000))
    with pytest.raises(DiskFull, match=r"it needs 6\.0 MB, and .*disk.* free; nothing was changed"):
        push(host, source, str(small_disk / "x"), how=how)
    with pytest.raises(DiskFull):
        push(host, source / "big", str(small_disk / "x"))
    assert (small_disk / "x" / "mine").read_text() == "mine"
    assert drafts(small_disk) == []


@HOWS
def test_a_disk_that_fills_up_meanwhile(
    host: Host, tmp_path: Path, small_disk: Path, how: How
) -> None:
    """The program's own words become the same sentence."""
    source = tmp_path / "source"
    source.mkdir()
    for name in "abcdefgh":
        (source / name).write_bytes(os.urandom(300_000))
    done: list[int] = []

    def fill(*_: int) -> None:
        if not done:
            done.append((small_disk / "other").write_bytes(bytes(3_000_000)))

    with pytest.raises(DiskFull):
        push(host, source, str(small_disk / "x"), how=how, progress=fill)
    assert os.listdir(small_disk) == ["other"]


#: Sends, and is ended in the middle.
SENDS = """\
import os, signal, sys
from sitebus import fleet

def die(done, total):
    if done > 1_000_000:
        os.kill(os.getpid(), signal.SIGKILL)

with fleet.open(sys.argv[1]) as hosts:
    hosts["web1"].push(sys.argv[2], sys.argv[3], progress=die)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "tree"])
def test_a_kill_in_the_middle(host: Host, tmp_path: Path, there: Path, kind: str) -> None:
    """Nothing is there but what was; the rest goes with the next one."""
    source = tmp_path / "source"
    file = source / "big" if kind == "tree" else source
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(os.urandom(30_000_000))
    ini = tmp_path / "fleet.ini"
    ini.write_text(f"[fleet]\nmethod = local\npython = {sys.executable}\n[hosts]\nweb1 = here\n")
    done = subprocess.run(
        [sys.executable, "-c", SENDS, str(ini), str(source), str(there / "x")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (there / "x").exists()
    file.write_text("small")

    def is_clean() -> bool:
        push(host, source, str(there / "x"))
        return os.listdir(there) == ["x"]

    wait_for(is_clean, 20, "the rest to be removed")


@pytest.mark.slow
@HOWS
def test_fifty_megabytes(loopback: Loopback, tmp_path: Path, there: Path, how: How) -> None:
    """Through a real sshd, without much memory: no more is under way than a window."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(50_000_000))
    with over_ssh(loopback, tmp_path) as host:
        pushed = push(host, source, str(there / "x"), how=how)
        push(host, source / "big", str(there / "y"))
    assert pushed.sent >= 50_000_000
    for path in (there / "x" / "big", there / "y"):
        assert path.read_bytes() == (source / "big").read_bytes()


class Tape:
    """A wire that has what was recorded."""

    def __init__(self, messages: list[bytes]) -> None:
        self.messages = messages
        self.said: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.messages)

    def send(self, data: bytes) -> None:
        self.said.append(data)


def archive(*members: tuple[str, bytes, str]) -> list[bytes]:
    """Answer what is sent for an archive of those names, types and targets."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member, io.BytesIO(b""))
    return [b"d" + file.getvalue(), b"e"]


@pytest.mark.parametrize(
    "members",
    [
        [("../x", tarfile.REGTYPE, "")],
        [("/tmp/x", tarfile.REGTYPE, "")],
        [("a/../../x", tarfile.REGTYPE, "")],
        [("a", tarfile.SYMTYPE, "/tmp"), ("a/x", tarfile.REGTYPE, "")],
        [("a", tarfile.SYMTYPE, ".."), ("a", tarfile.REGTYPE, "")],
        [("a", tarfile.LNKTYPE, "/etc/passwd")],
        [("a", tarfile.FIFOTYPE, "")],
        [("a", tarfile.CHRTYPE, "")],
    ],
)
def test_an_archive_cannot_write_elsewhere(
    there: Path, members: list[tuple[str, bytes, str]]
) -> None:
    """Whoever made it."""
    before = sorted(os.listdir(there.parent))
    answer = agent_files.receive_tree(Tape(archive(*members)), str(there), 0, False)
    assert answer["refused"] == "error", answer
    assert sorted(os.listdir(there.parent)) == before


def test_an_archive_of_a_release_has_no_link_that_leads_out(there: Path) -> None:
    """Where it says so; any other tree may."""
    out = archive(("a", tarfile.SYMTYPE, "/etc"))
    assert agent_files.receive_tree(Tape(out), str(there), 0, True)["refused"] == "error"
    assert agent_files.receive_tree(Tape(out), str(there), 0, False) == {"bytes": 0}


@pytest.mark.parametrize("messages", [[], [b"dx"], [b"d" + b"x" * 600, b"e"]])
def test_half_an_archive_is_none(there: Path, messages: list[bytes]) -> None:
    """The other side has gone, or sends nonsense."""
    assert agent_files.receive_tree(Tape(messages), str(there), 0, False)["refused"] == "cut"


def test_half_a_file_is_none(there: Path) -> None:
    """It is not there, and nothing of it."""
    told = {"dest": str(there / "x"), "name": "x", "mode": 0o644, "mtime": 0, "size": 3}
    for messages in ([b"dab"], [b"dab", b"e"], [b"dabcd", b"e"]):
        assert agent_files.receive_file(Tape(messages), told) == {"refused": "cut"}
    assert os.listdir(there) == []


def test_rsync_has_to_be_there_if_it_is_asked_for(
    host: Host, tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself the other way is taken."""
    (tmp_path / "source").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SitebusError, match="rsync is not installed on this machine"):
        push(host, tmp_path / "source", str(there / "x"), how="rsync")
    assert push(host, tmp_path / "source", str(there / "x")).path == str(there / "x")
    assert os.listdir(there) == ["x"]


@pytest.fixture(scope="module")
def away() -> Iterator[Rig]:
    """A host with a link of its own."""
    with hosts(1) as rig:
        yield rig


@pytest.mark.slow
@pytest.mark.parametrize("how", ["rsync", "tar"])
@pytest.mark.parametrize("name", ["", "big"])
def test_a_link_that_is_cut_in_the_middle(away: Rig, name: str, how: How, tmp_path: Path) -> None:
    """It is known within the time that the fleet's file allows, and what was there still is."""
    if away.method == "local":
        pytest.skip("no link that could be cut")
    (web1,) = away.hosts
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(60_000_000))
    target = web1.root / (how + name)
    cut: list[int] = []

    def interfere(done: int, total: int) -> None:
        if done > 5_000_000 and not cut:
            cut.append(done)
            web1.cut()

    with fleet.open(away.write_ini(fleet={"keepalive": "2s"})) as opened:
        host = opened["web1"]
        with pytest.raises(HostLost) as caught:
            push(host, source / name, str(target), how=how, progress=interfere)
        assert caught.value.host == "web1"
        assert cut
        assert not target.exists()
        web1.mend()

        def is_clean() -> bool:
            push(host, source / name, str(target), how=how)
            return not drafts(web1.root)

        wait_for(is_clean, 30, "the rest to be removed")


def test_a_progress_that_raises(host: Host, tmp_path: Path, there: Path) -> None:
    """It ends the transfer; nothing hangs, and nothing is half there."""
    (tmp_path / "big").write_bytes(bytes(5_000_000))

    def fail(*_: int) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        push(host, tmp_path / "big", str(there / "x"), progress=fail)
    assert os.listdir(there) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_progress_that_raises_while_rsync_sends(host: Host, tmp_path: Path, there: Path) -> None:
    """The program is told by the end of its connection."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "big").write_bytes(os.urandom(5_000_000))

    def fail(*_: int) -> None:
        raise LookupError("mine")

    with pytest.raises(TransferFailed, match="rsync ended with status"):
        push(host, tmp_path / "source", str(there / "x"), how="rsync", progress=fail)
    assert os.listdir(there) == []
