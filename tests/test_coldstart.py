"""A site that cannot start shows why, and comes up when it is mended, whatever is at fault."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers import PATIENCE, wait_for
from tests.reloading import SITEAPP, Reloading, version

Starter = Callable[..., Reloading]

#: Everything of the user's own that a site may be made of.
INI = """\
    [site]
    environment = development

    [server]
    bind = 127.0.0.1:0

    [reload]
    enabled = {reload}
    interval = 50ms
    {more}
    [plugin metrics]
    use = metrics:Metrics
    size = 3

    [filter louder]
    use = filters:Louder

    [app shop]
    use = factory:make

    [mount /]
    app = siteapp:application
    filters = louder

    [mount /shop]
    app = app:shop
"""

METRICS = """\
import pathlib
import sitebus.plugins

class Metrics(sitebus.plugins.Plugin):
    def __init__(self, bus, size):
        super().__init__(bus)
        self.size = int(size)

    @sitebus.plugins.listens("start")
    def start(self):
        pathlib.Path("metrics").write_text(str(self.size))
"""

FILTERS = """\
class Louder:
    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        return [chunk.replace(b"v1", b"V1") for chunk in self.app(environ, start_response)]
"""

FACTORY = """\
def make():
    from siteapp import application
    return application
"""

HANDLERS = """\
import logging

class Shouting(logging.StreamHandler):
    def emit(self, record):
        print("SHOUTED", record.getMessage(), flush=True)
"""

LOGGING = """\
{"version": 1,
 "handlers": {"loud": {"class": "handlers.Shouting"}},
 "loggers": {"sitebus": {"level": "INFO", "handlers": ["loud"]}}}
