"""What the relay costs, between two processes on loopback, encrypted with CURVE keys.

    python -m benchmarks.relay [PART ...] [--rounds N] [--seconds S] [--rate R] [--burst N]

Linux, with the extra ``relay``. One process sends, another receives. The parts, all by default:

latency
    From `Mesh.send` in a thread to the remote receiver, at 500 messages a second; the same from
    `bus.publish` to the remote listener; and, in the same run, from ``send`` to ``recv`` of two
    plain pyzmq sockets, ``PUSH`` and ``PULL`` with the same keys, which is the floor.
rate
    20,000 messages a second for 10 s: what came, and what was lost.
burst
    200,000 messages as fast as they can be sent: what came, what was reported as lost, and that
    both together are all; and how many plain sockets carry.

Messages are those of `Mesh.send` with two values, about 200 bytes of JSON; the plain sockets carry
as many bytes, and nobody reads what they mean.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from sitebus.process import Engine
from sitebus.relay import Poller
from sitebus.relay import keys as keys_
from sitebus.relay.envelope import Envelope
from sitebus.relay.keys import Keys
from sitebus.relay.mesh import Mesh
from sitebus.relay.plugin import Relay
from sitebus.relay.transport import Settings
from sitebus.relay.zeromq import ZeroMQTransport

ROUNDS = 3
SECONDS = 10.0
RATE = 20_000
BURST = 200_000
#: Messages a second, and how many, for latencies.
SLOWLY, ASKED = 500, 1500
#: How long everything may take that should take a moment; seconds.
PATIENCE = 60.0
#: Microseconds.
GOAL = 300.0
CHANNEL = "bench.message"
#: What a message of ours has besides the moment, and as many bytes for a plain socket.
TEXT, PLAIN = "x" * 24, 200
PARTS = ("latency", "rate", "burst")
WAYS = ("mesh", "bus", "plain")


class Count:
    """What one process has received."""

    def __init__(self) -> None:
        self.came = self.lost = 0
        self.delays: list[float] = []
        self.first = self.last = 0.0

    def take(self, sent: float) -> None:
        """Count a message; *sent* is when, or 0 if nobody asks."""
        now = time.monotonic()
        self.first = self.first or now
        self.last = now
        self.came += 1
        if sent:
            self.delays.append(now - sent)

    def news(self, channel: str, *args: Any) -> None:
        """Count what is reported as lost."""
        if channel == "relay.gap":
            self.lost += args[2]
        elif channel == "relay.drop":
            # Here: who sends is asked for nothing else.
            self.lost += args[1]

    def report(self) -> dict[str, Any]:
        """Answer everything, and begin anew."""
        told = dict(vars(self))
        self.__init__()  # type: ignore[misc]
        return told


def verdict(well: bool) -> str:
    return "ok" if well else "MISSED"


# The process that receives.


def receive(way: str, folder: Path, address: str) -> None:
    """Receive until standard input ends; a line there asks for a report."""
    count = Count()
    with ExitStack() as stack:
        stack.enter_context(_RECEIVERS[way](count, keys_.load(folder / "sub", "sub"), address))
        for _ in sys.stdin:
            print(json.dumps(count.report()), flush=True)


@contextmanager
def _mesh(count: Count, keys: Keys, address: str) -> Iterator[None]:
    poller = Poller()
    mesh = Mesh("sub", poller, lambda envelope: count.take(envelope.args[0]), count.news)
    mesh.want(["bench.*"])
    transport = ZeroMQTransport(poller, mesh, Settings("sub", keys=keys))
    mesh.add(transport)
    mesh.start()
    transport.connect(address, "pub")
    yield
    mesh.stop()
    poller.stop()


@contextmanager
def _bus(count: Count, keys: Keys, address: str) -> Iterator[None]:
    bus = Engine()
    bus.subscribe(CHANNEL, lambda sent, text: count.take(sent))
    for channel in ("relay.gap", "relay.drop"):
        bus.subscribe(channel, partial(count.news, channel))
    folder = keys._directory.parent
    relay = Relay(bus, node="sub", peers=f"pub={address}", keys=folder, import_="bench.*")
    with relay:
        yield


@contextmanager
def _plain(count: Count, keys: Keys, address: str) -> Iterator[None]:
    threading.Thread(target=_pull, args=(count, keys, address), daemon=True).start()
    yield


def _pull(count: Count, keys: Keys, address: str) -> None:
    sock: zmq.Socket[bytes] = zmq.Context().socket(zmq.PULL)
    sock.rcvhwm = 0
    _secure(sock, keys)
    sock.curve_serverkey = keys.peers()["pub"]
    sock.connect(address)
    while True:
        count.take(float(sock.recv()[:24]))


def _secure(sock: zmq.Socket[bytes], keys: Keys) -> None:
    sock.curve_publickey, sock.curve_secretkey = keys.public, keys.secret


_RECEIVERS = {"mesh": _mesh, "bus": _bus, "plain": _plain}


class Receiver:
    """The other process."""

    def __init__(self, way: str, folder: Path, address: str) -> None:
        argv = [sys.executable, "-m", "benchmarks.relay", "--receive", way, str(folder), address]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def report(self) -> dict[str, Any]:
        """Answer what has come since it was asked last."""
        assert self._process.stdin
        assert self._process.stdout
        print(file=self._process.stdin, flush=True)
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told

    def all_of(self, count: int) -> dict[str, Any]:
        """Answer what has come once it is *count* with what is reported as lost."""
        end = time.monotonic() + PATIENCE
        found = self.report()
        while found["came"] + found["lost"] < count and time.monotonic() < end:
            time.sleep(0.2)
            more = self.report()
            found["first"] = found["first"] or more["first"]
            found["last"] = more["last"] or found["last"]
            for each in ("came", "lost", "delays"):
                found[each] += more[each]
        return found

    def end(self) -> None:
        """End it."""
        self._process.communicate(timeout=PATIENCE)


# The process that sends.


class Sender:
    """Sends by one way to a process that receives."""

    def __init__(self, send: Callable[[float], object], receiver: Receiver) -> None:
        self.send = send
        self.receiver = receiver


@contextmanager
def mesh(folder: Path) -> Iterator[Sender]:
    """Answer one that sends by `Mesh.send`."""
    there = threading.Event()
    poller = Poller()

    def news(channel: str, *args: Any) -> None:
        if channel == "relay.peer" and args[1] == "up":
            there.set()

    node = Mesh("pub", poller, _ignore, news)
    transport = ZeroMQTransport(
        poller, node, Settings("pub", keys=keys_.load(folder / "pub", "pub"))
    )
    node.add(transport)
    node.start()
    receiver = Receiver("mesh", folder, transport.listen("tcp://127.0.0.1:0"))
    if not there.wait(PATIENCE):
        raise TimeoutError("the other process is not there")
    yield Sender(lambda sent: node.send(CHANNEL, (sent, TEXT)), receiver)
    receiver.end()
    node.stop()
    poller.stop()


def _ignore(envelope: Envelope) -> None:
    """Nobody sends anything to who sends here."""


@contextmanager
def bus(folder: Path) -> Iterator[Sender]:
    """Answer one that sends by `bus.publish`."""
    site = Engine()
    keys = folder / "pub"
    relay = Relay(site, node="pub", bind="tcp://127.0.0.1:0", keys=keys, export="bench.*")
    site.subscribe(CHANNEL, lambda sent, text: None)
    with relay:
        receiver = Receiver("bus", folder, relay.addresses[0])
        if not relay.wait_peers("sub", timeout=PATIENCE):
            raise TimeoutError("the other process is not there")
        yield Sender(lambda sent: site.publish(CHANNEL, sent, TEXT), receiver)
        receiver.end()


@contextmanager
def plain(folder: Path) -> Iterator[Sender]:
    """Answer one that sends by a plain socket."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sock = context.socket(zmq.PUSH)
    sock.sndhwm = 0
    sock.curve_server = True
    _secure(sock, keys_.load(folder / "pub", "pub"))
    sock.bind("tcp://127.0.0.1:0")
    receiver = Receiver("plain", folder, sock.getsockopt_string(zmq.LAST_ENDPOINT))
    padding = b" " * PLAIN
    # It waits until somebody is there.
    sock.send(b"0".ljust(PLAIN))
    receiver.all_of(1)
    yield Sender(lambda sent: sock.send((b"%.9f" % sent + padding)[:PLAIN]), receiver)
    receiver.end()
    context.destroy(linger=0)


