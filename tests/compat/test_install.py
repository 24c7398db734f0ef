"""CherryPy itself on the engine, in processes of its own: what was imported stays imported."""

from __future__ import annotations

import http.client
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.helpers import Child, wait_for

INSTALL = "from sitebus.compat.cherrypy import install; install()\n"

SITE = """
import cherrypy, sitebus, pages
from cherrypy.process import plugins

class Counter(plugins.SimplePlugin):
    def start(self):
        self.bus.log("counter started")

    def stop(self):
        self.bus.log("counter stopped")

    def before_request(self):
        self.bus.log("before a request")

    def start_thread(self, number):
        self.bus.log(f"thread {number} serves")

class Root:
    @cherrypy.expose
    def index(self):
        return pages.text()

assert cherrypy.engine is sitebus.engine
Counter(cherrypy.engine).subscribe()
cherrypy.config.update({"server.socket_port": 0, "engine.autoreload.frequency": 0.1, **CONFIG})
cherrypy.quickstart(Root())
print("after quickstart")
"""

PAGES = 'def text():\n    return "one"\n'
QUIET = {"engine.autoreload.on": False, "log.screen": True}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Child]:
    """Write a program, and answer how to run it."""

    def run(program: str, config: object = None) -> Child:
        text = INSTALL + f"CONFIG = {config or {}!r}\n" + textwrap.dedent(program)
        (tmp_path / "site_program.py").write_text(text)
        (tmp_path / "pages.py").write_text(PAGES)
        return Child([sys.executable, "site_program.py"], tmp_path)

    return run


def url_of(child: Child) -> str:
    return child.wait_for_output(r"Serving on (http://127\.0\.0\.1:\d+)")[1]


def test_an_unmodified_application_with_a_plugin(run: Callable[..., Child]) -> None:
    """Its plugin hears of the engine, of requests and of threads, and SIGTERM ends it in order."""
    with run(SITE, QUIET) as child:
        assert requests.get(url_of(child), timeout=10).text == "one"
        for line in ("counter started", "thread 1 serves", "before a request"):
            child.wait_for_output(line)

        assert child.stop() == 0
        assert "counter stopped" in child.output
        assert child.output.splitlines()[-1] == "after quickstart"
        assert "Traceback" not in child.output


def test_ctrl_c_ends_it_without_a_traceback(run: Callable[..., Child]) -> None:
    """As at any tutorial's end."""
    with run(SITE, QUIET) as child:
        url_of(child)
        child.signal(signal.SIGINT)

        assert child.wait() == 0
        assert "Traceback" not in child.output


def test_a_plugin_that_fails_to_start_costs_the_status(run: Callable[..., Child]) -> None:
    """A service manager must learn of it."""
    program = """
    import cherrypy
    cherrypy.engine.subscribe("start", lambda: 1 / 0)
    cherrypy.config.update({"server.socket_port": 0})
    cherrypy.quickstart(None)
    """
    with run(program) as child:
        assert child.wait() not in (0, None)
        assert "ZeroDivisionError" in child.output


def test_a_plugin_that_fails_to_stop_costs_the_status(run: Callable[..., Child]) -> None:
    """CherryPy's own bus leaves with 70 as well."""
    program = """
    import cherrypy
    cherrypy.engine.subscribe("stop", lambda: 1 / 0)
    cherrypy.config.update({"server.socket_port": 0, "engine.autoreload.on": False})
    cherrypy.quickstart(None)
    """
    with run(program) as child:
        url_of(child)

        assert child.stop() == 70


def test_it_is_refused_once_cherrypy_is_there(tmp_path: Path) -> None:
    """Half of it would run on one bus, and half on another."""
    program = tmp_path / "late.py"
    program.write_text(f"import cherrypy\n{INSTALL}")
    with Child([sys.executable, program]) as child:
        assert child.wait() == 1
        assert "call sitebus.compat.cherrypy.install() before the first import" in child.output


