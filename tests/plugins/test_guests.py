"""Applications of CherryPy and magicbus on a site: their engines run with ours, and as guests."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.helpers import PATIENCE, URL, Child, SiteProcess, environment

#: A program as its users have it, with everything that a site has already.
SHOP = """\
import cherrypy
from cherrypy.process import plugins, servers

class Stock(plugins.SimplePlugin):
    def start(self):
        print("stock: start", flush=True)
    def stop(self):
        print("stock: stop", flush=True)
    def exit(self):
        print("stock: exit", flush=True)
    def graceful(self):
        print("stock: graceful", flush=True)

class Shop:
    @cherrypy.expose
    def index(self):
        return str(cherrypy.engine.state)
    @cherrypy.expose
    def leave(self):
        cherrypy.engine.exit()
        return "bye"
    @cherrypy.expose
    def again(self):
        cherrypy.engine.restart()
        return "in a moment"

cherrypy.config.update({"checker.on": False, "server.socket_port": 0})
Stock(cherrypy.engine).subscribe()
cherrypy.engine.signals.subscribe()
application = cherrypy.tree.mount(Shop(), "", {"/": {}})
tree = cherrypy.tree
"""
MAGIC = """\
from magicbus import bus
from magicbus.plugins import SimplePlugin, signalhandler, tasks

class Stock(SimplePlugin):
    def START(self):
        print("stock: start", flush=True)
    def STOP(self):
        print("stock: stop", flush=True)
    def EXIT(self):
        print("stock: exit", flush=True)

Stock(bus).subscribe()
signalhandler.SignalHandler(bus).subscribe()
tasks.Autoreloader(bus).subscribe()

class Shop:
    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "/leave":
            bus.transition("EXITED")
        if environ["PATH_INFO"] == "/again":
            bus.restart()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [bus.state.encode()]

application = Shop()
"""
BROKEN = '\ncherrypy.engine.subscribe("start", lambda: 1 / 0)\n'
PROGRAMS = [("cherrypy", SHOP, "states.STARTED"), ("magicbus", MAGIC, "RUN")]
FREE = ("--bind", "127.0.0.1:0")
#: Both libraries have warnings of their own.
QUIET = {"PYTHONWARNINGS": ""}


def serve(directory: Path, program: str, *targets: str) -> SiteProcess:
    (directory / "shop.py").write_text(program)
    return SiteProcess(*(targets or ("wsgi:shop:application",)), *FREE, cwd=directory, env=QUIET)


def said(site: Child | SiteProcess) -> list[str]:
    """Answer what the program's own plugin has heard."""
    return [line.strip() for line in site.output.splitlines() if line.startswith("stock: ")]


@pytest.mark.parametrize(("name", "program", "running"), PROGRAMS)
def test_an_engine_lives_as_long_as_the_site(
    tmp_path: Path, name: str, program: str, running: str
) -> None:
    """Its plugins see each step once, and the last word is the site's."""
    with serve(tmp_path, program) as site:
        assert requests.get(site.url, timeout=10).text == running
        assert site.stop() == 0
        assert said(site) == ["stock: start", "stock: stop", "stock: exit"]
        assert f"{name}" in site.output
        off = "SignalHandler" if name == "magicbus" else "Autoreloader, Server, SignalHandler"
        assert off in site.output


@pytest.mark.parametrize(("name", "program", "running"), PROGRAMS)
def test_a_program_may_end_its_engine_and_ends_the_site(
    tmp_path: Path, name: str, program: str, running: str
) -> None:
    """The request that asked for it is answered, and the process ends well."""
    with serve(tmp_path, program) as site:
        assert requests.get(f"{site.url}/leave", timeout=10).status_code == 200
        assert site.wait() == 0
        assert said(site) == ["stock: start", "stock: stop", "stock: exit"]


@pytest.mark.parametrize(("name", "program", "running"), PROGRAMS)
def test_a_program_may_restart_its_engine_and_restarts_the_site(
    tmp_path: Path, name: str, program: str, running: str
) -> None:
    """By our way: one process, one socket, no refused connection."""
    with serve(tmp_path, program) as site:
        url = site.url
        assert requests.get(f"{url}/again", timeout=10).status_code == 200
        site.wait_for_output(r"(?s)stock: exit.*stock: start")
        assert requests.get(url, timeout=10).text == running
        assert site.stop() == 0


@pytest.mark.parametrize("target", ["wsgi:shop:application", "wsgi:shop:tree"])
def test_graceful_and_signals_reach_it_by_way_of_the_site(tmp_path: Path, target: str) -> None:
    """Who handles SIGUSR1 twice reloads twice; and a whole tree is an application, too."""
    with serve(tmp_path, SHOP, target) as site:
        assert requests.get(site.url, timeout=10).text == "states.STARTED"
        site.signal(signal.SIGUSR1)
        site.wait_for_output("stock: graceful")
        assert site.stop() == 0
        assert said(site).count("stock: graceful") == 1
        # A line for each request, and that the site's.
        assert site.output.count("GET / HTTP") == 1


