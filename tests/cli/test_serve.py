"""Serving real sites by real processes, over real HTTP."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.cli.conftest import Command
from tests.helpers import PATIENCE, SiteProcess, wait_for

Start = Callable[..., SiteProcess]


@pytest.fixture
def start(site_process: Start, directory: Path) -> Start:
    """Start ``sitebus-serve`` in the directory of the applications, on a free port."""

    def run(*arguments: str, **env: str) -> SiteProcess:
        return site_process(*arguments, "-b", "127.0.0.1:0", cwd=directory, env=env)

    return run


def get(site: SiteProcess, path: str = "/", **headers: str) -> str:
    answer = requests.get(site.url + path, headers=headers, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_an_application_of_a_module_is_served(start: Start) -> None:
    """The shortest way in; SIGTERM is the usual way out."""
    site = start("hello:app")
    assert get(site, "/x") == "|/x"
    assert site.stop() == 0
    assert "Traceback" not in site.output


def test_ctrl_c_ends_it_quietly(start: Start) -> None:
    """It was asked to stop, and stopped: that is no failure."""
    site = start("hello:app")
    assert get(site)
    site.signal(signal.SIGINT)
    assert site.wait() == 0
    assert "Traceback" not in site.output
    assert "KeyboardInterrupt" not in site.output


SLOW = """\
import pathlib, threading
print("importing", flush=True)
while not pathlib.Path("go").exists():
    threading.Event().wait(0.01)
def app(environ, start_response):
    raise AssertionError
"""


def test_an_end_during_the_start_is_no_failure(start: Start, directory: Path) -> None:
    """Whoever changes their mind while applications are imported need not wait for a traceback."""
    (directory / "slow.py").write_text(SLOW)
    site = start("slow:app")
    site.wait_for_output("importing")
    site.signal(signal.SIGINT)
    (directory / "go").touch()
    assert site.wait() == 0
    assert "serving on" not in site.output
    assert "Traceback" not in site.output


def test_ctrl_c_before_the_start_is_quiet(start: Start, directory: Path) -> None:
    """There is nothing to stop yet, and nothing to say."""
    (directory / "slow.py").write_text(SLOW)
    site = start("slow:app", "--check=import")
    site.wait_for_output("importing")
    site.signal(signal.SIGINT)
    assert site.wait() == 130
    assert site.output == "importing\n"


def test_a_file_and_several_mounts_are_served(start: Start) -> None:
    """Each at its own path, on its own host."""
    site = start("hello.py", "/a=hello:app", "--mount", "docs.example.org/b=hello:app")
    assert get(site, "/x") == "|/x"
    assert get(site, "/a/x") == "/a|/x"
    assert get(site, "/b/x", Host="docs.example.org") == "/b|/x"


def test_a_factory_is_called_when_it_is_said(start: Start) -> None:
    """Nothing is ever called to find out."""
    assert get(start("hello:greeter", "--factory")) == "hello"


def test_a_site_is_what_its_file_says(start: Start, directory: Path) -> None:
    """Applications with settings, filters, environment, includes, and paths beside the file."""
    home = directory / "etc"
    home.mkdir()
    (home / "more.ini").write_text("[mount /files]\napp = static:${here}/files\n")
    (home / "files").mkdir()
    (home / "files" / "a.txt").write_text("a file")
    (home / "site.ini").write_text(
        "[site]\nname = test\npython_path = ..\ninclude = more.ini\n"
        "[server]\nbind = 127.0.0.1:1\nthreads = 3\n"
        "[env]\nGREETING = from the environment\n"
        "[mount /]\napp = app:greeting\nfilters = loud\n"
        "[app greeting]\nuse = hello:greeter\ngreeting = ${env:GREETING}\n"
        "[filter loud]\nuse = hello:shouting\nmark = ?\n"
        "[mount /old]\napp = redirect:/files/a.txt\n"
        "[mount /off]\napp = nowhere:app\nenabled = no\n"
    )
    site = start("etc/site.ini")
    assert get(site) == "FROM THE ENVIRONMENT?"
    assert get(site, "/files/a.txt") == "a file"
    assert get(site, "/old") == "a file"
    assert "etc/site.ini" in site.output


def test_site_ini_is_served_when_nothing_is_named(start: Start, directory: Path) -> None:
    """The file in the current directory is the one that is meant."""
    (directory / "site.ini").write_text("[mount /]\napp = hello:app\n")
    assert get(start(), "/y") == "|/y"


def test_several_servers_serve_one_site(site_process: Start, directory: Path) -> None:
    """A public one, and one for the machine itself."""
    (directory / "site.ini").write_text(
        "[server a]\nbind = 127.0.0.1:0, unix:site.sock\n[server b]\nbind = 127.0.0.2:0\n"
        "[mount /]\napp = hello:app\n"
    )
    site = site_process("site.ini", cwd=directory)
    site.wait_for_output("Ctrl-C")
    urls = re.findall(r"^serving on (\S+)$", site.output, re.MULTILINE)
    assert len(set(urls)) == 3
    assert [requests.get(url, timeout=10).text for url in urls if "unix" not in url] == ["|/"] * 2
    assert (directory / "site.sock").is_socket()
    assert site.stop() == 0
    assert not (directory / "site.sock").exists()


def test_a_plugin_of_the_file_takes_part(start: Start, directory: Path) -> None:
    """Anything that can be subscribed, with the settings of its section."""
    (directory / "shop.py").write_text(
        "from sitebus.plugins import Plugin, listens\n"
        "class Cache(Plugin):\n"
        "    def __init__(self, bus, size):\n"
        "        super().__init__(bus)\n"
        "        self.size = size\n"
        "    @listens('started')\n"
        "    def started(self):\n"
        "        self.bus.log(f'a cache of {self.size}')\n"
    )
    (directory / "site.ini").write_text(
        "[mount /]\napp = hello:app\n[plugin cache]\nuse = shop:Cache\nsize = 9\n"
        "[plugin not]\nuse = gone:Gone\nenabled = no\n"
    )
    start("site.ini").wait_for_output("a cache of 9")


def test_the_banner_says_what_is_served(start: Start) -> None:
    """One look is enough to know that the right thing runs."""
    site = start("hello:app", "/wiki=hello:app")
    site.wait_for_output("Ctrl-C to stop")
    lines = site.output.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("sitebus "))
    assert re.fullmatch(rf"sitebus \S+ \(pid {site.pid}\)", lines[first])
    assert lines[first + 1].split() == ["/", "hello:app", "wsgi"]
    assert lines[first + 2].split() == ["/wiki", "hello:app", "wsgi"]
    assert lines[first + 3] == f"serving on {site.url}"
    assert lines[first + 4] == "Ctrl-C to stop"
    assert "\033[" not in site.output


def test_the_banner_names_the_site_and_no_secret(start: Start, directory: Path) -> None:
    """It is the first thing in a log."""
    (directory / "pw").write_text("hunter2")
    (directory / "site.ini").write_text(
        "[site]\nname = shop\n[mount /]\napp = redirect:https://u:${file:pw}@h/\n"
    )
    site = start("site.ini")
    site.wait_for_output("Ctrl-C")
    assert f"(pid {site.pid}), shop, site.ini" in site.output
    assert "hunter2" not in site.output


def test_an_application_named_app_is_found(start: Start, directory: Path) -> None:
    """As the frameworks' own tutorials name it."""
    (directory / "app.py").write_text((directory / "hello.py").read_text())
    assert get(start("app:app"), "/x") == "|/x"


