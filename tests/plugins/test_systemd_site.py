"""A real site, and the example's units, as systemd would run them."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, ROOT, Child, SiteProcess, environment
from tests.plugins.notify import Manager

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux'")

EXAMPLE = ROOT / "examples" / "systemd"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(str(tmp_path / "notify")) as manager:
        yield manager


APPLICATION = """
import os
import socket


def application(environ, start_response):
    body = f"{os.getpid()} {environ['SERVER_PORT']}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

INI = """
[server]
bind = 127.0.0.1:0

[mount /]
app = app:application

[plugin systemd]
"""


def get(place: tuple[str, int] | str) -> str:
    """Ask over a connection of its own, to a port or a path."""
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(PATIENCE)
        client.connect(place)
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), answer
    return body.decode()


def place_in(status: str) -> tuple[str, int]:
    found = re.fullmatch(r"Serving on (127\.0\.0\.1):(\d+)", status)
    assert found, status
    return found[1], int(found[2])


class TestSite:
    """A site as systemd runs it."""

    Start = Callable[..., SiteProcess]

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "app.py").write_text(APPLICATION)
        (tmp_path / "site.ini").write_text(INI)
        return tmp_path

    @pytest.fixture
    def start(
        self, folder: Path, manager: Manager, site_process: Start
    ) -> Callable[..., SiteProcess]:
        def start(**env: str) -> SiteProcess:
            env = {"NOTIFY_SOCKET": manager.address, **env}
            return site_process(folder / "site.ini", cwd=folder, env=env)

        return start

    def test_a_reexec_is_a_reload_to_systemd(self, manager: Manager, start: Start) -> None:
        """The same process says READY twice, and is never without a sign of life."""
        interval = 2.0
        site = start(WATCHDOG_USEC=f"{interval * 1e6:.0f}")
        ready = manager.until("READY")
        place = place_in(ready.fields["STATUS"])
        alive = [time.monotonic()]
        assert get(place).startswith(f"{site.pid} ")

        site.signal(signal.SIGHUP)
        reloading = manager.until("RELOADING")
        assert int(reloading.fields["MONOTONIC_USEC"]) > 0
        assert int(reloading.fields["EXTEND_TIMEOUT_USEC"]) > 0
        before = len(manager.seen)
        again = manager.until("READY")
        proofs = [news for news in manager.seen[before:] if "WATCHDOG" in news.fields]
        assert len(proofs) >= 2, "the last of the old image, the first of the new one"
        assert again.pid == ready.pid == site.pid
        assert place_in(again.fields["STATUS"]) == place
        assert get(place).startswith(f"{site.pid} ")

        for _ in range(3):
            manager.until("WATCHDOG")
            alive.append(time.monotonic())
        assert max(b - a for a, b in itertools.pairwise(alive[1:])) < interval
        site.signal(signal.SIGTERM)
        manager.until("STOPPING")
        assert site.wait() == 0
        manager.rest()
        assert manager.said() == ["READY", "RELOADING", "READY", "STOPPING"]

    def test_a_reload_that_is_refused_is_answered(
        self, folder: Path, manager: Manager, start: Start
    ) -> None:
        """``systemctl`` gets its answer, with the reason, and the site serves on."""
        site = start()
        place = place_in(manager.until("READY").fields["STATUS"])
        (folder / "app.py").write_text("def application(:\n")
        site.signal(signal.SIGHUP)
        manager.until("RELOADING")
        status = manager.until("READY").fields["STATUS"]
        assert status.startswith("reload failed: ")
        assert "app.py" in status
        assert status.endswith("; still serving the old code")
        assert get(place).startswith(f"{site.pid} ")
        (folder / "app.py").write_text(APPLICATION)
        site.signal(signal.SIGHUP)
        assert place_in(manager.until("READY").fields["STATUS"]) == place
        assert site.stop() == 0

    def test_a_graceful_reload_is_told(self, manager: Manager, start: Start) -> None:
        """SIGUSR1 reopens log files and certificates; nothing restarts."""
        site = start()
        place = manager.until("READY").fields["STATUS"]
        site.signal(signal.SIGUSR1)
        manager.until("RELOADING")
        assert manager.until("READY").fields["STATUS"] == place
        assert site.stop() == 0

    def test_nobody_listens_to_the_site(self, manager: Manager, start: Start) -> None:
        """It says so once, and serves."""
        os.unlink(manager.address)
        site = start()
        place = re.search(r":(\d+)", site.url)
        assert place
        site.wait_for_output("cannot notify systemd at")
        get(("127.0.0.1", int(place[1])))
        assert site.stop() == 0
        assert site.output.count("cannot notify systemd") == 1

    def test_a_socket_survives_a_crash(self, folder: Path, manager: Manager, start: Start) -> None:
        """What systemd kept is passed to the next start, and found by the address asked for."""
        (folder / "site.ini").write_text(INI + "fdstore = yes\n")
        site = start()
        place = place_in(manager.until("READY").fields["STATUS"])
        stored = manager.until("FDSTORE")
        site.signal(signal.SIGKILL)
        site.wait()
        with socket.create_connection(place):
            pass  # it waits in the backlog: nobody was refused
        program = (
            f"import os, sys; os.dup2({stored.fds[0]}, 3); os.environ['LISTEN_PID'] = "
            "str(os.getpid()); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        )
        names = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": stored.fields["FDNAME"]}
        env = environment(NOTIFY_SOCKET=manager.address, **names)
        argv = [sys.executable, "-c", program, "-m", "sitebus", str(folder / "site.ini")]
        with subprocess.Popen(argv, cwd=folder, env=env, pass_fds=stored.fds) as second:
            try:
                assert place_in(manager.until("READY").fields["STATUS"]) == place
                assert get(place).startswith(f"{second.pid} ")
            finally:
                second.terminate()
        assert second.returncode == 0

    def test_a_fork_says_who_it_is(self, tmp_path: Path, manager: Manager) -> None:
        """The process that systemd knows has ended by then."""
        program = """
            import os
            from sitebus.plugins.systemd import Systemd, watchdog_interval
            from sitebus.process import Engine
            os.environ["WATCHDOG_PID"] = str(os.getpid())
            bus = Engine()
            Systemd(bus, status=False).subscribe()
            if os.fork():
                os._exit(0)
            os.setsid()
            bus.start()
            assert watchdog_interval(os.environ) == 1800
            bus.exit()
        """
        env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1800000000"}
        with Child([sys.executable, "-c", "if True:" + program], env=env) as child:
            news = manager.next()
            manager.until("STOPPING")
            assert news.fields == {"MAINPID": str(news.pid)}
            assert news.pid != child.pid
            assert manager.said() == ["MAINPID", "READY", "STOPPING"]


class TestExample:
    """The units, as an administrator would copy them."""

    @pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
    def test_systemd_finds_no_fault_with_the_units(self, tmp_path: Path) -> None:
        """A misspelt directive would be ignored, and nobody would know."""
        units = []
        for unit in sorted([*EXAMPLE.glob("*.service"), *EXAMPLE.glob("*.socket")]):
            text = unit.read_text().replace("/srv/site/.venv/bin/sitebus-serve", sys.executable)
            units.append(tmp_path / unit.name)
            units[-1].write_text(text.replace("/srv/site", str(tmp_path)))
        assert len(units) == 3
        command = ["systemd-analyze", "verify", *map(str, units)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert str(tmp_path) not in done.stderr

    def test_the_service_gives_up_where_starting_again_cannot_help(self) -> None:
        """By the statuses that the errors really have."""
        service = (EXAMPLE / "sitebus.service").read_text()
        found = re.search(r"^RestartPreventExitStatus=(.*)$", service, re.MULTILINE)
        assert found
        assert found[1].split() == ["64", "66", "73", "77", "78"]

    @pytest.mark.skipif(
        not shutil.which("systemd-socket-activate"), reason="needs systemd-socket-activate"
    )
    def test_two_sockets_by_name(self, tmp_path: Path, manager: Manager) -> None:
        """Started by the first connection; each name reaches its server, after a reload as well."""
        folder = tmp_path / "site"
        shutil.copytree(EXAMPLE, folder)
        web, internal = str(tmp_path / "web.sock"), str(tmp_path / "internal.sock")
        # In the other order than in site.ini: only the names can tell.
        listening = ["-l", internal, "-l", web, "--fdname=internal:web"]
        settings = [f"-EPYTHONPATH={ROOT}", f"-ENOTIFY_SOCKET={manager.address}"]
        argv = ["systemd-socket-activate", *listening, *settings, sys.executable, "-m", "sitebus"]
        with Child([*argv, str(folder / "site.ini")]) as site:
            site.wait_for_output(f"Listening on {re.escape(web)}")
            served = f"served by process {site.pid}\n"
            assert get(web) == served
            assert get(internal) == served
            status = manager.until("READY").fields["STATUS"]
            assert status == f"Serving on unix:{web}, unix:{internal}"
            site.signal(signal.SIGHUP)
            manager.until("RELOADING")
            assert manager.until("READY").fields["STATUS"] == status
            assert get(internal) == get(web) == served
            assert site.stop() == 0
        assert os.path.exists(web), "the file is systemd's"
