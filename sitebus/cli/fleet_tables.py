"""What ``sitebus-fleet`` shows to people."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from sitebus.cli.console import Console, table
from sitebus.cli.ctl_tables import duration, memory, requests
from sitebus.errors import FleetError, NoSite
from sitebus.fleet.journal import Past
from sitebus.fleet.rolling import Plan

_GOOD = {"STARTED", "ready", "done", "undone", "well", "yes"}
_BAD = {"failed", "stuck", "unknown", "lost", "broken", "refused", "no", "down"}

Record = Mapping[str, Any]
Found = Mapping[str, Any]


def painted(console: Console, word: str, text: str = "") -> str:
    """Answer *text*, or the word itself, in the colour of the good or bad news that the word is."""
    colour = "green" if word in _GOOD else "red" if word in _BAD else "yellow"
    return console.paint(text or word, colour)


def hosts(count: int) -> str:
    """Answer so many hosts, in words."""
    return f"{count} host" if count == 1 else f"{count} hosts"


def coloured(
    console: Console, rows: Sequence[Sequence[str]], column: int, words: Sequence[str]
) -> list[str]:
    """Answer a table with a heading, in which one column is painted by a word for each row."""
    lines = table(rows, indent="")
    if not console.colour:
        return lines
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    start = sum(widths[:column]) + 2 * column
    shown = [console.paint(lines[0], "bold")]
    for line, row, word in zip(lines[1:], rows[1:], words, strict=True):
        end = start + len(row[column])
        shown.append(line[:start] + painted(console, word, line[start:end]) + line[end:])
    return shown


def status(console: Console, found: Mapping[str, Found | Exception]) -> list[str]:
    """Answer how the site of each host stands; why one does not is told below."""
    rows: list[Sequence[str]] = []
    rows.append(("HOST", "STATE", "READY", "WORKERS", "REQUESTS", "RELEASE", "VERSION", "FOR"))
    words, notes = [], []
    for name, each in found.items():
        if isinstance(each, Exception):
            word = "down" if isinstance(each, NoSite) else "unknown"
            rows.append((name, word, *[""] * 6))
            notes.append((name, sentence(each)))
        else:
            told = each["status"]
            word = "ready" if told["ready"] else "not ready"
            rows.append((name, *_stands(each)))
            if not told["ready"]:
                notes.append((name, str(told["why_not_ready"])))
        words.append(word)
    return [*coloured(console, rows, 1, words), *(f"{name}: {why}" for name, why in notes)]


def _stands(found: Found) -> tuple[str, ...]:
    told = found["status"]
    workers = told["workers"]
    return (
        told["state"],
        "yes" if told["ready"] else "drained" if not told["ready_wanted"] else "no",
        "" if workers is None else f"{workers['ready']} of {workers['alive']}",
        str(told["requests"]["in_flight"]),
        found["release"] or "",
        str(found["version"]),
        duration(told["seconds"]),
    )


def details(console: Console, name: str, found: Found) -> Iterator[str]:
    """Answer all there is to say of one host."""
    told, facts = found["status"], found["facts"]
    yield console.paint(name, "bold")
    context = " by way of ".join(map(str, found["context"]))
    rows = [("reached", f"{found['reached']}, context {context}")]
    rows.append(("process", f"{told['pid']}, of {facts['user']} on {facts['hostname']}"))
    rows += [("serves", told["config"])] if told["config"] else []
    rows += [("listens", address) for address in told["addresses"]]
    rows.append(("requests", requests(told["requests"]["in_flight"], told["requests"]["oldest"])))
    rows += [("releases", ", ".join(found["releases"]))] if found["releases"] else []
    rows += [("job", f"{job['kind']} {job['state']}") for job in told["jobs"]]
    rows.append(("python", f"{facts['python']} ({facts['executable']})"))
    rows.append(("platform", facts["platform"]))
    rows.append(("load", f"{' '.join(map(str, facts['load']))} on {facts['cpus']} processors"))
    disk = facts["disk"]
    rows.append(("disk", f"{memory(disk['free'])} free of {memory(disk['total'])}, {disk['path']}"))
    yield from table(rows)


def checks(console: Console, found: Mapping[str, Any]) -> list[str]:
    """Answer whether each host has what is needed."""
    rows: list[Sequence[str]] = [("HOST", "", "PYTHON", "SITEBUS", "USER", "FREE")]
    words, notes = [], []
    for name, each in found.items():
        if isinstance(each, Exception):
            rows.append((name, "unknown", "", "", "", ""))
            words.append("unknown")
            notes.append(f"{name}: {sentence(each)}")
            continue
        words.append("well" if each.ok else "failed")
        version = (each.site or {}).get("sitebus", "")
        free = each.facts.get("disk", {}).get("free")
        rows.append(
            (
                name,
                "well" if each.ok else "not well",
                str(each.facts.get("python", "")),
                str(version),
                str(each.facts.get("user", "")),
                memory(free) if isinstance(free, int) else "",
            )
        )
        notes += [f"{name}: {problem}" for problem in each.problems]
    return [*coloured(console, rows, 1, words), *notes, *_differing(rows)]


def _differing(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Answer a line if not all hosts have the same sitebus."""
    found: dict[str, list[str]] = {}
    for name, _, _, version, *_ in rows[1:]:
        if version:
            found.setdefault(version, []).append(name)
    if len(found) > 1:
        each = (f"{version} on {', '.join(names)}" for version, names in found.items())
        yield f"not all have the same sitebus: {'; '.join(each)}"


