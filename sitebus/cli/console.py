"""What a command writes to the terminal: colours, tables, and the banner of a site that serves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TextIO

CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def wants_colour(stream: TextIO, choice: str, environ: Mapping[str, str] | None = None) -> bool:
    """Decide whether to write colours to *stream*.

    Args:
        stream: where they would be written.
        choice: ``always``, ``never``, or ``auto`` for a terminal that has nothing against it.
        environ: FORCE_COLOR, NO_COLOR and TERM; those of the process if left out.
    """
    environ = os.environ if environ is None else environ
    if choice != "auto":
        return choice == "always"
    if environ.get("FORCE_COLOR"):
        return True
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


class Console:
    """A stream that is written for people."""

    def __init__(self, stream: TextIO, colour: bool = False) -> None:
        self.stream = stream
        self.colour = colour

    def paint(self, text: str, *styles: str) -> str:
        """Answer *text* in a style, if colours are wanted."""
        if not self.colour or not text:
            return text
        codes = ";".join(CODES[style] for style in styles)
        return f"\033[{codes}m{text}\033[0m"

    def write(self, text: str) -> None:
        """Write a line; a stream that is gone is nobody's loss."""
        try:
            print(text, file=self.stream, flush=True)
        except (OSError, ValueError):
            return


class MountLine(NamedTuple):
    """A mount as it is shown: where, what, and how sure that is."""

    place: str
    target: str
    framework: str = ""


def table(rows: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    """Answer lines whose columns stand below each other."""
    rows = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    return [
        indent
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


class Banner(NamedTuple):
    """What a site says of itself once it serves."""

    version: str
    pid: int
    config: str
    mounts: tuple[MountLine, ...]
    urls: tuple[str, ...]
    site: str = ""

    def text(self, console: Console, hint: bool = True) -> str:
        """Answer the lines for a terminal, with the *hint* how to end it there."""
        title = console.paint(f"sitebus {self.version}", "bold")
        lines = [", ".join(filter(None, (f"{title} (pid {self.pid})", self.site, self.config)))]
        lines += table(self.mounts)
        lines += [f"serving on {console.paint(url, 'cyan')}" for url in self.urls]
        if hint:
            lines.append(console.paint("Ctrl-C to stop", "dim"))
        return "\n".join(lines)

    def short(self, console: Console) -> str:
        """Answer one line that tells who knows the rest that the site serves again."""
        return f"serving again on {', '.join(console.paint(url, 'cyan') for url in self.urls)}"

    def record(self) -> dict[str, object]:
        """Answer the same for a log of JSON lines."""
        return {
            "event": "serving",
            "version": self.version,
            "site": self.site,
            "config": self.config,
            "mounts": [mount._asdict() for mount in self.mounts],
            "urls": list(self.urls),
        }