"""

#: The site's parts, as they should be.
GOOD = {
    "metrics.py": METRICS,
    "filters.py": FILTERS,
    "factory.py": FACTORY,
    "handlers.py": HANDLERS,
}


class Mistake(NamedTuple):
    """What somebody saved in *file*, and what is said of it; without a text, it is not there."""

    file: str
    text: str | None
    said: str
    line: int | None


MISTAKES = {
    "plugin-import": Mistake("metrics.py", "import sitebus\nimport nowhere\n", "nowhere", 2),
    "plugin-name": Mistake("metrics.py", "\n\noops\n", "NameError", 3),
    "plugin-exit": Mistake("metrics.py", "raise SystemExit('no disk')\n", "no disk", 1),
    "plugin-syntax": Mistake("metrics.py", "class Metrics(:\n", "SyntaxError", 1),
    "plugin-constructor": Mistake(
        "metrics.py", METRICS.replace("int(size)", "{}['key']"), "KeyError", 7
    ),
    "plugin-subscribe": Mistake(
        "metrics.py",
        f"{METRICS}\n    def subscribe(self):\n        super().subscribe()\n        1 / 0\n",
        "ZeroDivisionError",
        15,
    ),
    "plugin-channel": Mistake(
        "metrics.py", METRICS.replace('"start"', '"strat"'), "did you mean", None
    ),
    "plugin-none": Mistake(
        "metrics.py", "def Metrics(bus, size):\n    return {}\n", "subscribe", None
    ),
    "plugin-attribute": Mistake("metrics.py", "Metric = dict\n", "'Metric'", None),
    "plugin-missing": Mistake("metrics.py", None, "no module", None),
    "filter-import": Mistake("filters.py", "import nowhere\n", "nowhere", 1),
    "filter-syntax": Mistake("filters.py", "class Louder(:\n", "SyntaxError", 1),
    "filter-constructor": Mistake(
        "filters.py", FILTERS.replace("self.app = app", "oops"), "NameError", 3
    ),
    "filter-missing": Mistake("filters.py", None, "no module", None),
    "app-import": Mistake("factory.py", "import nowhere\n", "nowhere", 1),
    "app-made": Mistake("factory.py", "def make():\n    oops\n", "NameError", 2),
    "logging-import": Mistake("handlers.py", "import nowhere\n", "nowhere", 1),
    "logging-syntax": Mistake("handlers.py", "class Shouting(:\n", "SyntaxError", 1),
    "logging-missing": Mistake("handlers.py", None, "handlers", None),
    "logging-file": Mistake("logging.json", "{", "logging.json", None),
}

#: Those that differ by where they are noticed.
KINDS = ["plugin-import", "plugin-subscribe", "filter-import", "app-made", "logging-import"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in GOOD.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "logging.json").write_text(LOGGING)
    (tmp_path / "siteapp.py").write_text(SITEAPP)
    (tmp_path / "views.py").write_text(version("v1"))
    write_ini(tmp_path)
    return tmp_path


def write_ini(folder: Path, reload: bool = True, more: str = "") -> None:
    text = textwrap.dedent(INI).format(reload="yes" if reload else "no", more=more)
    folder.joinpath("site.ini").write_text(text)


@pytest.fixture
def start(folder: Path) -> Iterator[Starter]:
    with ExitStack() as running:

        def start(supervised: bool = False) -> Reloading:
            child = Reloading(folder, "site.ini", reload=False, supervised=supervised)
            running.callback(print, child)
            running.callback(child.close)
            return child

        yield start


def make(folder: Path, mistake: Mistake) -> None:
    """Save *mistake*, in a site that uses what it is in."""
    if mistake.file in ("handlers.py", "logging.json"):
        write_ini(folder, more="\n[logging]\nconfig = logging.json\n")
    path = folder / mistake.file
    path.unlink() if mistake.text is None else path.write_text(mistake.text)


def mend(site: Reloading, mistake: Mistake) -> None:
    site.save(mistake.file, {**GOOD, "logging.json": LOGGING}[mistake.file])


def test_the_parts_work_together(start: Starter, folder: Path) -> None:
    """Without a mistake; what the other tests say would mean little otherwise."""
    site = start()
    assert "V1" in site.get().body
    assert "v1" in site.get("/shop").body
    assert (folder / "metrics").read_text() == "3"
    assert site.stop() == 0


@pytest.mark.parametrize("name", MISTAKES)
def test_a_start_with_a_mistake_comes_up_when_it_is_mended(
    start: Starter, folder: Path, name: str
) -> None:
    """In any part that is the user's own: it binds, says where the mistake is, and waits."""
    mistake = MISTAKES[name]
    make(folder, mistake)
    site = start()
    page = site.get()
    assert (page.status, page.failed) == (500, True)
    assert mistake.said in page.body.replace("&#x27;", "'")
    if mistake.line is not None:
        place = f"{folder}/{mistake.file}:{mistake.line}: "
        assert place in page.body
        assert re.search(rf"ERROR sitebus: {place}the site cannot start", site.output)
    assert "sitebus/assembly" not in page.body  # none of our own frames
    assert site.output.count("ERROR") == 1
    if name.startswith(("plugin", "logging")):
        assert not (folder / "metrics").exists()  # nothing of the user's own was started

    address = site.address
    mend(site, mistake)
    assert "V1" in site.wait_for_page("V1").body
    assert (folder / "metrics").read_text() == "3"
    assert site.stop() == 0
    assert site.address == address


@pytest.mark.parametrize("name", KINDS)
def test_a_start_by_polling_comes_up_as_well(start: Starter, folder: Path, name: str) -> None:
    mistake = MISTAKES[name]
    write_ini(folder, more="force_polling = yes\n")
    make(folder, mistake)
    if mistake.file == "handlers.py":
        write_ini(folder, more="force_polling = yes\n[logging]\nconfig = logging.json\n")
    site = start()
    assert site.get().failed
    mend(site, mistake)
    site.wait_for_page("V1")


@pytest.mark.parametrize("name", KINDS)
def test_a_worker_with_a_mistake_is_replaced_when_it_is_mended(
    start: Starter, folder: Path, name: str
) -> None:
    """The same for visitors; the supervisor imports none of it, and comes up at once."""
    mistake = MISTAKES[name]
    make(folder, mistake)
    site = start(supervised=True)
    page = site.get()
    assert (page.status, page.failed) == (500, True)
    assert mistake.said in page.body.replace("&#x27;", "'")
    assert f"{folder}/{mistake.file}:{mistake.line}: " in page.body
    assert site.output.count("ERROR") == 1
    mend(site, mistake)
    site.wait_for_page("V1")
    assert (folder / "metrics").read_text() == "3"
    assert site.stop() == 0


