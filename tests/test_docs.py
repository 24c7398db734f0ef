"""The examples in the docs are run: a page is a story, told in a directory of its own.

A block with a caption is a file, a ``console`` block is typed in, ``pycon`` is run as doctest, and
any other ``ini`` block must at least be one that the reader takes.
"""

from __future__ import annotations

import argparse
import doctest
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from sitebus.errors import ConfigErrors
from sitebus.fleet import inventory
from tests.helpers import PATIENCE, ROOT, Child, environment, nothing_left

README = ROOT / "README.rst"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.rst"))]

#: What the pages say; while they are tested it is another one, a free one.
PORT = re.compile(r"\b8080\b")

#: The last that a site says before it waits; a program that logs its bus has no banner.
SERVING = "Ctrl-C to stop"
STARTED = rf"{SERVING}|Bus STARTED|Bus state: RUN$"

#: These end by themselves, unlike a site.
ENDS = (
    "--check",
    "--check=import",
    "--print-config",
    "--version",
    "--help",
    "--list-mounts",
    "init",
)


#: The programs that come with sitebus, and the module that each is.
PROGRAMS = {
    "sitebus-serve": "sitebus",
    "sitebus-ctl": "sitebus.cli.ctl",
    "sitebus-fleet": "sitebus.cli.fleet",
}


class Block(NamedTuple):
    """One code block of a page."""

    page: Path
    line: int
    language: str
    caption: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """Answer the code blocks of *page*, without their indentation."""
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines):
        opening = re.fullmatch(r"( *)\.\. code-block:: (\S+)", line)
        if opening:
            body = list(_indented(lines[number + 1 :], len(opening[1])))
            assert "".join(body).strip(), f"{page}:{number + 1}: an empty block"
            option = re.fullmatch(r":caption: (.+)", body[0])
            text = "\n".join(body[1:] if option else body).strip("\n") + "\n"
            yield Block(page, number + 1, opening[2], option[1] if option else "", text)


def _indented(lines: list[str], width: int) -> list[str]:
    """Answer the lines that begin further right than *width*, without what they begin with."""
    deeper = re.compile(rf"$| {{{width + 1}}}")
    return textwrap.dedent("\n".join(takewhile(deeper.match, lines))).splitlines()


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def named(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def pages_with(language: str) -> list[Path]:
    return list(dict.fromkeys(block.page for block in named(language)))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


class Story:
    """A directory in which a page's files are written and its commands are typed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = str(free_port())
        self.sites = ExitStack()
        programs = directory / ".bin"
        programs.mkdir()
        for name, module in PROGRAMS.items():
            # What is typed is found here already; what a file names is looked for by somebody else.
            (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            (programs / name).chmod(0o755)
        self.environ = environment(
            PATH=f"{programs}:{os.environ['PATH']}", XDG_STATE_HOME=str(directory / ".state")
        )

    def tell(self, blocks: list[Block]) -> None:
        with self.sites, nothing_running(self.directory):
            for block in blocks:
                if block.language == "console":
                    self.type_in(block)
                elif block.caption and not block.caption.startswith("/"):
                    self.write(self.directory / block.caption, block.text)

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(PORT.sub(self.port, text))

    def type_in(self, block: Block) -> None:
        """Type each line that begins with a prompt, and compare what follows it."""
        text = PORT.sub(self.port, block.text)
        for typed in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = typed.partition("\n")
            pattern = re.escape(expected.strip()).replace(r"\.\.\.", "(?s:.*?)")
            printed = self.run(command)
            # What was saved just now is served in a moment; no reader is as fast as this.
            end = time.monotonic() + PATIENCE
            while not re.fullmatch(pattern, printed.strip()):
                asks = command.startswith("curl http") and time.monotonic() < end
                assert asks, f"{block}: $ {command}\n{printed}"
                printed = self.run(command)

    def run(self, command: str) -> str:
        program, *arguments = shlex.split(command)
        if program == "curl":
            return curl(arguments)
        if program == "python":
            argv = [sys.executable, *arguments]
            return self.capture(argv) if set(ENDS) & set(arguments) else self.serve(argv, STARTED)
        if program == "sitebus-serve":
            argv = [sys.executable, "-m", "sitebus", *arguments]
            return self.capture(argv) if set(ENDS) & set(arguments) else self.serve(argv)
        if program == "pkill":
            return self.signal(arguments)
        if program in PROGRAMS:
            return self.capture([sys.executable, "-m", PROGRAMS[program], *arguments])
        return self.capture([program, *arguments])

    def signal(self, arguments: list[str]) -> str:
        """Do as ``pkill -NAME -F FILE``, which may not be installed."""
        name, option, file = arguments
        assert option == "-F"
        number = signal.Signals[f"SIG{name.removeprefix('-')}"]
        os.kill(int((self.directory / file).read_text()), number)
        return ""

    def capture(self, argv: list[str]) -> str:
        done = subprocess.run(
            argv,
            cwd=self.directory,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=30,
        )
        return done.stdout

    def serve(self, argv: list[str], sign: str = SERVING) -> str:
        """Start a site, in place of the one that was there before."""
        self.sites.close()
        env = {"SITEBUS_SERVER__BIND": f"127.0.0.1:{self.port}"}
        child = self.sites.enter_context(Child(argv, cwd=self.directory, env=env))
        child.wait_for_output(sign)
        return child.output


@contextmanager
def nothing_running(directory: Path) -> Iterator[None]:
    """End what was started below *directory*, to stay, by a page that did not come to its end."""
    try:
        yield
    finally:
        for entry in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):
                if entry.readlink().is_relative_to(directory):
                    os.kill(int(entry.parent.name), signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def curl(arguments: list[str]) -> str:
    """Do what the client would, which may not be installed; the answer is what matters."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-L", dest="follow", action="store_true")
    parser.add_argument("-X", dest="method", default="GET")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-r", dest="range")
    parser.add_argument("url")
    wanted = parser.parse_args(arguments)
    headers = dict(line.split(": ", 1) for line in wanted.headers)
    if wanted.range:
        headers["Range"] = f"bytes={wanted.range}"
    answer = requests.request(
        wanted.method, wanted.url, headers=headers, allow_redirects=wanted.follow, timeout=10
    )
    return answer.text


