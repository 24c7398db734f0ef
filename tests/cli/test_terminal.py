"""What somebody who works at a terminal sees of a restart: a line or two."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from tests.helpers import PATIENCE, environment

SITE = """\
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"{}"]
"""

INI = """\
[server]
bind = 127.0.0.1:0
[reload]
enabled = yes
interval = 50ms
supervised = {}
[mount /]
app = siteapp:application
"""


MORE = "[mount /more]\napp = siteapp:application\n"


class Terminal:
    """``sitebus-serve`` at a terminal of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self._text = ""
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sitebus", "--access-log", "off", *arguments, "site.ini"],
            cwd=folder,
            env=environment(),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # nobody has the other end any more
            while chunk := os.read(self._master, 4096):
                with self._news:
                    self._text += chunk.decode().replace("\r\n", "\n")
                    self._news.notify_all()

    @property
    def lines(self) -> list[str]:
        """What is on the screen, without the times."""
        with self._news:
            return [re.sub(r"^[\d:, -]{23} ", "", line) for line in self._text.splitlines()]

    def wait_for(self, pattern: str, times: int = 1) -> None:
        with self._news:
            found = re.compile(pattern, re.MULTILINE)
            assert self._news.wait_for(lambda: len(found.findall(self._text)) >= times, PATIENCE), (
                self._text
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(PATIENCE)
        os.close(self._master)
        print(self._text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site.ini").write_text(INI.format("no"))
    (tmp_path / "siteapp.py").write_text(SITE.format("one"))
    return tmp_path


def test_a_reload_is_two_lines(folder: Path) -> None:
    """What changed, and that it serves again; once for each save."""
    with Terminal(folder) as terminal:
        terminal.wait_for("Ctrl-C to stop")
        first = len(terminal.lines)
        for number in (1, 2):
            (folder / "siteapp.py").write_text(SITE.format("two" * (number + 1)))
            terminal.wait_for("^serving again on ", number)
        url = next(line for line in terminal.lines if line.startswith("serving on "))
        reload = [
            f"INFO sitebus: Restarting because {folder}/siteapp.py changed.",
            url.replace("serving on", "serving again on"),
        ]
        assert terminal.lines[first:] == reload * 2
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(PATIENCE) == 0


def test_a_reload_through_the_supervisor_is_two_lines(folder: Path) -> None:
    """Its process goes on, and so does what is served."""
    (folder / "site.ini").write_text(INI.format("yes"))
    with Terminal(folder) as terminal:
        terminal.wait_for("Ctrl-C to stop")
        first = len(terminal.lines)
        for number in (1, 2):
            (folder / "siteapp.py").write_text(SITE.format("two" * (number + 1)))
            terminal.wait_for(r"reload done in \d", number)
        said = [re.sub(r"in [\d.]+ s$", "in a moment", line) for line in terminal.lines[first:]]
        reload = [
            f"INFO sitebus: Reloading because {folder}/siteapp.py changed.",
            "INFO sitebus: reload done in a moment",
        ]
        assert said == reload * 2
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("supervised", ["no", "yes"])
def test_a_reload_that_changes_what_is_served_shows_it(folder: Path, supervised: str) -> None:
    (folder / "site.ini").write_text(INI.format(supervised))
    with Terminal(folder) as terminal:
        terminal.wait_for("Ctrl-C to stop")
        (folder / "site.ini").write_text(INI.format(supervised) + MORE)
        terminal.wait_for("^  /more  siteapp:application")
        terminal.wait_for("Ctrl-C to stop", 2)
        assert not any(line.startswith("serving again") for line in terminal.lines)


def test_an_operator_who_asks_for_details_gets_them(folder: Path) -> None:
    with Terminal(folder, "--log-level", "debug") as terminal:
        terminal.wait_for("Ctrl-C to stop")
        (folder / "siteapp.py").write_text(SITE.format("two" * 2))
        terminal.wait_for("^serving again on ")
        for step in ("STOPPING", "EXITED", "STARTING", "STARTED"):
            assert any(line.endswith(f"sitebus: Bus {step}") for line in terminal.lines)


def test_a_log_that_is_kept_has_all_of_it(folder: Path) -> None:
    """Whoever reads it wants to know when the site was away."""
    (folder / "site.ini").write_text(INI.format("no") + "[logging]\nerror = site.log\n")
    with Terminal(folder) as terminal:
        terminal.wait_for("Ctrl-C to stop")
        (folder / "siteapp.py").write_text(SITE.format("two" * 2))
        terminal.wait_for("^serving on ", 2)
    log = (folder / "site.log").read_text()
    for step in ("STOPPING", "EXITED", "STARTING", "STARTED"):
        assert f"INFO sitebus: Bus {step}" in log


def test_the_end_is_told_in_full(folder: Path) -> None:
    """Only what is followed by another start is a detail."""
    with Terminal(folder) as terminal:
        terminal.wait_for("Ctrl-C to stop")
        terminal.process.send_signal(signal.SIGTERM)
        terminal.wait_for("Bus EXITED")
        assert terminal.process.wait(PATIENCE) == 0
