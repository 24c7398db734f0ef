"""Saving a file of a site whose workers are replaced: nobody waits for the new code."""

from __future__ import annotations

import os
import random
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, wait_for
from tests.reloading import (
    SITEAPP,
    Answer,
    Reloading,
    Stream,
    Visitor,
    ask,
    processes_of,
    version,
)

#: What somebody saved, and where the mistake is.
BROKEN = {
    "syntax": ("VERSION = 'x'\nVERSION = = 2\n", "SyntaxError", "views.py:2: "),
    "name": ("VERSION = 'x'\n\n\nVERSION = oops\n", "NameError", "views.py:4: "),
    "import": ("import no_such_module\n", "no_such_module", "views.py:1: "),
    "exit": ("raise SystemExit('no database')\n", "no database", "views.py:1: "),
}

#: A plugin that keeps the bus from starting.
BROKEN_PLUGIN = """
import sitebus.plugins

class Failing(sitebus.plugins.Plugin):
    @sitebus.plugins.listens("start")
    def start(self):
        raise ValueError("no queue")
"""

LIVE = ("siteapp:application", "-e", "development", "-o", "reload.browser=yes")

#: Notes in ``imports`` which process has imported what it says, and when.
NOTING = "import os\nwith open('imports', 'a') as file:\n    file.write(f'{os.getpid()}\\n')\n"

