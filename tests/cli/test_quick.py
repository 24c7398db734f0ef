"""quickstart: what it refuses is one sentence, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.cli.conftest import Command
from tests.helpers import PATIENCE, URL, Child, environment, wait_for

BEGIN = """\
import sys, threading
import sitebus
from hello import app

def left():
    return [*map(str, sitebus.site.mounts), *(c for c, l in sitebus.engine.listeners.items() if l)]

"""


def run(directory: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    (directory / "program.py").write_text(BEGIN + program)
    return subprocess.run(
        [sys.executable, "program.py"],
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(
    ("call", "status", "sentence"),
    [
        ("sitebus.quickstart(5)", 78, "5 is not an application"),
        ("sitebus.quickstart(app, 'x')", 78, "cannot mount at 'x'"),
        ("sitebus.mount(app); sitebus.quickstart(app)", 78, "two mounts want /"),
        ("sitebus.quickstart(app, thread=3)", 64, "did you mean 'threads'?"),
        ("sitebus.quickstart(app, log_level='loud')", 64, "quickstart(log_level=)"),
        ("sitebus.quickstart()", 64, "nothing is mounted; pass an application"),
    ],
)
def test_a_mistake_is_one_sentence(directory: Path, call: str, status: int, sentence: str) -> None:
    """From code as from the command line."""
    done = run(directory, call)
    (told,) = done.stderr.splitlines()
    assert sentence in told
    assert done.returncode == status


def test_who_catches_a_mistake_is_told_the_argument(directory: Path) -> None:
    """There is no command line that it could have come from."""
    done = run(
        directory,
        "try:\n    sitebus.quickstart(app, thread=3)\n"
        "except SystemExit as end:\n    print(end.code, end.__cause__)\n",
    )
    assert done.stdout.startswith("64 quickstart(thread=): [server] has no setting 'thread'")


def test_another_thread_leaves_nothing_behind(directory: Path) -> None:
    """It cannot answer signals there, so nothing is put together in the first place."""
    done = run(
        directory,
        "thread = threading.Thread(target=sitebus.quickstart, args=(app,))\n"
        "thread.start(); thread.join()\nprint(left())\n",
    )
    (told,) = done.stderr.splitlines()
    assert "sitebus.quickstart() works only in the main thread" in told
    assert done.stdout == "[]\n"


def test_a_program_that_serves_itself_is_told_so_once(command: Command, directory: Path) -> None:
    """It works alone, and its import must not try to serve within the site."""
    (directory / "own.py").write_text(
        "import sitebus\nfrom hello import app\nsitebus.quickstart(app)\n"
    )
    done = command("own.py", "-b", "127.0.0.1:0")
    (told,) = done.stderr.splitlines()
    assert "only under if __name__" in told
    assert done.returncode == 70


RELOADING = """\
import sitebus

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"one"]

if __name__ == "__main__":
    sitebus.quickstart(app, bind="127.0.0.1:0", reload=True)
"""


def test_a_program_reloads_itself(tmp_path: Path) -> None:
    """The tutorial's way must not end where work begins."""
    program = tmp_path / "program.py"
    program.write_text(RELOADING)
    with Child([sys.executable, program], tmp_path) as child:
        url = child.wait_for_output(URL).group()
        assert requests.get(url, timeout=PATIENCE).text == "one"
        program.write_text(RELOADING.replace("one", "uno"))
        wait_for(lambda: requests.get(url, timeout=PATIENCE).text == "uno", PATIENCE)
        program.write_text(RELOADING.replace("one", "uno") + "oops(")
        refused = f"{program}:9: SyntaxError"
        child.wait_for_output(refused)
        assert requests.get(url, timeout=PATIENCE).headers["X-Sitebus-Reload"] == "failed"
        assert child.stop() == 0