def test_colours_are_forced(start: Start) -> None:
    """For logs that are looked at in a browser that knows them."""
    site = start("hello:app", FORCE_COLOR="1")
    site.wait_for_output("Ctrl-C")
    assert "\033[1msitebus" in site.output


def test_quiet_is_quiet(start: Start, directory: Path) -> None:
    """Not a word, unless something is wrong."""
    site = start("hello:app", "-q", "--access-log", "off", "-b", "unix:site.sock")
    wait_for((directory / "site.sock").exists, PATIENCE)
    assert site.stop() == 0
    assert site.output == ""


def test_json_logs_are_json_all_through(start: Start) -> None:
    """The banner too, and the line of a request."""
    site = start("hello:app", "--log-format", "json")
    url = json.loads(site.wait_for_output(r"^.*\"event\": \"serving\".*$").group())["urls"][0]
    requests.get(url + "/x?y=1", timeout=10)
    site.wait_for_output("/x")
    assert site.stop() == 0
    records = [json.loads(line) for line in site.output.splitlines()]
    (banner,) = [record for record in records if record.get("event") == "serving"]
    assert banner["mounts"] == [{"place": "/", "target": "hello:app", "framework": "wsgi"}]
    assert banner["pid"] == site.pid
    assert any(record.get("uri") == "/x?y=1" and record["status"] == 200 for record in records)


def test_logs_go_where_they_are_told(start: Start, directory: Path) -> None:
    """Requests to one file, messages to another."""
    site = start("hello:app", "--access-log", "access.log", "-o", "logging.error=error.log", "-v")
    assert get(site, "/logged")
    assert site.stop() == 0
    assert "/logged" in (directory / "access.log").read_text()
    assert "Bus STARTED" in (directory / "error.log").read_text()
    assert "Bus STARTED" not in site.output


