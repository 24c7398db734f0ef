"""What a supervisor leaves to its next image: its workers, which go on serving meanwhile.

A file says what is known of each; its link and a descriptor of its process stay open over the exec,
under names that have its serial. What was under way on a link is in the file.
"""

from __future__ import annotations

import os
import socket
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple

from sitebus import legacy
from sitebus.relay import Rest

#: The name of the file.
NAME = "workers"

Claim = Callable[[str], int | None]


class Heirloom(NamedTuple):
    """One worker on its way from one image to the next."""

    serial: int
    slot: int
    pid: int
    of_ours: bool
    mounts: list[tuple[str, str, str]]
    link: socket.socket
    pidfd: int
    rest: Rest

    def close(self) -> None:
        """Give it up: without its link it will finish and leave."""
        self.link.close()
        os.close(self.pidfd)


def leave(
    told: Mapping[str, Any], workers: Iterable[Heirloom], legacies: MutableMapping[str, int]
) -> None:
    """Put everything where an exec hands it down.

    Raises:
        OSError: There is no descriptor to be had; nothing is handed down.
    """
    rows = [
        {
            "serial": each.serial,
            "slot": each.slot,
            "pid": each.pid,
            "of_ours": each.of_ours,
            "mounts": each.mounts,
            "begun": b64encode(each.rest.begun).decode(),
            "unsent": b64encode(each.rest.unsent).decode(),
        }
        for each in workers
    ]
    legacies[NAME] = legacy.write({"told": told, "workers": rows})
    for each in workers:
        legacies[_link(each.serial)] = each.link.detach()
        legacies[_process(each.serial)] = each.pidfd


def take(claim: Claim) -> tuple[dict[str, Any], list[Heirloom]] | None:
    """Answer what the image before this one has left; None if there was none that had workers."""
    fd = claim(NAME)
    if fd is None:
        return None
    try:
        left = legacy.read(fd)
        return dict(left["told"]), list(_heirlooms(left["workers"], claim))
    except (ValueError, KeyError, TypeError):
        return None  # of another version: whoever is not claimed is closed, and leaves


def _heirlooms(rows: Iterable[Mapping[str, Any]], claim: Claim) -> Iterator[Heirloom]:
    for row in rows:
        link, pidfd = claim(_link(row["serial"])), claim(_process(row["serial"]))
        if link is None or pidfd is None:
            for fd in (link, pidfd):
                with suppress(TypeError, OSError):
                    os.close(fd)  # type: ignore[arg-type]  # the one that is there
            continue
        yield Heirloom(
            int(row["serial"]),
            int(row["slot"]),
            int(row["pid"]),
            bool(row["of_ours"]),
            [(str(a), str(b), str(c)) for a, b, c in row["mounts"]],
            socket.socket(fileno=link),
            pidfd,
            Rest(b64decode(row["begun"]), b64decode(row["unsent"])),
        )


def _link(serial: int) -> str:
    return f"worker {serial} link"


def _process(serial: int) -> str:
    return f"worker {serial} process"