Starter = Callable[..., Reloading]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A site of two modules that says v1."""
    (tmp_path / "siteapp.py").write_text(SITEAPP)
    (tmp_path / "views.py").write_text(version("v1"))
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Starter]:
    """Serve the folder with whatever `Reloading` takes."""
    with ExitStack() as running:

        def start(*arguments: str, **settings: object) -> Reloading:
            child = Reloading(folder, *arguments, supervised=True, **settings)  # type: ignore[arg-type]
            running.callback(print, child)
            running.callback(child.close)
            return child

        yield start


def importers(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "imports").read_text().split()]


# The new code answers.


def test_the_supervisor_stays_and_imports_nothing(start: Starter, folder: Path) -> None:
    """What the code does to its process, it does to a worker that the next change ends."""
    (folder / "views.py").write_text(NOTING + version("v1"))
    site = start()
    site.wait_for_page("v1")
    first = site.image["pid"]
    site.save("views.py", NOTING + version("v2"))
    site.wait_for_page("v2")
    wait_until_gone(first)
    second = site.image["pid"]
    assert len({first, second, site.pid}) == 3
    assert importers(folder) == [first, second]
    assert site.stop() == 0
    assert site.reloads == 0


def wait_until_gone(pid: object) -> None:
    """Wait for the end of a worker that was replaced: for a moment both answer."""
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), PATIENCE)


def test_reloads_fail_no_request(start: Starter) -> None:
    """Twenty new connections a second, all of them answered."""
    site = start()
    site.wait_for_page("v1")
    with Visitor(site) as visitor:
        for number in range(2, 5):
            site.save("views.py", version("v" * number + "."))
            site.wait_for_page("v" * number + ".")
    assert visitor.failures == []
    assert visitor.answers > 5


def test_nobody_waits_for_an_import(start: Starter, folder: Path) -> None:
    """The old code answers as fast as ever while the new one takes a second to come up."""
    site = start()
    site.wait_for_page("v1")
    address, waited = site.address, []
    site.save("views.py", "import time\ntime.sleep(1)\n" + version("slow, at last"))
    page = ask(address)
    while "slow" not in page.body:
        began = time.perf_counter()
        page = ask(address)
        waited.append(time.perf_counter() - began)
    assert len(waited) > 100
    assert sorted(waited)[len(waited) * 99 // 100] < 0.05
    assert max(waited) < 0.5, "on a busy machine; an import takes twice that"


def test_a_change_while_the_candidate_boots_replaces_it(start: Starter, folder: Path) -> None:
    """What is served in the end is what was saved last, and in between only what was before."""
    slow = NOTING + "import time\ntime.sleep(1)\n"
    site = start()
    site.wait_for_page("v1")
    for number in range(3):
        site.save("views.py", slow + version(f"passing {number}"))
        wait_for(lambda n=number: len(noted(folder)) > n, PATIENCE)  # type: ignore[misc]
    began = time.monotonic()
    site.save("views.py", slow + version("the last"))
    pages: list[Answer] = []
    while not pages or "v1" in pages[-1].body:
        pages.append(site.get())
    assert "the last" in pages[-1].body
    assert time.monotonic() - began < 3
    assert not any(page.failed for page in pages)
    assert site.stop() == 0
    assert "ERROR" not in site.output


def noted(folder: Path) -> list[int]:
    with suppress(FileNotFoundError):
        return importers(folder)
    return []


def test_a_checkout_of_many_files_costs_little(start: Starter, folder: Path) -> None:
    """The first of fifty files may begin a reload, and the others but one more."""
    package = folder / "shop"
    package.mkdir()
    for number in range(50):
        (package / f"m{number}.py").write_text("N = 1\n")
    (package / "__init__.py").write_text("")
    imports = "".join(f"import shop.m{number}\n" for number in range(50))
    total = "VERSION = f'sum {sum(getattr(shop, f\"m{n}\").N for n in range(50))}.'\n"
    (folder / "views.py").write_text(NOTING + f"import shop\n{imports}{total}")
    site = start()
    site.wait_for_page("sum 50.")
    for number in range(50):
        site.save(f"shop/m{number}.py", "N = 22\n")
    site.wait_for_page("sum 1100.")
    assert len(importers(folder)) <= 4


def test_old_bytecode_is_not_served(start: Starter, folder: Path) -> None:
    """Python takes it for current when the size and the second are the same."""
    views = folder / "views.py"
    second = 1_700_000_000
    os.utime(views, (second, second))
    site = start()
    site.wait_for_page("v1")
    draft = folder / "draft"
    draft.write_text(version("v2"))
    os.utime(draft, (second, second))
    draft.replace(views)
    site.wait_for_page("v2")


def test_an_edit_during_the_start_is_not_lost(start: Starter, folder: Path) -> None:
    """The import takes long, and the module was read before it was saved again."""
    gate = folder / "gate"
    os.mkfifo(gate)
    (folder / "siteapp.py").write_text("import views\nopen('gate').read()\n" + SITEAPP)
    site = start()
    with gate.open("w"):  # opens when the worker, which has imported views, does
        site.save("views.py", version("saved meanwhile"))
        site.save("siteapp.py", SITEAPP)
    site.wait_for_page("saved meanwhile")


def test_a_module_that_is_imported_late_is_watched(start: Starter, folder: Path) -> None:
    """By the first request that needs it."""
    (folder / "views.py").write_text(
        "class Late:\n"
        "    def __format__(self, _):\n"
        "        import later\n"
        "        return later.SAID\n"
        "VERSION = Late()\n"
    )
    (folder / "later.py").write_text("SAID = 'early'\n")
    site = start()
    site.wait_for_page("early")
    site.save("later.py", "SAID = 'later'\n")
    site.wait_for_page("later")


@pytest.mark.slow
def test_what_was_saved_before_it_was_imported_is_no_change(start: Starter, folder: Path) -> None:
    """Workers before that one had the module, and nobody has asked this one for it yet."""
    (folder / "views.py").write_text(
        "class Late:\n"
        "    def __format__(self, _):\n"
        "        import later\n"
        "        return later.SAID\n"
        "VERSION = Late()\n"
    )
    (folder / "later.py").write_text("SAID = 'early'\n")
    site = start()
    site.wait_for_page("early")
    first = site.image["pid"]
    site.save("later.py", "SAID = 'later'\n")
    site.wait_for_output("reload done")
    wait_until_gone(first)
    pause = threading.Event()
    pause.wait(0.3)  # until the supervisor, too, knows that it is gone
    (folder / "later.py").write_text("SAID = 'latest'\n")
    site.wait_for_page("latest")
    pause.wait(1.5)
    assert site.output.count("later.py changed") == 1
    site.save("later.py", "SAID = 'last'\n")
    site.wait_for_page("last")


def test_a_candidate_that_hangs_can_be_mended(start: Starter, folder: Path) -> None:
    """In a module that the workers which serve have never seen."""
    site = start()
    site.wait_for_page("v1")
    (folder / "hanging.py").write_text("import time\nwhile True:\n    time.sleep(0.01)\n")
    site.save("views.py", NOTING + "import hanging\n" + version("at last"))
    wait_for(lambda: len(noted(folder)) == 1, PATIENCE)
    site.save("hanging.py", "")
    site.wait_for_page("at last")


def test_a_file_that_the_application_names_is_watched(start: Starter, folder: Path) -> None:
    """Where it says so is not where it is watched."""
    (folder / "prices.txt").write_text("cheap")
    (folder / "views.py").write_text(
        "import sitebus\n"
        "sitebus.engine.autoreload.files.add('prices.txt')\n"
        "with open('prices.txt') as file:\n"
        "    VERSION = file.read()\n"
    )
    site = start()
    site.wait_for_page("cheap")
    site.save("prices.txt", "expensive")
    site.wait_for_page("expensive")


def test_two_workers_are_replaced_together(start: Starter) -> None:
    """Nobody sees the old code once both are new."""
    site = start("siteapp:application", "-e", "development", "-w", "2")
    site.wait_for_page("v1")
    with Visitor(site) as visitor:
        site.save("views.py", version("v2"))
        site.wait_for_page("v2")
        site.wait_for_output("reload done")
        wait_for(lambda: all("v2" in site.get().body for _ in range(10)), PATIENCE)
        site.save("views.py", "VERSION = oops\n")
        wait_for(lambda: all(site.get().failed for _ in range(10)), PATIENCE)
        site.save("views.py", version("v3"))
        wait_for(lambda: all("v3" in site.get().body for _ in range(10)), PATIENCE)
    assert visitor.failures == []


def test_an_open_page_holds_up_no_reload(start: Starter) -> None:
    """Nor do two, though each keeps the worker that it came from for a while."""
    site = start("siteapp:application", "-e", "development", "-o", "workers.drain_timeout=60s")
    with ExitStack() as slow:
        for number in range(2, 4):
            client = slow.enter_context(slow_request(site))
            site.save("views.py", version(f"v{number}"))
            began = time.monotonic()
            site.wait_for_page(f"v{number}")
            assert time.monotonic() - began < 3
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def slow_request(site: Reloading):  # type: ignore[no-untyped-def]
    import socket

    client = socket.create_connection(site.address, PATIENCE)
    client.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return client


@pytest.mark.slow
def test_whatever_is_saved_the_last_is_served(start: Starter) -> None:
    """Good code, bad code and slow code, as fast as that: no request fails on the way."""
    chance = random.Random(1)
    site = start()
    site.wait_for_page("v1")
    pause = threading.Event()
    with Visitor(site) as visitor:
        for number in range(25):
            text = version(f"passing {number}")
            text += chance.choice(["", "", "oops\n", "x = = 1\n", "import time\ntime.sleep(0.3)\n"])
            site.save("views.py", text)
            pause.wait(chance.random() * 0.4)
        site.save("views.py", version("the last"))
        site.wait_for_page("the last")
    assert visitor.failures == []
    assert site.stop() == 0


@pytest.mark.parametrize("moment", ["Reloading because", "importing", "reload done"])
def test_sigterm_in_a_reload_ends_the_site(start: Starter, moment: str) -> None:
    """Whoever boots, serves or drains just then: nothing is left, and no import is waited for."""
    site = start()
    site.wait_for_page("v1")
    seconds = 60 if moment == "importing" else 0.2
    slow = f"import time\nprint('importing', flush=True)\ntime.sleep({seconds})\n"
    site.save("views.py", slow + version("v2"))
    site.wait_for_output(moment)
    began = time.monotonic()
    assert site.stop() == 0
    assert time.monotonic() - began < 3
    assert processes_of(site.pid) == []


# A mistake is shown, and the old code goes on.


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_mistake_leaves_the_old_code_serving(start: Starter, folder: Path, mistake: str) -> None:
    """It cannot be missed: in the page, in a header, and on the terminal, once."""
    text, kind, place = BROKEN[mistake]
    site = start()
    site.wait_for_page("v1")
    boot = site.boot
    site.save("views.py", text)
    page = site.wait_for_failure()
    assert page.status == 200
    assert "v1" in page.body
    assert kind in page.body
    assert f"{folder}/{place}" in page.body
    site.wait_for_output(rf"ERROR sitebus: {folder}/{place}")
    assert site.boot == boot

    site.save("views.py", version("mended at last"))
    assert "data-sitebus-reload" not in site.wait_for_page("mended at last").body
    assert site.stop() == 0
    assert site.output.count("ERROR") == 1
    assert site.output.count(f'File "{folder}/views.py", line') == 1


def test_a_plugin_that_fails_at_the_start_is_a_mistake(start: Starter, folder: Path) -> None:
    """The bus has logged its traceback; what is said of the reload names the place all the same."""
    (folder / "failing.py").write_text(BROKEN_PLUGIN.replace("raise", "return"))
    site = start(*LIVE, "-o", "plugin x.use=failing:Failing")
    site.wait_for_page("v1")
    site.save("failing.py", BROKEN_PLUGIN)
    page = site.wait_for_failure()
    assert "in start" in page.body
    site.wait_for_output(rf"ERROR sitebus: {folder}/failing.py:7: .*no queue")
    assert site.stop() == 0
    assert site.output.count(f'File "{folder}/failing.py", line 7') == 1


def test_a_mistake_that_is_undone_is_forgotten(start: Starter) -> None:
    """What is on disk is what runs: nothing is reloaded."""
    site = start()
    site.wait_for_page("v1")
    first = site.image["pid"]
    site.save("views.py", version("v2"))
    site.wait_for_page("v2")
    wait_until_gone(first)
    boot = site.boot
    site.save("views.py", BROKEN["name"][0])
    site.wait_for_failure()
    site.save("views.py", version("v2"))
    site.wait_for_page("v2")
    assert site.boot == boot


def test_what_a_candidate_imported_may_be_what_has_to_be_mended(
    start: Starter, folder: Path
) -> None:
    """Its traceback names another file, and the workers that serve do not know this one."""
    (folder / "models.py").write_text("")
    site = start()
    site.wait_for_page("v1")
    site.save("views.py", "import models\nVERSION = models.NAME\n")
    site.wait_for_failure()
    site.save("models.py", "NAME = 'named'\n")
    site.wait_for_page("named")


def test_a_worker_that_is_killed_while_the_code_is_broken_says_why(start: Starter) -> None:
    """There is nobody to fall back on any more; the port answers all the same."""
    site = start()
    site.wait_for_page("v1")
    site.save("views.py", BROKEN["name"][0])
    site.wait_for_failure()
    os.kill(int(str(site.image["pid"])), signal.SIGKILL)
    page = wait_for_answer(site, lambda page: page.status == 500)
    assert page.failed
    assert "NameError" in page.body
    site.save("views.py", version("mended"))
    site.wait_for_page("mended")


def wait_for_answer(site: Reloading, true: Callable[[Answer], bool]) -> Answer:
    found: list[Answer] = []

    def come() -> bool:
        with suppress(OSError):
            found.append(site.get())
        return bool(found) and true(found[-1])

    wait_for(come, PATIENCE)
    return found[-1]


@pytest.mark.parametrize("mistake", ["syntax", "name"])
def test_a_start_with_a_mistake_comes_up_when_it_is_mended(
    start: Starter, folder: Path, mistake: str
) -> None:
    """It binds, tells browsers why there is nothing to see, and keeps its port."""
    text, kind, place = BROKEN[mistake]
    (folder / "views.py").write_text(text)
    site = start()
    page = site.get()
    assert (page.status, page.failed) == (500, True)
    assert f"{folder}/{place}" in page.body
    assert kind in page.body
    assert site.output.count("ERROR") == 1
    site.save("views.py", "VERSION = = 'still wrong'\n")
    site.wait_until(lambda page: page.status == 500 and "views.py:1: " in page.body)
    assert "old code" not in site.get().body
    site.save("views.py", version("mended"))
    assert site.wait_for_page("mended").status == 200
    assert site.stop() == 0


@pytest.mark.parametrize("missing", ["siteapp", "views"])
def test_a_start_without_a_module_waits_for_it(start: Starter, folder: Path, missing: str) -> None:
    text = (folder / f"{missing}.py").read_text()
    (folder / f"{missing}.py").unlink()
    site = start()
    assert site.get().status == 500
    site.save(f"{missing}.py", text)
    site.wait_for_page("v1")


def test_a_probe_that_fails_is_a_mistake(start: Starter, folder: Path) -> None:
    """Of new code, which is refused, and at the start, which shows it."""
    site = start("siteapp:application", "-e", "development", "-o", "workers.probe=/")
    site.wait_for_page("v1")
    failing = "class Bad:\n    def __format__(self, _):\n        raise ValueError('bad')\n"
    site.save("views.py", failing + "VERSION = Bad()\n")
    page = site.wait_for_failure()
    assert (page.status, "v1" in page.body) == (200, True)
    site.save("views.py", version("v2"))
    site.wait_for_page("v2")


# Templates and browsers.

CLEARING = """
import sitebus.plugins