def test_a_second_call_does_nothing(run: Callable[..., Child]) -> None:
    """Several modules may each make sure."""
    program = """
    import cherrypy
    assert install() is cherrypy.engine
    assert cherrypy.process.plugins.SimplePlugin is install.__globals__["plugins"].SimplePlugin
    """
    with run(program) as child:
        assert child.wait() == 0


def test_the_configuration_of_the_engine_works(run: Callable[..., Child]) -> None:
    """Switches and attributes of plugins, and listeners on signals."""
    program = """
    import cherrypy
    engine = cherrypy.engine
    cherrypy.config.update({
        "engine.autoreload.on": False,
        "engine.autoreload.frequency": 7,
        "engine.autoreload.match": "^site",
        "engine.stop_timeout": 9,
        "engine.SIGTERM": None,
        "engine.SIGHUP": lambda: print("hup"),
    })
    assert engine.autoreload.frequency == 7 and engine.autoreload.match == "^site"
    assert engine.stop_timeout == 9
    assert not [each for each in engine.listeners["start"]
                if getattr(each, "__self__", None) is engine.autoreload]
    cherrypy.config.update({"engine.autoreload.on": True})
    assert engine.autoreload.start in engine.listeners["start"]
    assert "before_request" in engine.listeners and "after_request" in engine.listeners
    engine.publish("SIGHUP")
    for name in ("autoreload", "thread_manager", "signal_handler", "signals"):
        assert getattr(engine, name)
    """
    with run(program) as child:
        assert child.wait() == 0
        assert "hup" in child.output


@pytest.mark.slow
def test_no_connection_is_refused_while_it_reloads(
    run: Callable[..., Child], tmp_path: Path
) -> None:
    """The socket is the engine's, and goes on through the re-exec."""
    with run(SITE, {"log.screen": True}) as child:
        url = url_of(child)
        client = Client(url)
        with client:
            for text in ("two", "three!"):
                (tmp_path / "pages.py").write_text(PAGES.replace("one", text))
                wait_for(partial(client.has_read, text), 20, f"the answer {text}")
        assert client.failures == []
        assert url_of(child) == url
        assert child.stop() == 0


@pytest.mark.slow
def test_code_that_cannot_start_does_not_replace_the_code_that_serves(
    run: Callable[..., Child], tmp_path: Path
) -> None:
    """CherryPy alone would be gone."""
    with run(SITE, {"log.screen": True}) as child:
        url = url_of(child)
        (tmp_path / "pages.py").write_text("def text(:\n")
        child.wait_for_output("SyntaxError")
        assert requests.get(url, timeout=10).text == "one"

        (tmp_path / "pages.py").write_text(PAGES.replace("one", "mended"))
        wait_for(lambda: requests.get(url, timeout=10).text == "mended", 20)
        child.wait_for_output(r"(?s)Re-spawning.*Bus STARTED")
        assert child.stop() == 0


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux's /proc")
def test_it_does_not_wake_while_nobody_asks(run: Callable[..., Child]) -> None:
    """On its own bus CherryPy wakes twelve times a second."""
    with run(SITE, QUIET) as child:
        requests.get(url_of(child), timeout=10)
        pause = threading.Event()
        pause.wait(0.5)
        before = switches(child.pid)
        pause.wait(2)

        assert switches(child.pid) == before
        assert child.stop() == 0


def switches(pid: int) -> int:
    """Answer how often all threads of a process have waited so far."""
    return sum(
        int(status.read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
    )


class Client:
    """Asks again and again, each time on a new connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: set[str] = set()
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join(20)

    def has_read(self, text: str) -> bool:
        return text in self.answers

    def _ask(self) -> None:
        while not self._ended.wait(0.02):
            connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=20)
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                text = answer.read().decode()
                (self.answers.add if answer.status == 200 else self.failures.append)(text)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            finally:
                with suppress(OSError):
                    connection.close()
