"""What the plugin is made of, as our own tests use it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

import sitebus
from sitebus import testing
from sitebus.errors import (
    BindError,
    LeftBehind,
    NotATarget,
    NotInTime,
    NotPrinted,
    StillRunning,
    UnclearInterface,
    UsageError,
)
from sitebus.testing import ServedSite, live
from sitebus.testing.buses import clean_bus
from tests.helpers import PATIENCE, Child, SiteProcess, nothing_left, wait_for
from tests.servers.client import hello

Serve = Callable[..., ServedSite]


def test_a_condition_that_comes_true_is_answered() -> None:
    """What was waited for is mostly wanted as well."""
    answers = iter([0, None, "", "tea"])
    assert wait_for(lambda: next(answers)) == "tea"


def test_a_condition_that_does_not_is_a_failure_and_says_which() -> None:
    """A test that failed, for its runner; one of ours, for who wants to catch it."""
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: water to boil") as caught:
        wait_for(lambda: False, 0.01, "water to boil")
    assert isinstance(caught.value, NotInTime)


def test_what_is_left_is_named() -> None:
    """Without a name, it would have to be searched for."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="kettle")
    with pytest.raises(LeftBehind, match="threads behind: kettle"), nothing_left(0.05):
        thread.start()
    ended.set()
    thread.join()
    with pytest.raises(LeftBehind, match=r"descriptors behind: \d+ \(.*kettle"), nothing_left():
        fd = os.memfd_create("kettle")
    os.close(fd)


