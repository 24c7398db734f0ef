"""Saving a file of a running site: the new code answers, and no mistake takes the site down."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from tests.helpers import PATIENCE, wait_for
from tests.reloading import SITEAPP, Reloading, Stream, Visitor, processes_of, version

WAYS = pytest.mark.parametrize("polling", [False, True], ids=["native", "polling"])

#: By running the one process again, or by replacing its workers: visitors see no difference.
BOTH = pytest.mark.parametrize("supervised", [False, True], ids=["alone", "workers"])


def some_ways(mistakes: Iterable[str], polled: Iterable[str]) -> pytest.MarkDecorator:
    """Every mistake by notification, and some by polling: what differs is how they are noticed."""
    native = [pytest.param(each, False, id=f"{each}-native") for each in mistakes]
    polling = [pytest.param(each, True, id=f"{each}-polling") for each in polled]
    return pytest.mark.parametrize(("mistake", "polling"), native + polling)


#: With event streams.
LIVE = ("siteapp:application", "-e", "development", "-o", "reload.browser=yes")

#: What somebody saved, what the page says about it, and where the mistake is.
MISTAKES = {
    "syntax": ("VERSION = 'x'\nVERSION = = 2\n", "SyntaxError", "views.py:2: "),
    "import": ("import sitebus\nimport no_such_module\n", "no_such_module", "views.py:2: "),
    "name": ("VERSION = 'x'\n\n\nVERSION = oops\n", "NameError", "views.py:4: "),
    "exit": ("raise SystemExit('no database')\n", "no database", "views.py:1: "),
    "deep": ("import models\nVERSION = models.find()\n", "KeyError", "models.py:2: "),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A site of two modules that says v1."""
    (tmp_path / "siteapp.py").write_text(SITEAPP)
    (tmp_path / "views.py").write_text(version("v1"))
    (tmp_path / "models.py").write_text("def find():\n    return {}['key']\n")
    return tmp_path


Starter = Callable[..., Reloading]


@pytest.fixture
def start(folder: Path) -> Iterator[Starter]:
    """Serve the folder with whatever `Reloading` takes."""
    with ExitStack() as running:

        def start(*arguments: str, **settings: object) -> Reloading:
            child = Reloading(folder, *arguments, **settings)  # type: ignore[arg-type]
            running.callback(print, child)
            running.callback(child.close)
            return child

        yield start


def write_ini(folder: Path, text: str) -> None:
    folder.joinpath("site.ini").write_text(textwrap.dedent(text))


# The new code answers.


@WAYS
def test_saving_a_module_puts_it_to_work(start: Starter, polling: bool) -> None:
    """Same process, same port although nobody chose it, and once for each save."""
    site = start(polling=polling)
    before = site.image
    for number in range(2, 4):
        site.save("views.py", version(f"v{number}"))
        site.wait_for_page(f"v{number}")
    after = site.image
    assert after["pid"] == before["pid"] == site.pid
    assert after["boot"] != before["boot"]
    assert site.stop() == 0
    assert site.reloads == 2


@pytest.mark.slow
@pytest.mark.parametrize("polling", [False, True], ids=["native", "polling"])
def test_reloads_fail_no_request(start: Starter, polling: bool) -> None:
    """Twenty new connections a second, and requests that were under way when a file was saved.

    Five in each way, ten in all: more in so short a time would be taken for a loop.
    """
    site = start(polling=polling)
    with Visitor(site) as visitor:
        for number in range(5):
            with Visiting(site, "/slow" if number % 2 else "/told") as under_way:
                site.save("views.py", version("v" * (number + 2) + "."))
                site.wait_for_page("v" * (number + 2) + ".")
            assert under_way.failure is None
    assert visitor.failures == []
    assert visitor.answers > 20
    assert site.reloads == 5


