"""From a configuration to a running site, and back to nothing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from sitebus import State, assembly
from sitebus.assembly import look
from sitebus.assembly.environment import VARIABLE, forget
from sitebus.config import Override
from sitebus.errors import (
    AppImportError,
    AppNotFound,
    BindError,
    CannotWriteLog,
    NotAPlugin,
    StartFailed,
)
from sitebus.mounts import Site
from sitebus.plugins import Plugin
from sitebus.process import Engine
from tests.helpers import ROOT

APPLICATION = """\
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["sitebus.mount"].encode()]

def make():
    return app

class Stubborn:
    def __init__(self, bus):
        pass
    def subscribe(self):
        raise RuntimeError("no way")
    def unsubscribe(self):
        raise RuntimeError("no way back")
"""

Assemble = Callable[..., assembly.Assembly]


@pytest.fixture
def assemble(bus: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Assemble]:
    """Put together what a text says as a ``site.ini``, on a bus that must end clean."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assembled_app.py").write_text(APPLICATION)
    made: list[assembly.Assembly] = []

    def make(text: str) -> assembly.Assembly:
        path = tmp_path / "site.ini"
        path.write_text(f"[logging]\naccess = off\n[server]\nbind = 127.0.0.1:0\n{text}")
        configuration = assembly.read(path, environ={})
        made.append(assembly.assemble(configuration, bus, Site()))
        return made[-1]

    yield make
    bus.exit()
    for each in made:
        each.close()
    sys.modules.pop("assembled_app", None)


MOUNT = "[mount /a]\napp = assembled_app:app\n"


def test_a_site_serves_again_after_a_stop(bus: Engine, assemble: Assemble) -> None:
    """A stop keeps applications and addresses; only an exit lets go of them."""
    assembled = assemble(MOUNT)
    assembled.start()
    (url,) = assembled.urls()
    assert requests.get(f"{url}/a", timeout=10).text == "/a"
    mounts = assembled.site.mounts
    bus.stop()
    bus.start()
    assert assembled.site.mounts == mounts
    assert assembled.urls() == (url,)
    assert requests.get(f"{url}/a", timeout=10).text == "/a"
    bus.exit()
    assert assembled.site.mounts == ()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (f"{MOUNT}[mount /b]\napp = no_such_module_here:app\n", AppNotFound),
        (f"{MOUNT}[mount /b]\napp = app:b\n[app b]\nuse = os:getpid\nx = 1\n", AppImportError),
        (f"{MOUNT}filters = os:getpid\n", AppImportError),
        (f"{MOUNT}[server b]\nbind = 192.0.2.1:0\n", BindError),
    ],
)
def test_a_start_that_fails_leaves_nothing(
    bus: Engine, assemble: Assemble, text: str, error: type[Exception]
) -> None:
    """No socket, no mount, no thread; and the reason is the original one."""
    assembled = assemble(text)
    with pytest.raises(error):
        assembled.start()
    assert bus.state == State.EXITING
    assert bus.addresses == ()
    assert assembled.site.mounts == ()


