"""How something over several hosts comes on: a line for each of them that changes on a terminal.

Elsewhere every change is a line of its own, for files and for people who read those.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Self

from sitebus.cli.console import Console
from sitebus.cli.ctl_tables import duration
from sitebus.cli.fleet_tables import Line, Mood

#: How often times are written anew; seconds.
_PACE = 0.5
#: Back to the beginning of the line, and what was there is gone.
_ANEW = "\r\033[K"
_UP = "\033[{}A"


class _Row(NamedTuple):
    line: Line
    since: float
    #: How long the host's turn took; nothing while it is on.
    took: float | None


class Progress:
    """Lines, one for each change."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @classmethod
    def on(cls, console: Console, hosts: Iterable[str]) -> Progress:
        """Answer what fits: a board on a terminal that is high enough, else lines."""
        names = tuple(hosts)
        if console.stream.isatty() and os.environ.get("TERM") != "dumb":
            size = _size(console)
            if size.lines > len(names) + 2:
                return Board(console, names, size.columns)
        return cls(console)

    def show(self, line: Line) -> None:
        """Tell a change."""
        self.console.write(line.shown(self.console))

    def say(self, text: str) -> None:
        """Tell what is no change of a host's."""
        self.console.write(text)

    def remark(self, text: str) -> None:
        """Tell something on standard error; may be called by a signal's handler."""
        # Whatever the handler has interrupted may be writing to the stream itself.
        os.write(sys.stderr.fileno(), f"{text}\n".encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return


def _size(console: Console) -> os.terminal_size:
    try:
        return os.get_terminal_size(console.stream.fileno())
    except (OSError, ValueError):
        return os.terminal_size((80, 24))


class Board(Progress):
    """A line for each host, rewritten in place; it stays when the block ends."""

    def __init__(self, console: Console, hosts: Iterable[str], columns: int) -> None:
        super().__init__(console)
        now = time.monotonic()
        self._rows = {host: _Row(Line(host, "waiting"), now, 0.0) for host in hosts}
        self._width = max(map(len, self._rows), default=0)
        self._columns = columns
        self._drawn = 0
        self._lock = threading.RLock()
        # What waits to be told by whoever draws next.
        self._remarks: deque[str] = deque()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="progress", daemon=True)

    def show(self, line: Line) -> None:
        """Tell a change."""
        if line.host not in self._rows:
            self.say(line.shown(self.console))
            return
        with self._lock:
            now, before = time.monotonic(), self._rows[line.host]
            # The time is that of the host's turn, from its first step to its last.
            since = before.since if before.took is None else now
            took = None if line.mood is Mood.BUSY else now - since
            self._rows[line.host] = _Row(line, since, took)
            self._draw()

    def say(self, text: str) -> None:
        """Tell what is no change of a host's; it stands above the board."""
        with self._lock:
            self._erase()
            super().say(text)
            self._draw()

    def remark(self, text: str) -> None:
        """Tell something soon; may be called by a signal's handler."""
        self._remarks.append(text)

    def __enter__(self) -> Self:
        self._draw()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(1.0)
        self._update()

    def _refresh(self) -> None:
        while not self._over.wait(_PACE):
            self._update()

    def _update(self) -> None:
        while self._remarks:
            self.say(self._remarks.popleft())
        with self._lock:
            self._draw()

    def _erase(self) -> None:
        if self._drawn:
            self._put(_UP.format(self._drawn) + f"{_ANEW}\n" * self._drawn)
            self._put(_UP.format(self._drawn))
            self._drawn = 0

    def _draw(self) -> None:
        up = _UP.format(self._drawn) if self._drawn else ""
        lines = "".join(f"{_ANEW}{self._row(host)}\n" for host in self._rows)
        self._put(up + lines)
        self._drawn = len(self._rows)

    def _row(self, host: str) -> str:
        line, since, took = self._rows[host]
        seconds = time.monotonic() - since if took is None else took
        clock = (duration(seconds) if seconds else "").rjust(7)
        text = f"{host.ljust(self._width)}  {line.word.ljust(23)} {clock}  {line.text}"
        text = text.rstrip()[: self._columns - 1]
        start = self._width + 2
        end = start + len(line.word)
        return text[:start] + self.console.paint(text[start:end], line.mood) + text[end:]

    def _put(self, text: str) -> None:
        try:
            self.console.stream.write(text)
            self.console.stream.flush()
        except (OSError, ValueError):
            return