class Visiting:
    """One request, made while the block runs."""

    def __init__(self, site: Reloading, path: str) -> None:
        self.failure: BaseException | None = None
        self._sent = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(site.address, path))

    def _ask(self, address: tuple[str, int], path: str) -> None:
        try:
            with socket.create_connection(address, PATIENCE) as client:
                request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                client.sendall(request.encode())
                self._sent.set()
                answer = b"".join(iter(lambda: client.recv(65536), b""))
                assert answer.startswith(b"HTTP/1.1 200"), answer
                assert answer.endswith((b"</html>", b"}")), answer
        except (OSError, AssertionError) as error:
            self.failure = error
            self._sent.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._sent.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


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


def test_a_burst_is_one_reload(start: Starter, folder: Path) -> None:
    """A checkout rewrites fifty files one after another."""
    package = folder / "shop"
    package.mkdir()
    for number in range(50):
        (package / f"m{number}.py").write_text("N = 1\n")
    (package / "__init__.py").write_text("from shop import *\n")
    imports = "".join(f"import shop.m{number}\n" for number in range(50))
    total = "VERSION = f'sum {sum(getattr(shop, f\"m{n}\").N for n in range(50))}.'\n"
    (folder / "views.py").write_text(f"import shop\n{imports}{total}")
    site = start()
    site.wait_for_page("sum 50.")
    for number in range(50):
        site.save(f"shop/m{number}.py", "N = 22\n")
    site.wait_for_page("sum 1100.")
    assert site.stop() == 0
    assert site.reloads == 1


def test_a_touch_is_no_reload(start: Starter, folder: Path) -> None:
    """Nor is a save of what is there already; a later change shows that both were looked at."""
    (folder / "style.css").write_text("body {}")
    (folder / "siteapp.py").write_text("open('style.css').close()\n" + SITEAPP)
    site = start(*LIVE)
    site.wait_until_watched("siteapp.py", "views.py", "style.css")
    with Stream(site) as stream:
        name, boot = stream.next()
        assert name == "boot"
        (folder / "views.py").touch()
        site.save("siteapp.py", "open('style.css').close()\n" + SITEAPP)
        site.save("style.css", "body { color: red }")
        assert stream.next() == ("refresh", "")
    with Stream(site) as stream:
        assert stream.next() == ("boot", boot)
    assert site.reloads == 0


def test_an_edit_during_the_start_is_not_lost(start: Starter, folder: Path) -> None:
    """The import takes long, and the module was read before it was saved again."""
    gate = folder / "gate"
    os.mkfifo(gate)
    waiting = "open('gate').read()\n"
    (folder / "siteapp.py").write_text("import views\n" + waiting + SITEAPP)
    site = start()
    with gate.open("w"):  # opens when the site, which has imported views, does
        site.save("views.py", version("saved meanwhile"))
        site.save("siteapp.py", SITEAPP)
    site.wait_for_page("saved meanwhile")


def test_a_configuration_saved_during_the_start_is_not_lost(start: Starter, folder: Path) -> None:
    """It is read first of all, and what it names may take long to import."""
    gate = folder / "gate"
    os.mkfifo(gate)
    ini = """\
        [site]
        environment = development
        [server]
        bind = 127.0.0.1:0
        [reload]
        enabled = yes
        [plugin slow]
        use = slow:Slow
        [mount {}]
        app = siteapp:application
    """
    write_ini(folder, ini.format("/"))
    waiting = "with open('gate') as gate:\n    gate.read()\n"
    plugin = "import sitebus.plugins\n\nclass Slow(sitebus.plugins.Plugin):\n    pass\n"
    (folder / "slow.py").write_text(waiting + plugin)
    site = start("site.ini", reload=False)
    with gate.open("w"):
        site.save("slow.py", plugin)
        write_ini(folder, ini.format("/later"))
    site.wait_for_page("v1", "/later")


@pytest.mark.slow
def test_a_site_that_changes_itself_is_slowed_down(start: Starter, folder: Path) -> None:
    """And told which file it is that changes whenever the site starts."""
    (folder / "siteapp.py").write_text(
        "import pathlib, uuid, models\n"
        "pathlib.Path(models.__file__).write_text(f'N = {uuid.uuid4().hex!r}\\n')\n" + SITEAPP
    )
    with start() as site:
        said = site.wait_for_output(r"WARNING sitebus: .*Reloads are put off")
        assert "models.py changed again" in said[0]
        assert site.reloads <= 6
        assert site.get().status == 200
        assert site.stop() == 0


