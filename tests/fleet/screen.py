"""``sitebus-fleet`` at a terminal of its own, as somebody sits at it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.fleet.driving import command
from tests.helpers import PATIENCE, ROOT, WARNINGS, environment

CTRL_C = b"\x03"


class Screen:
    """The command, in the foreground of a terminal; Ctrl-C reaches whatever it has started."""

    def __init__(self, ini: Path, *arguments: str | Path, lines: int = 24, **env: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 100, 0, 0))
        self.text = ""
        self._news = threading.Condition()
        told = {"PYTHONWARNINGS": WARNINGS, "TERM": "xterm", **env}
        self.process = subprocess.Popen(
            command(ini, *arguments),
            cwd=ROOT,
            env=environment(**told),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # The terminal is its own, or there is nobody whom a Ctrl-C would reach.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # nobody has the other end any more
            while chunk := os.read(self._master, 4096):
                with self._news:
                    self.text += chunk.decode(errors="replace").replace("\r\n", "\n")
                    self._news.notify_all()

    def type(self, data: bytes) -> None:
        """Have somebody type that."""
        os.write(self._master, data)

    def wait_for(self, pattern: str) -> None:
        """Return once that was written, the codes of the terminal aside."""
        found = re.compile(pattern, re.MULTILINE)
        with self._news:
            written = self._news.wait_for(lambda: found.search(self.plain), PATIENCE)
            assert written, self.plain

    @property
    def plain(self) -> str:
        """All that was ever written, without the codes of the terminal."""
        return re.sub(r"\r|\033\[[\d;]*[A-Za-z]", "", self.text)

    def wait(self) -> int:
        """Answer the exit status."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(PATIENCE)
        os.close(self._master)