def test_a_bus_that_leaves_a_thread_is_not_clean() -> None:
    """It would be there in the tests after this one, and fail one of these."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="kettle")

    def start_it() -> None:
        with clean_bus([], 0.05) as bus:
            bus.subscribe("start", thread.start)
            bus.start()

    with pytest.raises(LeftBehind, match="threads behind: kettle"):
        start_it()
    ended.set()
    thread.join()


def test_a_child_says_why_it_is_not_what_was_waited_for() -> None:
    """Who sees the failure sees what it printed, and whether it runs."""
    with Child([sys.executable, "-c", "print('cold'); input()"]) as child:
        with pytest.raises(NotPrinted, match=r"'warm' was not printed(?s:.)*status 1(?s:.)*cold"):
            child.wait_for_output("warm")
        assert child.wait() == 1


def test_a_child_that_does_not_stop_is_told_of_and_ended() -> None:
    """It would hold its port for the tests after it."""
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); print('deaf'); signal.pause()"
    with Child([sys.executable, "-c", deaf]) as child:
        child.wait_for_output("deaf")
        with pytest.raises(StillRunning, match=r"still running after 0\.1 s"):
            child.stop(0.1)
    assert child.process.returncode == -9


def test_what_a_child_started_ends_with_it() -> None:
    """Workers of a supervisor that was killed, for one."""
    parent = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', "
        "'import signal; signal.pause()']).pid, flush=True); sys.stdout.close()"
    )
    with Child([sys.executable, "-c", parent]) as child:
        pid = int(child.wait_for_output(r"^\d+$").group())
        child.process.wait(PATIENCE)
    wait_for(lambda: not _runs(pid), PATIENCE, "the grandchild to end")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_daemon_of_a_child_does_not_hold_its_test_up() -> None:
    """It has the other end of the output, and a life of its own."""
    parent = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', "
        "'import signal; signal.alarm(30); signal.pause()'], start_new_session=True).pid)"
    )
    with Child([sys.executable, "-c", parent]) as child:
        pid = int(child.wait_for_output(r"^\d+$").group())
        began = time.monotonic()
    took = time.monotonic() - began
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: child.process.stdout and child.process.stdout.closed, PATIENCE)
    assert took < 15


def test_a_site_that_restarts_tells_its_new_addresses(tmp_path: Path) -> None:
    """The last banner counts, all lines of it."""
    (tmp_path / "app.py").write_text(
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return []\n"
    )
    binds = ("-b", "127.0.0.1:0", "-b", f"unix:{tmp_path / 'socket'}")
    with SiteProcess("app:app", *binds, cwd=tmp_path) as child:
        assert len(child.urls) == 2
        assert child.url == child.urls[0]
        assert child.stop() == 0
    quiet = testing.SiteProcess("app:app", "--log-format", "json", cwd=tmp_path)
    quiet.environment = child.environment  # type: ignore[method-assign]
    with quiet:
        assert quiet.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("adapter", ["cheroot", "wsgiref", "uvicorn"])
def test_a_served_site_leaves_nothing(adapter: str) -> None:
    """Neither threads nor descriptors, with its clients still connected."""
    with requests.Session() as session, nothing_left(PATIENCE):
        with ServedSite(hello, adapter=adapter) as served:
            assert session.get(served.url, timeout=PATIENCE).ok
        assert live.LIVE == []
        assert served.log.endswith("Bus EXITED")
        session.close()


@pytest.mark.parametrize(
    ("target", "settings", "error"),
    [
        (5, {}, NotATarget),
        (print, {}, UnclearInterface),
        ("no_such_module_here:app", {}, sitebus.SitebusError),
        (hello, {"server.bind": "192.0.2.1:80"}, BindError),
    ],
    ids=["a number", "no application", "not there", "an address of others"],
)
def test_what_cannot_be_served_leaves_nothing(
    target: object, settings: dict[str, str], error: type[Exception]
) -> None:
    """A fixture that fails has no second chance to clean up."""
    path, environ = sys.path[:], dict(os.environ)
    with nothing_left(), pytest.raises(error), ServedSite(target, settings=settings):
        pass
    assert (sys.path, dict(os.environ), live.LIVE) == (path, environ, [])


def test_a_site_serves_once() -> None:
    """A second start would be the end of the first, and say something else."""
    with ServedSite(hello) as served:
        with pytest.raises(UsageError, match="has been started before, and serves once"):
            served.start()
        assert requests.get(served.url, timeout=PATIENCE).ok
    with pytest.raises(UsageError, match="make another"):
        served.start()


def test_a_site_is_as_it_was(site_server: Serve) -> None:
    """It may be the site that the program serves itself."""
    site = sitebus.Site("tearoom", strict_hosts=True)
    site.mount(hello, "/a")
    before = site.name, site.strict_hosts, site.access_log, site.on_error, site.mounts
    with ServedSite(site) as served:
        assert requests.get(f"{served.url}/a", timeout=PATIENCE).status_code == 421
    assert (site.name, site.strict_hosts, site.access_log, site.on_error, site.mounts) == before


def test_a_failing_end_is_the_tests_business() -> None:
    """A plugin that cannot stop would fail in production as well."""
    served = ServedSite(hello).start()
    served.engine.subscribe("stop", lambda: 1 / 0)
    with pytest.raises(ExceptionGroup) as caught:
        served.close()
    assert "ZeroDivisionError" in repr(caught.value.exceptions)


def taken_port(taken: ExitStack) -> int:
    """Answer a port on which somebody else listens."""
    port: int = taken.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    return port


def test_a_file_may_say_several_servers_and_what_a_process_needs(tmp_path: Path) -> None:
    """A test serves the file of the real site: its ports and its pid file are taken."""
    with ExitStack() as taken:
        ports = [taken_port(taken) for _ in range(3)]
        ini = tmp_path / "site.ini"
        ini.write_text(
            f"[server one]\nbind = 127.0.0.1:{ports[0]}\n"
            f"[server t.wo]\nbind = 127.0.0.1:{ports[1]}\n"
            f"[health]\nbind = 127.0.0.1:{ports[2]}\n[workers]\ncount = 2\n"
            f"[plugin pidfile]\npath = {tmp_path / 'pid'}\n[plugin daemon]\n"
            f"[relay]\nbind = unix:{tmp_path / 'relay.sock'}\n"
            f"[logging]\naccess = {tmp_path / 'access'}\nerror = {tmp_path / 'error'}\n"
            "[mount /]\napp = static:${here}\n"
        )
        with nothing_left(), ServedSite(ini) as served:
            assert len(set(served.urls)) == 2
            assert served.engine.relay is None
            for url in served.urls:
                assert requests.get(url, timeout=PATIENCE).status_code == 404
    assert [path.name for path in tmp_path.iterdir()] == ["site.ini"]


def test_names_are_imported_when_they_are_asked_for() -> None:
    """All of those that are promised are there."""
    for name in testing.__all__:
        assert getattr(testing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'tea'"):
        testing.tea  # noqa: B018