# A mistake is shown, and the old code goes on.


@some_ways(MISTAKES, polled=["syntax", "deep"])
def test_a_mistake_leaves_the_old_code_serving(
    start: Starter, folder: Path, mistake: str, polling: bool
) -> None:
    """It cannot be missed: in the page, in a header, and on the terminal, once."""
    text, kind, place = MISTAKES[mistake]
    site = start(polling=polling)
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
    page = site.wait_for_page("mended at last")
    assert "data-sitebus-reload" not in page.body
    assert site.stop() == 0
    assert site.output.count("ERROR") == 1
    assert site.output.count(f"{kind}: ") <= 2  # the first line, and the end of the traceback


@WAYS
@pytest.mark.parametrize("mistake", ["syntax", "name"])
def test_a_mistake_that_is_undone_is_forgotten(start: Starter, mistake: str, polling: bool) -> None:
    """What is on disk is what runs: there is nothing to reload, and nothing to complain about."""
    site = start(polling=polling)
    boot = site.boot
    site.wait_until_watched()
    for _ in range(2):
        site.save("views.py", MISTAKES[mistake][0])
        site.wait_for_failure()
        site.save("views.py", version("v1"))
        page = site.wait_for_page("v1")
        assert "data-sitebus-reload" not in page.body
    assert site.boot == boot
    site.save("views.py", version("the next"))
    site.wait_for_page("the next")
    assert site.stop() == 0
    assert site.reloads == 1


@BOTH
def test_a_second_mistake_replaces_the_first(start: Starter, supervised: bool) -> None:
    """And one in two files is over only when both are mended."""
    site = start(supervised=supervised)
    site.save("views.py", MISTAKES["syntax"][0])
    site.wait_for_failure()
    site.save("views.py", MISTAKES["name"][0])
    site.wait_until(lambda page: page.failed and "NameError" in page.body)
    site.save("siteapp.py", SITEAPP + "]\n")
    site.wait_until(lambda page: "siteapp.py:" in page.body and "unmatched" in page.body)
    site.save("siteapp.py", SITEAPP)
    site.wait_until(lambda page: page.failed and "NameError" in page.body)
    site.save("views.py", version("both"))
    site.wait_for_page("both")


@BOTH
def test_in_production_only_the_header_tells(start: Starter, supervised: bool) -> None:
    """Code is nobody's business there."""
    site = start("siteapp:application", "-e", "production", supervised=supervised)
    site.wait_for_page("v1")
    site.save("views.py", MISTAKES["name"][0])
    page = site.wait_for_failure()
    assert page.body == "<html><body>v1</body></html>"


@BOTH
def test_a_page_of_its_own_tells_of_a_mistake(start: Starter, supervised: bool) -> None:
    """For who would rather not work with old code."""
    site = start(
        "siteapp:application",
        "-e",
        "development",
        "-o",
        "reload.on_error=page",
        supervised=supervised,
    )
    site.wait_for_page("v1")
    site.save("views.py", MISTAKES["name"][0])
    page = site.wait_for_failure()
    assert page.status == 500
    assert "views.py:4: " in page.body
    site.save("views.py", version("v2"))
    site.wait_for_page("v2")


@WAYS
@pytest.mark.parametrize("name", ["later.py", "later/__init__.py"])
def test_a_missing_module_that_comes_is_noticed(
    start: Starter, folder: Path, name: str, polling: bool
) -> None:
    """First the import is written, then the module."""
    site = start(polling=polling)
    site.wait_until_watched()
    site.save("views.py", "from later import VERSION\n")
    site.wait_for_failure()
    site.wait_until_watched("later.py")
    (folder / name).parent.mkdir(exist_ok=True)
    site.save(name, version("it came"))
    site.wait_for_page("it came")


