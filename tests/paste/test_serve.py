"""``sitebus-serve development.ini``: PasteDeploy's files, served by real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.helpers import PATIENCE, ROOT, SiteProcess, environment, wait_for
from tests.paste.conftest import distribution

#: The warnings of frameworks are theirs to mend.
QUIET = {"PYTHONWARNINGS": ""}
FREE = ("--bind", "127.0.0.1:0")

#: What a starter of Pyramid has, but for its database.
STARTER = """\
[app:main]
use = egg:guestbook
guestbook.title = %(title_of_all)s

[server:main]
use = egg:waitress#main
listen = 127.0.0.1:%(http_port)s
threads = 6
url_scheme = https

[loggers]
keys = root

[handlers]
keys = file

[formatters]
keys = generic

[logger_root]
level = INFO
handlers = file

[handler_file]
class = FileHandler
args = ('%(here)s/site.log',)
formatter = generic

[formatter_generic]
format = STARTER %(message)s
"""


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    """Answer a directory with a Pyramid application that is installed there, and its file."""
    shutil.copytree(ROOT / "examples/paste/guestbook", tmp_path / "guestbook")
    (tmp_path / "development.ini").write_text(STARTER)
    return distribution(tmp_path, "guestbook", {"paste.app_factory": "main = guestbook:main"})


def serve(directory: Path, *arguments: str | Path, **env: str) -> SiteProcess:
    return SiteProcess(*arguments, cwd=directory, env=QUIET | env)


def ended(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that serves nothing."""
    return subprocess.run(
        [sys.executable, "-m", "sitebus", *arguments],
        cwd=directory, env=environment(**QUIET), capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip


def text(url: str) -> str:
    return requests.get(url, timeout=10).text


def test_a_pyramid_starter_is_served_unchanged(starter: Path) -> None:
    """By its own server section, with values from the command line, and its own loggers."""
    values = ("title_of_all=Guests", "http_port=0")
    with serve(starter, "development.ini", *values) as site:
        assert text(site.url) == "Guests"
        assert site.stop() == 0
    log = (starter / "site.log").read_text()
    assert "STARTER development.ini:9: [server:main] url_scheme is ignored: " in log
    assert "STARTER Bus EXITED" in log


def test_what_is_not_serving_works_with_such_a_file(starter: Path) -> None:
    """A deployment script checks before it restarts."""
    values = ("title_of_all=x", "http_port=0")
    done = ended(starter, "development.ini", *values, "--check=import")
    assert done.stdout.splitlines() == [
        "development.ini:9: [server:main] url_scheme is ignored: what a proxy tells is believed "
        "with trusted_proxies",
        "/  paste:development.ini#main  Pyramid (wsgi) CERTAIN",
    ]
    assert ended(starter, "development.ini", *values, "--list-mounts").stdout == (
        "/  paste:development.ini#main\n"
    )
    printed = ended(starter, "development.ini", *values, "--print-config").stdout
    assert "threads = 6                             # development.ini:8" in printed
    # And a value is a value, wherever it stands.
    assert ended(starter, *values, "development.ini", "--check").returncode == 0


def test_a_mistake_is_a_sentence_and_a_status(starter: Path) -> None:
    """A service manager reads the one, a person the other."""
    done = ended(starter, "development.ini", "title_of_all=x", "--check")
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert "nothing says what %(http_port)s is" in done.stderr
    done = ended(starter, "development.ini", "http_port=0", *FREE)
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert "nothing says what %(title_of_all)s is" in done.stderr
    done = ended(starter, "-c", "development.ini", "title_of_all=x", "http_port=none", "--check")
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert done.stderr.startswith("development.ini:7: bind = ")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="worker processes need Linux")
def test_workers_read_the_same_file(starter: Path) -> None:
    """Each for itself, values and all."""
    values = ("title_of_all=Guests", "http_port=0")
    with serve(starter, "development.ini", *values, "-w", "2") as site:
        assert text(site.url) == "Guests"
        (starter / "development.ini").write_text(STARTER.replace("%(title_of_all)s", "News"))
        site.signal(signal.SIGHUP)
        url = site.url
        wait_for(lambda: text(url) == "News", PATIENCE, "new workers")
        assert site.stop() == 0


@pytest.mark.slow
def test_a_reload_takes_up_code_and_file(starter: Path) -> None:
    """The file is watched, and so is one that it names."""
    (starter / "base.ini").write_text("[app:main]\nuse = egg:guestbook\nguestbook.title = Old\n")
    (starter / "development.ini").write_text("[app:main]\nuse = config:base.ini\n")
    with serve(starter, "development.ini", "--reload", *FREE) as site:
        url = site.url
        assert text(url) == "Old"
        base = starter / "base.ini"
        base.write_text(base.read_text().replace("Old", "New"))
        wait_for(lambda: text(url) == "New", PATIENCE, "the file to be read again")
        code = starter / "guestbook" / "__init__.py"
        code.write_text(code.read_text().replace("[title,", '[title + "!",'))
        wait_for(lambda: text(url) == "New!", PATIENCE, "the code to be loaded again")
        assert site.stop() == 0


def test_one_of_several_applications_in_a_site_of_others(starter: Path) -> None:
    """The way from one file to the other, application by application."""
    (starter / "site.ini").write_text(
        "[mount /]\napp = redirect:/guests\n"
        "[mount /guests]\napp = paste:development.ini?title_of_all=Guests#main\n"
    )
    with serve(starter, "site.ini", *FREE) as site:
        assert text(site.url) == "Guests"
        assert site.stop() == 0


def examples(tmp_path: Path) -> Path:
    """Answer a copy of the examples, which nobody has run."""
    shutil.copytree(ROOT / "examples/paste", tmp_path / "examples/paste")
    return tmp_path


def test_the_pyramid_example_is_a_composite_of_pipelines(tmp_path: Path, own_egg: Path) -> None:
    """And everything in it has the settings of its section."""
    found = {"PYTHONPATH": f"{ROOT}{os.pathsep}{own_egg}"}
    directory = examples(tmp_path)
    with serve(directory, "examples/paste/development.ini", *FREE, **found) as site:
        book = requests.get(site.url, timeout=10)
        assert book.text == f"Guests of {directory}/examples/paste"
        assert book.headers["X-Served-For"] == "guests"
        requests.post(f"{site.url}/sign", data={"name": "Ada"}, timeout=10)
        assert text(site.url).endswith("\nAda")
        assert text(f"{site.url}/about") == "About the guestbook, mounted at /about.\n"
        assert site.stop() == 0
        assert "DEBUG [guestbook] Ada was here" in site.output


def test_the_turbogears_example_is_served(tmp_path: Path) -> None:
    """``gearbox serve -c turbogears.ini`` is what its users type."""
    with serve(examples(tmp_path), "examples/paste/turbogears.ini", *FREE) as site:
        assert text(site.url).startswith("Sunny in ")
        assert requests.get(f"{site.url}/tomorrow", timeout=10).json() == {"weather": "rain"}
        assert site.stop() == 0
