"""The reloader as a plugin: what it does about a change, in this process and in real ones."""

from __future__ import annotations

import os
import queue
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sitebus.errors import CannotRestart, TrialFailed
from sitebus.plugins.autoreload import Autoreloader
from sitebus.process import Engine
from sitebus.reload.named import Named
from tests.helpers import Child, nothing_left, wait_for

PATIENCE = 10.0


class Site(Engine):
    """An engine that notes what it is asked for, and refuses if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.restarts: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.refusal: Exception | None = None
        self.logged: list[str] = []
        self.heard: list[tuple[object, ...]] = []
        self.subscribe("log", lambda message, level: self.logged.append(message))
        for channel in ("files_changed", "files_refreshed", "reload_failed", "reload_mended"):
            self.subscribe(channel, lambda *a, c=channel: self.heard.append((c, *a)))

    def restart(self, force: bool = False) -> None:
        self.restarts.put(threading.current_thread().name)
        if self.refusal is not None:
            raise self.refusal

    def wait_for_restart(self) -> str:
        return self.restarts.get(timeout=PATIENCE)

    def heard_on(self, channel: str) -> list[object]:
        return [what for name, *rest in self.heard if name == channel for what in rest or (None,)]


@pytest.fixture
def site() -> Iterator[Site]:
    with nothing_left():
        site = Site()
        yield site
        site.exit()


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "views.py"
    path.write_text("X = 1\n")
    return path


def reloader(site: Engine, *files: Path, **options: object) -> Autoreloader:
    """Watch *files* only, often."""
    plugin = Autoreloader(site, 0.02, "nothing", force_polling=True, debounce=0.02, **options)  # type: ignore[arg-type]
    plugin.files.update(map(str, files))
    plugin.subscribe()
    site.start()
    wait_for(lambda: all(str(file) in plugin.mtimes for file in files))
    return plugin


def test_a_change_restarts(site: Site, module: Path) -> None:
    """The words are those of wspbus: people look for them in their logs."""
    plugin = reloader(site, module)
    module.write_text("X = 22\n")
    assert site.wait_for_restart() == "Autoreloader"
    assert f"Restarting because {module} changed." in site.logged
    assert plugin.failure is None


def test_an_edit_before_the_first_look_is_seen(site: Site, module: Path) -> None:
    """The first requests come before the look; what was loaded is what was there at the start."""
    plugin = Autoreloader(site, 0.02, "nothing", force_polling=True, debounce=0.02)
    plugin.files.add(str(module))
    plugin.subscribe()
    site.start()
    assert not plugin.mtimes
    module.write_text("X = 22\n")
    assert site.wait_for_restart() == "Autoreloader"


def test_the_files_are_those_of_the_bus(site: Site, module: Path) -> None:
    """``engine.autoreload.files`` is there whether or not anything reloads."""
    site.autoreload.files.add(str(module))
    plugin = Autoreloader(site)
    assert plugin.files is site.autoreload.files
    plugin.files = {"other"}
    assert site.autoreload.files == {"other"}
    site.autoreload = plugin  # as CherryPy has it
    assert plugin.files == {"other"}
    plugin.files.add("mine")
    assert site.autoreload.files == {"other", "mine"}
    site.autoreload = Autoreloader(site)
    assert site.autoreload.files == {"other", "mine"}


def test_a_mistake_in_what_it_is_told_does_not_end_it(site: Site, module: Path) -> None:
    """It says so, and goes on once that is mended."""
    plugin = Autoreloader(site, 0.02, "(", force_polling=True, debounce=0.02)
    plugin.files.add(str(module))
    plugin.subscribe()
    site.start()
    wait_for(lambda: any("Error while reloading" in each for each in site.logged))
    plugin.match = "nothing"
    wait_for(lambda: str(module) in plugin.mtimes)
    module.write_text("X = 22\n")
    assert site.wait_for_restart() == "Autoreloader"


def test_files_may_be_named_at_any_time(site: Site, module: Path, tmp_path: Path) -> None:
    other = tmp_path / "later.py"
    other.write_text("")
    plugin = reloader(site, module)
    site.autoreload.files.add(str(other))
    wait_for(lambda: str(other) in plugin.mtimes)
    other.write_text("X = 1\n")
    site.wait_for_restart()
    assert f"Restarting because {other} changed." in site.logged


def told(site: Engine, *files: Path) -> Autoreloader:
    """Watch *files* only, as the system tells."""
    plugin = Autoreloader(site, match="nothing", debounce=0.02)
    plugin.files.update(map(str, files))
    plugin.subscribe()
    site.start()
    watcher = plugin._watcher
    assert watcher is not None
    wait_for(lambda: watcher._notices and watcher._agenda.left() is None, 20)
    return plugin


def test_the_files_may_be_others_at_any_time(site: Site, module: Path, tmp_path: Path) -> None:
    """A set of one's own in place of the bus's is heard of, though nothing else happens."""
    other = tmp_path / "later.py"
    other.write_text("")
    plugin = told(site, module)
    site.autoreload.files = Named([str(other)])
    wait_for(lambda: str(other) in plugin.mtimes)
    other.write_text("X = 1\n")
    site.wait_for_restart()


@pytest.mark.skipif(sys.platform != "linux", reason="not Linux")
def test_a_watch_that_somebody_closed_is_made_anew(
    site: Site, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some libraries close every descriptor there is, and know nothing of ours."""
    monkeypatch.setattr("sitebus.plugins.reloader.FIRST_DELAY", 0.01)
    plugin = told(site, module)
    assert plugin._watcher is not None
    os.close(plugin._watcher._notices._queue.fd)  # type: ignore[union-attr]
    for text in ("X = 22\n", "X = 333\n"):
        module.write_text(text)
        site.wait_for_restart()
    assert sum("Error while reloading" in each for each in site.logged) == 1