@WAYS
@pytest.mark.parametrize("cold", [False, True], ids=["reload", "start"])
def test_a_missing_module_that_comes_at_once_is_noticed(
    start: Starter, folder: Path, polling: bool, cold: bool
) -> None:
    """It was missed, and is there before anybody looks for it: the second of two files saved."""
    gate = folder / "gate"
    os.mkfifo(gate)
    missing = """\
        try:
            from later import VERSION
        except ImportError:
            open("gate").close()
            raise
    """
    if cold:
        (folder / "views.py").write_text(textwrap.dedent(missing))
    site = start(polling=polling)
    if not cold:
        site.wait_until_watched()
        site.save("views.py", textwrap.dedent(missing))
    with gate.open("w"):
        site.save("later.py", version("it came"))
    gate.unlink()
    site.wait_for_page("it came")


@BOTH
def test_a_mistake_in_the_configuration_is_refused(
    start: Starter, supervised: bool, folder: Path
) -> None:
    """Of the file itself, and of one that it includes."""
    more = "[mount /more]\napp = siteapp:application\n"
    ini = """\
        [site]
        environment = development
        include = parts.ini
        [server]
        bind = 127.0.0.1:0
        [reload]
        enabled = yes
        interval = 50ms
        [env]
        SAID = one
        [mount /]
        app = siteapp:application
    """
    write_ini(folder, ini)
    (folder / "parts.ini").write_text("# nothing yet\n")
    (folder / "views.py").write_text("import os\nVERSION = os.environ['SAID']\n")
    site = start("site.ini", reload=False, supervised=supervised)
    site.wait_for_page("one")

    write_ini(folder, ini + "\n        [mount /bad]\n        ap = siteapp:application\n")
    page = site.wait_for_failure()
    assert "site.ini:15: " in page.body
    assert "did you mean" in page.body

    write_ini(folder, ini.replace("SAID = one", "SAID = another"))
    site.wait_for_page("another")

    site.save("parts.ini", "[mount\n")
    # While the old worker leaves it may answer once more, and tells of the mistake before.
    wait_for(lambda: "parts.ini:1: " in site.wait_for_failure().body, PATIENCE)
    site.save("parts.ini", more)
    site.wait_for_page("another", "/more")
    assert "GET" not in site.output
    assert site.stop() == 0
    assert site.output.count("ERROR") == 2


