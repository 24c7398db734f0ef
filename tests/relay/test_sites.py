"""Whole sites with workers as nodes of a relay: each process hears each message once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from sitebus.errors import RequestRefused, SitebusError
from sitebus.relay import keys
from tests.helpers import environment, wait_for
from tests.relay.nodes import Node
from tests.relay.sites import RelaySite, write

CROSSING = "export = cache.*, ask.*\nimport = cache.*, ask.*\nheartbeat = 200ms\n"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RelaySite, RelaySite]]:
    """Two sites of two workers each, which tell each other of ``cache.*``."""
    with two_sites(tmp_path) as sites:
        yield sites


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RelaySite, RelaySite]]:
    """Two such sites for those who leave them as they are."""
    with two_sites(tmp_path_factory.mktemp("standing")) as sites:
        yield sites


class two_sites(ExitStack):  # noqa: N801 - read as a function
    def __init__(self, folder: Path, *, workers: int = 2, more: str = "") -> None:
        super().__init__()
        address = f"unix:{folder}/relay.sock"
        settings: dict[str, Any] = {"workers": workers, "more": more}
        write(folder / "one", f"node = one\nbind = {address}\n{CROSSING}", **settings)
        write(folder / "two", f"node = two\npeers = {address}\n{CROSSING}", **settings)
        self.one = self.enter_context(RelaySite(folder / "one"))
        self.two = self.enter_context(RelaySite(folder / "two"))
        self.one.wait_for_peers("two")
        self.two.wait_for_peers("one")

    def __enter__(self) -> tuple[RelaySite, RelaySite]:  # type: ignore[override]
        super().__enter__()
        return self.one, self.two


def test_a_message_of_a_worker_reaches_every_process_once(
    pair: tuple[RelaySite, RelaySite],
) -> None:
    """Its siblings, and the workers of the other site; it goes over the relay once, and stays."""
    one, two = pair
    one.ask("/publish", "cache.x", 1)
    two.ask("/publish", "cache.x", 2)
    for site in pair:
        wait_for(lambda: all(len(heard) == 2 for heard in site.heard()), 20)  # noqa: B023
    # What would have come twice had its time while the last of these came.
    one.ask("/publish", "cache.last", 3)
    wait_for(lambda: all(heard[-1] == ["cache.last", 3] for heard in two.heard()), 20)
    for heard in (*one.heard(), *two.heard()):
        assert sorted(heard[:2]) == [["cache.x", 1], ["cache.x", 2]]
        assert len(heard) == 3
    assert (one.relay["counts"]["tx"], one.relay["counts"]["rx"]) == (2, 1)
    assert (two.relay["counts"]["tx"], two.relay["counts"]["rx"]) == (1, 2)


def test_one_process_takes_part_as_well(tmp_path: Path) -> None:
    """Without workers there is no supervisor, and the site is the node."""
    with two_sites(tmp_path, workers=0) as (one, two):
        one.ask("/publish", "cache.x", 1)
        wait_for(lambda: two.heard() == [[["cache.x", 1]]])
        assert one.heard() == [[["cache.x", 1]]]
        assert one.ask("/call", "ask.pid")["found"] == {"two": f"[{two.pid}]"}


def test_news_is_heard_in_workers(pair: tuple[RelaySite, RelaySite]) -> None:
    """An application may want to know that it is alone."""
    one, two = pair
    assert two.stop() == 0
    gone = ["relay.peer", "two", "down"]
    wait_for(lambda: all(gone in told["news"] for told in one.ask_all()), 20)
    one.wait_for_output("relay: two is down")
    assert one.ask("/peers")["found"] == ["two"]


def test_a_call_of_a_worker_is_answered_by_every_process(
    standing: tuple[RelaySite, RelaySite],
) -> None:
    """The answer of a site is that of all its listeners; each is asked once."""
    one, two = standing
    (answer,) = one.ask("/call", "ask.pid")["found"].items()
    pids = {int(each) for each in answer[1].strip("[]").split(", ")}
    assert answer[0] == "two"
    assert pids == two.pids
    (broken,) = one.ask("/call", "ask.broken")["found"].values()
    assert "ZeroDivisionError" in broken


def test_a_call_may_be_answered_by_a_subscriber_in_a_worker(
    standing: tuple[RelaySite, RelaySite],
) -> None:
    """By way of the supervisor, as it came."""
    one, two = standing
    pid = two.ask("/vote")["pid"]
    wait_for(lambda: "vote" in one.relay["peers"][0]["wants"])
    assert one.ask("/call", "vote")["found"] == {"two": f"{{'pid': {pid}}}"}


def test_operators_see_news_as_events(standing: tuple[RelaySite, RelaySite]) -> None:
    """``sitebus-ctl events -f`` tells who comes and goes."""
    one, _ = standing
    events = one.control.follow("/v1/events?channel=relay.*&follow=no")
    assert ["two", "up"] in [event.said["args"] for event in events if event.name == "relay.peer"]


def test_publishers_and_subscribers_work_in_workers(pair: tuple[RelaySite, RelaySite]) -> None:
    """By way of the supervisor, which alone has connections."""
    one, two = pair
    two.ask("/subscribe", "group", "direct.*")
    wait_for(lambda: "direct.*" in one.relay["peers"][0]["wants"])
    one.ask("/put", ["group", "direct.1"], {"do": "it"})
    wait_for(lambda: [each["got"] for each in two.ask_all() if each["got"]] == [[{"do": "it"}] * 2])
    subscriber = next(each["pid"] for each in two.ask_all() if each["got"])
    # What a worker wanted is not sent any more when it is gone.
    os.kill(subscriber, signal.SIGKILL)
    wait_for(lambda: "direct.*" not in one.relay["peers"][0]["wants"], 20)


def test_each_subscriber_of_a_worker_gets_a_message_once(tmp_path: Path) -> None:
    """However many there are for its channel in that worker."""
    with two_sites(tmp_path, workers=1) as (one, two):
        two.ask("/overlap")
        wait_for(lambda: "over.*" in one.relay["peers"][0]["wants"])
        one.ask("/put", ["over.x", "over.y"], 1)
        wait_for(lambda: len(two.ask()["got"]) >= 4)
        one.ask("/put", ["over.x"], 2)
        wait_for(lambda: two.ask()["got"].count(2) == 3)
        assert two.ask()["got"].count(1) == 4


def test_a_call_of_a_worker_has_room_for_all_answers(tmp_path: Path) -> None:
    """Each node may say as much as fits into a message, however many of them there are."""
    address = f"unix:{tmp_path}/relay.sock"
    write(tmp_path / "one", f"node = one\nbind = {address}\n{CROSSING}", workers=1)
    with RelaySite(tmp_path / "one") as one, ExitStack() as stack:
        for name in "abc":
            node = Node(name, peers=address, import_="ask.*")
            node.bus.subscribe("ask.much", lambda: "x" * 150_000)
            stack.enter_context(node.relay)
            assert node.relay.wait_peers("one")
        one.wait_for_peers("a", "b", "c")
        found = one.ask("/call", "ask.much")["found"]
        assert {name: len(text) for name, text in found.items()} == dict.fromkeys("abc", 150_004)


def test_what_a_worker_cannot_subscribe_to_is_refused_there(tmp_path: Path) -> None:
    """In one sentence, as in the site's own process."""
    write(tmp_path / "one", f"node = one\nbind = unix:{tmp_path}/relay.sock", workers=1)
    with RelaySite(tmp_path / "one") as one:
        assert one.ask("/refused", "a\nb")["found"].startswith("BadName: cannot relay for pattern")
        assert one.ask("/call", "a\nb")["found"].startswith("BadName: cannot relay for channel")
        one.ask("/subscribe", *map(str, range(2000)))
        one.wait_for_output("worker 1: cannot want 2000 patterns")
        assert "Traceback" not in one.output


