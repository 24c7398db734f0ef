"""rsync, scp and git over a connection that is there, where their own ssh has no part."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitebus.errors import TransferFailed
from sitebus.fleet import shim as shim_module
from sitebus.fleet import shim_program
from sitebus.fleet.host import Host
from sitebus.fleet.shim import Shim
from tests.fleet.accounts import Account
from tests.fleet.places import by_sudo, here, over_ssh
from tests.fleet.rig import Loopback
from tests.helpers import Child, environment, nothing_left, wait_for

pytestmark = pytest.mark.usefixtures("own_git")


@pytest.fixture(scope="module")
def own_git(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Git as nobody has set it up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        for who in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{who}_NAME", "nobody")
            patch.setenv(f"GIT_{who}_EMAIL", "nobody@example.org")
        yield


@pytest.fixture(scope="module", params=["local", "ssh"])
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """This machine, as a host: without anything between, and with a real sshd."""
    folder = tmp_path_factory.mktemp("fleet")
    if request.param == "local":
        with here(folder) as host:
            yield host
    else:
        with over_ssh(request.getfixturevalue("loopback"), folder) as host:
            yield host


@pytest.fixture
def shim(host: Host) -> Iterator[Shim]:
    with Shim(host) as shim:
        yield shim


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a b.txt").write_text("a")
    (folder / "big").write_bytes(os.urandom(3_000_000))
    return folder


def repository(folder: Path) -> Path:
    """Make a repository with one commit."""
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "big").write_bytes(os.urandom(2_000_000))
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)
    return folder


def test_rsync(shim: Shim, source: Path, tmp_path: Path) -> None:
    """There, once more with nothing to do, and back."""
    shim.rsync("-a", f"{source}/", f"web1:{tmp_path}/there/")
    assert (tmp_path / "there" / "sub" / "a b.txt").read_text() == "a"
    assert (tmp_path / "there" / "big").read_bytes() == (source / "big").read_bytes()
    again = shim.rsync("-ai", f"{source}/", f"web1:{tmp_path}/there/")
    assert again.out == ""
    shim.rsync("-a", f"web1:{tmp_path}/there/", f"{tmp_path}/back/")
    assert (tmp_path / "back" / "big").read_bytes() == (source / "big").read_bytes()


@pytest.mark.parametrize("protocol", ["sftp", "scp"])
def test_scp(shim: Shim, source: Path, tmp_path: Path, protocol: str) -> None:
    """Both of its protocols, both ways."""
    old = ["-O"] if protocol == "scp" else []
    shim.scp(*old, "-r", str(source), f"web1:{tmp_path}/there")
    assert (tmp_path / "there" / "sub" / "a b.txt").read_text() == "a"
    shim.scp(*old, "-p", f"web1:{tmp_path}/there/big", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (source / "big").read_bytes()


def test_git(shim: Shim, tmp_path: Path) -> None:
    """A clone, a push, a fetch; several commands one after the other in one run."""
    there = repository(tmp_path / "there")
    mine = tmp_path / "mine"
    shim.git("clone", "-q", f"web1:{there}", str(mine))
    assert (mine / "big").read_bytes() == (there / "big").read_bytes()
    (mine / "b.txt").write_text("b")
    shim.git("-C", str(mine), "add", ".")
    shim.git("-C", str(mine), "commit", "-q", "-m", "second")
    shim.git("-C", str(mine), "push", "-q", "origin", "main:other")
    shim.git("-C", str(mine), "fetch", "-q")
    log = subprocess.run(
        ["git", "-C", str(there), "log", "-1", "--format=%s", "other"],
        capture_output=True,
        text=True,
    )
    assert log.stdout == "second\n"


def test_other_programs_find_it_by_their_environment(
    shim: Shim, source: Path, tmp_path: Path
) -> None:
    """A script with several of them in it, each with invocations of its own."""
    there = repository(tmp_path / "there")
    script = (
        f"rsync -a {source}/ web1:{tmp_path}/one/ && rsync -a web1:{tmp_path}/one/ {tmp_path}/two/"
        f" && git clone -q ssh://web1{there} {tmp_path}/mine"
    )
    done = subprocess.run(["sh", "-c", script], env=shim.environment(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two" / "big").read_bytes() == (source / "big").read_bytes()
    assert (tmp_path / "mine" / "a.txt").exists()


def test_many_at_once(shim: Shim, source: Path, tmp_path: Path) -> None:
    """They do not wait for each other, nor mix."""
    failures: list[Exception] = []

    def copy(number: int) -> None:
        try:
            shim.rsync("-a", f"{source}/", f"web1:{tmp_path}/{number}/")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=copy, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for number in range(6):
        assert (tmp_path / str(number) / "big").read_bytes() == (source / "big").read_bytes()


def ssh(shim: Shim, *words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run what programs take for ssh."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [shim.program, *words], capture_output=True, timeout=60, **options
    )


def test_it_is_like_ssh(shim: Shim) -> None:
    """A shell, the three streams, the status."""
    done = ssh(shim, "-l", "me", "-oX=y", "web1", "cat; echo $((1 + 1)) >&2; exit 7", input=b"in")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in", b"2\n")
    assert ssh(shim, "-p", "22", "me@web1", "kill -9 $$").returncode == 137
    assert ssh(shim, "--", "web1", "no-such-program").returncode == 127


def test_much_of_everything_at_once(shim: Shim) -> None:
    """More than any buffer has room for, both ways, on both streams."""
    data = os.urandom(9_000_000)
    done = ssh(shim, "web1", "tee /dev/stderr", input=data)
    assert done.stdout == data
    assert done.stderr == data


def test_a_program_that_reads_nothing(shim: Shim) -> None:
    """What is written for it goes nowhere, and nobody waits for that."""
    done = ssh(shim, "web1", "exec 0<&-; echo done", input=bytes(30_000_000))
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_who_reads_nothing_holds_up_who_writes(shim: Shim, tmp_path: Path) -> None:
    """A slow reader here is a slow writer there; nothing piles up between."""
    told = tmp_path / "told"
    script = f"for n in $(seq 60); do head -c 1000000 /dev/zero; echo $n >> {told}; done"
    seen: list[str] = []

    def is_stuck() -> bool:
        seen.append(told.read_text() if told.exists() else "")
        return seen[-1] != "" and seen[-20:] == [seen[-1]] * 20

    with subprocess.Popen([shim.program, "web1", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        wait_for(is_stuck, 20, "the writer to be held up")
        assert len(seen[-1].split()) < 10
        assert len(process.stdout.read()) == 60_000_000
    assert process.returncode == 0


def test_another_host_is_refused(shim: Shim, source: Path) -> None:
    """A mistake in the arguments does not end up somewhere else."""
    with pytest.raises(TransferFailed, match="this leads to web1, not to 'web2'") as caught:
        shim.rsync("-a", f"{source}/", "web2:/nowhere/")
    assert caught.value.host == "web1"
    # What ssh has answered, or that nothing came: which of them rsync sees first.
    assert caught.value.code in (255, 12)


def test_a_failure_is_told(shim: Shim, source: Path, tmp_path: Path) -> None:
    """With the program's own words and status."""
    with pytest.raises(
        TransferFailed, match=r"rsync ended with status 1[12]: .*nowhere.*failed"
    ) as caught:
        shim.rsync("-a", f"{source}/", "web1:/proc/nowhere/x/")
    assert caught.value.code in (11, 12)
    with pytest.raises(TransferFailed, match="git ended with status 128"):
        shim.git("clone", "web1:/nowhere", f"{tmp_path}/else")


