"""What clients see while a site restarts, and what is left after many restarts and stops."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.helpers import Child, wait_for

APPLICATION = """
    import os
    import threading
    import uuid

    import sitebus

    BOOT = uuid.uuid4().hex


    def threads_of_ours():
        return sorted(thread.name for thread in threading.enumerate())


    def application(environ, start_response):
        if environ["PATH_INFO"] == "/restart":
            sitebus.engine.restart()
            body = BOOT
        elif environ["PATH_INFO"] == "/left":
            resident = open("/proc/self/statm").read().split()[1]
            body = f"{len(os.listdir('/proc/self/fd'))} {threading.active_count()} {resident}"
        else:
            body = BOOT
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body.encode()]


    if __name__ == "__main__":
        sitebus.quickstart(application, bind=BIND, access_log="off", log_level="warning")
"""


def get(address: tuple[str, int], path: str = "/") -> str:
    """Ask over a connection of its own; any failure is an exception."""
    with socket.create_connection(address, 20) as client:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        client.sendall(request.encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, found, body = answer.partition(b"\r\n\r\n")
    assert found, f"cut off: {answer!r}"
    assert head.startswith(b"HTTP/1.1 200"), head
    return body.decode()


class Site(Child):
    """A program that serves APPLICATION by quickstart."""

    def __init__(self, folder: Path, bind: str = "127.0.0.1:0") -> None:
        program = folder / "program.py"
        program.write_text(textwrap.dedent(APPLICATION).replace("BIND", repr(bind)))
        super().__init__([sys.executable, "-X", "utf8", program])
        port = self.wait_for_output(r"serving on http://127\.0\.0\.1:(\d+)")[1]
        self.address = "127.0.0.1", int(port)

    def restart(self) -> None:
        """Ask for a restart, as an application would, and wait until another boot answers."""
        before = get(self.address, "/restart")
        wait_for(lambda: get(self.address) != before, 30, "another boot to answer")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as child:
        yield child


class Load:
    """Clients that make one new connection after another, and note whatever goes wrong."""

    def __init__(self, address: tuple[str, int], clients: int = 4) -> None:
        self.address = address
        self.failures: list[BaseException] = []
        self.boots: Counter[str] = Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            try:
                self.boots[get(self.address)] += 1
            except (OSError, AssertionError) as error:
                self.failures.append(error)

    def go_on(self, requests: int) -> None:
        """Wait until so many more are answered."""
        enough = self.boots.total() + requests
        wait_for(lambda: self.boots.total() >= enough)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def test_ten_restarts_refuse_nobody_and_fail_no_request(running: Site) -> None:
    """The promise: from the first bind to the last exit the port never refuses."""
    pid = running.pid
    with Load(running.address) as load:
        for _ in range(10):
            running.restart()
            load.go_on(40)
    assert not load.failures
    assert len(load.boots) >= 10
    assert running.pid == pid
    assert running.stop() == 0


def left(site: Site) -> tuple[int, int, int]:
    """Answer descriptors, threads and pages of memory; the connection before may still be open."""
    seen = [tuple(map(int, get(site.address, "/left").split())) for _ in range(5)]
    return min((descriptors, threads, pages) for descriptors, threads, pages in seen)


@pytest.mark.slow
def test_thirty_restarts_leave_everything_level(running: Site) -> None:
    """Descriptors, threads and memory: the thirtieth image is as lean as the second."""
    running.restart()
    # One that looks at itself early may not have all its threads yet.
    descriptors, threads, pages = map(max, zip(*(left(running) for _ in range(5)), strict=True))
    for _ in range(30):
        running.restart()

    def is_level() -> bool:
        found = left(running)
        print("left:", found, "at first:", (descriptors, threads, pages))
        return bool(found[0] <= descriptors and found[1] <= threads)

    wait_for(is_level, what="what was open at first")
    assert left(running)[2] <= pages * 1.1
    assert running.stop() == 0


def test_an_application_may_end_the_site_from_a_request(tmp_path: Path) -> None:
    """What a stop waits for is that very request; it must not wait for itself."""
    program = tmp_path / "ending.py"
    program.write_text(
        textwrap.dedent(
            """
            import sitebus

            def application(environ, start_response):
                sitebus.engine.exit()
                start_response("200 OK", [("Content-Length", "3")])
                return [b"bye"]

            sitebus.quickstart(application, bind="127.0.0.1:0")
            """
        )
    )
    with Child([sys.executable, program]) as child:
        port = child.wait_for_output(r"serving on http://127\.0\.0\.1:(\d+)")[1]
        assert get(("127.0.0.1", int(port))) == "bye"
        assert child.wait(5) == 0


def test_sigterm_in_the_middle_of_a_restart_ends_the_site(tmp_path: Path) -> None:
    """Wherever it hits, the process ends; it is neither lost nor deadly to what runs."""
    for delay in (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3):
        with Site(tmp_path) as child:
            get(child.address, "/restart")
            threading.Event().wait(delay)
            child.signal(signal.SIGTERM)
            assert child.wait() == 0
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(child.address, 1)


def test_a_unix_socket_survives_a_restart_and_goes_with_the_exit(tmp_path: Path) -> None:
    path = tmp_path / "site.sock"
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(APPLICATION).replace("BIND", repr(f"unix:{path}")))
    with Child([sys.executable, program]) as child:
        child.wait_for_output("serving on")
        boots = [unix_get(path, "/restart")]
        wait_for(lambda: unix_get(path) not in boots, 20)
        child.stop()
    assert not path.exists()


def unix_get(path: Path, target: str = "/") -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(os.fspath(path))
        request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        client.sendall(request.encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    return answer.partition(b"\r\n\r\n")[2].decode()


def test_no_restart_is_tried_when_the_program_is_gone(tmp_path: Path) -> None:
    """The command line is looked at before anything stops; the old code keeps serving."""
    with Site(tmp_path) as child:
        (tmp_path / "program.py").unlink()
        answers = itertools.islice(iter(lambda: get_any(child.address, "/restart"), None), 1)
        assert b" 500 " in next(answers)
        assert get(child.address)
        assert child.stop() == 0


def get_any(address: tuple[str, int], path: str) -> bytes:
    with socket.create_connection(address, 20) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))
