"""What ``sitebus-ctl`` shows to people."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sitebus.cli.console import Console, table

_GOOD = {"STARTED", "READY", "done", "ready"}
_BAD = {"FAILED", "FATAL", "failed", "aborted"}
_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


def duration(seconds: float) -> str:
    """Answer a length of time in two units at most."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    for at, (size, name) in enumerate(_UNITS):
        if whole >= size:
            count, rest = divmod(whole, size)
            smaller = _UNITS[at + 1] if at + 1 < len(_UNITS) else (1, "s")
            return f"{count}{name} {rest // smaller[0]}{smaller[1]}"
    raise AssertionError(seconds)


def memory(size: int) -> str:
    """Answer a number of bytes as people say it."""
    return f"{size / (1 << 20):.0f} MB" if size else ""


def painted(console: Console, word: str) -> str:
    """Answer a state in the colour of good or bad news."""
    if word in _GOOD:
        return console.paint(word, "green")
    return console.paint(word, "red") if word in _BAD else console.paint(word, "yellow")


def status(console: Console, told: Mapping[str, Any]) -> Iterator[str]:
    """Answer how a site stands."""
    ready = painted(console, "ready") if told["ready"] else console.paint("not ready", "red")
    why = f" ({told['why_not_ready']})" if told["why_not_ready"] else ""
    state = painted(console, told["state"])
    yield f"{console.paint(told['name'], 'bold')}  {state}, {ready}{why}"
    yield from table(_facts(told))


def _facts(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "process", f"{told['pid']}, for {duration(told['seconds'])}"
    if told["config"]:
        yield "serves", told["config"]
    for number, address in enumerate(told["addresses"]):
        yield "" if number else "listens", address
    yield "requests", requests(told["requests"]["in_flight"], told["requests"]["oldest"])
    workers = told["workers"]
    if workers is not None:
        fatal = f", {workers['fatal']} FATAL" if workers["fatal"] else ""
        yield "workers", f"{workers['ready']} of {workers['alive']} ready{fatal}"
    for number, each in enumerate(told["jobs"]):
        yield "" if number else "jobs", job(each)


def requests(count: int, oldest: float) -> str:
    """Answer how many requests are being served, and since when."""
    return f"{count}, the oldest for {duration(oldest)}" if count else "none"


def job(told: Mapping[str, Any]) -> str:
    """Answer one line about a job."""
    what = f" {told['what']}" if told["what"] else ""
    steps = "" if not told.get("progress") else " ({} of {} steps)".format(*told["progress"])
    reason = f": {told['reason']}" if told["reason"] and told["state"] != "done" else ""
    took = duration(told["seconds"])
    return f"{told['id']} {told['kind']}{what} {told['state']}{steps}, {took}{reason}"


def workers(console: Console, told: Iterable[Mapping[str, Any]]) -> list[str]:
    """Answer a table of workers."""
    rows: list[tuple[str, ...]] = []
    rows.append(
        ("WORKER", "PID", "STATE", "FOR", "REQUESTS", "NOW", "OLDEST", "MEMORY", "RESTARTS")
    )
    notes = [""]
    for each in told:
        rows.append(_worker(each))
        notes.append("FATAL: " * each["fatal"] + each["reason"])
    lines = table(rows, indent="")
    widest = max(map(len, lines))
    shown = [
        f"{line.ljust(widest)}  {note}".rstrip() for line, note in zip(lines, notes, strict=True)
    ]
    return [console.paint(shown[0], "bold"), *shown[1:]]


def _worker(told: Mapping[str, Any]) -> tuple[str, ...]:
    beat = told["beat"]
    known = ("", "", "", "")
    if beat is not None:
        oldest = duration(beat["oldest"]) if beat["in_flight"] else ""
        known = (str(beat["requests"]), str(beat["in_flight"]), oldest, memory(beat["rss"]))
    return (
        str(told["worker"]),
        str(told["pid"] or ""),
        told["state"],
        duration(told["seconds"]),
        *known,
        str(told["restarts"]),
    )


def bus(console: Console, told: Mapping[str, Any]) -> list[str]:
    """Answer who listens where, in the order in which they run."""
    lines = _listening(console, "CHANNEL", told["channels"])
    # A site that was started by an older sitebus does not say.
    if overhearing := told.get("overhearing"):
        lines += ["", *_listening(console, "PATTERN", overhearing)]
    return lines


def _listening(
    console: Console, heading: str, listening: Mapping[str, Iterable[Mapping[str, Any]]]
) -> list[str]:
    rows = [(heading, "PRIORITY", "LISTENER", "LAST", "LONGEST")]
    for channel, listeners in listening.items():
        for number, each in enumerate(listeners):
            name = "" if number else channel
            asynchronous = " (async)" if each["asynchronous"] else ""
            times = (_milliseconds(each[key]) for key in ("last", "longest"))
            priority = each["priority"]
            shown = priority if isinstance(priority, str) else f"{priority:g}"
            rows.append((name, shown, each["name"] + asynchronous, *times))
    lines = table(rows, indent="")
    return [console.paint(lines[0], "bold"), *lines[1:]]


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.1f} ms"


def settings(told: Mapping[str, Any]) -> Iterator[str]:
    """Answer a configuration as ``--print-config`` prints it."""
    for number, section in enumerate(told["sections"]):
        if number:
            yield ""
        yield f"{section['title']:<38}  # {section['origin']}"
        for each in section["settings"]:
            said = f"{each['key']} = {each['value']}".rstrip().replace("\n", "\n    ")
            yield f"{said:<38}  # {each['origin']}"


def published(told: Mapping[str, Any]) -> str:
    """Answer what listeners returned, in a line for each process if there are several."""
    result = told["result"]
    if not isinstance(result, Mapping):
        return json.dumps(result)
    lines = [f"supervisor: {_answer(result['supervisor'])}"] if result["supervisor"] else []
    if result["workers"] is None:
        lines.append("passed on to the workers, which do not answer on an exported channel")
    else:
        lines += [f"worker {n}: {_answer(each)}" for n, each in result["workers"].items()]
    return "\n".join(lines or ["no worker serves"])


def _answer(said: Any) -> str:
    return str(said["error"]) if isinstance(said, Mapping) else json.dumps(said)


def event(name: str, said: Mapping[str, Any]) -> str:
    """Answer one line about an event."""
    if name == "job":
        return f"{_when(said)} job {job(said)}"
    if name == "lost":
        return f"{_when(said)} {said['count']} events were lost"
    values = [text for each in said.get("args", ()) for text in _values(each)]
    return " ".join((_when(said), name, *values, *_values(said.get("kwargs", {}))))


def _values(said: Any) -> Iterator[str]:
    if isinstance(said, Mapping):
        yield from (f"{key}={_short(each)}" for key, each in said.items())
    else:
        yield _short(said)


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else json.dumps(value)


def log_line(console: Console, said: Mapping[str, Any]) -> str:
    """Answer one line of the log."""
    if "message" not in said:
        return console.paint(f"({said.get('count')} lines were lost)", "yellow")
    level = said["level"]
    name = _LEVELS.get(level, str(level))
    shown = console.paint(name, "red" if level >= 40 else "yellow") if level >= 30 else name
    return f"{_when(said)} {shown} {said['message']}"


def _when(said: Mapping[str, Any]) -> str:
    """Answer the time of day, with the date if that was another one."""
    now = time.localtime()
    then = time.localtime(said["at"]) if "at" in said else now
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M:%S", then)
