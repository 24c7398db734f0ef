"""Hosts that cannot be worked with: one clear sentence for each, and the others serve."""

from __future__ import annotations

import json
import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from sitebus import fleet as fleets
from sitebus.errors import (
    ConnectFailed,
    FleetError,
    HostKeyChanged,
)
from tests.fleet import shop
from tests.fleet.driving import BRIEF, Done, run
from tests.fleet.rig import Host, Rig, make_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


@pytest.fixture(scope="module")
def net(rig: Rig) -> Iterator[Rig]:
    """Three hosts that serve, reached by ssh."""
    if rig.method != "ssh":
        pytest.skip("needs network namespaces")
    with rig["web2"].small_disk("300k"):
        rig.serve("r1")
        yield rig
        rig["web2"].close_site()


def sentence(done: Done, host: str) -> str:
    """Answer the one sentence about a host: an error, or what stands below a table."""
    lines = (done.err or done.out).splitlines()
    (found,) = [line for line in lines if f"{host}: " in line]
    assert "Traceback" not in done.all
    return found


@contextmanager
def changed(host: Host, rig: Rig) -> Iterator[None]:
    """Have it another key than the one that is known."""
    assert host.sshd
    host.sshd.change_host_key()
    yield
    rig.remember()


@contextmanager
def unknown(host: Host, rig: Rig) -> Iterator[None]:
    assert host.sshd
    known = rig.known_hosts.read_text().replace(host.sshd.known, "")
    rig.known_hosts.write_text(known)
    yield
    rig.remember()


@contextmanager
def down(host: Host, rig: Rig) -> Iterator[None]:
    assert host.sshd
    host.sshd.stop()
    yield
    host.sshd.start()


@contextmanager
def unreachable(host: Host, rig: Rig) -> Iterator[None]:
    host.cut()
    yield
    host.mend()


Trouble = Callable[[Host, Rig], AbstractContextManager[None]]

TROUBLES: list[tuple[Trouble, type[FleetError], str]] = [
    (changed, HostKeyChanged, "another host key"),
    (unreachable, ConnectFailed, "route"),
]


@pytest.mark.parametrize(
    ("trouble", "kind", "word"), TROUBLES, ids=[each[0].__name__ for each in TROUBLES]
)
def test_a_host_that_is_not_to_be_had_is_one_sentence(
    net: Rig, trouble: Trouble, kind: type[FleetError], word: str
) -> None:
    """It says which host, and what is the matter; the others are not kept waiting."""
    with trouble(net["web2"], net), fleets.open(net.write_ini()) as fleet:
        found = fleet.connect()
        others = fleet.each(lambda host: host.engine.state, "web1", "web3")

    assert type(found["web2"]) is kind
    assert str(found["web2"]).startswith("web2: ")
    assert word in str(found["web2"])
    assert (found["web1"], found["web3"]) == (None, None)
    assert others == {"web1": "STARTED", "web3": "STARTED"}


def test_the_command_has_a_line_for_each_host_and_a_status(net: Rig) -> None:
    """Two that cannot be reached, for two reasons, and one that is well."""
    ini = net.write_ini()
    with unknown(net["web1"], net), down(net["web2"], net):
        done = run(ini, "status")

    assert done.status == 3, done.all
    assert "known_hosts" in sentence(done, "web1")
    assert "refused" in sentence(done, "web2")
    assert "web3" in done.out


def test_a_full_disk_is_found_before_anything_is_touched(net: Rig, tmp_path: Path) -> None:
    """Nothing half is left of the release, and everybody serves what there was."""
    release = shop.write_release(tmp_path / "r2", "r2")
    (release / "large.bin").write_bytes(os.urandom(1_000_000))
    with net.load() as load:
        load.go_on()
        done = run(net.write_ini(), "deploy", release, *BRIEF)
        load.go_on()

    assert done.status == 1, done.all
    assert "no room" in sentence(done, "web2")
    assert load.failures == {}
    assert [host.current for host in net.hosts] == ["r1", "r1", "r1"]
    left = [path.name for path in (net["web2"].root / "releases").iterdir()]
    assert not [name for name in left if "r2" in name]


def test_a_key_that_no_host_lets_in_is_a_denial(net: Rig) -> None:
    """By each of them, and said of each."""
    wrong = make_key(net.folder / "wrong")
    done = run(net.write_ini(fleet={"identity": wrong}), "status")

    assert done.status == 4, done.all
    for host in net.hosts:
        assert "key" in sentence(done, host.name) or "let" in sentence(done, host.name)


class Stranger(socketserver.StreamRequestHandler):
    """A site of a time to come, as its control socket answers."""

    def handle(self) -> None:
        while (line := self.rfile.readline()) and line.strip():
            pass
        body = json.dumps({"api": 99, "sitebus": "99.0"}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.wfile.write(head.encode() + body)


def test_a_site_that_speaks_another_protocol_is_left_alone(net: Rig, tmp_path: Path) -> None:
    """As one is that was upgraded before the operator's sitebus."""
    place = net.folder / "stranger.sock"
    with socketserver.ThreadingUnixStreamServer(str(place), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            ini = net.write_ini(hosts={"web3": {"socket": place}})
            done = run(ini, "deploy", shop.write_release(tmp_path / "r5", "r5"), *BRIEF)
        finally:
            server.shutdown()
            thread.join()

    assert done.status == 1, done.all
    assert "protocol" in sentence(done, "web3") or "version" in sentence(done, "web3")
    assert [host.current for host in net.hosts] == ["r1", "r1", "r1"]