def test_the_bytes_are_counted(host: Host, source: Path, tmp_path: Path) -> None:
    """As they go."""
    counted: list[int] = []
    with Shim(host, sent=counted.append) as shim:
        shim.rsync("-a", f"{source}/", f"web1:{tmp_path}/there/")
    assert 3_000_000 < sum(counted) < 3_100_000
    assert len(counted) > 10


def test_nobody_else_gets_in(shim: Shim) -> None:
    """The directory is the user's, and so is who connects."""
    folder = Path(shim.program).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_somebody_else_is_turned_away(shim: Shim) -> None:
    """Even where the directory lets them through."""
    folder = Path(shim.program).parent
    folder.chmod(0o755)
    (folder / "s").chmod(0o777)
    call = [sys.executable, "-I", "-S", shim_program.__file__, str(folder / "s"), "web1", "id"]
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *call],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "uid=" not in done.stdout
    assert ssh(shim, "web1", "id -u").stdout == b"0\n"


@pytest.mark.parametrize("said", [b"", b"{}", b"nonsense", b"[1]", b'{"host": 1}'])
def test_nonsense_is_turned_away(shim: Shim, said: bytes) -> None:
    """And the next one is served."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(Path(shim.program).parent / "s"))
        sock.settimeout(10)
        socket.send_fds(sock, [said], [0, 1, 2])
        answer = sock.recv(1000)
        assert not answer or json.loads(answer)["status"] == 255
    assert ssh(shim, "web1", "echo here").stdout == b"here\n"


def test_the_command_ends_with_who_asked(shim: Shim, tmp_path: Path) -> None:
    """Killed, it cannot say so."""
    pid = tmp_path / "pid"
    child = Child([shim.program, "web1", f"echo $$ > {pid}; echo on; exec sleep 1000"])
    with child:
        child.wait_for_output("on")
        child.signal(signal.SIGKILL)
    number = int(pid.read_text())
    wait_for(lambda: not Path(f"/proc/{number}").exists(), 20, "the command to end")


def test_all_ends_with_the_shim(host: Host, tmp_path: Path) -> None:
    """And its directory, and its threads, and its descriptors."""
    with nothing_left():
        shim = Shim(host)
        shim.open()
        pid = tmp_path / "pid"
        with Child([shim.program, "web1", f"echo $$ > {pid}; echo on; exec sleep 1000"]) as child:
            child.wait_for_output("on")
            shim.close()
            assert child.wait() == 255
            assert "has ended" in child.output
        number = int(pid.read_text())
        wait_for(lambda: not Path(f"/proc/{number}").exists(), 20, "the command to end")
        assert not Path(shim.program).parent.exists()


@pytest.mark.parametrize(
    "command",
    ["trap '' HUP TERM; echo on; while :; do sleep 1000; done", "sleep 1000 & echo on; exit 0"],
)
def test_a_command_that_does_not_want_to_end_ends(host: Host, command: str) -> None:
    """It hears of the end and ignores it, or has left something that holds its streams."""
    with nothing_left():
        shim = Shim(host)
        shim.open()
        with Child([shim.program, "web1", command]) as child:
            child.wait_for_output("on")
            closing = threading.Thread(target=shim.close)
            closing.start()
            closing.join(20)
            assert not closing.is_alive()
            child.wait()


def test_who_opens_is_not_swept_by_another(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet opens one for each of many hosts at once."""
    made: list[Path] = []

    class Socket(socket.socket):
        def listen(self, *args: int) -> None:
            made.append(Path(self.getsockname()).parent)
            shim_module._sweep(made[-1].with_name("nobody"))
            super().listen(*args)

    monkeypatch.setattr(socket, "socket", Socket)
    with Shim(host) as shim:
        assert made == [Path(shim.program).parent]
        assert made[0].is_dir()


