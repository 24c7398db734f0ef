"""What ``sitebus-ctl relay`` does: makes keys, without any site, and shows a relay's peers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from sitebus.cli.console import Console, table


def keygen(options: Any, as_json: bool) -> int:
    """Make the keys of a node, and say what is to be done with them; answer the exit status."""
    # Half of the relay, to no use for all other commands.
    from sitebus.relay import keys

    node = options.name or os.uname().nodename.partition(".")[0]
    secret, public_file, public = keys.generate(options.dir, node)
    told = {
        "node": node,
        "secret_file": str(secret),
        "public_file": str(public_file),
        "public_key": public.decode(),
    }
    print(json.dumps(told, indent=2) if as_json else "\n".join(_made(told)), flush=True)
    return 0


def _made(told: Mapping[str, str]) -> Iterator[str]:
    node = told["node"]
    yield f"public key of {node}: {told['public_key']}"
    yield f"{told['secret_file']} is for this node alone: keep it here"
    yield f"{told['public_file']} is for its peers: copy it into the folder peers of each"


def peers(console: Console, told: Mapping[str, Any]) -> Iterator[str]:
    """Answer how the nodes stand that a relay has met."""
    counts = told["counts"]
    yield (
        f"{console.paint(told['node'], 'bold')}  sent {counts['tx']}, received {counts['rx']}, "
        f"missed {counts['gap']}, dropped {counts['drop']}, bad {counts['bad']}"
    )
    titles = ("PEER", "STATE", "SENT", "RECEIVED", "MISSED", "DROPPED", "BAD", "ADDRESS")
    rows = [titles, *map(_peer, told["peers"])]
    yield from table(rows, indent="") if told["peers"] else ["no peer has been met"]


def _peer(told: Mapping[str, Any]) -> tuple[str, ...]:
    hub = " (hub)" if told["hub"] else ""
    counts = (str(told[each]) for each in ("sent", "received", "lost", "dropped", "bad"))
    return (told["node"] + hub, told["state"], *counts, told["address"])