@pytest.mark.parametrize(("name", "program", "running"), PROGRAMS)
def test_what_was_imported_before_the_site_is_as_welcome(
    tmp_path: Path, name: str, program: str, running: str
) -> None:
    """It had the signals before the site; taking them from it must not take them from the site."""
    (tmp_path / "shop.py").write_text(program)
    (tmp_path / "run.py").write_text(
        "import shop, sitebus\nsitebus.quickstart(shop.application, bind='127.0.0.1:0')\n"
    )
    with Child([sys.executable, "run.py"], tmp_path, QUIET) as child:
        url = child.wait_for_output(URL).group()
        assert requests.get(url, timeout=10).text == running
        assert child.stop() == 0
        assert said(child) == ["stock: start", "stock: stop", "stock: exit"]


def test_one_engine_for_several_applications(tmp_path: Path) -> None:
    """It is started once, whoever else is mounted."""
    with serve(tmp_path, SHOP, "/a=wsgi:shop:application", "/b=wsgi:shop:tree") as site:
        site.wait_for_output("Ctrl-C to stop")
        assert site.stop() == 0
        assert said(site) == ["stock: start", "stock: stop", "stock: exit"]


def test_a_plugin_that_fails_is_a_sentence_and_not_the_end(tmp_path: Path) -> None:
    """CherryPy's own start would leave with status 70 before the others have stopped."""
    with serve(tmp_path, SHOP + BROKEN) as site:
        assert site.wait() == 70
        assert "cherrypy.engine of the application at / does not start: ZeroDivision" in site.output
        assert said(site)[-1] == "stock: exit"


def test_magicbus_failures_too(tmp_path: Path) -> None:
    """Its own start says nothing to who asked for it."""
    with serve(tmp_path, MAGIC + '\nbus.subscribe("START", lambda: 1 / 0)\n') as site:
        assert site.wait() == 70
        assert "magicbus of the application at / does not start: ZeroDivision" in site.output


def test_who_is_mounted_while_the_site_serves_is_noticed(tmp_path: Path) -> None:
    """It would be answered by an engine that nobody has started."""
    (tmp_path / "later.py").write_text(
        "import sitebus\n"
        "class Later:\n"
        "    def __init__(self, bus): self.bus = bus\n"
        "    def subscribe(self): self.bus.subscribe('started', self.mount)\n"
        "    def unsubscribe(self): self.bus.unsubscribe('started', self.mount)\n"
        "    def mount(self):\n"
        "        import shop\n"
        "        sitebus.site.mount(shop.application, '/')\n"
    )
    (tmp_path / "site.ini").write_text(
        "[mount /away]\napp = redirect:/\n[plugin later]\nuse = later:Later\n"
    )
    with serve(tmp_path, SHOP, "site.ini") as site:
        site.wait_for_output("Ctrl-C to stop")
        assert requests.get(site.url, timeout=10).text == "states.STARTED"
        assert site.stop() == 0
        assert said(site) == ["stock: start", "stock: stop", "stock: exit"]


@pytest.mark.parametrize(("name", "program", "running"), PROGRAMS)
def test_one_site_may_come_after_another(
    tmp_path: Path, name: str, program: str, running: str
) -> None:
    """Each test has one of its own, and there is one engine in a process."""
    (tmp_path / "shop.py").write_text(program)
    (tmp_path / "twice.py").write_text(
        "import requests, shop\n"
        "from sitebus.testing import ServedSite\n"
        "for _ in range(2):\n"
        "    with ServedSite(shop.application) as served:\n"
        "        print(requests.get(served.url).text, flush=True)\n"
    )
    with Child([sys.executable, "twice.py"], tmp_path, QUIET) as child:
        assert child.wait() == 0
        assert said(child) == 2 * ["stock: start", "stock: stop", "stock: exit"]
        assert child.output.count(f"{running}\n") == 2


def test_a_check_starts_no_engine(tmp_path: Path) -> None:
    """It loads, and that is all."""
    (tmp_path / "shop.py").write_text(SHOP)
    done = subprocess.run(
        [sys.executable, "-m", "sitebus", "wsgi:shop:application", "--check=import"],
        cwd=tmp_path, env=environment(**QUIET), capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "stock" not in done.stdout


def test_nobody_is_imported_for_it() -> None:
    """A site without them does not pay for them, whatever is installed."""
    code = (
        "import sys, sitebus.plugins.guests, sitebus\n"
        "site = sitebus.Site()\n"
        "site.mount(lambda environ, start_response: [], '/')\n"
        "guests = sitebus.plugins.guests.GuestEngines(sitebus.engine, site, print)\n"
        "guests.start()\n"
        "print(sorted({'cherrypy', 'magicbus'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