@BOTH
def test_a_new_address_that_is_in_use_is_refused(
    start: Starter, supervised: bool, folder: Path
) -> None:
    """The old one keeps answering, and the new one is taken once it is free."""
    ini = """\
        [site]
        environment = development
        [server]
        bind = {}
        [reload]
        enabled = yes
        [mount /]
        app = siteapp:application
    """
    write_ini(folder, ini.format("127.0.0.1:0"))
    site = start("site.ini", reload=False, supervised=supervised)
    site.wait_for_page("v1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        write_ini(folder, ini.format(f"127.0.0.1:0, 127.0.0.1:{port}"))
        assert "already in use" in site.wait_for_failure().body
    write_ini(folder, ini.format(f"127.0.0.1:0, 127.0.0.1:{port}") + "\n")
    site.wait_for_page("v1")
    assert f":{port}" in site.output


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_a_restart_with_broken_code_is_refused(start: Starter, number: int) -> None:
    """Whoever asks for it; and without reloads, too."""
    site = start("siteapp:application", "-e", "development", reload=False)
    boot = site.boot
    site.save("views.py", MISTAKES["name"][0])
    site.signal(number)
    site.wait_for_output(r"ERROR sitebus: .*views\.py:4: .*NameError")
    page = site.get()
    assert (page.status, site.boot) == (200, boot)
    site.save("views.py", version("v3"))
    site.signal(number)
    site.wait_for_page("v3")
    assert site.stop() == 0
    assert site.output.count("ERROR") == 1


# A start with a mistake.


@some_ways(["syntax", "import", "name", "exit"], polled=["import"])
def test_a_start_with_a_mistake_comes_up_when_it_is_mended(
    start: Starter, folder: Path, mistake: str, polling: bool
) -> None:
    """It binds, tells browsers why there is nothing to see, and keeps its port."""
    text, kind, place = MISTAKES[mistake]
    (folder / "views.py").write_text(text)
    site = start(polling=polling)
    page = site.get()
    assert (page.status, page.failed) == (500, True)
    assert f"{folder}/{place}" in page.body
    assert kind in page.body
    assert site.output.count("ERROR") == 1

    site.save("views.py", "VERSION = = 'still wrong'\n")
    site.wait_until(lambda page: page.status == 500 and "views.py:1: " in page.body)
    assert "old code" not in site.get().body
    site.save("views.py", text)
    site.wait_until(lambda page: f"views.py:{place.split(':')[1]}: " in page.body)

    port = site.address[1]
    site.save("views.py", version("mended"))
    assert site.wait_for_page("mended").status == 200
    assert site.stop() == 0
    assert set(ports(site.output)) == {port}


def ports(output: str) -> list[int]:
    return [int(port) for port in re.findall(r"serving on http://127\.0\.0\.1:(\d+)", output)]


@WAYS
@pytest.mark.parametrize("missing", ["siteapp", "views", "shop/pages"])
def test_a_start_without_a_module_waits_for_it(
    start: Starter, folder: Path, missing: str, polling: bool
) -> None:
    """It may be that of the application itself, or one in a package that is not there either."""
    if missing == "shop/pages":
        (folder / "views.py").write_text("from shop.pages import VERSION\n")
    text = {"siteapp": SITEAPP}.get(missing, version("all there"))
    path = folder / f"{missing}.py"
    path.unlink(missing_ok=True)
    site = start(polling=polling)
    page = site.get()
    assert page.status == 500
    assert "no module" in page.body.lower()
    assert "sitebus/" not in page.body  # none of our own frames
    path.parent.mkdir(exist_ok=True)
    site.save(f"{missing}.py", text)
    site.wait_for_page("v1" if missing == "siteapp" else "all there")


def test_a_start_with_a_mistake_says_nothing_in_production(start: Starter, folder: Path) -> None:
    (folder / "views.py").write_text(MISTAKES["name"][0])
    site = start("siteapp:application", "-e", "production")
    page = site.get()
    assert (page.status, page.failed) == (500, True)
    assert "views" not in page.body
    site.wait_for_output(rf"ERROR sitebus: {folder}/views\.py:4: ")
    site.save("views.py", version("mended"))
    site.wait_for_page("mended")


@pytest.mark.parametrize(
    ("text", "status"),
    [("oops\n", 70), ("x = = 1\n", 70), (None, 70)],
    ids=["name", "syntax", "no"],
)
def test_without_reloads_a_start_with_a_mistake_ends(
    start: Starter, folder: Path, text: str | None, status: int
) -> None:
    views = folder / "views.py"
    views.unlink() if text is None else views.write_text(text)
    site = start(reload=False)
    assert site.wait() == status
    assert "serving on" not in site.output


def test_without_reloads_a_start_without_its_application_ends(start: Starter, folder: Path) -> None:
    (folder / "siteapp.py").unlink()
    site = start(reload=False)
    assert site.wait() == 78


# Templates.

#: For each engine a module that renders ``templates/page.html``.
ENGINES = {
    "jinja2": """
        import jinja2
        env = jinja2.Environment(loader=jinja2.FileSystemLoader("templates"), auto_reload=False)

        def render():
            return env.get_template("page.html").render()
    """,
    "mako": """
        from mako.lookup import TemplateLookup
        lookup = TemplateLookup(["templates"], filesystem_checks=False)

        def render():
            return lookup.get_template("page.html").render()
    """,
    "chameleon": """
        from chameleon import PageTemplateLoader
        templates = PageTemplateLoader("templates", ".html", auto_reload=False)

        def render():
            return templates["page"]()
    """,
    "django": """
        import django
        from django.conf import settings
        from django.template.loader import render_to_string
        backend = "django.template.backends.django.DjangoTemplates"
        settings.configure(TEMPLATES=[{"BACKEND": backend, "DIRS": ["templates"]}])
        django.setup()

        def render():
            return render_to_string("page.html")
    """,
}

RENDERING = """
class Page(str):
    def __format__(self, _):
        return render()

VERSION = Page()
"""

#: A listener as a framework would have it, which clears the templates that it keeps.
CLEARING = """
import sitebus.plugins

class Clearing(sitebus.plugins.Plugin):
    @sitebus.plugins.listens("files_changed")
    def files_changed(self, paths):
        import views
        views.env.cache.clear()
        print("cleared for", *paths, flush=True)
        return True
"""


@pytest.fixture
def templates(folder: Path) -> Callable[[str], None]:
    def make(engine: str) -> None:
        (folder / "templates").mkdir()
        (folder / "templates" / "page.html").write_text("<p>first</p>")
        (folder / "views.py").write_text(textwrap.dedent(ENGINES[engine]) + RENDERING)

    return make


@pytest.mark.parametrize("engine", ENGINES)
def test_a_template_needs_no_mention(
    start: Starter, templates: Callable[[str], None], engine: str
) -> None:
    """It was opened while a page was made; that it is kept in memory is no reason to show it."""
    pytest.importorskip(engine)
    templates(engine)
    site = start(env={"PYTHONWARNINGS": "default"})
    boot = site.boot
    site.wait_for_page("first")
    site.save("templates/page.html", "<p>second, longer</p>")
    site.wait_for_page("second, longer")
    assert site.boot != boot


@WAYS
def test_a_listener_that_has_dealt_with_a_template_spares_the_reload(
    start: Starter, folder: Path, templates: Callable[[str], None], polling: bool
) -> None:
    templates("jinja2")
    (folder / "clearing.py").write_text(CLEARING)
    site = start(
        *("siteapp:application", "-e", "development"),
        *("-o", "plugin clearing.use=clearing:Clearing"),
        polling=polling,
    )
    before = site.image
    site.wait_for_page("first")
    site.save("templates/page.html", "<p>second, longer</p>")
    site.wait_for_page("second, longer")
    assert site.image == before
    # The page may be quicker than what the listener prints.
    wait_for(lambda: f"cleared for {folder}/templates/page.html\n" in site.output, PATIENCE)
    assert site.image == before
    # With code among what changed, it is a reload all the same.
    site.save("siteapp.py", SITEAPP + "# more\n")
    wait_for(lambda: site.boot != before["boot"], PATIENCE)


# The configuration.


@WAYS
def test_a_saved_configuration_is_taken_up(start: Starter, folder: Path, polling: bool) -> None:
    ini = f"""\
        [site]
        environment = development
        include = more.ini
        [server]
        bind = 127.0.0.1:0
        [reload]
        enabled = yes
        interval = 50ms
        force_polling = {"yes" if polling else "no"}
        [env]
        SAID = one
        [mount /]
        app = siteapp:application
    """
    write_ini(folder, ini)
    (folder / "more.ini").write_text("")
    (folder / "views.py").write_text("import os\nVERSION = os.environ.get('SAID', 'nothing')\n")
    site = start("site.ini", reload=False)
    site.wait_for_page("one")
    write_ini(folder, ini.replace("SAID = one", "SAID = two"))
    site.wait_for_page("two")
    write_ini(folder, ini.replace("SAID = one", ""))
    site.wait_for_page("nothing")
    (folder / "shop.py").write_text(
        "import views\nviews.VERSION\nfrom siteapp import application\n"
    )
    write_ini(folder, ini + "\n        [mount /shop]\n        app = shop:application\n")
    site.wait_for_output(r"^  /shop +shop:application")
    (folder / "more.ini").write_text("[mount /more]\napp = siteapp:application\n")
    site.wait_for_output(r"^  /more ")
    assert site.stop() == 0
    assert site.reloads == 4


# Browsers.


@WAYS
def test_a_page_hears_of_new_code(start: Starter, polling: bool) -> None:
    """When it comes back after the reload, another image answers: it loads itself again."""
    site = start(*LIVE, polling=polling)
    assert "new EventSource" in site.get().body
    with Stream(site) as stream:
        assert stream.status == 200
        name, boot = stream.next()
        assert name == "boot"
        site.save("views.py", version("v2"))
        with pytest.raises(EOFError):
            stream.next()
    with Stream(site) as stream:
        name, new = stream.next()
        assert (name, new != boot) == ("boot", True)
    assert "v2" in site.get().body


def test_a_page_hears_of_a_mistake(start: Starter) -> None:
    """The overlay is put into pages that are loaded: the one that is open has to be."""
    site = start(*LIVE)
    site.wait_until_watched()
    with Stream(site) as stream:
        _, boot = stream.next()
        site.save("views.py", MISTAKES["name"][0])
        assert stream.next()[0] == "refresh"
        assert site.get().failed
        site.save("views.py", version("v1"))
        assert stream.next()[0] == "refresh"
        assert not site.get().failed
    with Stream(site) as stream:
        assert stream.next() == ("boot", boot)


@BOTH
def test_a_page_hears_of_a_template(
    start: Starter, supervised: bool, folder: Path, templates: Callable[[str], None]
) -> None:
    templates("jinja2")
    (folder / "clearing.py").write_text(CLEARING)
    site = start(*LIVE, "-o", "plugin clearing.use=clearing:Clearing", supervised=supervised)
    site.wait_for_page("first")
    with Stream(site) as stream:
        assert stream.next()[0] == "boot"
        site.save("templates/page.html", "<p>second, longer</p>")
        assert stream.next()[0] == "refresh"
        assert "second" in site.get().body


@BOTH
def test_a_page_hears_of_a_static_file(start: Starter, supervised: bool, folder: Path) -> None:
    """It has the new one, and no code is loaded anew for that."""
    (folder / "files").mkdir()
    (folder / "files" / "site.css").write_text("p { color: red }")
    site = start(*LIVE, "--mount", "/files=static:files", supervised=supervised)
    assert "red" in site.get("/files/site.css").body
    with Stream(site) as stream:
        _, boot = stream.next()
        site.save("files/site.css", "p { color: green }")
        assert stream.next()[0] == "refresh"
        assert "green" in site.get("/files/site.css").body
    with Stream(site) as stream:
        assert stream.next() == ("boot", boot)
    assert site.reloads == 0


@BOTH
def test_open_pages_hold_nothing_up(start: Starter, supervised: bool) -> None:
    """Neither a reload nor the end, and not even more of them than there are threads."""
    site = start(*LIVE, "-t", "4", "-o", "server.drain_timeout=15s", supervised=supervised)
    with ExitStack() as pages:
        streams = [pages.enter_context(Stream(site)) for _ in range(8)]
        assert streams[-1].next()[0] == "boot"
        site.save("views.py", version("v2"))
        began = os.times().elapsed
        site.wait_for_page("v2")
        last = pages.enter_context(Stream(site))
        assert last.next()[0] == "boot"
        assert site.stop() == 0
        assert os.times().elapsed - began < 8
        with pytest.raises(EOFError):
            last.next()


# The end.


#: What has just been printed when the signal comes: the trial runs, the site drains, it is about to
#: be another image, that one starts, and serves.
MOMENTS = [
    "Restarting because",
    "Bus STOPPING",
    "Bus EXITED",
    "Re-spawning",
    "STARTING(?s:.*)STARTING",
]


def _is_alone(pid: int) -> bool:
    return processes_of(pid) == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_sigterm_in_a_reload_ends_the_site(start: Starter, moment: str) -> None:
    """The operator's last word stands, whenever it comes, and nothing is left."""
    pause = threading.Event()
    for delay in (0.0, *random.sample(range(1, 80), 2)):
        with start() as site:
            site.wait_for_page("v1")
            address = site.address
            site.save("views.py", version(f"v{delay} of {moment}"))
            site.wait_for_output(moment)
            pause.wait(delay / 1000)
            assert site.stop() == 0
            # A trial ends when it hears that nobody waits for it.
            wait_for(partial(_is_alone, site.pid), what="the trial to end")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
        site.save("views.py", version("v1"))