def test_nothing_of_ours_is_logged_with_a_traceback(
    assemble: Assemble, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who asked for the start is told the reason; the log need not tell it a second time."""
    assembled = assemble("[mount /]\napp = no_such_module_here:app\n")
    with pytest.raises(AppNotFound):
        assembled.start()
    assert capsys.readouterr().err == ""


def test_a_strangers_failure_is_named(bus: Engine, assemble: Assemble) -> None:
    """A listener may raise anything; the sentence says which one it was."""

    def stumble() -> None:
        raise KeyError("shoe")

    assembled = assemble(MOUNT)
    bus.subscribe("start", stumble)
    with pytest.raises(StartFailed, match=r"KeyError: 'shoe' \(listener .*stumble"):
        assembled.start()


def test_a_log_that_cannot_be_written_fails_before_anything_listens(
    bus: Engine, tmp_path: Path
) -> None:
    """And leaves logging as it was."""
    configuration = assembly.read(
        None,
        overrides=[Override("logging", "error", str(tmp_path / "gone" / "log"), "-o")],
        environ={},
    )
    with pytest.raises(CannotWriteLog):
        assembly.assemble(configuration, bus, Site())
    assert not any(bus.listeners[channel] for channel in ("start", "log"))
    assert logging.getLogger("sitebus").handlers == []


def test_an_access_log_is_open_while_the_site_is(
    bus: Engine, assemble: Assemble, tmp_path: Path
) -> None:
    """It follows a rotation, like every log."""
    (tmp_path / "more.ini").write_text(MOUNT)
    assembled = assemble("[site]\ninclude = more.ini\n")
    assembled.close()
    configuration = assembly.read(
        tmp_path / "site.ini",
        overrides=[Override("logging", "access", "access.log", "--access-log")],
        environ={},
    )
    assembled = assembly.assemble(configuration, bus, Site())
    assembled.start()
    (url,) = assembled.urls()
    log = tmp_path / "access.log"
    requests.get(f"{url}/a?first", timeout=10)
    log.rename(tmp_path / "access.log.1")
    bus.publish("graceful")
    requests.get(f"{url}/a?second", timeout=10)
    bus.exit()
    assembled.close()
    assert "/a?first" in (tmp_path / "access.log.1").read_text()
    assert "/a?second" in log.read_text()


def test_applications_find_what_the_file_prepared(
    assemble: Assemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment where it says nothing yet, import path, and directory."""
    monkeypatch.setenv("SITE_TOWN", "Wien")
    monkeypatch.delenv("SITE_RIVER", raising=False)
    (tmp_path / "lib").mkdir()
    (tmp_path / "work").mkdir()
    assemble(
        "[site]\npython_path = lib, .\nworking_dir = work\n"
        "[env]\nSITE_TOWN = Graz\nSITE_RIVER = Mur\n" + MOUNT
    )
    assert (os.environ["SITE_TOWN"], os.environ["SITE_RIVER"]) == ("Wien", "Mur")
    assert sys.path[:2] == [str(tmp_path / "lib"), str(tmp_path)]
    assert Path.cwd() == tmp_path / "work"
    monkeypatch.delenv("SITE_RIVER")


def test_check_loads_everything_and_binds_nothing(assemble: Assemble, tmp_path: Path) -> None:
    """What it says is what a start would meet."""
    (tmp_path / "site.ini").write_text(
        f"{MOUNT}[mount /off]\napp = gone:app\nenabled = no\n[mount /s]\napp = static:.\n"
        "[mount /x]\napp = gone:app\n[plugin p]\nuse = gone:P\n"
        "[plugin q]\nuse = sitebus.plugins:Plugin\n[plugin n]\nuse = os:getpid\n"
        "[plugin o]\nuse = builtins:id\n[plugin r]\nuse = assembled_app:Stubborn\n"
        "[app a]\nuse = gone:a\n[app b]\nuse = os:getpid\n[filter f]\nuse = gone:f\n"
    )
    findings = look.check(assembly.read(tmp_path / "site.ini", environ={}))
    assert [(each.place, each.summary) for each in findings] == [
        ("/a", "wsgi CERTAIN"),
        ("/s", "static files (wsgi) CERTAIN"),
        ("/x", "FAILED"),
        ("[app a]", "FAILED"),
        ("[app b]", "app, not used"),
        ("[filter f]", "FAILED"),
        ("[plugin p]", "FAILED"),
        ("[plugin q]", "plugin"),
        ("[plugin n]", "FAILED"),
        ("[plugin o]", "FAILED"),
        ("[plugin r]", "FAILED"),
    ]


@pytest.mark.parametrize(
    ("use", "error", "status"),
    [("builtins:id", NotAPlugin, 78), ("assembled_app:Stubborn", AppImportError, 70)],
)
def test_a_strangers_plugin_that_will_not_be_one_is_told(
    bus: Engine, assemble: Assemble, use: str, error: type[NotAPlugin], status: int
) -> None:
    """And what was subscribed before it is taken off again."""
    listened = {channel for channel, listeners in bus.listeners.items() if listeners}
    with pytest.raises(error) as caught:
        assemble(f"{MOUNT}[plugin p]\nuse = {use}\n")
    assert caught.value.status == status
    assert {channel for channel, each in bus.listeners.items() if each} == listened
    if isinstance(caught.value, AppImportError):
        assert "no way" in caught.value.traceback_text
        assert "sitebus" not in caught.value.traceback_text


def test_a_plugin_that_cannot_leave_holds_nobody_up(bus: Engine, assemble: Assemble) -> None:
    """The parts that were subscribed before it still go."""
    assembled = assemble(MOUNT)

    class Clinging(Plugin):
        def unsubscribe(self) -> None:
            raise RuntimeError("no way back")

    assembled.plugins = (Clinging(bus),)
    assembled.servers = ()
    assembled.subscribe()
    assembled.close()
    assert not bus.listeners["start"]


def test_a_certificate_is_read_once_by_a_start(bus: Engine, assemble: Assemble) -> None:
    """The sockets and files are taken by one listener, and not by the adapter's own as well."""
    assembled = assemble(MOUNT)
    names = [getattr(listener, "__qualname__", "") for listener in bus.listeners["start"]]
    assert [name for name in names if name.endswith(".bind")] == ["Startup.bind"]
    assembled.start()
    assert requests.get(f"{assembled.urls()[0]}/a", timeout=10).text == "/a"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("app = static:.\ninterface = wsgi", "static files (wsgi) CERTAIN"),
        ("app = factory:assembled_app:make\ninterface = wsgi", "wsgi CERTAIN"),
        ("app = wsgi:assembled_app:make\nfactory = yes", "wsgi CERTAIN"),
        ("app = assembled_app:make\nfactory = yes\ninterface = wsgi", "wsgi CERTAIN"),
        ("app = static:.\nfactory = yes", "FAILED"),
    ],
)
def test_interface_and_factory_go_with_every_kind_of_target(
    assemble: Assemble, tmp_path: Path, text: str, answer: str
) -> None:
    """They are settings of their own, not words glued to the target."""
    (tmp_path / "site.ini").write_text(f"[mount /a]\n{text}\n")
    (finding,) = look.check(assembly.read(tmp_path / "site.ini", environ={}))
    assert finding.summary == answer