def test_what_is_too_large_is_refused_in_the_worker(pair: tuple[RelaySite, RelaySite]) -> None:
    """Where somebody can do something about it, also if it only just fits on its first way."""
    one, two = pair
    for path in ("/publish_large", "/put_large"):
        for size in (300_000, 262_000):
            assert one.ask(path, size)["found"].startswith("MessageTooLarge: ")
        assert one.ask(path, 255_000)["found"] is None
    wait_for(lambda: all(len(heard) == 2 for heard in two.heard()), 20)
    assert [len(text) for heard in two.heard() for _, text in heard] == [255_000] * 4
    assert two.relay["counts"]["rx"] == 2


def test_a_roll_loses_nobody(pair: tuple[RelaySite, RelaySite]) -> None:
    """New workers hear what comes after them."""
    one, two = pair
    two.signal(signal.SIGHUP)
    two.wait_for_output("roll done|rolling.*done|replaced")
    one.ask("/publish", "cache.x", 1)
    wait_for(lambda: two.heard() == [[["cache.x", 1]]] * 2, 20)


def test_a_restart_in_place_comes_back_as_somebody_new(
    pair: tuple[RelaySite, RelaySite],
) -> None:
    """Same process, another epoch: no loss is told of."""
    one, two = pair
    one.ask("/publish", "cache.x", 1)
    wait_for(lambda: all(two.heard()), 20)
    before = one.relay["epoch"]
    one.signal(signal.SIGUSR2)
    wait_for(lambda: epoch_of(one) not in ("", before), 30)
    two.wait_for_peers("one")
    one.wait_for_peers("two")
    wait_for(lambda: len(one.ask_all()) == 2, 20)
    one.ask("/publish", "cache.x", 2)
    wait_for(lambda: all(heard[-1:] == [["cache.x", 2]] for heard in two.heard()), 20)
    assert two.relay["counts"]["gap"] == 0
    assert one.stop() == 0