def sentence(error: BaseException) -> str:
    """Answer what an error says of a host, without its name."""
    said = error.sentence if isinstance(error, FleetError) else str(error)
    return " ".join(said.split())


def event(host: str, text: str, width: int) -> str:
    """Answer one line of a host's, below those of others."""
    return f"{host.ljust(width)}  {text}"


def past(console: Console, rolls: Iterable[Past]) -> list[str]:
    """Answer the rolls that there were."""
    rows: list[Sequence[str]] = [("ROLL", "WHAT", "HOSTS", "BEGUN", "RESULT", "BY")]
    words = []
    for each in rolls:
        begun, result = each.begun, each.ended or "cut off"
        rows.append(
            (
                each.id,
                what(begun),
                str(len(begun.get("hosts", ()))),
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(begun.get("at", 0.0))),
                result,
                str(begun.get("by", "")),
            )
        )
        words.append("failed" if result == "rolled back" else result)
    return coloured(console, rows, 4, words)


def what(begun: Record) -> str:
    """Answer what a roll is for."""
    return f"{begun.get('kind', '')} {begun.get('release', '')}".strip()


def plan(begun: Record, planned: Plan, steps: Iterable[str]) -> Iterator[str]:
    """Answer what would be done, and in which order."""
    yield f"{what(begun)} on {hosts(len(planned.hosts))}: {', '.join(steps)}"
    for number, batch in enumerate(planned.batches(), 1):
        canary = " (canaries)" if set(batch) <= set(planned.canaries) else ""
        yield f"  {number}. {', '.join(batch)}{canary}"


class Mood(StrEnum):
    """Whether what is told of a host is good news, bad news, or none yet."""

    BUSY = "yellow"
    GOOD = "green"
    BAD = "red"


class Line(NamedTuple):
    """One event, for people.

    Attributes:
        host: Whose; empty for the whole.
        word: How it stands.
        text: What else there is to say.
        mood: Whether that is good or bad; either way nothing more is expected of the host.
    """

    host: str
    word: str
    text: str = ""
    mood: Mood = Mood.BUSY

    def shown(self, console: Console) -> str:
        """Answer it as a line of its own."""
        word = console.paint(self.word, self.mood)
        more = f": {self.text}" if self.mood is Mood.BAD else f" {self.text}"
        return f"{self.host + ': ' if self.host else ''}{word}{more if self.text else ''}"


_DOING = {
    "drain": "draining",
    "activate": "activating",
    "graceful": "reloading",
    "probe": "checking",
    "undrain": "taking requests again",
}


def line(record: Record) -> Line | None:
    """Answer what an event says; nothing if it says nothing new."""
    shown = _LINES.get(str(record["is"]))
    return None if shown is None else shown(record)


def _roll(record: Record) -> Line:
    count, most = len(record["hosts"]), record["max_unavailable"]
    text = f"{record['id']}: {what(record)} on {hosts(count)}, {record['batch']} at a time"
    return Line("", "roll", f"{text}, {most} unavailable at most")


def _look(record: Record) -> Line:
    if not record["ok"]:
        return Line(record["host"], "not well", str(record["why"]), Mood.BAD)
    release = record.get("release")
    return Line(record["host"], "well", f"with {release}" if release else "", Mood.GOOD)


def _stage(record: Record) -> Line | None:
    host, state = record["host"], record["state"]
    if state == "running":
        return Line(host, "getting the release")
    if state == "failed":
        return Line(host, "did not get the release", str(record["why"]), Mood.BAD)
    sent = f"{record['sent']} bytes sent" if record.get("sent") else "it was there"
    took = duration(record["seconds"])
    return Line(host, "has the release", f"({sent}, {took})", Mood.GOOD)


def _step(record: Record) -> Line:
    doing = _DOING[record["step"]]
    return Line(record["host"], f"back: {doing}" if record.get("back") else doing)


def _host(record: Record) -> Line | None:
    state = str(record["state"])
    if state in ("running", "undoing"):
        return None  # the step that follows says what
    if state in ("done", "undone"):
        return Line(record["host"], state, _took(record), Mood.GOOD)
    shown = "unknown" if state == "lost" else state
    return Line(record["host"], shown, str(record.get("why", "")), Mood.BAD)


def _took(record: Record) -> str:
    return f"in {duration(record['seconds'])}" if "seconds" in record else ""


def _resume(record: Record) -> Line:
    left = ", ".join(record["hosts"])
    return Line("", "roll", f"{record['id']} goes on: {left or 'nothing'} left")


def _note(record: Record) -> Line:
    return Line(str(record.get("host", "")), "note", str(record["note"]))


_LINES = {
    "roll": _roll,
    "look": _look,
    "stage": _stage,
    "step": _step,
    "host": _host,
    "resume": _resume,
    "note": _note,
}


def story(console: Console, record: Record) -> str:
    """Answer a line of the whole story of a roll."""
    moment = time.strftime("%H:%M:%S", time.localtime(record.get("at", 0.0)))
    if record["is"] == "end":
        note = f": {record['note']}" if record.get("note") else ""
        return f"{moment} roll {record['result']}{note}"
    shown = line(record)
    return f"{moment} {json.dumps(record) if shown is None else shown.shown(console)}"
