"""A node as a process of its own: ``mesh_node.py PIPE NAME KEYS [bind=ADDRESS] [PEER=ADDRESS]...``.

It prints a line for whatever its mesh tells, and does what lines in the named pipe say: ``want
PATTERN``, ``go RATE`` (send so many a second until ``halt``, which prints how many), ``report``. It
ends with the pipe.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from typing import Any

from sitebus.relay import Poller, keys
from sitebus.relay.envelope import Envelope
from sitebus.relay.mesh import Mesh
from sitebus.relay.transport import Settings
from sitebus.relay.zeromq import ZeroMQTransport

CHANNEL = "cache.invalidate"


def say(*words: object) -> None:
    # Two threads speak: `print` would write the end of a line by itself.
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


class Node:
    def __init__(self, name: str, folder: str, *addresses: str) -> None:
        self.received: Counter[str] = Counter()
        self.last: dict[str, int] = {}
        self.in_order = True
        self.gaps = 0
        self.stopped = threading.Event()
        self.sender: threading.Thread | None = None
        self.sent = 0
        self.poller = Poller()
        self.mesh = Mesh(name, self.poller, self.receive, self.news)
        settings = Settings(name, keys=keys.load(folder, name))
        transport = ZeroMQTransport(self.poller, self.mesh, settings)
        self.mesh.add(transport)
        self.mesh.start()
        for each in addresses:
            which, _, address = each.partition("=")
            if which == "bind":
                say("bound", transport.listen(address))
            else:
                transport.connect(address, which)

    def receive(self, envelope: Envelope) -> None:
        self.received[envelope.ep] += 1
        self.in_order &= envelope.args[0] > self.last.get(envelope.ep, -1)
        self.last[envelope.ep] = envelope.args[0]

    def news(self, channel: str, *args: Any) -> None:
        if channel == "relay.gap":
            self.gaps += args[2]
        say(channel, *args)

    def want(self, pattern: str) -> None:
        self.mesh.want([pattern])

    def go(self, rate: str) -> None:
        self.stopped.clear()
        self.sender = threading.Thread(target=self.send, args=(float(rate),))
        self.sender.start()

    def send(self, rate: float) -> None:
        begun = time.monotonic() - self.sent / rate
        while not self.stopped.wait(max(0.0, begun + self.sent / rate - time.monotonic())):
            self.mesh.send(CHANNEL, [self.sent])
            self.sent += 1

    def halt(self) -> None:
        self.stopped.set()
        assert self.sender is not None
        self.sender.join()
        say("sent", self.sent)

    def report(self) -> None:
        told = {"received": self.received, "last": self.last, "gaps": self.gaps}
        say("report", json.dumps(told | {"in_order": self.in_order}))

    def obey(self, pipe: str) -> None:
        with open(pipe) as lines:
            for line in lines:
                command, *arguments = line.split()
                getattr(self, command)(*arguments)
        self.stopped.set()
        self.mesh.stop()
        self.poller.stop()


if __name__ == "__main__":
    Node(*sys.argv[2:]).obey(sys.argv[1])
