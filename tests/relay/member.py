"""A node as a process of its own: ``member.py NAME ADDRESS [listen]``.

It does what its input says, a line each: ``send NUMBER`` messages, tell its ``counts``; it prints
news and answers as JSON, a line each, and leaves at the end of its input.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from sitebus.relay import Poller
from sitebus.relay.mesh import Mesh
from sitebus.relay.transport import Settings
from sitebus.relay.transport import open as open_transport


def say(*what: Any) -> None:
    # Two threads speak: `print` would write the end of a line by itself.
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


def main(name: str, address: str, listens: bool) -> None:
    poller = Poller()
    received: list[int] = []
    mesh = Mesh(
        name,
        poller,
        lambda envelope: received.append(envelope.args[0]),
        say,
        beat=0.1,
        patience=0.5,
    )
    transport = open_transport(address, poller, mesh, Settings(name, high_water=1000))
    mesh.add(transport)
    mesh.want(["c.*"])
    mesh.start()
    if listens:
        transport.listen(address)
    else:
        transport.connect(address)
    say("there")
    for line in sys.stdin:
        what, *numbers = line.split()
        if what == "send":
            for number in range(int(numbers[0])):
                mesh.send("c.x", [number, "x" * 1000])
            mesh.flush(5)
        say("did", what, len(received), len(set(received)), *mesh.counts)
    mesh.stop(1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], len(sys.argv) > 3)
