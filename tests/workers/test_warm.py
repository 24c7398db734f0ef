"""Reloads that import the project alone: a process keeps what it has imported of others."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sitebus.workers.libraries import libraries
from tests.helpers import PATIENCE, wait_for
from tests.workers.site import alive
from tests.workers.warm_site import APPLICATION, HEAVY, SITE, WarmSite, control, importers

#: A framework that finds the site's settings when they are first wanted.
FRAMEWORK = """\
import importlib
import os


class Settings:
    def __getattr__(self, name):
        return getattr(importlib.import_module(os.environ["FRAMEWORK_SETTINGS"]), name)


settings = Settings()
"""

CONFIGURED = "import os\nos.environ['FRAMEWORK_SETTINGS'] = 'settings'\nimport framework\n"


Starter = Callable[..., WarmSite]


@pytest.fixture
def libs(tmp_path: Path) -> Path:
    """What is installed."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "heavy.py").write_text(HEAVY)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The project."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "release.py").write_text("VERSION = 'one'\n")
    return folder


@pytest.fixture
def start(folder: Path, libs: Path) -> Iterator[Starter]:
    """Serve the project, whose application imports and answers what is said."""
    with ExitStack() as running:

        def start(
            imports: str = "", answer: str = "None", more: str = "", workers: int = 1
        ) -> WarmSite:
            (folder / "shop.py").write_text(APPLICATION.format(imports=imports, answer=answer))
            (folder / "site.ini").write_text(SITE.format(more=more, workers=workers))
            return running.enter_context(WarmSite(folder))

        yield start


def test_what_is_installed_is_imported_once(start: Starter, libs: Path, folder: Path) -> None:
    """A second of imports is paid at the start, and once more where nobody waits for it."""
    (libs / "heavy.py").write_text(f"import time\ntime.sleep(1)\n{HEAVY}")
    site = start()
    keeper = site.wait_until_warm()
    for number in range(3):
        began = time.perf_counter()
        told = site.reload(f"version {number}")
        assert time.perf_counter() - began < 0.9
        assert told["heavy"] == told["parent"] == keeper
        site.wait_until_warm()
    assert len(importers(folder, "heavy")) == 2
    assert site.stop() == 0


def test_the_project_is_imported_anew_each_time(start: Starter, folder: Path) -> None:
    """By each worker itself, and by nobody else: nothing of it is older than its process."""
    package = folder / "project"
    package.mkdir()
    (package / "__init__.py").write_text("from project import parts\n")
    (package / "parts.py").write_text("import os\nSEEN = [os.getpid()]\n")
    site = start("import project", "project.parts.SEEN")
    for number in range(3):
        site.wait_until_warm()
        told = site.reload(f"version {number}")
        assert told["answer"] == [told["pid"]]


def test_a_new_module_is_found(start: Starter, folder: Path) -> None:
    """What the import system remembers of the project's directories is forgotten."""
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text("VERSION = 1\n")
    site = start("import package", "package.VERSION")
    site.wait_until_warm()
    before = folder.stat()
    (folder / "extra.py").write_text("VERSION = 2\n")
    # As if both were within one tick of the clock that the file system has.
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    site.save("package/__init__.py", "from extra import VERSION\n")
    site.wait_for_told("answer", 2)


def test_a_library_that_imports_the_project_is_imported_anew(
    start: Starter, libs: Path, folder: Path
) -> None:
    """Also one that could do without, and one that has what it needs from the other."""
    plugged = "try:\n    import plugin\nexcept ImportError:\n    plugin = None\n"
    (libs / "plugged.py").write_text(f"{plugged}VALUE = plugin and plugin.VALUE\n")
    (libs / "above.py").write_text("from plugged import VALUE\n")
    (folder / "plugin.py").write_text("VALUE = 1\n")
    site = start("import above, plugged", "[above.VALUE, plugged.VALUE]")
    for value in (2, 3):
        keeper = site.wait_until_warm()
        site.save("plugin.py", f"VALUE = {value}\n")
        told = site.wait_for_told("answer", [value, value])
        assert told["heavy"] == keeper, "the others are kept"


