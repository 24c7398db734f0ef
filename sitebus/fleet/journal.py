"""What happened in each roll, on disk before it is acted upon: a JSON object for each line.

The first line says what the roll is, the last one what became of it. A roll whose last line is
missing was ended from outside; whoever reads the lines knows what is left of it. A line that was
being written when the machine went down counts as not written.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from sitebus.closing import Closing
from sitebus.errors import BadJournal, CannotJournal, NoSuchRoll

_SUFFIX = ".jsonl"
#: The version of the lines.
VERSION = 1

Record = dict[str, Any]


def default_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Answer where journals are by default: in this user's directory for what programs remember."""
    told = os.environ if environ is None else environ
    state = told.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "sitebus" / "fleet"


def new_id(now: float | None = None) -> str:
    """Answer a name for a roll, which tells when it was begun."""
    moment = time.localtime(time.time() if now is None else now)
    return f"{time.strftime('%Y%m%d-%H%M%S', moment)}-{os.urandom(2).hex()}"


class Journal(Closing):
    """A file that is appended to, and holds a line for certain once `write` has returned."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def create(cls, folder: Path, id: str) -> Self:
        """Make the journal of a new roll.

        Raises:
            CannotJournal: It cannot be made.
        """
        path = folder / f"{id}{_SUFFIX}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            _keep_name(folder)
        except OSError as error:
            raise CannotJournal(str(path), _reason(error)) from error
        return cls(path, descriptor)

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Go on with the journal of a roll, after its last whole line.

        Raises:
            CannotJournal: It cannot be written.
        """
        try:
            data = path.read_bytes()
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.ftruncate(descriptor, data.rfind(b"\n") + 1)
        except OSError as error:
            raise CannotJournal(str(path), _reason(error)) from error
        return cls(path, descriptor)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line, and return when it is on disk.

        Raises:
            CannotJournal: It is not.
        """
        data = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise CannotJournal(str(self.path), _reason(error)) from error

    def close(self) -> None:
        os.close(self._descriptor)


def _keep_name(folder: Path) -> None:
    """See to it that the name of a new file outlives the machine's end as its lines do."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def read(path: Path) -> list[Record]:
    """Answer the whole lines of a journal; what was cut off at its end is left out.

    Raises:
        BadJournal: It is none.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadJournal(str(path), 1, f"cannot be read: {_reason(error)}") from error
    records = [_record(path, number, line) for number, line in _lines(data)]
    if not records or records[0].get("is") != "roll":
        raise BadJournal(str(path), 1, "does not begin as a journal does")
    if records[0].get("v") != VERSION:
        raise BadJournal(str(path), 1, "was written by another version of sitebus-fleet")
    return records


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    return enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1)


def _record(path: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise BadJournal(str(path), number, "is no line of a journal")
    return record


class Past(NamedTuple):
    """A roll as its journal tells of it.

    Attributes:
        id: Its name.
        path: Its journal.
        begun: The first line.
        ended: What became of it; empty if it was ended from outside.
        at: When that was written, or the last line.
    """

    id: str
    path: Path
    begun: Record
    ended: str
    at: float

    def told(self) -> Record:
        """Answer it as JSON."""
        return {**self.begun, "id": self.id, "result": self.ended or "cut off", "ended": self.at}


def past(path: Path) -> Past:
    """Answer what a journal tells.

    Raises:
        BadJournal: It is none.
    """
    records = read(path)
    last = records[-1]
    ended = str(last.get("result", "")) if last.get("is") == "end" else ""
    return Past(
        path.name.removesuffix(_SUFFIX), path, records[0], ended, float(last.get("at", 0.0))
    )


def rolls(folder: Path) -> list[Past]:
    """Answer all rolls that can be read, the latest one first."""
    found = []
    for path in _paths(folder):
        try:
            found.append(past(path))
        except BadJournal:
            continue  # one that was cut off before its first line, or no journal at all
    # Names tell the second, and the time of a place where clocks are set back each autumn.
    return sorted(found, key=_begun_at, reverse=True)


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{_SUFFIX}"), reverse=True)


def _begun_at(past: Past) -> float:
    at = past.begun.get("at")
    return at if isinstance(at, float) else 0.0


def find(folder: Path, id: str) -> Past:
    """Answer the roll of that name, or whose name begins so if there is one only.

    Raises:
        NoSuchRoll: There is none.
        BadJournal: It cannot be read.
    """
    paths = _paths(folder)
    names = [path.name.removesuffix(_SUFFIX) for path in paths]
    near = [path for path, name in zip(paths, names, strict=True) if name.startswith(id)]
    exact = [path for path in near if path.name == f"{id}{_SUFFIX}"]
    if not re.fullmatch(r"[\w.-]+", id) or len(exact or near) != 1:
        raise NoSuchRoll(id, names)
    return past((exact or near)[0])