def test_what_cannot_be_opened_leaves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    class Socket(socket.socket):
        def listen(self, *args: int) -> None:
            raise OSError("no room")

    host.connect()
    before = set(Path(tempfile.gettempdir()).glob("sitebus-shim-*"))
    with nothing_left():
        monkeypatch.setattr(socket, "socket", Socket)
        with pytest.raises(OSError, match="no room"), Shim(host):
            pass
        monkeypatch.undo()
    assert set(Path(tempfile.gettempdir()).glob("sitebus-shim-*")) <= before


def test_programs_are_told_no_password(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITEBUS_FLEET_PASSWORD", "secret")
    monkeypatch.setenv("SITEBUS_FLEET_BECOME_PASSWORD", "secret")
    assert "secret" not in shim.environment().values()


#: Opens a shim, says where, and waits.
HOLDS = """\
import signal
import sys
from sitebus import fleet
from sitebus.fleet.shim import Shim

with fleet.open(sys.argv[1]) as hosts, Shim(hosts["web1"]) as shim:
    print("shim", shim.program, flush=True)
    signal.pause()
"""


def test_all_ends_with_the_process(tmp_path: Path) -> None:
    """Whoever has the connection is killed: what goes over it ends, here and there."""
    ini = tmp_path / "fleet.ini"
    ini.write_text(f"[fleet]\nmethod = local\npython = {sys.executable}\n[hosts]\nweb1 = here\n")
    pid = tmp_path / "pid"
    with Child([sys.executable, "-c", HOLDS, str(ini)]) as holder:
        program = holder.wait_for_output(r"shim (\S+)")[1]
        with Child([program, "web1", f"echo $$ > {pid}; echo on; exec sleep 1000"]) as child:
            child.wait_for_output("on")
            holder.signal(signal.SIGKILL)
            assert child.wait() == 255
    number = int(pid.read_text())
    wait_for(lambda: not Path(f"/proc/{number}").exists(), 20, "the command to end")
    done = subprocess.run([program, "web1", "id"], capture_output=True, text=True)
    assert done.returncode == 255
    assert "nobody has a connection to web1" in done.stderr
    with here(tmp_path) as host, Shim(host):
        assert not Path(program).parent.exists()  # the next one has cleaned up


def test_through_sudo_with_a_password(
    account: Account, loopback: Loopback, source: Path, tmp_path: Path
) -> None:
    """Where only root may write, and root has no ssh: the password was asked for once."""
    there = tmp_path / "there"
    there.mkdir(mode=0o700)
    repository(tmp_path / "repository")
    with by_sudo(account, loopback, tmp_path) as host, Shim(host) as shim:
        assert ssh(shim, "web1", "id -u").stdout == b"0\n"
        shim.rsync("-a", f"{source}/", f"web1:{there}/rsync/")
        shim.scp("-r", str(source), f"web1:{there}/scp")
        shim.git("clone", "-q", f"web1:{tmp_path}/repository", str(tmp_path / "mine"))
    for name in ("rsync", "scp"):
        assert (there / name / "big").read_bytes() == (source / "big").read_bytes()
        assert (there / name / "big").stat().st_uid == 0
    assert (tmp_path / "mine" / "a.txt").exists()


def test_words_are_read_as_ssh_reads_them() -> None:
    """Options with values, joined or apart, before the host; all else belongs to the command."""
    read = shim_program._read
    assert read(["-l", "me", "web1", "rsync", "--server", "."]) == (
        False,
        "web1",
        "rsync --server .",
    )
    assert read(["-xTp22", "-oA=b", "-s", "--", "me@web1", "sftp"]) == (True, "web1", "sftp")
    assert read(["-o", "SendEnv=GIT_PROTOCOL", "web1", "git-upload-pack '/x'"])[2] == (
        "git-upload-pack '/x'"
    )
    assert read(["web1", "-v", "-l"]) == (False, "web1", "-v -l")
    assert read([]) == (False, "", "")


def test_the_program_needs_nothing_of_sitebus(tmp_path: Path) -> None:
    """It is run by its path, by an interpreter on its own; it is there within a moment."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", shim_program.__file__, str(tmp_path / "s"), "web1", "id"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (
        255,
        "sitebus: nobody has a connection to web1: No such file or directory\n",
    )