def test_a_library_that_reads_a_file_of_the_project_is_imported_anew(
    start: Starter, libs: Path, folder: Path
) -> None:
    """What it made of the file would be old after the next change."""
    reads = "import pathlib\nVALUE = pathlib.Path('options.toml').read_text()\n"
    (libs / "reader.py").write_text(reads)
    (folder / "options.toml").write_text("one")
    site = start("import reader", "reader.VALUE")
    keeper = site.wait_until_warm()
    site.save("options.toml", "two")
    assert site.wait_for_told("answer", "two")["heavy"] == keeper


def test_settings_that_a_framework_finds_by_name_are_read_anew(
    start: Starter, libs: Path, folder: Path
) -> None:
    """A library that wants them at once, and fails without, is left to the workers."""
    (libs / "framework.py").write_text(FRAMEWORK)
    (libs / "wanting.py").write_text("from framework import settings\nCOLOR = settings.COLOR\n")
    (folder / "settings.py").write_text("COLOR = 'red'\n")
    site = start(f"{CONFIGURED}import wanting", "[framework.settings.COLOR, wanting.COLOR]")
    assert site.ask()["answer"] == ["red", "red"]
    for color in ("green", "blue"):
        keeper = site.wait_until_warm()
        site.save("settings.py", f"COLOR = {color!r}\n")
        assert site.wait_for_told("answer", [color, color])["heavy"] == keeper


def test_a_package_that_cannot_be_kept_is_whole_in_the_worker(start: Starter, libs: Path) -> None:
    """Of what fails half way no part is left, without the names that the whole has for it."""
    package = libs / "half"
    package.mkdir()
    (package / "__init__.py").write_text("import half.part\nimport release\n")
    (package / "part.py").write_text("VALUE = 1\n")
    site = start("import half", "half.part.VALUE")
    keeper = site.wait_until_warm()
    told = site.reload("two")
    assert told["answer"] == 1
    assert told["heavy"] == keeper


def test_what_a_library_adds_to_the_import_path_stays(start: Starter, libs: Path) -> None:
    """It adds it once, when it is imported; a worker may import from there."""
    (libs / "vendored").mkdir()
    (libs / "vendored" / "deep.py").write_text("VALUE = 1\n")
    (libs / "adding.py").write_text("import sys\nsys.path.append(__file__[:-9] + 'vendored')\n")
    site = start("import adding\nimport sys", "[each for each in sys.path if 'vendored' in each]")
    first = site.ask()["answer"]
    assert len(first) == 1
    keeper = site.wait_until_warm()
    told = site.reload("two")
    assert told["parent"] == keeper
    assert told["answer"] == first


def test_what_is_imported_later_is_kept_as_well(start: Starter, libs: Path, folder: Path) -> None:
    """The process that keeps the libraries is told of it, and a fork that lacks it is not used."""
    (libs / "later.py").write_text(HEAVY)
    site = start("import sys", "sys.modules['later'].IMPORTED_BY if 'later' in sys.modules else 0")
    keeper = site.wait_until_warm()
    (before,) = site.ahead
    told = site.ask("/later")
    assert told["answer"] == told["pid"]
    wait_for(lambda: keeper in importers(folder, "later"), PATIENCE)
    wait_for(lambda: site.ahead - {before}, PATIENCE, "another fork")
    assert site.reload("two")["answer"] == keeper


def test_an_update_of_what_is_installed_is_noticed(start: Starter, libs: Path) -> None:
    """The next reload has it, and those after that are warm again."""
    site = start()
    first = site.wait_until_warm()
    (libs / "heavy-2.dist-info").mkdir()
    (libs / "heavy.py").write_text(HEAVY + "IMPORTED_BY = -1\n")
    assert site.reload("two")["heavy"] == -1
    wait_for(lambda: not alive(first), PATIENCE)
    keeper = site.wait_until_warm()
    told = site.reload("three")
    assert told["parent"] == keeper
    assert told["heavy"] == -1