def test_environment_files_come_before_the_configuration(start: Start, directory: Path) -> None:
    """They may set what the configuration asks for, and options themselves."""
    (directory / "env").write_text(
        "# for tests\nexport WORD='from a file'\nSITEBUS_SERVER__THREADS=2\nHOME_TOWN=\"Graz\"\n"
    )
    (directory / "site.ini").write_text(
        "[mount /]\napp = app:a\n[app a]\nuse = hello:greeter\n"
        "greeting = ${env:WORD} ${env:HOME_TOWN}\n"
    )
    assert get(start("--env-file", "env", HOME_TOWN="Wien")) == "from a file Wien"


def test_another_directory_is_changed_to(start: Start, directory: Path) -> None:
    """As ``make -C``: all that is relative is relative to it."""
    (directory / "inner").mkdir()
    (directory / "inner" / "only.py").write_text((directory / "hello.py").read_text())
    assert get(start("only:app", "--chdir", "inner"), "/z") == "|/z"
    assert get(start("only:app", "--app-dir", "inner"), "/z") == "|/z"


def test_check_says_that_all_is_well(command: Command, directory: Path) -> None:
    """And what it looked at."""
    (directory / "site.ini").write_text("[mount /]\napp = nowhere:app\n")
    done = command("--check")
    assert (done.stdout, done.stderr, done.returncode) == ("site.ini: no mistakes\n", "", 0)


def test_print_config_tells_where_each_value_comes_from(command: Command, directory: Path) -> None:
    """Nobody should have to guess who won."""
    (directory / "site.ini").write_text(
        "[server]\nthreads = 3\ntimeout = 5s\n[mount /]\napp = app:a\n"
        "[app a]\nuse = hello:greeter\npassword = hunter2\n"
    )
    done = command("--print-config", "-o", "server.timeout=7", SITEBUS_SERVER__MAX_HEADER="32KB")
    told = {
        line.partition(" = ")[0]: " ".join(line.partition(" = ")[2].split())
        for line in done.stdout.splitlines()
    }
    assert told["threads"] == "3 # site.ini:2"
    assert told["timeout"] == "7s # command line -o server.timeout"
    assert told["max_header"] == "32KB # environment SITEBUS_SERVER__MAX_HEADER"
    assert told["adapter"] == "cheroot # default"
    assert told["password"] == "******** # site.ini:8"
    assert "hunter2" not in done.stdout
    assert done.returncode == 0


def test_list_mounts_imports_nothing(command: Command) -> None:
    """It is for a look at a site that does not work."""
    done = command("--list-mounts", "/=gone:app", "*.example.org:80/a=broken:app")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["/", "gone:app"],
        ["*.example.org:80/a", "broken:app"],
    ]


def test_the_versions_that_matter_are_told(command: Command) -> None:
    """A bug report begins with them."""
    done = command("--version")
    assert re.match(r"sitebus \S+ \(CPython \S+, cheroot \S+, \S+ \S+\)", done.stdout)


def test_help_tells_every_flag(command: Command) -> None:
    """In groups, with the exit statuses at the end."""
    done = command("-h")
    assert done.returncode == 0
    for part in ("the site:", "the server:", "--bind", "--check[=import]  ", "Exit status:"):
        assert part in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_knows_every_flag(command: Command, shell: str) -> None:
    """It is made from the parser, so it cannot miss one."""
    import shutil
    import subprocess

    done = command("--print-completion", shell)
    for flag in ("bind", "print-config", "color", "log-format"):
        assert flag in done.stdout
    # Bash would complete the target after it, which is none of its words.
    assert "--check)" not in done.stdout
    program = shutil.which(shell)
    if program:
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True)


def test_arguments_may_stand_in_any_order(command: Command) -> None:
    """Between targets, too."""
    done = command("--list-mounts", "/=hello:app", "-t", "3", "/b=hello:app", "--check")
    assert len(done.stdout.splitlines()) == 2


def test_a_thread_that_never_ends_does_not_hold_the_process(
    site_process: Callable[..., SiteProcess], tmp_path: Path
) -> None:
    """The second signal cuts the wait short; the interpreter would wait for ever."""
    (tmp_path / "holding.py").write_text(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, name='holding on').start()\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return []\n"
    )
    child = site_process("holding:app", "-b", "127.0.0.1:0", cwd=tmp_path)
    child.wait_for_output("serving on")
    child.signal()
    child.wait_for_output("Waiting for thread holding on")
    child.signal()
    assert child.wait() == 70
    assert "Leaving thread holding on behind" in child.output
