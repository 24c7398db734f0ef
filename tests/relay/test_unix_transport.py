"""The unix transport: its file, and who may connect; what all transports promise is elsewhere."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sitebus.errors import BadRelayAddress, RelayBindError
from sitebus.relay import LIMIT, Poller
from sitebus.relay.frames import frame
from sitebus.relay.transport import Settings
from sitebus.relay.unix import UnixTransport
from tests.helpers import PATIENCE, ROOT, environment, open_descriptors, wait_for
from tests.relay.test_transports import KINDS, Side

UNIX = KINDS["unix"]
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "relay.sock"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], Side]]:
    """Answer what makes sides, which end with the test."""
    sides: list[Side] = []

    def make(name: str) -> Side:
        sides.append(Side(UNIX, tmp_path, name))
        return sides[-1]

    yield make
    for side in sides:
        side.end()


Make = Callable[[str], Side]


@pytest.fixture
def side(make: Make, path: Path) -> Side:
    """One that listens."""
    side = make("one")
    assert side.transport.listen(f"unix:{path}") == f"unix:{path}"
    return side


@pytest.fixture
def raw(side: Side, path: Path) -> Iterator[socket.socket]:
    """A connection that may say anything."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(PATIENCE)
        raw.connect(str(path))
        wait_for(lambda: side.connections)
        raw.recv(100)
        yield raw


class TestFile:
    def test_it_is_this_users_alone(self, side: Side, path: Path) -> None:
        """Whatever the umask is."""
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_it_goes_with_who_made_it(self, side: Side, path: Path) -> None:
        """Nothing is there for the next to stumble upon."""
        side.transport.close(0)
        assert not path.exists()

    def test_it_stays_when_somebody_else_has_replaced_it(self, side: Side, path: Path) -> None:
        """It is theirs then."""
        path.unlink()
        path.write_text("theirs")
        side.transport.close(0)
        assert path.read_text() == "theirs"

    def test_a_stale_one_is_replaced(self, make: Make, path: Path) -> None:
        """A process that was killed could not remove it."""
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        make("one").transport.listen(f"unix:{path}")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))

    @pytest.mark.parametrize(
        ("what", "sentence"),
        [
            ("live", "another process listens there; stop it, or use another path"),
            ("file", "a file is there that is no socket; remove it, or use another path"),
            ("nowhere", "its directory is not there; make it, or use another path"),
        ],
    )
    def test_what_is_in_the_way_is_said(
        self, make: Make, tmp_path: Path, what: str, sentence: str
    ) -> None:
        """And is left as it is."""
        path = tmp_path / what / "s" if what == "nowhere" else tmp_path / what
        with socket.socket(socket.AF_UNIX) as other:
            if what == "live":
                other.bind(str(path))
                other.listen()
            elif what == "file":
                path.write_text("precious")
            with pytest.raises(RelayBindError) as raised:
                make("one").transport.listen(f"unix:{path}")
            assert str(raised.value) == f"cannot relay at unix:{path}: {sentence}"
            assert path.exists() == (what != "nowhere")

    @pytest.mark.parametrize("address", ["unix:@abstract", "unix:" + "x" * 200])
    def test_some_paths_cannot_be(self, make: Make, address: str) -> None:
        """A name without a file would be everybody's."""
        with pytest.raises(BadRelayAddress):
            make("one").transport.listen(address)
        with pytest.raises(BadRelayAddress):
            make("two").transport.connect(address)


