"""The fixtures, in runs of pytest as a user has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.testing.conftest import Result, Run

IMPORTS = "import pathlib, threading\nimport pytest, requests\nimport shop\n"


def outcome(result: Result) -> dict[str, int]:
    """Answer how many tests passed, failed and so on."""
    *_, line = result.stdout.strip().splitlines()
    return {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error)", line)}


def test_a_site_is_served_for_a_test(tests: Run) -> None:
    """Of whatever kind: the same fixture for an application, a name, an ini, a site."""
    result = tests(
        IMPORTS
        + """
import sitebus

async def asgi(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["type"].encode()})

INI = pathlib.Path("site.ini")
INI.write_text("[server]\\nbind = 127.0.0.1:1\\n[env]\\nTEA = green\\n[mount /a]\\napp = shop:app")
site = sitebus.Site()
site.mount(shop.app, "/a")

@pytest.mark.parametrize("target", [shop.app, "shop:app", INI, "site.ini", site])
def test_wsgi(site_server, target):
    server = site_server(target)
    assert requests.get(server.url + "/a").text == "tea"
    assert "GET /a 200, 3 bytes" in server.log

def test_asgi(site_server):
    assert requests.get(site_server(asgi).url).text == "http"

def test_several_with_options(site_server):
    one = site_server(shop.app, adapter="wsgiref")
    two = site_server(shop.app, "/b", settings={"site.development_pages": True})
    assert requests.get(one.url + "/b").text == requests.get(two.url + "/b").text == "tea"
    assert "/b" in requests.get(two.url + "/c").text
    assert one.url != two.url and "/c" not in one.log

def test_nothing_is_left_of_a_file(site_server):
    import os
    assert "TEA" not in os.environ
    site_server(INI)
    assert os.environ["TEA"] == "green"
"""
    )
    assert outcome(result) == {"passed": 8}, result.stdout


def test_the_log_is_in_the_report_of_a_failure(tests: Run) -> None:
    """Why a page failed is what somebody wants to know who sees that it did."""
    result = tests(
        IMPORTS
        + """
from sitebus.testing import ServedSite

@pytest.fixture(scope="module")
def shared():
    with ServedSite(shop.app) as served:
        yield served

def test_own(site_server):
    assert requests.get(site_server(shop.app).url + "/bad?own").ok

def test_shared(shared):
    assert requests.get(shared.url + "/bad?shared").ok

def test_block():
    with ServedSite(shop.app) as served:
        assert requests.get(served.url + "/bad?block").ok

def test_good(site_server):
    assert requests.get(site_server(shop.app).url + "/good?quiet").ok
"""
    )
    assert outcome(result) == {"failed": 3, "passed": 1}, result.stdout
    for name in ("own", "shared", "block"):
        assert f"GET /bad?{name} 500" in result.stdout
    assert result.stdout.count("RuntimeError: no tea left") == 3
    assert "/good?quiet" not in result.stdout
    assert "Captured log" not in result.stdout


def test_what_cannot_be_served_is_told_in_a_sentence(tests: Run) -> None:
    """And what the test got is an error of ours, not a guess."""
    result = tests(
        IMPORTS
        + """
def test_none(site_server):
    site_server(5)

def test_missing(site_server):
    site_server("shop:ap")

def test_option(site_server):
    site_server(shop.app, thread=5)

def test_path(site_server):
    pathlib.Path("site.ini").write_text("[mount /]\\napp = shop:app\\n")
    site_server("site.ini", "/a")

def test_site_path(site_server):
    import sitebus
    site_server(sitebus.Site(), "/a")
"""
    )
    assert outcome(result) == {"failed": 5}, result.stdout
    assert "cannot serve 5: expected a WSGI or ASGI application" in result.stdout
    assert "did you mean 'app'?" in result.stdout
    assert "did you mean 'threads'?" in result.stdout
    for what in ("site.ini", "a Site"):
        assert f"{what} says itself where its applications are" in result.stdout


BUS = """
def test_clean(bus, wait_for):
    bus.subscribe("started", lambda: None)
    bus.start()
    assert wait_for(lambda: bus.state == bus.states.STARTED)

