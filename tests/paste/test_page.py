"""The how-to page about PasteDeploy's files: a reader types what it says, in an empty directory.

Every block is run, word for word but for the port: what is 8080 on the page is a free port here, in
files and commands alike, and where a file leaves it to the default.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.embedding.hosting import BIN, free_port
from tests.helpers import PATIENCE, ROOT, Child
from tests.paste.test_launchers import WITHOUT_ZOPE
from tests.test_docs import ENDS, PORT, SERVING, STARTED, Block, Story, blocks_of

pytestmark = pytest.mark.slow

BLOCKS = list(blocks_of(ROOT / "docs" / "howto" / "paste.rst"))
#: The one line that is not run: what it installs is here.
INSTALL = "pip install 'sitebus[paste]' pyramid\n"
ZOPE = "runwsgi"

#: What a site or launcher answers that is started in a shell: host, path, and a part of the page.
ANSWERS = {
    "sitebus-serve intranet.ini": [
        ("127.0.0.1", "/", "The guests\n"),
        ("127.0.0.1", "/wiki/", "The wiki\n"),
        ("docs.example.org", "/", "The documents\n"),
    ],
    "PYTHONPATH=.:$PYTHONPATH pserve development.ini where=Vienna": [
        ("127.0.0.1", "/", "The guests of Vienna\n"),
    ],
    "PYTHONPATH=.:$PYTHONPATH gearbox serve -c development.ini where=Vienna": [
        ("127.0.0.1", "/", "The guests of Vienna\n"),
    ],
    "runwsgi zope/etc/zope.ini": [("127.0.0.1", "/", "Zope")],
}


def write_scripts(folder: Path) -> Path:
    """Write the console scripts of sitebus as pip does, for where it is not installed."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for line in setup["options.entry_points"]["console_scripts"].strip().splitlines():
        name, module, function = re.split(" = |:", line)
        script = folder / name
        code = f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        script.write_text(f"#!{sys.executable}\n{code}")
        script.chmod(0o755)
    return folder


class Reader(Story):
    """Somebody with a shell, in a directory."""

    def __init__(self, directory: Path, scripts: Path, own_egg: Path) -> None:
        super().__init__(directory)
        self.port = str(free_port())
        self.env = {
            "PATH": os.pathsep.join((BIN, str(scripts), os.environ["PATH"])),
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, own_egg))),
            "PYTHONWARNINGS": "",
        }

    def follow(self, block: Block) -> None:
        """Do what *block* says, or write what it shows."""
        if block.language == "console":
            self.type_in(block)
        elif block.language == "sh":
            for line in block.text.splitlines():
                self.enter(line)
        else:
            assert block.caption, f"{block}: a file without a name"
            self.write(self.directory / block.caption, block.text)

    def run(self, command: str) -> str:
        """Answer what *command* prints, until it serves or ends."""
        if command.startswith("curl "):
            return super().run(command)
        if set(ENDS) & set(command.split()):
            with self.shell(command) as child:
                child.wait()
                return child.output
        self.sites.close()
        child = self.sites.enter_context(self.shell(command))
        child.wait_for_output(SERVING)
        return child.output

    def shell(self, command: str) -> Child:
        # It becomes the command, so signals go there.
        argv = ("bash", "-c", PORT.sub(self.port, command))
        told = dict(self.env)
        files = (self.directory / word for word in command.split() if word.endswith(".ini"))
        if not any(self.port in file.read_text() for file in files):
            told["SITEBUS_SERVER__BIND"] = f"127.0.0.1:{self.port}"
        return Child(argv, self.directory, told)

    def enter(self, command: str) -> None:
        """Run a line of a shell's, and be its visitor if it serves."""
        self.sites.close()
        with self.shell(command) as child:
            if command not in ANSWERS:
                assert child.wait() == 0
                return
            child.wait_for_output(STARTED)
            for host, path, part in ANSWERS[command]:
                url = f"http://127.0.0.1:{self.port}{path}"
                assert part in requests.get(url, headers={"Host": host}, timeout=PATIENCE).text
            assert child.stop() == 0


@pytest.fixture
def reader(tmp_path: Path, own_egg: Path) -> Reader:
    for name in ("here", "scripts"):
        (tmp_path / name).mkdir()
    return Reader(tmp_path / "here", write_scripts(tmp_path / "scripts"), own_egg)


def chosen(choice: Callable[[Block], bool]) -> list[Block]:
    return [block for block in BLOCKS if block.text != INSTALL and choice(block)]


def test_the_page_is_followed_word_for_word(reader: Reader) -> None:
    """Files, commands, answers, from the first block to the last."""
    with reader.sites:
        for block in chosen(lambda block: ZOPE not in block.text):
            reader.follow(block)


@WITHOUT_ZOPE
def test_a_new_zope_is_served_as_the_page_says(reader: Reader) -> None:
    """Its own commands make it; ours is one word in its file."""
    (block,) = chosen(lambda block: ZOPE in block.text)
    make, change, serve = block.text.splitlines()
    for line in (make, change):
        with reader.shell(line) as child:
            assert child.wait() == 0
    file = reader.directory / "zope" / "etc" / "zope.ini"
    reader.write(file, file.read_text())
    reader.enter(serve)


def test_every_command_is_one_that_the_page_has() -> None:
    """What it has no more need not be asked for."""
    lines = {line for block in BLOCKS if block.language == "sh" for line in block.text.splitlines()}
    assert set(ANSWERS) <= lines
