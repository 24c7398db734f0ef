"""``use = egg:sitebus#main``: the launchers of Pyramid, TurboGears and Zope, each as it is."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.helpers import PATIENCE, ROOT, URL, Child, environment, wait_for

SERVER = """\
[server:main]
use = egg:sitebus#main
host = 127.0.0.1
port = 0
threads = 3
server_header = ours
"""
APP = "[app:main]\nuse = egg:shop\ngreeting = hi\n"
LOGGERS = """\
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = generic
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = generic
[formatter_generic]
format = THEIRS %(message)s
"""

#: How each is told to serve a file.
LAUNCHERS = {"pserve": ["pserve"], "gearbox": ["gearbox", "serve", "-c"], "runwsgi": ["runwsgi"]}
MODULES = {
    "pserve": "from pyramid.scripts.pserve import main; sys.exit(main() or 0)",
    "gearbox": "from gearbox.main import main; sys.exit(main())",
    "runwsgi": "from Zope2.Startup.serve import main; sys.exit(main() or 0)",
}
#: Zope is large, and its tests may be left out where it is not installed.
WITHOUT_ZOPE = pytest.mark.skipif(
    importlib.util.find_spec("Zope2") is None and "CI" not in os.environ, reason="needs Zope"
)
#: runwsgi serves nothing but a Zope, of which it asks where its pid file is.
EACH = ["pserve", "gearbox"]


class Launcher:
    """The launchers, where the eggs of a directory and sitebus's own are installed."""

    def __init__(self, directory: Path, own_egg: Path) -> None:
        self.directory = directory
        path = os.pathsep.join(map(str, (ROOT, own_egg, directory)))
        self.env = {"PYTHONPATH": path, "PYTHONWARNINGS": ""}

    def argv(self, name: str, *arguments: str) -> list[str]:
        """Answer what the launcher's script does, wherever it is."""
        program, *rest = LAUNCHERS[name]
        code = f"import sys; sys.argv[0] = {program!r}; {MODULES[name]}"
        return [sys.executable, "-c", code, *rest, *arguments]

    def run(self, name: str, *arguments: str) -> Child:
        return Child(self.argv(name, *arguments), self.directory, self.env)

    def ended(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(name, *arguments),
            cwd=self.directory, env=environment(**self.env), capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip

    def write(self, text: str) -> str:
        (self.directory / "development.ini").write_text(text)
        return "development.ini"


@pytest.fixture
def launcher(directory: Path, own_egg: Path) -> Launcher:
    return Launcher(directory, own_egg)


def url_of(child: Child) -> str:
    return child.wait_for_output(URL).group()


@pytest.mark.parametrize("name", EACH)
def test_a_launcher_serves_with_sitebus(launcher: Launcher, name: str) -> None:
    """Its application, our server; and it ends as if nothing had been asked of it."""
    with launcher.run(name, launcher.write(APP + SERVER)) as child:
        answer = requests.get(f"{url_of(child)}/page", timeout=10)
        assert answer.text == "hi |/page"
        assert answer.headers["Server"] == "ours"
        assert child.stop() == 0
        assert "Traceback" not in child.output


def test_turbogears_runs_from_its_own_file(own_egg: Path, tmp_path: Path) -> None:
    """Of what its users have, one word changes: the server's name, and they type what they did."""
    folder = tmp_path / "paste"
    shutil.copytree(ROOT / "examples/paste", folder)
    launcher, text = Launcher(folder, own_egg), (folder / "turbogears.ini").read_text()
    text = text.replace("egg:gearbox#wsgiref", "egg:sitebus#main").replace("8080", "0")
    text += "server_header = ours\n"
    with launcher.run("gearbox", launcher.write(text)) as child:
        url = url_of(child)
        answer = requests.get(url, timeout=10)
        assert answer.text == f"Sunny in {folder}; tomorrow: /tomorrow\n"
        assert answer.headers["Server"] == "ours"
        assert requests.get(f"{url}/tomorrow", timeout=10).json() == {"weather": "rain"}
        assert requests.get(f"{url}/yesterday", timeout=10).status_code == 404
        assert child.stop() == 0
        assert "Traceback" not in child.output


def test_values_of_the_command_line_reach_the_server(launcher: Launcher) -> None:
    """``pserve development.ini port=8080`` is in Pyramid's own documentation."""
    text = APP + SERVER.replace("port = 0", "port = %(port)s")
    with launcher.run("pserve", launcher.write(text), "port=0") as child:
        assert requests.get(url_of(child), timeout=10).status_code == 200
        assert child.stop() == 0


def test_a_runner_is_the_same_as_a_factory(launcher: Launcher) -> None:
    """Zope's older files name one; PasteDeploy gives it the application as well."""
    text = SERVER.replace(
        "use = egg:sitebus#main", "paste.server_runner = sitebus.cli.pserve:server_runner"
    )
    with launcher.run("pserve", launcher.write(APP + text)) as child:
        assert requests.get(url_of(child), timeout=10).text == "hi |/"
        assert child.stop() == 0


@pytest.mark.parametrize("name", ["pserve", "gearbox"])
def test_log_lines_go_where_the_file_says(launcher: Launcher, name: str) -> None:
    """The launcher has seen to it before we are called."""
    with launcher.run(name, launcher.write(APP + SERVER + LOGGERS)) as child:
        url_of(child)
        assert child.stop() == 0
        assert "THEIRS Bus STARTED" in child.output
        assert "INFO sitebus: Bus STARTED" not in child.output


def test_without_loggers_the_lines_are_ours(launcher: Launcher) -> None:
    """Those of pserve would hide all but warnings."""
    with launcher.run("pserve", launcher.write(APP + SERVER)) as child:
        child.wait_for_output("INFO sitebus: Bus STARTED")


def test_where_it_listens_is_told_if_the_file_says_a_port_only(launcher: Launcher) -> None:
    """With waitress the whole network was served; who meant that must hear of the difference."""
    text = SERVER.replace("host = 127.0.0.1\n", "")
    with launcher.run("pserve", launcher.write(APP + text)) as child:
        assert url_of(child).startswith("http://127.0.0.1:")
        child.wait_for_output(
            "WARNING sitebus: development.ini: no host is said, so it is 127.0.0.1; "
            "host = 0.0.0.0 is everywhere"
        )
        assert child.stop() == 0


def test_a_restart_keeps_process_and_port(launcher: Launcher) -> None:
    """The launcher is run again, and finds the socket that it had."""
    with launcher.run("pserve", launcher.write(APP + SERVER)) as child:
        url = url_of(child)
        launcher.write(APP.replace("hi", "hello again") + SERVER)

        child.signal(signal.SIGUSR2)

        wait_for(lambda: requests.get(url, timeout=10).text == "hello again |/", PATIENCE)
        assert child.stop() == 0


@pytest.mark.slow
def test_our_own_reload_works_as_well(launcher: Launcher) -> None:
    """One process, one socket; and the launcher's file is watched like the code."""
    with launcher.run("pserve", launcher.write(f"{APP}{SERVER}reload.enabled = yes\n")) as child:
        url = url_of(child)
        assert requests.get(url, timeout=10).text == "hi |/"

        launcher.write(f"{APP.replace('hi', 'changed')}{SERVER}reload.enabled = yes\n")

        wait_for(lambda: requests.get(url, timeout=10).text == "changed |/", PATIENCE)
        assert child.stop() == 0


def test_a_restart_that_would_fail_is_refused(launcher: Launcher) -> None:
    """Or else pserve would be gone, and claim a good end."""
    with launcher.run("pserve", launcher.write(APP + SERVER)) as child:
        url = url_of(child)
        launcher.write("[app:main]\nuse = egg:shop#broken\n" + SERVER)

        child.signal(signal.SIGUSR2)

        child.wait_for_output("no database")
        assert requests.get(url, timeout=10).text == "hi |/"
        assert child.stop() == 0


@pytest.mark.slow
def test_pserve_s_own_reload_works(launcher: Launcher) -> None:
    """It starts us in a process of its own, and ends that by SIGTERM."""
    file = launcher.write(APP + SERVER.replace("port = 0", f"port = {free_port()}"))
    with launcher.run("pserve", "--reload", file) as child:
        url = url_of(child)
        assert requests.get(url, timeout=10).text == "hi |/"
        text = (launcher.directory / file).read_text().replace("hi", "changed")

        def save() -> bool:
            # What is saved before hupper has looked once, it takes for what was there.
            (launcher.directory / file).write_text(text)
            return "reloading" in child.output

        wait_for(save, PATIENCE, "hupper to have noticed")
        wait_for(lambda: said(url) == "changed |/", PATIENCE, "the next process")

        assert child.stop() == 0


def said(url: str) -> str:
    try:
        return requests.get(url, timeout=10).text
    except requests.ConnectionError:
        return ""  # between two processes of hupper's


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("backlog = all", "development.ini: backlog: backlog = 'all': expected a whole number"),
        ("thread = 3", "development.ini: thread: [server] has no setting 'thread' - did you mean"),
        ("workers = 2", "pserve serves what is in this process, and has no workers"),
        ("bind = 127.0.0.1:none", "bind = '127.0.0.1:none'"),
    ],
)
def test_a_mistake_is_the_last_line_of_a_failure(
    launcher: Launcher, line: str, sentence: str
) -> None:
    """These programs show a traceback of everything; at least it ends with what to do."""
    done = launcher.ended("pserve", launcher.write(f"{APP}{SERVER}{line}\n"))
    assert done.returncode == 1
    assert sentence in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", EACH)