class Clearing(sitebus.plugins.Plugin):
    @sitebus.plugins.listens("files_changed")
    def files_changed(self, paths):
        print("cleared for", *paths, flush=True)
        return True
"""

READING = """
class Page:
    def __format__(self, _):
        return open("page.html").read()
VERSION = Page()
"""


def test_a_template_that_is_dealt_with_needs_no_reload(start: Starter, folder: Path) -> None:
    (folder / "clearing.py").write_text(CLEARING)
    (folder / "page.html").write_text("<p>first</p>")
    (folder / "views.py").write_text(READING)
    site = start(*LIVE, "-o", "plugin clearing.use=clearing:Clearing")
    before = site.image
    site.wait_for_page("first")
    with Stream(site) as stream:
        assert stream.next()[0] == "boot"
        site.save("page.html", "<p>second, longer</p>")
        assert stream.next()[0] == "refresh"
    wait_for(lambda: f"cleared for {folder}/page.html\n" in site.output, PATIENCE)
    assert site.image == before


def test_a_template_that_nobody_deals_with_is_a_reload(start: Starter, folder: Path) -> None:
    (folder / "page.html").write_text("<p>first</p>")
    (folder / "views.py").write_text(READING)
    site = start()
    site.wait_for_page("first")
    boot = site.boot
    site.save("page.html", "<p>second, longer</p>")
    wait_for(lambda: site.boot != boot, PATIENCE)


def test_a_page_hears_of_new_code_and_of_mistakes(start: Starter) -> None:
    site = start(*LIVE)
    with Stream(site) as stream:
        name, boot = stream.next()
        assert name == "boot"
        site.save("views.py", BROKEN["name"][0])
        assert stream.next()[0] == "refresh"
        site.save("views.py", version("v2"))
        with pytest.raises(EOFError):
            stream.next()
    with Stream(site) as stream:
        name, new = stream.next()
        assert (name, new != boot) == ("boot", True)


def test_workers_of_the_same_code_are_the_same_to_a_page(start: Starter) -> None:
    """Who answers its request for news is seldom who made it: it need not load itself again."""
    site = start(*LIVE, "-w", "2")

    def boots() -> set[str]:
        with ExitStack() as pages:
            streams = [pages.enter_context(Stream(site)) for _ in range(8)]
            return {stream.next()[1] for stream in streams}

    before = boots()
    assert len(before) == 1
    site.save("views.py", version("v2"))
    site.wait_for_output("reload done")
    wait_for(lambda: len(boots()) == 1, PATIENCE)
    assert boots() != before


# The configuration.


def test_a_saved_configuration_is_taken_up(start: Starter, folder: Path) -> None:
    """What concerns the applications by new workers, what concerns the supervisor by a new one."""
    ini = """\
        [site]
        environment = development
        [server]
        bind = 127.0.0.1:0{}
        [reload]
        enabled = yes
        [env]
        SAID = {}
        [mount /]
        app = siteapp:application
    """

    def write(*told: str) -> None:
        site_ini = folder / "draft"
        site_ini.write_text(textwrap.dedent(ini).format(*told))
        site_ini.replace(folder / "site.ini")

    write("", "one")
    (folder / ".env").write_text("ALSO=x\n")
    (folder / "views.py").write_text(
        "import os\nVERSION = os.environ['SAID'] + os.environ['ALSO']\n"
    )
    site = start("--env-file", ".env", "site.ini", reload=False)
    site.wait_for_page("onex")
    write("", "two")
    site.wait_for_page("two")
    assert site.reloads == 0

    write("\nbacklog = many", "three")
    page = site.wait_for_failure()
    assert "site.ini:5: " in page.body
    assert "two" in page.body

    write(f", unix:{folder}/socket", "four")
    with Visitor(site) as visitor:
        site.wait_for_page("four")
        wait_for(lambda: (folder / "socket").exists(), PATIENCE)
    assert visitor.failures == []
    assert site.reloads == 1
    site.save(".env", "ALSO=y\n")
    site.wait_for_page("foury")
    assert site.reloads == 2
    site.save("views.py", version("and on"))
    site.wait_for_page("and on")
    assert site.stop() == 0


def test_one_process_can_be_had(folder: Path) -> None:
    """As it was, and as it is elsewhere."""
    with Reloading(folder) as site:
        pid = site.image["pid"]
        site.save("views.py", version("v2"))
        site.wait_for_page("v2")
        assert site.image["pid"] == pid == site.pid
        print(site)