SENDERS = {"mesh": mesh, "bus": bus, "plain": plain}


def paced(send: Callable[[float], object], count: int, rate: float, timed: bool) -> float:
    """Send *count* messages, *rate* a second, and answer how many a second it really was."""
    begun = time.monotonic()
    for number in range(count):
        due = begun + number / rate
        while (left := due - time.monotonic()) > 0:
            time.sleep(max(left, 0.0005))
        send(time.monotonic() if timed else 0.0)
    return count / (time.monotonic() - begun)


def latency(folder: Path, rounds: int) -> bool:
    """Measure how long one message takes."""
    print(f"\nlatency at {SLOWLY}/s, microseconds\n{'':8}{'p50':>8}{'p99':>8}{'x floor':>10}")
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            with SENDERS[way](folder) as sender:
                paced(sender.send, 200, SLOWLY, timed=True)
                sender.receiver.all_of(200)
                paced(sender.send, ASKED, SLOWLY, timed=True)
                delays = sender.receiver.all_of(ASKED)["delays"]
                cuts = statistics.quantiles(delays, n=100)
                found[way].append((cuts[49] * 1e6, cuts[98] * 1e6))
    middle = {
        way: [statistics.median(each) for each in zip(*found[way], strict=True)] for way in WAYS
    }
    for way, (half, most) in middle.items():
        print(f"{way:8}{half:8.0f}{most:8.0f}{half / middle['plain'][0]:10.2f}")
    well = bool(max(middle["mesh"][0], middle["bus"][0]) < GOAL)
    print(f"p50 below {GOAL:.0f}: {verdict(well)}")
    return well