def test_an_edit_of_what_is_installed_is_noticed(start: Starter, libs: Path) -> None:
    """Somebody looks for a mistake, and has a library print something."""
    site = start()
    site.wait_until_warm()
    with (libs / "heavy.py").open("a") as file:
        file.write("IMPORTED_BY = -2\n")
    assert site.reload("two")["heavy"] == -2


def test_a_change_of_the_environment_in_the_configuration_is_seen(
    start: Starter, libs: Path, folder: Path
) -> None:
    """A library may have looked at it."""
    (libs / "looking.py").write_text("import os\nCOLOR = os.environ.get('COLOR')\n")
    asked = "[looking.COLOR, os.environ.get('COLOR')]"
    site = start("import looking", asked, "[env]\nCOLOR = red")
    assert site.ask()["answer"] == ["red", "red"]
    site.wait_until_warm()
    assert site.reload("two")["answer"] == ["red", "red"]
    site.wait_until_warm()
    site.save("site.ini", SITE.format(more="[env]\nCOLOR = green", workers=1))
    site.save("release.py", "VERSION = 'three'\n")
    wait_for(lambda: site.ask()["answer"] == ["green", "green"], PATIENCE)


def test_a_library_that_starts_a_thread_has_everybody_started_anew(
    start: Starter, libs: Path
) -> None:
    """What the thread holds in the moment of a fork would be held for ever; that is said, once."""
    threaded = "import threading\nthreading.Thread(target=threading.Event().wait, name='poller',"
    (libs / "threaded.py").write_text(f"{threaded} daemon=True).start()\n")
    site = start("import threaded")
    site.wait_for_output("not warm.*poller")
    for version in ("two", "three"):
        told = site.reload(version)
        assert told["heavy"] == told["pid"]
        assert told["parent"] == site.pid
    assert site.output.count("not warm") == 1
    assert site.keepers == []


def test_a_library_that_makes_an_event_loop_has_everybody_started_anew(
    start: Starter, libs: Path
) -> None:
    """Two workers must not wait on one descriptor, each for what the other has registered."""
    (libs / "looped.py").write_text("import asyncio\nLOOP = asyncio.new_event_loop()\n")
    site = start("import looped")
    site.wait_for_output("not warm.*eventpoll")
    told = site.reload("two")
    assert told["heavy"] == told["pid"]


def test_a_library_that_changes_others_is_not_kept(start: Starter, libs: Path) -> None:
    """It is meant to be imported before them, and only a new process does that."""
    (libs / "gevent").mkdir()
    (libs / "gevent" / "__init__.py").write_text("")
    (libs / "gevent" / "monkey.py").write_text("")
    site = start("import gevent.monkey")
    site.wait_for_output("not warm.*gevent.monkey")
    told = site.reload("two")
    assert told["heavy"] == told["pid"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_libraries_are_not_imported_with_privileges_that_are_dropped(start: Starter) -> None:
    """Whoever may write there would have them."""
    site = start(more="[plugin drop_privileges]\nuser = root")
    site.wait_for_output("not warm.*privileges")
    told = site.reload("two")
    assert told["heavy"] == told["pid"]


def test_a_death_of_who_keeps_the_libraries_costs_one_import(start: Starter) -> None:
    """The worker that was forked serves on, the next one is started, and then all is as before."""
    site = start()
    first = site.wait_until_warm()
    site.reload("two")
    site.wait_until_warm()
    os.kill(first, signal.SIGKILL)
    site.wait_for_output("keeps the libraries has ended")
    assert site.ask()["version"] == "two"
    told = site.reload("three")
    assert told["heavy"] == told["pid"]
    keeper = site.wait_until_warm()
    assert keeper != first
    assert site.reload("four")["heavy"] == keeper
    assert site.stop() == 0


def test_nobody_waits_for_long_for_who_keeps_the_libraries(start: Starter) -> None:
    """Stopped, it forks nothing: others are started by exec, and another one keeps libraries."""
    site = start()
    first = site.wait_until_warm()
    os.kill(first, signal.SIGSTOP)
    for version in ("two", "three"):  # of the fork that was made ahead, and of none
        site.reload(version)
    wait_for(lambda: not alive(first), PATIENCE)
    keeper = site.wait_until_warm()
    assert site.reload("four")["heavy"] == keeper


def test_a_fork_that_was_killed_is_not_waited_for(start: Starter) -> None:
    """The system may need its memory."""
    site = start()
    site.wait_until_warm()
    (fork,) = site.ahead
    os.kill(fork, signal.SIGKILL)
    wait_for(lambda: not alive(fork))
    site.reload("two")
    assert "ERROR" not in site.output


def test_a_worker_that_dies_is_replaced_by_a_fork(start: Starter) -> None:
    """Of the same code, from the same libraries."""
    site = start()
    keeper = site.wait_until_warm()
    first = site.ask()["pid"]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: site.ask()["pid"] != first, PATIENCE)
    assert site.ask()["heavy"] == keeper