def epoch_of(site: RelaySite) -> str:
    try:
        return str(site.relay["epoch"])
    except SitebusError:  # between two images there is nobody to ask
        return ""


def test_metrics_tell_of_the_relay(tmp_path: Path) -> None:
    """Once for the site, not once for each worker."""
    more = "[health]\nbind = unix:health.sock\n"
    with two_sites(tmp_path, more=more) as (one, two):
        one.ask("/publish", "cache.x", 1)
        wait_for(lambda: all(two.heard()), 20)
        text = metrics(tmp_path / "two/health.sock")
        assert "sitebus_relay_rx_total 1\n" in text
        assert "sitebus_relay_peers_up 1\n" in text
        for name in ("tx", "gap", "drop", "bad"):
            assert f"sitebus_relay_{name}_total 0\n" in text


def metrics(path: Path) -> str:
    found = subprocess.run(
        ["curl", "-s", "--unix-socket", path, "http://localhost/metrics"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return found.stdout


def test_who_says_what_makes_no_sense_is_told_of_once(tmp_path: Path) -> None:
    """Another version of the protocol, no JSON, too much of it: the site goes on."""
    address = tmp_path / "relay.sock"
    write(
        tmp_path / "one",
        f"node = one\nbind = unix:{address}\nimport = *\nheartbeat = 100ms",
        workers=0,
    )
    with RelaySite(tmp_path / "one") as one:
        hello = json.dumps({"v": 1, "is": "hello", "node": "x", "ep": "1", "wants": [], "no": 1})
        later = json.dumps({"v": 2, "is": "hello", "node": "y", "ep": "1", "wants": []})
        for text in (later, hello + "}", "[1]", "\ud800", "x" * 300_000):
            strange(address, text)
        wait_for(lambda: one.relay["counts"]["bad"] >= 4)
        one.wait_for_output("WARNING sitebus: relay: .*version 1")
        assert "Traceback" not in one.output
        assert one.ask()["heard"] == []
        assert one.stop() == 0


def strange(address: Path, text: str) -> None:
    """Say something to a relay, in a frame, and leave."""
    data = text.encode(errors="surrogatepass")
    with socket.socket(socket.AF_UNIX) as sock, suppress(BrokenPipeError, ConnectionResetError):
        sock.settimeout(10)
        sock.connect(str(address))
        sock.sendall(len(data).to_bytes(4, "big") + data)
        while sock.recv(65536):
            pass


def test_a_site_without_a_relay_says_so(tmp_path: Path) -> None:
    """To an operator who asks for its peers."""
    write(tmp_path / "one", "", workers=0)
    with RelaySite(tmp_path / "one") as one, pytest.raises(RequestRefused, match="no node"):
        one.control.get("/v1/relay")


# What is refused, in one sentence and with a status.


def refused(tmp_path: Path, relay: str, status: int, more: str = "") -> str:
    """Serve, expect that it does not, and answer what was said."""
    write(tmp_path / "site", relay, workers=0, more=more)
    done = subprocess.run(
        [sys.executable, "-m", "sitebus", "site.ini"],
        cwd=tmp_path / "site",
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_an_address_in_use_is_a_sentence(tmp_path: Path) -> None:
    """Whoever holds it goes on."""
    address = f"unix:{tmp_path}/relay.sock"
    write(tmp_path / "one", f"node = one\nbind = {address}", workers=0)
    with RelaySite(tmp_path / "one") as one:
        said = refused(tmp_path, f"node = two\nbind = {address}", 69)
        assert said.count("cannot relay at") == 1
        assert one.relay["node"] == "one"


@pytest.mark.parametrize(
    ("relay", "said"),
    [
        ("bind = tcp://0.0.0.0:5555", "sitebus-ctl relay keygen"),
        ("bnd = unix:x", "did you mean 'bind'?"),
        ("bind = unix:x\nexport = stop", "[relay command]"),
        ("export = cache.*", "of no use without bind or peers"),
        ("bind = unix:x\nhigh_water = 0", "expected a whole number from 1"),
    ],
)
def test_what_the_file_says_wrong_is_a_sentence(tmp_path: Path, relay: str, said: str) -> None:
    """With the line, before anything is opened."""
    found = refused(tmp_path, relay, 78)
    assert said in found
    assert "site.ini:" in found


def test_a_bad_key_file_is_a_sentence(tmp_path: Path) -> None:
    """Named, and the site does not start without its keys."""
    keys = tmp_path / "site/keys"
    keys.mkdir(parents=True)
    (keys / "one.key_secret").write_text("nonsense\n")
    (keys / "one.key_secret").chmod(0o600)
    found = refused(tmp_path, "node = one\nbind = tcp://127.0.0.1:0\nkeys = keys", 78)
    assert found.count("one.key_secret") == 1
    (keys / "one.key_secret").unlink()
    assert "keygen" in refused(tmp_path, "node = one\nbind = tcp://127.0.0.1:0\nkeys = keys", 66)


# Over ZeroMQ, with keys.


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[tuple[RelaySite, RelaySite]]:
    """Two sites of two workers each that know each other by their keys."""
    for name, other in (("one", "two"), ("two", "one")):
        _, public, _ = keys.generate(tmp_path / name / "keys", name)
        theirs = tmp_path / other / "keys/peers"
        theirs.mkdir(parents=True, exist_ok=True)
        shutil.copy(public, theirs)
    told = f"keys = keys\n{CROSSING}"
    write(tmp_path / "one", f"node = one\nbind = tcp://127.0.0.1:{free_port()}\n{told}")
    with RelaySite(tmp_path / "one") as one:
        (address,) = one.relay["addresses"]
        write(tmp_path / "two", f"node = two\npeers = one={address}\n{told}")
        with RelaySite(tmp_path / "two") as two:
            two.wait_for_peers("one")
            one.wait_for_peers("two")
            yield one, two


def free_port() -> int:
    """Answer a port that the system gives to nobody; a restart has to find it free again."""
    for port in range(20000, 30000, 7):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def test_sites_know_each_other_by_their_keys(keyed: tuple[RelaySite, RelaySite]) -> None:
    """Each process hears each message once, and calls are answered by all."""
    one, two = keyed
    one.ask("/publish", "cache.x", 1)
    wait_for(lambda: two.heard() == [[["cache.x", 1]]] * 2, 20)
    assert one.heard() == [[["cache.x", 1]]] * 2
    (answer,) = two.ask("/call", "ask.pid")["found"].values()
    assert {int(each) for each in answer.strip("[]").split(", ")} == one.pids


def test_a_restart_in_place_listens_at_the_same_port(keyed: tuple[RelaySite, RelaySite]) -> None:
    """The image before it has closed it; peers come back by themselves, and nothing is a loss."""
    one, two = keyed
    before = one.relay
    one.signal(signal.SIGUSR2)
    wait_for(lambda: epoch_of(one) not in ("", before["epoch"]), 40)
    assert one.relay["addresses"] == before["addresses"]
    two.wait_for_peers("one")
    one.wait_for_peers("two")
    one.control.post("/v1/publish", {"channel": "cache.x", "args": [2]}, 10)
    wait_for(lambda: all(heard[-1:] == [["cache.x", 2]] for heard in two.heard()), 20)
    assert two.relay["counts"]["gap"] == 0


def test_a_restart_without_keys_is_refused_before_anything_stops(
    keyed: tuple[RelaySite, RelaySite], tmp_path: Path
) -> None:
    """The old image goes on, with its connections."""
    one, two = keyed
    before = one.relay["epoch"]
    (tmp_path / "one/keys/one.key_secret").unlink()
    one.signal(signal.SIGUSR2)
    one.wait_for_output("one.key_secret", 40)
    assert one.relay["epoch"] == before
    two.ask("/publish", "cache.x", 3)
    wait_for(lambda: all(one.heard()), 20)


def test_an_address_of_another_program_is_a_sentence(tmp_path: Path) -> None:
    """With the status for it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(tmp_path, f"node = two\nbind = tcp://127.0.0.1:{port}", 69)
        assert said.count(f"cannot relay at tcp://127.0.0.1:{port}") == 1