def rate(folder: Path, rate: int, seconds: float) -> bool:
    """Send for a while at a rate, and see whether all comes."""
    print(
        f"\n{rate}/s for {seconds:.0f} s\n{'':8}{'sent/s':>8}{'came':>9}{'lost':>8}{'missing':>9}"
    )
    well = True
    for way in ("mesh", "bus"):
        with SENDERS[way](folder) as sender:
            count = int(rate * seconds)
            real = paced(sender.send, count, rate, timed=False)
            told = sender.receiver.all_of(count)
            missing = count - told["came"] - told["lost"]
            print(f"{way:8}{real:8.0f}{told['came']:9}{told['lost']:8}{missing:9}")
            well &= told["came"] == count and real > 0.99 * rate
    print(f"all came, at that rate: {verdict(well)}")
    return well


def burst(folder: Path, count: int) -> bool:
    """Send as fast as can be, and see whether all comes or is reported."""
    head = f"{'':8}{'sent/s':>8}{'came':>9}{'came/s':>9}{'lost':>8}{'missing':>9}"
    print(f"\n{count} at once\n{head}")
    well = True
    for way in WAYS:
        with SENDERS[way](folder) as sender:
            begun = time.monotonic()
            for _ in range(count):
                sender.send(0.0)
            sent = count / (time.monotonic() - begun)
            told = sender.receiver.all_of(count)
            speed = told["came"] / (told["last"] - told["first"])
            missing = count - told["came"] - told["lost"]
            print(f"{way:8}{sent:8.0f}{told['came']:9}{speed:9.0f}{told['lost']:8}{missing:9}")
            well &= missing == 0
    print(f"all came or was reported: {verdict(well)}")
    return well


def make_keys(folder: Path) -> None:
    """Have two nodes know each other."""
    for name, other in (("pub", "sub"), ("sub", "pub")):
        _, public, _ = keys_.generate(folder / name, name)
        (folder / other / "peers").mkdir(parents=True, exist_ok=True)
        (folder / other / "peers" / public.name).write_bytes(public.read_bytes())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and answer 1 if a goal was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--burst", type=int, default=BURST)
    parser.add_argument("--receive", nargs=3, help=argparse.SUPPRESS)
    wanted = parser.parse_args(argv)
    if wanted.receive:
        way, keys, address = wanted.receive
        receive(way, Path(keys), address)
        return 0
    parts: dict[str, Callable[[Path], bool]] = {
        "latency": lambda folder: latency(folder, wanted.rounds),
        "rate": lambda folder: rate(folder, wanted.rate, wanted.seconds),
        "burst": lambda folder: burst(folder, wanted.burst),
    }
    with tempfile.TemporaryDirectory() as folder:
        make_keys(Path(folder))
        results = [parts[part](Path(folder)) for part in wanted.parts or PARTS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