def test_all_of_several_workers_are_forked(start: Starter, folder: Path) -> None:
    """Though only one fork is made ahead; also those of a reload that replaces another one."""
    site = start(workers=3)
    keeper = site.wait_until_warm()
    site.save("release.py", f"{HEAVY}import time\ntime.sleep(1)\nVERSION = 'two'\n")
    wait_for(lambda: importers(folder, "release"), PATIENCE)
    site.save("release.py", "VERSION = 'three'\n")
    # While the last of the old ones leaves it may answer once more, and be the first to do so.
    wait_for(
        lambda: (
            {(each["version"], each["parent"]) for each in (site.ask() for _ in range(20))}
            == {("three", keeper)}
        ),
        PATIENCE,
    )
    assert len(importers(folder, "heavy")) == 4, "three at the start, and who keeps it"


def test_a_restart_of_the_supervisor_has_another_keep_them(start: Starter) -> None:
    """The workers serve on, whoever has forked them, and say again what they have imported."""
    site = start()
    first = site.wait_until_warm()
    before = site.reload("two")["pid"]
    site.signal(signal.SIGUSR2)
    site.wait_for_output("Going on with 1 workers")
    wait_for(lambda: not alive(first) and not alive(before), PATIENCE)
    keeper = site.wait_until_warm()
    assert site.reload("three")["heavy"] == keeper
    assert site.stop() == 0


def test_a_start_after_a_stop_is_warm_again(start: Starter, folder: Path) -> None:
    """A site that rests keeps nobody; the sockets of the next start are others."""
    socket = folder / "control.sock"
    site = start(more=f"[control]\nsocket = {socket}")
    first = site.wait_until_warm()
    family = {first, site.ask()["pid"], *site.ahead}
    control("stop", socket)
    wait_for(lambda: not any(map(alive, family)), PATIENCE)
    control("start", socket)
    keeper = site.wait_until_warm()
    assert site.reload("two")["heavy"] == keeper


def test_a_mistake_is_told_and_mended_as_ever(start: Starter) -> None:
    """A fork that cannot serve is one that has failed, and the old worker serves on."""
    site = start()
    site.wait_until_warm()
    site.save("release.py", "VERSION = oops\n")
    site.wait_for_output("oops")
    assert site.ask()["version"] == "one"
    assert site.reload("mended")["version"] == "mended"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(number: signal.Signals, start: Starter) -> None:
    """Neither of who keeps the libraries nor of the fork that waits."""
    site = start()
    family = {site.wait_until_warm(), *site.ahead}
    site.reload("two")
    site.wait_until_warm()
    family |= {site.ask()["pid"], *site.ahead}
    os.kill(site.pid, number)
    wait_for(lambda: not any(map(alive, family)), PATIENCE, "all of them to end")


def test_libraries_are_told_from_the_project() -> None:
    """By where they lie; those of sitebus's own are among them, and aliases are not."""
    found = libraries()
    assert {"json", "pytest", "sitebus", "sitebus.bus"} <= set(found)
    assert not {"os.path", "__main__", "tests.helpers", __name__} & set(found)
    order = list(sys.modules)
    assert found == sorted(found, key=order.index)