def test_a_syntax_error_is_refused_without_a_trial(site: Site, module: Path) -> None:
    """It is told once, file and line first, and the next good save restarts."""
    plugin = reloader(site, module)
    refused: list[object] = []
    site.subscribe("restart_refused", refused.append)
    module.write_text("\nX = (\n")
    failure = wait_for(lambda: plugin.failure)
    assert isinstance(failure, TrialFailed)
    assert (failure.file, failure.line) == (str(module), 2)
    wait_for(lambda: site.heard_on("reload_failed"))
    assert site.heard_on("reload_failed") == [failure] == refused
    [said] = [line for line in site.logged if "SyntaxError" in line]
    assert said.startswith(f"{module}:2: ")
    assert site.restarts.empty()
    module.write_text("X = 3\n")
    site.wait_for_restart()


def test_a_failed_trial_is_told_once(site: Site, module: Path, tmp_path: Path) -> None:
    """The files that it names are watched until one of them is mended."""
    other = tmp_path / "broken.py"
    other.write_text("raise ValueError\n")
    plugin = reloader(site, module)
    text = "Traceback: ValueError"
    site.refusal = TrialFailed("ValueError", text, str(other), 1, [str(other)])
    module.write_text("import broken\n")
    site.wait_for_restart()
    wait_for(lambda: plugin.failure)
    [said] = wait_for(lambda: [line for line in site.logged if text in line])
    assert said.startswith(f"{other}:1: ValueError")
    wait_for(lambda: str(other) in plugin.mtimes)
    site.refusal = None
    other.write_text("X = 1\n")
    site.wait_for_restart()
    assert len([line for line in site.logged if text in line]) == 1


def test_what_is_put_back_needs_no_restart(site: Site, module: Path) -> None:
    """The code that runs is what is on disk again, so nothing is wrong any more."""
    plugin = reloader(site, module)
    module.write_text("X = (\n")
    wait_for(lambda: plugin.failure)
    module.write_text("X = 1\n")
    wait_for(lambda: site.heard_on("reload_mended"))
    assert plugin.failure is None
    assert site.restarts.empty()
    module.write_text("X = 2\n")
    site.wait_for_restart()