@pytest.mark.parametrize("name", KINDS)
def test_new_workers_with_a_mistake_are_refused(start: Starter, folder: Path, name: str) -> None:
    """The old ones serve on, and say where the new code is wrong."""
    mistake = MISTAKES[name]
    if mistake.file == "handlers.py":
        write_ini(folder, more="\n[logging]\nconfig = logging.json\n")
    site = start(supervised=True)
    site.wait_for_page("V1")
    assert mistake.text is not None
    site.save(mistake.file, mistake.text)
    page = site.wait_for_failure()
    assert (page.status, "V1" in page.body) == (200, True)
    assert mistake.said in page.body.replace("&#x27;", "'")
    assert f"{folder}/{mistake.file}:{mistake.line}: " in page.body
    site.save("views.py", version("v1 and more"))
    mend(site, mistake)
    site.wait_for_page("V1 and more")


def test_a_start_with_two_mistakes_comes_up_when_both_are_mended(
    start: Starter, folder: Path
) -> None:
    """The first is shown, then the second: what comes after a mistake may come of it."""
    for name in ("plugin-name", "app-made"):
        make(folder, MISTAKES[name])
    site = start()
    page = site.get()
    assert "metrics.py:3: " in page.body
    assert "factory.py" not in page.body
    mend(site, MISTAKES["plugin-name"])
    site.wait_until(lambda page: page.failed and "factory.py:2: " in page.body)
    mend(site, MISTAKES["app-made"])
    site.wait_for_page("V1")


def test_a_mistake_may_be_mended_in_the_configuration(start: Starter, folder: Path) -> None:
    """By no longer asking for what does not work."""
    make(folder, MISTAKES["plugin-import"])
    site = start()
    assert site.get().failed
    ini = (folder / "site.ini").read_text()
    site.save("site.ini", ini.replace("use = metrics", "enabled = no\nuse = metrics"))
    site.wait_for_page("V1")


@pytest.mark.parametrize("name", KINDS)
def test_a_restart_with_a_mistake_is_refused(start: Starter, folder: Path, name: str) -> None:
    """The old code serves on, and says where the new code is wrong."""
    mistake = MISTAKES[name]
    if mistake.file in ("handlers.py", "logging.json"):
        write_ini(folder, more="\n[logging]\nconfig = logging.json\n")
    site = start()
    boot = site.boot
    site.wait_until_watched("metrics.py", "filters.py")
    if mistake.text is None:
        (folder / mistake.file).unlink()
    else:
        site.save(mistake.file, mistake.text)
    page = site.wait_for_failure()
    assert page.status == 200
    assert "V1" in page.body
    assert mistake.said in page.body.replace("&#x27;", "'")
    if mistake.line is not None:
        assert f"{folder}/{mistake.file}:{mistake.line}: " in page.body
    assert site.boot == boot
    # Not as it was, which would be no reason to reload.
    site.save("views.py", version("v1 and more"))
    mend(site, mistake)
    site.wait_for_page("V1 and more")
    assert site.boot != boot
    assert site.stop() == 0


def test_a_restart_without_a_module_waits_for_it(start: Starter, folder: Path) -> None:
    """It was never there: a plugin is added to the file before it is written."""
    site = start()
    site.wait_until_watched("metrics.py", "filters.py")
    ini = (folder / "site.ini").read_text()
    site.save("site.ini", f"{ini}\n[plugin later]\nuse = later:Metrics\nsize = 4\n")
    assert "later" in site.wait_for_failure().body
    site.save("later.py", METRICS.replace('"metrics"', '"later"'))
    site.wait_for_page("V1")
    assert (folder / "later").read_text() == "4"


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("plugin-import", 70),
        ("plugin-syntax", 70),
        ("plugin-constructor", 70),
        ("plugin-missing", 78),
        ("plugin-none", 78),
        ("filter-import", 70),
        ("app-made", 70),
        ("logging-import", 78),
    ],
)
def test_without_reloads_a_start_with_a_mistake_ends(
    start: Starter, folder: Path, name: str, status: int
) -> None:
    """With the sentence and the status that say whose mistake it is; nothing was served."""
    mistake = MISTAKES[name]
    make(folder, mistake)
    ini = (folder / "site.ini").read_text()
    (folder / "site.ini").write_text(ini.replace("enabled = yes", "enabled = no"))
    site = start()
    assert site.wait() == status
    assert re.search(rf"^sitebus-serve: .*{re.escape(mistake.said)}", site.output, re.MULTILINE)
    assert "serving on" not in site.output


