"""The site inside Apache with mod_wsgi: in a daemon process, and in Apache's own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.embedding.hosting import LIBRARIES, Hosted, end, need, public_folder, typed
from tests.helpers import PATIENCE, ROOT, Child, wait_for

pytestmark = pytest.mark.slow

MODULE = Path("/usr/lib/apache2/modules/mod_wsgi.so")


class Apache(Hosted):
    """An Apache of the test's own."""

    def __init__(self, directory: Path) -> None:
        need("apache2 with mod_wsgi", MODULE.exists())
        super().__init__("apache", directory)
        self.run = directory / "run"
        self.run.mkdir()
        for path in (self.folder, self.run):
            path.chmod(0o777)
        # A virtual environment, in which are sitebus and Flask.
        self.installed = directory / "environment"
        packages = self.installed / "lib" / "python3.11" / "site-packages"
        packages.mkdir(parents=True)
        (packages / "installed.pth").write_text(f"{ROOT}\n{LIBRARIES}\n")

    @contextmanager
    def serving(self, configuration: str = "httpd.conf") -> Iterator[Child]:
        command = typed("apache2").replace("httpd.conf", configuration)
        argv = [*self.shell(command)]
        if os.geteuid() == 0:
            argv[:0] = ["setpriv", "--reuid=www-data", "--regid=www-data", "--clear-groups"]
        told = {
            # It looks there for the Python that it was built for.
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": "",
            "VIRTUAL_ENV": str(self.installed),
            "TMPDIR": str(self.run),
        }
        try:
            with self.running_exactly(argv, told) as child:
                yield child
        finally:
            print(self.log)

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in self.run.glob("*/error.log"))


@pytest.fixture
def apache() -> Iterator[Apache]:
    with public_folder() as folder:
        yield Apache(folder)


def test_a_daemon_process_serves_the_example_and_ends_in_time(apache: Apache) -> None:
    """A thread that is left makes mod_wsgi kill the process, seconds later."""
    with apache.serving() as host:
        apache.serves_both_applications()
        assert apache.pids("start") == [apache.who()]

        assert end(host) == 0
    apache.each_started_and_ended_once()
    assert "Traceback" not in apache.log
    assert "did not exit" not in apache.log
    # Who takes a signal here is told off.
    assert "Callback registration" not in apache.log


def test_a_touch_of_the_script_replaces_the_daemon_process(apache: Apache) -> None:
    """The way its operators deploy."""
    with apache.serving() as host:
        before = apache.who()
        os.utime(apache.folder / "wsgi.py")
        wait_for(lambda: apache.who() != before, PATIENCE, "another process")
        apache.serves_both_applications()

        assert end(host) == 0
    assert len(apache.pids("start")) == 2
    apache.each_started_and_ended_once()


def test_a_graceful_restart_finishes_what_is_in_flight(apache: Apache) -> None:
    """``apachectl graceful``, with somebody inside."""
    with apache.serving() as host:
        before = apache.who()
        with apache.request_in_flight():
            host.signal(signal.SIGUSR1)
            wait_for(lambda: "AH00493" in apache.log, PATIENCE, "Apache to begin")
        # Until Apache has found the new process, it says 503 by itself.
        wait_for(lambda: set(apache.pids("start")) - {before}, PATIENCE, "another process")
        wait_for(lambda: requests.get(apache.url("/who"), timeout=9).ok, PATIENCE, "its answer")
        assert apache.who() != before

        assert end(host) == 0
    apache.each_started_and_ended_once()


def test_reload_has_the_daemon_process_replaced(apache: Apache) -> None:
    """Somebody saves a file: the next visitor gets what it says, and who is inside is served."""
    with (apache.folder / "site.ini").open("a") as ini:
        ini.write("\n[reload]\nenabled = yes\n")
    with apache.serving() as host:
        plain = apache.folder / "plain.py"
        with apache.request_in_flight():
            plain.write_text(plain.read_text().replace("Plain", "Changed"))
            wait_for(lambda: "Restarting because" in apache.log, PATIENCE, "the change to be seen")
        wait_for(lambda: "Changed" in apache.get("/"), PATIENCE, "the new code")

        assert end(host) == 0
    apache.each_started_and_ended_once()


def test_embedded_in_apaches_own_process_a_touch_runs_the_script_only(apache: Apache) -> None:
    """mod_wsgi runs the script again in the same process: the bus must not start twice."""
    with apache.serving("embedded.conf") as host:
        apache.serves_both_applications()
        before = {apache.who() for _ in range(3)}
        os.utime(apache.folder / "wsgi.py")
        wait_for(lambda: "Reloading WSGI script" in (apache.get("/") and apache.log), PATIENCE)
        apache.serves_both_applications()
        assert apache.who() in before or apache.who() in apache.pids("start")

        assert end(host) == 0
    apache.each_started_and_ended_once()


def test_a_sub_interpreter_is_warned_of(apache: Apache) -> None:
    """It is what mod_wsgi does if nobody says anything, and its processes may hang at their end."""
    conf = apache.folder / "httpd.conf"
    conf.write_text(conf.read_text().replace(" application-group=%{GLOBAL}", ""))
    with apache.serving():
        apache.serves_both_applications()

        assert "say WSGIApplicationGroup %{GLOBAL}" in apache.log


def test_a_broken_file_is_one_clear_error_in_apaches_log(apache: Apache) -> None:
    """Its operator looks there, and nowhere else."""
    with (apache.folder / "site.ini").open("a") as ini:
        ini.write("\n[mount /x]\nap = plain:application\n")
    with pytest.raises(AssertionError, match=r"^500 "), apache.serving():
        pass

    assert "did you mean 'app'?" in apache.log