def test_a_missing_module_may_be_added(
    site: Site, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new file beside the site's modules may be what was missing."""
    monkeypatch.setattr("sitebus.reload.sources.STARTED_IN", str(tmp_path))
    plugin = reloader(site, module)
    site.refusal = TrialFailed("ModuleNotFoundError: shopp", "...", str(module), 1, [str(module)])
    module.write_text("import shopp\n")
    site.wait_for_restart()
    wait_for(lambda: plugin.failure)
    watcher = plugin._watcher
    assert watcher is not None
    wait_for(lambda: str(tmp_path) in watcher.snapshot.listings)
    site.refusal = None
    (tmp_path / "shopp.py").write_text("")
    site.wait_for_restart()


def test_a_refused_restart_of_others_is_taken_up(site: Site, module: Path, tmp_path: Path) -> None:
    """A start that failed, or a signal: the mending of its files restarts."""
    broken = tmp_path / "broken.py"
    broken.write_text("X = (\n")
    plugin = reloader(site, module)
    error = TrialFailed("SyntaxError", "text", str(broken), 1, [str(broken)])
    site.publish("restart_refused", error)
    assert plugin.failure is error
    wait_for(lambda: str(broken) in plugin.mtimes)
    broken.write_text("X = 1\n")
    site.wait_for_restart()


def test_a_restart_that_cannot_be_is_told(site: Site, module: Path) -> None:
    plugin = reloader(site, module)
    site.refusal = CannotRestart(("python",), "the interpreter is gone")
    module.write_text("X = 2\n")
    site.wait_for_restart()
    wait_for(lambda: plugin.failure is site.refusal)


def test_a_template_may_be_dealt_with(site: Site, module: Path, tmp_path: Path) -> None:
    """A cleared cache is enough, and nobody waits for a restart."""
    page = tmp_path / "page.html"
    page.write_text("1")
    reloader(site, module, page)
    site.subscribe("files_changed", lambda paths: True)
    page.write_text("22")
    wait_for(lambda: site.heard_on("files_refreshed"))
    assert site.heard == [("files_changed", (str(page),)), ("files_refreshed", (str(page),))]
    assert site.restarts.empty()


def test_a_template_that_nobody_deals_with_restarts(
    site: Site, module: Path, tmp_path: Path
) -> None:
    """An engine that keeps what it has read would show the old page for ever."""
    page = tmp_path / "page.html"
    page.write_text("1")
    reloader(site, module, page)
    site.subscribe("files_changed", lambda paths: 1)  # true, but not True
    page.write_text("22")
    site.wait_for_restart()
    assert site.heard_on("files_refreshed") == []


def test_a_template_together_with_code_restarts(site: Site, module: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("1")
    reloader(site, module, page)
    site.subscribe("files_changed", lambda paths: True)
    page.write_text("22")
    module.write_text("X = 22\n")
    site.wait_for_restart()
    assert site.heard_on("files_refreshed") == []


def test_a_listener_that_fails_does_not_stop_the_watching(
    site: Site, module: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text("1")
    reloader(site, module, page)

    @site.subscribe("files_changed")
    def fail(paths: object) -> None:
        raise RuntimeError("the cache is gone")

    page.write_text("22")
    site.wait_for_restart()
    assert any("the cache is gone" in line for line in site.logged)


def test_the_thread_survives_anything(
    site: Site, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it no change would be seen any more, and nobody would know."""
    monkeypatch.setattr("sitebus.plugins.reloader.FIRST_DELAY", 0.01)
    reloader(site, module)
    site.refusal = RuntimeError("unheard of")
    module.write_text("X = 22\n")
    site.wait_for_restart()
    wait_for(lambda: any("unheard of" in line for line in site.logged))
    site.refusal = None
    module.write_text("X = 333\n")
    site.wait_for_restart()


def test_a_loop_is_put_off_and_named(site: Site, module: Path) -> None:
    """A site that changes its own files must not keep the machine busy."""
    reloader(site, module)
    for number in range(5):
        module.write_text(f"X = {number + 10}\n")
        site.wait_for_restart()
    module.write_text("X = 'again'\n")
    said = wait_for(
        lambda: [line for line in site.logged if "reloads in a short time" in line], PATIENCE
    )
    assert said[0].startswith(str(module))
    assert site.restarts.empty()
    site.stop()  # which does not wait for the pause


def test_stop_and_start_go_on_where_they_were(site: Site, module: Path) -> None:
    """The modules are still the old ones, so an edit meanwhile counts."""
    plugin = reloader(site, module)
    first = plugin.thread
    site.stop()
    assert plugin.thread is None
    assert first is not None
    assert not first.is_alive()
    module.write_text("X = 22\n")
    site.start()
    site.wait_for_restart()


def test_run_looks_once(site: Site, module: Path) -> None:
    """As the callback of wspbus' monitor, for whoever calls it from somewhere else."""
    plugin = Autoreloader(site, match="nothing")
    plugin.files.add(str(module))
    plugin.run()
    assert site.restarts.empty()
    module.write_text("X = 22\n")
    plugin.run()
    assert site.restarts.get_nowait() == threading.current_thread().name
    plugin.unsubscribe()


def test_no_frequency_no_watching(site: Site) -> None:
    """As a monitor of wspbus."""
    plugin = Autoreloader(site, frequency=0)
    plugin.subscribe()
    site.start()
    assert plugin.thread is None


def test_the_next_image_is_left_what_is_known(module: Path) -> None:
    site = Site()
    plugin = reloader(site, module)
    site._successor = object()  # type: ignore[assignment]
    site.stop()
    site._successor = None
    from sitebus import legacy

    known = legacy.read(site.legacies.pop("reload"))
    assert str(module) in known["snapshot"]["states"]
    plugin.unsubscribe()
    site.exit()


@pytest.mark.parametrize("kind", ["cherrypy", "magicbus"])
def test_a_foreign_bus_is_restarted_as_ever(kind: str, module: Path) -> None:
    """Plugins take any bus that speaks wspbus."""
    wspbus = pytest.importorskip(
        "cherrypy.process.wspbus" if kind == "cherrypy" else "magicbus.base"
    )
    bus = wspbus.Bus()
    restarts: queue.SimpleQueue[None] = queue.SimpleQueue()
    bus.restart = lambda: restarts.put(None)
    plugin = Autoreloader(bus, 0.02, "nothing", force_polling=True)
    plugin.files.add(str(module))
    plugin.subscribe()
    plugin.start()
    wait_for(lambda: plugin.mtimes)
    module.write_text("X = 22\n")
    restarts.get(timeout=PATIENCE)
    plugin.stop()
    plugin.unsubscribe()


# Real processes.

PROGRAM = """
import sys
from sitebus.process import Engine
from sitebus.plugins.autoreload import Autoreloader
from sitebus.reload.named import Named
from sitebus.plugins.signals import SignalHandler

engine = Engine()
engine.subscribe("log", lambda message, level: print(message, flush=True))
SignalHandler(engine).subscribe()
Autoreloader(engine{options}).subscribe()
import shop.views
engine.subscribe("start", lambda: print("serving", shop.views.VERSION, flush=True), 90)
engine.start()
sys.exit(engine.block())
"""

OPTIONS = pytest.mark.parametrize(
    "options", [", frequency=0.05, force_polling=True", ""], ids=["polling", "native"]
)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "views.py").write_text("VERSION = 1\n")
    running: list[Child] = []

    def start(options: str = "", program: str = PROGRAM) -> Child:
        (tmp_path / "run.py").write_text(program.replace("{options}", options))
        child = Child([sys.executable, "run.py"], tmp_path)
        running.append(child)
        return child

    yield start
    for child in running:
        print(child)
        child.close()


def after(child: Child, pattern: str, mark: int) -> int:
    """Wait for *pattern* behind *mark* in the output; answer where it ends."""
    regex = re.compile(pattern, re.MULTILINE)
    wait_for(lambda: regex.search(child.output, mark), 20, repr(pattern))
    found = regex.search(child.output, mark)
    assert found
    return found.end()


@OPTIONS
def test_a_site_follows_its_code(
    program: Callable[..., Child], tmp_path: Path, options: str
) -> None:
    """Good saves reload in the same process, bad ones do not, and none is missed."""
    child = program(options)
    views = tmp_path / "shop" / "views.py"
    at = after(child, "^serving 1$", 0)
    views.write_text("VERSION = 2\n")
    at = after(child, "^serving 2$", at)
    # Of the same size and with the same time: bytecode of the old one would be taken for current.
    saved = views.stat()
    views.write_text("VERSION = 3\n")
    os.utime(views, ns=(saved.st_atime_ns, saved.st_mtime_ns))
    at = after(child, "^serving 3$", at)
    views.write_text("VERSION = (\n")
    at = after(child, rf"^{views}:1: SyntaxError", at)
    views.write_text("VERSION = missing\n")
    at = after(child, rf"^{views}:1: NameError", at)
    (tmp_path / "shop" / "helper.py").write_text("VERSION = 4\n")
    views.write_text("from shop.helper import VERSION\n")
    at = after(child, "^serving 4$", at)
    # The one that came later is watched as well.
    (tmp_path / "shop" / "helper.py").write_text("VERSION = 55\n")
    after(child, "^serving 55$", at)
    assert child.stop() == 0
    assert child.output.count("SyntaxError") == 2  # the sentence, and the text below it


@OPTIONS
def test_an_edit_during_the_start_is_not_lost(
    program: Callable[..., Child], tmp_path: Path, options: str
) -> None:
    """The module is loaded already, and the watcher has not begun."""
    slow = PROGRAM.replace(
        "import shop.views\n",
        "import shop.views, os, threading\n"
        "print('imported', flush=True)\n"
        "while not os.path.exists('go'): threading.Event().wait(0.01)\n",
    )
    child = program(options, slow)
    child.wait_for_output("^imported$")
    (tmp_path / "shop" / "views.py").write_text("VERSION = 2\n")
    (tmp_path / "go").write_text("")
    child.wait_for_output("^serving 2$")
    assert child.stop() == 0


def test_an_edit_while_the_next_image_starts_is_not_lost(
    program: Callable[..., Child], tmp_path: Path
) -> None:
    """Between two images nobody watches; the new one compares with what the old one knew."""
    child = program("", PROGRAM.replace("import shop.views\n", SLOW_SECOND))
    at = after(child, "^serving 1$", 0)
    views = tmp_path / "shop" / "views.py"
    views.write_text("VERSION = 2\n")
    at = after(child, "^second image$", at)
    views.write_text("VERSION = 3\n")
    (tmp_path / "go").write_text("")
    after(child, "^serving 3$", at)
    assert child.stop() == 0


#: The module is loaded before the plugin hears anything; the second image waits there.
SLOW_SECOND = """
import os, threading
import shop.views
if shop.views.VERSION == 2 and not engine.trying:
    print("second image", flush=True)
    while not os.path.exists("go"):
        threading.Event().wait(0.01)
"""


@OPTIONS
def test_the_last_of_many_quick_saves_is_served(
    program: Callable[..., Child], tmp_path: Path, options: str
) -> None:
    """Some come while the site restarts; the last must not be among those that are lost."""
    child = program(options)
    child.wait_for_output("^serving 1$")
    pause = threading.Event()
    for number in range(10, 20):
        # A file that is cut short for a moment could be just what a new image reads.
        (tmp_path / "draft").write_text(f"VERSION = {number}\n")
        (tmp_path / "draft").replace(tmp_path / "shop" / "views.py")
        pause.wait(0.07)  # a pace, not a wait for anything
    child.wait_for_output("^serving 19$")
    assert child.stop() == 0


def test_a_refused_site_still_ends_when_told(program: Callable[..., Child], tmp_path: Path) -> None:
    child = program()
    child.wait_for_output("^serving 1$")
    (tmp_path / "shop" / "views.py").write_text("raise SystemExit(3)\n")
    child.wait_for_output("not restarted")
    child.signal(signal.SIGTERM)
    assert child.wait() == 0


def test_a_daemon_thread_in_the_library_does_not_hurt_the_end(
    program: Callable[..., Child], tmp_path: Path
) -> None:
    """A program may simply end, without telling the bus."""
    ending = PROGRAM.replace("sys.exit(engine.block())", "print('ending', flush=True)")
    child = program("", ending)
    child.wait_for_output("^ending$")
    assert child.wait() == 0
    assert "panic" not in child.output