def test_an_address_in_use_is_no_good_end(launcher: Launcher, name: str) -> None:
    """A SystemExit would be taken for one, and a service manager would be content."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = launcher.ended(name, launcher.write(APP + SERVER.replace("= 0", f"= {port}")))
    assert done.returncode not in (0, None)
    assert "address already in use" in done.stderr


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    """Answer a Zope that its own command has made."""
    code = "from Zope2.utilities.mkwsgiinstance import main; main()"
    argv = [sys.executable, "-c", code, "-d", "instance", "-u", "admin:secret"]
    subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE)
    return tmp_path / "instance" / "etc" / "zope.ini"


@WITHOUT_ZOPE
@pytest.mark.slow
def test_zope_runs_from_its_own_file(instance: Path, launcher: Launcher) -> None:
    """Through both doors; the file is what mkwsgiinstance has written."""
    env = launcher.env | {"SITEBUS_SERVER__BIND": "127.0.0.1:0"}
    with Child([sys.executable, "-m", "sitebus", str(instance)], env=env) as site:
        assert "Zope" in requests.get(url_of(site), timeout=10).text
        assert site.stop() == 0
    instance.write_text(instance.read_text().replace("egg:waitress#main", "egg:sitebus#main"))
    with Child(launcher.argv("runwsgi", str(instance)), env=env) as site:
        answer = requests.get(url_of(site), timeout=10)
        assert "Zope" in answer.text
        assert answer.headers["Server"] == "sitebus"
        assert site.stop() == 0
