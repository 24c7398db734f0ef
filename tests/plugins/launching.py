"""Programs that leave their launcher: started, found again wherever they went, and never left.

A daemon has neither the launcher's session nor its process group, so what the tests started is
known by a variable in its environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from tests.helpers import PATIENCE, WARNINGS, environment, wait_for

MARK = "LAUNCHED_BY_A_TEST"

PROGRAM = """
import json
import os
import sys
import threading
import uuid

import sitebus
from sitebus.plugins.daemon import Daemonizer
from sitebus.plugins.pidfile import PIDFile
from sitebus.plugins.privileges import DropPrivileges

told = json.loads(sys.argv[1])
engine = sitebus.engine
BOOT = uuid.uuid4().hex


def again():
    engine.stop()
    engine.start()


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/restart":
        engine.restart_soon()
    if path == "/again":
        threading.Thread(target=again).start()
    old = os.umask(0)
    os.umask(old)
    said = {
        "pid": os.getpid(),
        "boot": BOOT,
        "ppid": os.getppid(),
        "sid": os.getsid(0),
        "cwd": os.getcwd(),
        "umask": old,
        "users": os.getresuid(),
        "groups": [*os.getresgid(), *os.getgroups()],
        "files": [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)],
        "mark": os.environ.get("SITEBUS_DAEMON"),
        "home": os.environ.get("HOME"),
    }
    body = json.dumps(said).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    if "daemon" in told:
        Daemonizer(engine, **told["daemon"]).subscribe()
    if "pidfile" in told:
        PIDFile(engine, told["pidfile"]).subscribe()
    if "drop" in told:
        DropPrivileges(engine, **told["drop"]).subscribe()
    exec(told.get("extra", ""))
    sitebus.quickstart(application, bind=told["bind"])
"""


class Python(NamedTuple):
    """An interpreter, and where it finds what the tests need."""

    path: str
    library: str = ""


OURS = Python(sys.executable)


class Launcher:
    """Starts programs in one directory, and knows which of their processes are left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.pidfile = folder / "site.pid"
        (folder / "program.py").write_text(PROGRAM)

    def spawn(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str] = {},
        python: Python = OURS,
        warnings: str = WARNINGS,
    ) -> subprocess.Popen[str]:
        """Run Python with *arguments*, its output in pipes."""
        told = environment(**{MARK: self.mark, "PYTHONWARNINGS": warnings, **env})
        if python.library:
            told["PYTHONPATH"] += os.pathsep + python.library
        return subprocess.Popen(
            [python.path, *arguments],
            cwd=self.folder,
            env=told,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(
        self,
        env: Mapping[str, str] = {},
        python: Python = OURS,
        bind: str = "127.0.0.1:0",
        **told: object,
    ) -> subprocess.Popen[str]:
        """Start the program, as a daemon that keeps a pid file unless told otherwise."""
        usual: dict[str, object] = {"daemon": {}, "pidfile": str(self.pidfile), "bind": bind}
        return self.spawn(["program.py", json.dumps(usual | told)], env, python)

    def launch(
        self,
        env: Mapping[str, str] = {},
        python: Python = OURS,
        bind: str = "127.0.0.1:0",
        **told: object,
    ) -> Launched:
        """Start the program, and wait until the launching command has returned."""
        return finished(self.start(env, python, bind, **told))

    def left(self) -> list[int]:
        """Answer the processes that are left of all that was started here."""
        wanted = f"{MARK}={self.mark}".encode()
        pids = map(int, filter(str.isdigit, os.listdir("/proc")))
        return [pid for pid in pids if _has(pid, wanted)]

    @property
    def pid(self) -> int:
        """What the pid file says."""
        return int(self.pidfile.read_text())

    def end(self) -> None:
        """End the daemon as an operator would, and see that nothing is left."""
        os.kill(self.pid, signal.SIGTERM)
        wait_for(lambda: not self.left(), PATIENCE, "the daemon to end")

    def close(self) -> None:
        for pid in self.left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.left(), PATIENCE, "killed processes to end")


class Launched(NamedTuple):
    """What a launching command had to say."""

    status: int
    out: str
    err: str

    @property
    def url(self) -> str:
        """Where the site that it announced serves."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("serving on ")]
        return line.removeprefix("serving on ")


def finished(process: subprocess.Popen[str]) -> Launched:
    """Wait for a launching command; its pipes must close, whatever goes on in the background."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired as late:
        process.kill()
        pytest.fail(f"still there after {PATIENCE:g} s: {late.stdout!r} {late.stderr!r}")
    return Launched(process.returncode, out, err)


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """Read standard error until a line has *word*."""
    assert process.stderr is not None
    read = ""
    for line in process.stderr:
        read += line
        if word in line:
            return read
    pytest.fail(f"{word!r} was not printed in {read!r}")


def _has(pid: int, wanted: bytes) -> bool:
    with suppress(OSError):
        if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].startswith(" Z")
    return False


@contextmanager
def launching(folder: Path) -> Iterator[Launcher]:
    """A launcher of which nothing outlives the block."""
    launcher = Launcher(folder)
    try:
        yield launcher
    finally:
        launcher.close()


@contextmanager
def public_folder() -> Iterator[Path]:
    """A directory that other users can reach, which those of pytest are not."""
    with TemporaryDirectory(prefix="sitebus-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def python_for_everyone() -> Python:
    """Answer an interpreter that other users may run, too; skip the test if there is none."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    library = next(path for path in sys.path if path.endswith("site-packages"))
    for candidate in (OURS, Python(f"/usr/bin/python{version}", library)):
        if os.path.exists(candidate.path) and _nobody_can_run(candidate):
            return candidate
    pytest.skip("needs a Python that every user may run")


def _nobody_can_run(python: Python) -> bool:
    told = environment()
    told["PYTHONPATH"] += os.pathsep + python.library
    check = [python.path, "-c", "import sitebus, cheroot.server, webob"]
    try:
        subprocess.run(check, user=65534, group=65534, env=told, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
