"""The options of worker processes: how many there are, how and when they are replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Literal

from sitebus.config.channels import CHANNELS
from sitebus.config.configuration import DEFAULT, Configuration, Problem
from sitebus.config.kinds import (
    BOOLEAN,
    DURATION,
    SIZE,
    BadValue,
    Choice,
    Context,
    Duration,
    Integer,
    Kind,
    Listing,
)
from sitebus.config.options import Option, Section

#: More of them would be a slip of the finger.
MOST = 1024

MONTH = 30 * 86400.0

Count = int | Literal["auto"]


class WorkerCount(Kind[Count]):
    """A number of processes, or as many as there are processors for them."""

    expected = f"a whole number from 0 to {MOST}, or auto"
    metavar = "N|auto"

    def parse(self, text: str, context: Context) -> Count:
        """Read a number or the word.

        Raises:
            BadValue: it is neither, or this platform has no worker processes.
        """
        if text.lower() == "auto":
            count: Count = "auto"
        elif re.fullmatch(r"[0-9]{1,4}", text) and int(text) <= MOST:
            count = int(text)
        else:
            raise self.bad()
        if count != 0 and not hasattr(os, "pidfd_open"):
            raise BadValue("expected 0: worker processes need Linux")
        return count


class ProbePath(Kind[str]):
    """The path of a URL, which a new worker asks itself for before it serves."""

    expected = "the path of a URL, with or without a query, such as /health"
    metavar = "PATH"

    def parse(self, text: str, context: Context) -> str:
        """Take a path that begins with one slash."""
        if not re.fullmatch(r"/(?!/)[!-~]*|/", text) or "#" in text:
            raise self.bad()
        return text


WORKERS = Section(
    "workers",
    (
        Option(
            "count",
            WorkerCount(),
            0,
            "How many processes serve; 0 is this one alone, auto one for each processor.",
        ),
        Option("preload", BOOLEAN, False, "Import once, and fork the workers from that."),
        Option(
            "probe",
            Listing(ProbePath()),
            (),
            "Paths that a new worker asks itself for before it serves; none may fail.",
        ),
        Option(
            "graceful",
            Choice("rolling", "inplace"),
            "rolling",
            "What a graceful does: replace the workers, or have each reload in place.",
        ),
        Option("surge", Integer(1, MOST), 1, "How many more there may be during a replacement."),
        Option(
            "max_unavailable",
            Integer(0, MOST),
            0,
            "How many fewer may serve during a replacement.",
        ),
        Option("boot_timeout", Duration(0.1), 60.0, "How long a worker may take until it serves."),
        Option(
            "drain_timeout",
            DURATION,
            30.0,
            "How long a worker that ends may take to finish what it serves, whichever server has "
            "it; the longest that a [server] says, where nothing is said here.",
            follows=("server", "drain_timeout"),
        ),
        Option(
            "request_timeout",
            DURATION,
            0.0,
            "After how long at one request a worker is replaced, and ended; 0 is never.",
        ),
        Option(
            "heartbeat_timeout",
            Duration(0.5),
            10.0,
            "After how long without a sign of life a worker is replaced.",
        ),
        Option(
            "max_requests",
            Integer(0, 10**12),
            0,
            "After how many requests a worker is replaced; 0 is never.",
        ),
        Option("max_rss", SIZE, 0, "Above what memory in use a worker is replaced; 0 is never."),
        Option("lifetime", Duration(0, MONTH), 0.0, "At what age one is replaced; 0 is never."),
        Option(
            "export",
            CHANNELS,
            (),
            "Channels of the bus, or patterns of them, whose messages all processes of the site "
            "hear.",
        ),
    ),
    "Processes that serve the site, and a supervisor that looks after them.",
)


def overruled(configuration: Configuration) -> Iterator[Problem]:
    """Tell of each server's ``drain_timeout`` that has no effect, because there are workers."""
    told, reload = configuration.one("workers"), configuration.one("reload")
    if not (told["count"] or (reload["enabled"] and reload["supervised"])):
        return
    counts = told.value("drain_timeout")
    for server in configuration.servers:
        said = server.value("drain_timeout")
        if said.origin != DEFAULT and said.value != counts.value:
            why = "the longest of all servers" if counts.origin == DEFAULT else counts.origin
            message = (
                f"drain_timeout = {said.text} has no effect: there are workers, and theirs is "
                f"{counts.text} ({why})"
            )
            yield Problem(said.origin, message)