def test_expected(bus, bus_errors):
    bus.subscribe("tea", lambda: 1 / 0)
    with pytest.raises(ExceptionGroup):
        bus.publish("tea")
    assert len(bus_errors) == 1
    bus_errors.clear()

def test_unexpected(bus):
    bus.subscribe("started", lambda: 1 / 0)
    bus.start()

def test_end(bus):
    bus.subscribe("stop", lambda: 1 / 0)
    bus.start()
"""


def test_a_bus_must_end_clean(tests: Run) -> None:
    """A listener that fails where nobody looks is found by the test."""
    result = tests(IMPORTS + BUS)
    assert outcome(result) == {"passed": 4, "error": 2}, result.stdout
    wrong = re.findall(r"^ERROR test_it.py::test_(\w+)", result.stdout, re.MULTILINE)
    assert wrong == ["unexpected", "end"]
    assert "a test that expects this empties bus_errors" in result.stdout


PROCESS = """
def test_it_serves(site_process):
    child = site_process("shop:app")
    assert requests.get(child.url).text == "tea"
    assert child.stop() == 0
    assert "GET / HTTP/1.1" in child.output

def test_shown(site_process):
    assert requests.get(site_process("shop:app").url + "/bad").ok

def test_ended(site_process):
    site_process("shop:ap").wait_ready()

def test_forgotten(tmp_path):
    from sitebus.testing import SiteProcess
    child = SiteProcess("shop:app")
    pathlib.Path("pid").write_text(str(child.pid))
    child.wait_ready()
"""


def test_a_child_is_shown_and_ended(tests: Run, project: Path) -> None:
    """Also one that nobody closes: a port or a lock that it holds would spoil the next run."""
    result = tests(IMPORTS + PROCESS, "-Wignore::ResourceWarning")
    assert outcome(result) == {"failed": 2, "passed": 2}, result.stdout
    assert "RuntimeError: no tea left" in result.stdout
    assert re.search(r"that it serves was not printed by(?s:.*)status 78, printed:", result.stdout)
    forgotten = int((project / "pid").read_text())
    assert not Path(f"/proc/{forgotten}").exists()


def test_it_works_on_several_processes(tests: Run) -> None:
    """pytest-xdist hands reports from one to the other; each site has a port of its own."""
    pytest.importorskip("xdist")
    result = tests(
        IMPORTS
        + """
@pytest.mark.parametrize("number", range(6))
def test_it(site_server, site_process, number):
    url = (site_server(shop.app) if number % 2 else site_process("shop:app")).url
    assert requests.get(url + ("/bad" if number == 5 else "/")).ok
""",
        "-n2",
        plugins=("sitebus", "xdist"),
    )
    assert outcome(result) == {"failed": 1, "passed": 5}, result.stdout
    assert result.stdout.count("RuntimeError: no tea left") == 1


def test_it_can_be_left_out(tests: Run) -> None:
    """By the name of its entry point."""
    result = tests("def test_it(site_server): pass\n", "-p", "no:sitebus", plugins=())
    assert outcome(result) == {"error": 1}, result.stdout
    assert "fixture 'site_server' not found" in result.stdout


def test_it_may_be_named_in_a_conftest(tests: Run, project: Path) -> None:
    """As by who needs it where plugins are not loaded by themselves."""
    (project / "conftest.py").write_text('pytest_plugins = ["pytest_sitebus.fixtures"]\n')
    result = tests(
        IMPORTS
        + """
def test_it(bus):
    bus.start()

class TestOthers:
    @pytest.fixture
    def bus(self):
        return 5

    def test_local_fixtures_come_first(self, bus):
        assert bus == 5
"""
    )
    assert outcome(result) == {"passed": 2}, result.stdout


def test_a_run_that_does_not_use_it_imports_nothing_else(tests: Run) -> None:
    """It is loaded with every pytest of everybody who has sitebus installed."""
    result = tests(
        """
import sys

def test_it():
    # An editable install has a finder of its own.
    loaded = {name for name in sys.modules if "sitebus" in name and "editable" not in name}
    assert loaded == {"pytest_sitebus", "pytest_sitebus.fixtures"}
    assert not {"asyncio", "requests"} & set(sys.modules)
"""
    )
    assert outcome(result) == {"passed": 1}, result.stdout