#: Connects as another user, says hello, and prints what comes.
STRANGER = """
import os, socket, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(5)
    client.connect(sys.argv[1])
    try:
        client.sendall(b"\\0\\0\\0\\5hello")
        print(client.recv(100))
    except (BrokenPipeError, ConnectionResetError):
        print(b"")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
class TestCredentials:
    @pytest.fixture
    def open_path(self, tmp_path: Path) -> Path:
        """Where anybody may look, though the file be another's."""
        for each in (tmp_path, *tmp_path.parents):
            if each.stat().st_uid == os.geteuid() and not each.stat().st_mode & 0o001:
                each.chmod(0o711)
        return tmp_path / "open.sock"

    def connect(self, path: Path) -> str:
        path.chmod(0o666)
        run = subprocess.run(
            [sys.executable, "-c", STRANGER, path],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return run.stdout.strip()

    def test_another_user_gets_no_word(self, make: Make, open_path: Path) -> None:
        """Even where the file lets them in: the system says who they are."""
        side = make("one")
        side.transport.listen(f"unix:{open_path}")
        assert self.connect(open_path) == "b''"
        assert side.all == []
        assert side.messages == []
        (refusal,) = side.refusals
        assert refusal == (
            f"unix:{open_path}",
            f"a process of user {NOBODY}, who may not take part, is there",
        )

    def test_a_user_who_was_named_may_connect(
        self, poller: Poller, tmp_path: Path, open_path: Path
    ) -> None:
        """A site may run as one user, and its helper as another."""
        side = Side(UNIX, tmp_path, "one")
        side.transport = UnixTransport(side.poller, side, Settings("one", uids=(NOBODY,)))
        side.transport.listen(f"unix:{open_path}")
        assert self.connect(open_path) == r"b'\x00\x00\x00\x05hello'"
        assert side.refusals == []
        side.end()

    def test_who_listens_is_looked_at_as_well(self, make: Make, tmp_path: Path) -> None:
        """Somebody else may have put a socket where the relay's is to be."""
        tmp_path.chmod(0o777)
        for each in tmp_path.parents:
            if each.stat().st_uid == os.geteuid() and not each.stat().st_mode & 0o001:
                each.chmod(0o711)
        path = tmp_path / "trap.sock"
        program = (
            "import os, socket, sys; os.setgid(65534), os.setuid(65534);"
            "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen();"
            "print('there', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
        ) as trap:
            assert trap.stdout is not None
            assert trap.stdout.readline() == b"there\n"
            side = make("one")
            side.transport.connect(f"unix:{path}")
            wait_for(lambda: side.refusals)
            assert side.all == []
            assert trap.stdin is not None
            trap.stdin.close()
        assert side.refusals[0][1].startswith(f"the process that listens of user {NOBODY}")


class TestStrangers:
    def test_a_frame_that_is_too_large_ends_the_connection(
        self, side: Side, raw: socket.socket
    ) -> None:
        """It is not waited for, let alone held."""
        raw.sendall(frame(b"good") + struct.pack(">I", LIMIT + 1) + b"x" * 1000)
        wait_for(lambda: side.gone)
        assert side.messages == [b"good"]
        assert len(side.refusals) == 1
        assert "is the limit" in side.refusals[0][1]

    def test_more_than_there_may_be_are_turned_away_and_counted(
        self, side: Side, raw: socket.socket, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those that are there go on."""
        monkeypatch.setattr("sitebus.relay.unix.MOST_CONNECTIONS", 1)
        with socket.socket(socket.AF_UNIX) as other:
            other.settimeout(PATIENCE)
            other.connect(str(path))
            assert other.recv(100) == b""
        wait_for(lambda: side.refusals)
        assert side.refusals == [(f"unix:{path}", "there are 1 connections already")]
        raw.sendall(frame(b"good"))
        wait_for(lambda: side.messages == [b"good"])

    def test_bytes_one_by_one_make_a_message(self, side: Side, raw: socket.socket) -> None:
        """A stream has no pieces."""
        for number in frame(b"slow"):
            raw.sendall(bytes([number]))
        wait_for(lambda: side.messages == [b"slow"])

    def test_one_that_is_closed_while_it_is_read_says_no_more(
        self, side: Side, raw: socket.socket
    ) -> None:
        """What came with the message for which it was closed is dropped."""
        heard = side.heard

        def once(connection: object, data: bytes) -> None:
            heard(side.connections[0], data)
            side.connections.pop().close("enough")

        side.heard = once  # type: ignore[method-assign]
        raw.sendall(frame(b"one") + frame(b"two"))
        wait_for(lambda: side.messages)
        wait_for(lambda: raw.recv(1000) == b"")
        assert side.messages == [b"one"]


def test_nothing_is_left_open(side: Side, make: Make, path: Path) -> None:
    """A site may restart its relay a thousand times."""
    before = open_descriptors()
    for _ in range(20):
        other = make("two")
        other.transport.connect(f"unix:{path}")
        wait_for(lambda: other.connections and side.connections)  # noqa: B023
        other.end()
        wait_for(lambda: not side.connections)
    assert open_descriptors() == before


def test_a_lack_of_descriptors_passes(side: Side, path: Path) -> None:
    """Who connects waits, and the thread does not spin meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as client:
        side.do(lambda: None)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            client.connect(str(path))
            turns = [side.do(lambda: None) for _ in range(10)]
            assert len(turns) == 10
            assert side.all == []
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wait_for(lambda: side.connections)


def test_the_pause_between_attempts_grows(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that is away for a week costs next to nothing."""
    side = make("one")
    pauses: list[float] = []
    call_at = side.poller.call_at

    def quick(moment: float, work: Callable[[], object]) -> Callable[[], None]:
        pauses.append(moment)
        return call_at(0.0, work)

    monkeypatch.setattr(side.poller, "call_at", quick)
    monkeypatch.setattr("sitebus.relay.unix.time.monotonic", lambda: 0.0)
    side.transport.connect(f"unix:{path}")
    done = threading.Event()
    wait_for(lambda: len(pauses) > 12)
    monkeypatch.undo()
    done.set()
    assert 0.03 < pauses[0] < 0.07
    assert pauses[3] > 0.2
    assert all(1.3 < pause < 2.7 for pause in pauses[6:12])


def test_a_name_that_was_said_is_the_connections(side: Side, make: Make, path: Path) -> None:
    """The mesh holds whoever answers to it."""
    other = make("two")
    other.transport.connect(f"unix:{path}", "one")
    wait_for(lambda: other.connections and side.connections)
    assert other.connections[0].name == "one"
    assert side.connections[0].name is None
    assert str(os.getpid()) in side.connections[0].address


def test_the_errno_is_kept(make: Make, side: Side, path: Path) -> None:
    """A program may look at it rather than at a sentence."""
    with pytest.raises(RelayBindError) as raised:
        make("two").transport.listen(f"unix:{path}")
    assert raised.value.errno == errno.EADDRINUSE