@pytest.mark.parametrize("reload", [True, False])
def test_an_interrupt_ends_the_loading_of_a_plugin(
    start: Starter, folder: Path, reload: bool
) -> None:
    """Ctrl-C while a module is imported that takes for ever is no mistake to wait for."""
    import signal

    text = "import time\nopen('begun', 'w').close()\nwhile True:\n    time.sleep(1)\n"
    (folder / "metrics.py").write_text(text)
    write_ini(folder, reload)
    site = start()
    wait_for((folder / "begun").exists, PATIENCE)
    site.signal(signal.SIGINT)
    assert site.wait() in (70, 130)
    assert "serving on" not in site.output


def test_a_mistake_in_the_configuration_ends_a_start(start: Starter, folder: Path) -> None:
    """Even with reloads: where to bind, and whether to reload at all, is what the file says."""
    write_ini(folder, more="intervall = 1s\n")
    site = start()
    assert site.wait() == 78
    assert "did you mean" in site.output


#: Fails when it is started, and not before: no trial finds out.
FAILING = METRICS.replace('Path("metrics")', 'Path("metrics").joinpath(oops)')


def test_a_start_with_a_plugin_that_fails_comes_up_when_it_is_mended(
    start: Starter, folder: Path
) -> None:
    """It was imported and made; what it does at the start is code of the user's own as well."""
    (folder / "metrics.py").write_text(FAILING)
    site = start()
    page = site.get()
    assert (page.status, page.failed) == (500, True)
    assert f"{folder}/metrics.py:11: NameError" in page.body
    assert "sitebus/channels" not in page.body
    assert site.output.count("Traceback") == 1
    address = site.address
    site.save("metrics.py", METRICS)
    site.wait_for_page("V1")
    assert site.address == address
    assert site.stop() == 0


def test_a_plugin_that_fails_after_a_reload_takes_nothing_down(
    start: Starter, folder: Path
) -> None:
    """The trial starts nothing: the new image finds out, keeps the sockets, and shows it."""
    site = start()
    address, pid = site.address, site.pid
    site.wait_until_watched("metrics.py")
    site.save("metrics.py", FAILING)
    page = site.wait_until(lambda page: page.status == 500, "the reason")
    assert f"{folder}/metrics.py:11: NameError" in page.body
    site.save("metrics.py", METRICS)
    site.wait_for_page("V1")
    assert (site.address, site.pid) == (address, pid)
    assert site.image["pid"] == pid
    assert site.stop() == 0


def test_an_end_while_a_mistake_is_shown_is_no_failure(start: Starter, folder: Path) -> None:
    """It was asked for."""
    (folder / "metrics.py").write_text(FAILING)
    site = start()
    assert site.get().failed
    assert site.stop() == 0


def test_without_reloads_a_plugin_that_fails_ends_the_start(start: Starter, folder: Path) -> None:
    (folder / "metrics.py").write_text(FAILING)
    ini = (folder / "site.ini").read_text()
    (folder / "site.ini").write_text(ini.replace("enabled = yes", "enabled = no"))
    site = start()
    assert site.wait() == 70
    assert "sitebus-serve: the site could not start: NameError" in site.output
    assert "serving on" not in site.output


def test_a_plugin_that_ends_the_process_ends_it(start: Starter, folder: Path) -> None:
    """From a listener, that is what the user's code asked for."""
    (folder / "metrics.py").write_text(METRICS.replace('Path("metrics")', "Path(exit(3))"))
    site = start()
    assert site.wait() == 3