@pytest.mark.parametrize("page", pages_with("console"), ids=name_of)
def test_what_a_page_says_to_type_does_what_it_says(page: Path, tmp_path: Path) -> None:
    """A reader who follows the page must see what it promises."""
    Story(tmp_path).tell([block for block in BLOCKS if block.page == page])


@pytest.mark.parametrize("page", pages_with("pycon"), ids=name_of)
def test_sessions_answer_what_the_page_shows(page: Path) -> None:
    """Somebody will paste them."""
    names: dict[str, object] = {"__name__": "__main__"}
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=options)
    with nothing_left():
        for block in named("pycon"):
            if block.page == page:
                parsed = doctest.DocTestParser().get_doctest(
                    block.text, names, str(block), str(page), block.line
                )
                # The names stay: a page is one session.
                runner.run(parsed, clear_globs=False)
                names = parsed.globs
    assert runner.summarize(verbose=False).failed == 0


#: What a file names need not be there, it may be a part, and one of them is wrong on purpose.
EXCUSED = re.compile(r"there is no (file|directory)|nothing is mounted|did you mean 'bind'")


@pytest.mark.parametrize("block", named("ini"), ids=str)
def test_files_hold_no_setting_that_is_not_there(block: Block, tmp_path: Path) -> None:
    """An option that was renamed must be renamed in the docs."""
    if block.caption.endswith("fleet.ini"):
        read_fleet(block, tmp_path)
        return
    path = tmp_path / "site.ini"
    path.write_text(block.text)
    argv = [sys.executable, "-m", "sitebus", "--check", str(path)]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env=environment(), timeout=30
    )
    wrong = [line for line in done.stderr.splitlines() if not EXCUSED.search(line)]
    assert done.returncode in (0, 78), done.stderr
    assert not wrong or done.returncode == 0, done.stderr


def read_fleet(block: Block, folder: Path) -> None:
    path = folder / "fleet.ini"
    path.write_text(block.text)
    try:
        inventory.read(path)
    except ConfigErrors as errors:
        wrong = [line for line in str(errors).splitlines() if not EXCUSED.search(line)]
        assert not wrong, wrong


@pytest.mark.parametrize("block", named("python"), ids=str)
def test_programs_are_spelled_right(block: Block) -> None:
    """At least the parser takes them; the complete ones are run above."""
    compile(block.text, str(block), "exec")


def test_the_readme_has_exactly_two_commands() -> None:
    """One to see it, one to test it; whoever checks them counts on finding no more."""
    shell = [block.text for block in named("sh") if block.page == README]
    assert len(shell) == 2
    assert all(text.count("\n") == 1 for text in shell)