def test_a_filter_in_a_file_is_beside_the_file_that_names_it(
    assemble: Assemble, tmp_path: Path
) -> None:
    """As every other path of a site.ini is."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "assembled_filter.py").write_text("def keep(app):\n    return app\n")
    path = tmp_path / "sub" / "s.ini"
    path.write_text(
        f"[site]\npython_path = {tmp_path}\n{MOUNT}filters = assembled_filter.py:keep\n"
    )
    (finding,) = look.check(assembly.read(path, environ={}))
    assert finding.summary == "wsgi CERTAIN"
    sys.modules.pop("assembled_filter", None)


def test_slashes_are_merged_when_the_file_says_so(assemble: Assemble) -> None:
    """What a site can do, its file can say."""
    assembled = assemble(f"[site]\nmerge_slashes = yes\n{MOUNT}")
    assert assembled.site.merge_slashes


def test_an_event_stream_is_no_slow_request(bus: Engine, assemble: Assemble) -> None:
    """A page that is open for days is not stuck; and a site's only thread is not for it."""
    assembled = assemble(
        f"threads = 1\n{MOUNT}[site]\nenvironment = development\n"
        "[reload]\nenabled = yes\nbrowser = yes\nforce_polling = yes\n"
    )
    assembled.start()
    (url,) = assembled.urls()
    assert assembled.face is not None
    assembled.face.streams.most = 1
    with requests.get(f"{url}/__sitebus__/reload", stream=True, timeout=10) as stream:
        next(stream.iter_lines())
        assert bus.serving.serving() == ()
    assembled.face.streams.close()
    assert requests.get(f"{url}/a", timeout=10).text == "/a"


@pytest.mark.parametrize(("threads", "most"), [(1, 0), (10, 5)])
def test_event_streams_leave_half_the_threads(assemble: Assemble, threads: int, most: int) -> None:
    assembled = assemble(f"threads = {threads}\n{MOUNT}[reload]\nenabled = yes\n")
    assert assembled.face is not None
    assert assembled.face.streams.most == most


def test_what_an_application_starts_keeps_the_environment(
    assemble: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another site, perhaps, which must not take it for its own from before a restart."""
    for name in (VARIABLE, "ASSEMBLED_FOR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assemble(f"{MOUNT}[env]\nASSEMBLED_FOR = us\n").start()
    code = "import os; from sitebus.assembly.environment import forget; forget(); print(os.environ)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert "'ASSEMBLED_FOR': 'us'" in told.stdout
    forget()
    assert "ASSEMBLED_FOR" not in os.environ
