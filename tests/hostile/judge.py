"""What is wrong with what a client got, with what applications saw of it, and with a log."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence

from tests.hostile.answers import read_answers
from tests.hostile.conversation import Outcome
from tests.hostile.entries import BROKEN, MARK, REFUSED, SERVED, Entry
from tests.hostile.recorder import Record

#: Lines of one kind that may be logged in ten seconds, with the one that counts the others.
LINES = 11


def judge(
    entry: Entry, outcome: Outcome, records: Sequence[Record], threads: bool, single: bool
) -> list[str]:
    """Answer what is wrong with what a client got, and with what applications saw of it.

    Args:
        entry: What the client did.
        outcome: What it got.
        records: What applications saw.
        threads: A thread waits for each body.
        single: The server takes one request on a connection.
    """
    most = min(entry.requests, 1) if single else entry.requests
    problems = [] if entry.leaves else _bad_answers(entry, outcome, most)
    waits = entry.only_threads and not (threads or entry.place == "/w")
    if not outcome.closed and not waits:
        problems.append(f"still open after {outcome.seconds:.1f} s")
    return problems + _bad_records(entry, records, most)


def _bad_answers(entry: Entry, outcome: Outcome, most: int) -> list[str]:
    # An alert is how TLS refuses.
    received = re.sub(rb"\A\x15\x03.\x00\x02..", b"", outcome.received, flags=re.DOTALL)
    answers = read_answers(
        received if entry.tls else outcome.received, closed=outcome.closed, switches=entry.switches
    )
    problems = [answers.wrong] if answers.wrong else []
    good = answers.good
    if entry.expect in (REFUSED, BROKEN):
        most = 0
    if good > most or (entry.expect is SERVED and good != most):
        problems.append(f"{good} good answers, not {most}: {answers.statuses[-5:]}")
    # The applications say 200 and nothing else: whatever else is the server's, and its last.
    if any(status not in (101, 403) and status < 400 for status in answers.statuses[good:]):
        problems.append(f"answers after a refusal: {answers.statuses[-5:]}")
    if answers.asked and entry.raw.partition(b"\r\n")[0].endswith(b"HTTP/1.0"):
        problems.append("100 for a client of HTTP/1.0")
    return problems


def _bad_records(entry: Entry, records: Sequence[Record], most: int) -> list[str]:
    whole = [record for record in records if record.body is not None]
    problems = [wrong for record in records for wrong in record.ambiguities()]
    allowed = {REFUSED: 0, BROKEN: 1}.get(entry.expect, most)
    least = most if entry.expect is SERVED else 0
    complete = 0 if entry.expect in (REFUSED, BROKEN) else most
    if len(records) > allowed or not least <= len(whole) <= complete:
        problems.append(f"applications saw {len(records)} requests, {len(whole)} of them whole")
    if whole and entry.body is not None and whole[0].body != entry.body:
        problems.append(f"the body was {whole[0].body!r:.60}")
    for record in records:
        if entry.place not in (None, record.place):
            problems.append(f"it went to {record.place or '/'}")
        if MARK in record.path or MARK in record.target:
            problems.append("a smuggled request was served")
        problems += [f"saw what is hidden in {name}" for name in _shown(entry, record)]
    return problems


def _shown(entry: Entry, record: Record) -> list[str]:
    hidden = entry.hidden.decode()
    return [name for name, value in record.fields if hidden and hidden in value and "_" not in name]


def too_much(lines: Sequence[tuple[int, str]], seconds: float, servers: int = 1) -> list[str]:
    """Answer the lines that so many *servers* should not have logged in these *seconds*."""
    loud = Counter(
        _ends(text) for number, text in lines if number >= logging.ERROR or "Traceback" in text
    )
    kinds = Counter(
        re.sub(r"'[^']*'|\"[^\"]*\"|[0-9.:]+", "#", text)
        for number, text in lines
        if number == logging.WARNING
    )
    most = LINES * servers * (1 + seconds // 10)
    many = [f"{count} times: {text:.200}" for text, count in kinds.items() if count > most]
    return [f"{count} times: {text}" for text, count in loud.most_common(20)] + many[:20]


def _ends(text: str) -> str:
    first, *_, last = [*text.splitlines(), ""] if "\n" not in text else text.splitlines()
    return f"{first:.100} ... {last:.200}"
