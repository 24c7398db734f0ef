"""The launching command returns when the site serves, or says why it does not."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from sitebus import background
from sitebus.errors import CannotDaemonize, CannotWriteLog
from sitebus.plugins.daemon import Daemonizer, under_systemd
from sitebus.process import Engine, ProcessBus
from tests.helpers import PATIENCE, ROOT, nothing_left, wait_for
from tests.plugins.launching import (
    Launcher,
    finished,
    launching,
    python_for_everyone,
    read_until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc"),
]

#: A start of many small steps, which an exit cuts short at the next.
WAITS = """
import functools
engine.subscribe("start", lambda: print("starting", file=sys.stderr, flush=True), 80)
for step in range(1000):
    engine.subscribe("start", functools.partial(engine.pause, 0.02 + step / 1e9), 80)
"""

#: A start that hangs, deaf to everything.
HANGS = """
@engine.subscribe("start", priority=80)
def hang():
    print("starting", file=sys.stderr, flush=True)
    while True:
        threading.Event().wait(600)
"""


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    with launching(tmp_path) as launcher:
        yield launcher


def ask(url: str, path: str = "/") -> dict[str, Any]:
    """Ask the site what it is; nothing is tried twice."""
    with requests.get(url + path, timeout=PATIENCE) as answer:
        said: dict[str, Any] = answer.json()
        return said


def test_the_command_returns_when_the_site_serves(launcher: Launcher) -> None:
    """Whatever comes next in a script can use the site, and its output is not held open."""
    done = launcher.launch()
    assert done.status == 0, done.err
    said = ask(done.url)
    assert said["pid"] == launcher.pid == int(said["mark"])
    assert f"(pid {launcher.pid})" in done.err
    assert "Warning" not in done.err
    launcher.end()
    assert not launcher.pidfile.exists()


def test_the_daemon_has_left_terminal_and_session(launcher: Launcher) -> None:
    """A terminal that is closed must not take the site with it, nor become its own."""
    done = launcher.launch()
    said = ask(done.url)
    assert said["sid"] not in (said["pid"], os.getsid(0))
    assert said["files"] == ["/dev/null"] * 3
    assert said["cwd"] == str(launcher.folder)
    assert launcher.left() == [launcher.pid]


def test_the_mask_is_kept_and_the_files_are_private_to_whom_they_were(launcher: Launcher) -> None:
    """With a mask of 0 everybody could write to what the site makes."""
    before = os.umask(0o027)
    try:
        log = launcher.folder / "log"
        done = launcher.launch(daemon={"stdout": str(log)})
        assert ask(done.url)["umask"] == 0o027
        assert stat.S_IMODE(log.stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_mask_and_directory_can_be_asked_for(launcher: Launcher) -> None:
    """And relative paths are of where the command was given, a second start's as well."""
    (launcher.folder / "run").mkdir()
    asked = {"umask": 0o77, "working_dir": "run", "stderr": "log"}
    done = launcher.launch(daemon=asked, pidfile="site.pid")
    said = ask(done.url)
    assert (said["umask"], said["cwd"]) == (0o77, str(launcher.folder / "run"))
    assert said["pid"] == launcher.pid
    log = launcher.folder / "log"
    ask(done.url, "/again")
    wait_for(lambda: "Bus STARTED" in log.read_text(), PATIENCE)
    assert ask(done.url)["cwd"] == said["cwd"]


def test_what_is_printed_goes_to_the_files_from_then_on(launcher: Launcher) -> None:
    """Up to then it belongs to who gave the command."""
    out, err = launcher.folder / "out", launcher.folder / "err"
    err.write_text("before\n")
    extra = 'print("early")\nengine.subscribe("stop", lambda: print("late", flush=True))'
    done = launcher.launch(daemon={"stdout": str(out), "stderr": str(err)}, extra=extra)
    assert "early" in done.out
    ask(done.url)
    launcher.end()
    assert "GET / " in out.read_text()
    assert "late\n" in out.read_text()
    assert "early" not in out.read_text()
    assert err.read_text().startswith("before\n")
    assert "Bus EXITED" in err.read_text()


def test_a_port_in_use_is_told_by_the_command_that_was_given(launcher: Launcher) -> None:
    """A daemon that died of it with status 0 at the command would be found by the visitors."""
    first = launcher.launch()
    other = launcher.folder / "other.pid"
    second = launcher.launch(bind=first.url.removeprefix("http://"), pidfile=str(other))
    assert second.status == 69
    assert "address already in use" in second.err
    assert not other.exists()
    assert launcher.left() == [launcher.pid]


def test_a_second_instance_is_told_which_process_is_the_first(launcher: Launcher) -> None:
    """By the daemon, on the terminal of whoever tried."""
    launcher.launch()
    second = launcher.launch()
    assert second.status == 69
    assert f"already running as pid {launcher.pid}" in second.err
    assert launcher.left() == [launcher.pid]


def test_a_listener_that_fails_is_told_with_its_status(launcher: Launcher) -> None:
    """The later the failure, the more there is to take back."""
    extra = 'engine.subscribe("start", lambda: 1 / 0, 95)'
    done = launcher.launch(extra=extra)
    assert done.status == 70
    assert "ZeroDivisionError" in done.err
    assert launcher.left() == []
    assert not launcher.pidfile.exists()


@pytest.mark.parametrize(
    ("death", "status", "sentence"),
    [
        ("os.kill(os.getpid(), 9)", 137, "the daemon was killed by SIGKILL before it served"),
        ("os._exit(0)", 70, "the daemon ended before it served"),
        ("os._exit(5)", 5, ""),
    ],
)
def test_a_sudden_death_is_told_too(
    launcher: Launcher, death: str, status: int, sentence: str
) -> None:
    """Even if a child of the daemon lives on, with copies of everything that was open."""
    extra = f"""
def die():
    if not os.fork():
        threading.Event().wait(600)
    {death}
engine.subscribe("start", die, 80)
"""
    process = launcher.start(extra=extra)
    process.wait(PATIENCE)
    launcher.close()
    done = finished(process)
    assert done.status == status
    assert sentence in done.err


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_who_gives_up_waiting_leaves_nothing(
    launcher: Launcher, number: signal.Signals, status: int
) -> None:
    """Ctrl-C at a command means: not this, and no part of it."""
    process = launcher.start(extra=WAITS)
    read_until(process, "starting")
    assert launcher.pidfile.exists()
    process.send_signal(number)
    done = finished(process)
    assert done.status == status
    assert launcher.left() == []
    assert not launcher.pidfile.exists()


def test_a_daemon_that_hangs_is_got_rid_of_as_in_the_foreground(launcher: Launcher) -> None:
    """The third Ctrl-C ends what does not listen."""
    process = launcher.start(extra=HANGS)
    read_until(process, "starting")
    # Signals of one number that come at once are one signal.
    wait_for(lambda: _interrupted(process) is not None, PATIENCE)
    done = finished(process)
    assert done.status == 70
    assert launcher.left() == []


def _interrupted(process: subprocess.Popen[str]) -> int | None:
    process.send_signal(signal.SIGINT)
    return process.poll()


def test_the_daemon_ends_with_who_watches_it(launcher: Launcher) -> None:
    """Nobody would ever learn how its start went."""
    process = launcher.start(extra=WAITS)
    read_until(process, "starting")
    (keeper,) = [pid for pid in launcher.left() if os.getpgid(pid) == pid != process.pid]
    os.kill(keeper, signal.SIGKILL)
    done = finished(process)
    assert done.status == 70
    assert "the process that watched the daemon was killed" in done.err
    wait_for(lambda: not launcher.left(), PATIENCE)


def test_it_forks_once_whatever_is_started_again(launcher: Launcher) -> None:
    """A stop and a start, and a restart: one pid, and the same files."""
    log = launcher.folder / "log"
    done = launcher.launch(daemon={"stderr": str(log)})
    first = ask(done.url)
    ask(done.url, "/again")
    wait_for(lambda: log.read_text().count("Bus STARTED") == 1, PATIENCE)
    assert (said := ask(done.url))["pid"] == first["pid"]
    assert said["boot"] == first["boot"]

    ask(done.url, "/restart")
    wait_for(lambda: ask(done.url)["boot"] != first["boot"], PATIENCE)

    said = ask(done.url)
    assert said["pid"] == first["pid"] == launcher.pid
    assert said["files"] == ["/dev/null", "/dev/null", str(log)]
    assert launcher.left() == [launcher.pid]
    assert log.read_text().count(f"Running as a daemon already, PID {launcher.pid}") == 2
    launcher.end()
    assert not launcher.pidfile.exists()


def test_a_restart_before_the_site_serves_keeps_the_command_waiting(launcher: Launcher) -> None:
    """An edit during a slow start: the launcher hears of the image that serves at last."""
    extra = """
if not os.environ.get("TRIED"):
    @engine.subscribe("start", priority=80)
    def change_of_mind():
        os.environ["TRIED"] = "yes"
        engine.restart(force=True)
"""
    log = launcher.folder / "log"
    done = launcher.launch(extra=extra, daemon={"stderr": str(log)})
    assert done.status == 0, done.err
    assert ask(done.url)["pid"] == launcher.pid
    launcher.end()
    assert "Bus EXITED" in log.read_text()
    assert "Traceback" not in done.err


def test_other_threads_are_named_and_nothing_is_forked(launcher: Launcher) -> None:
    """They would be gone in the daemon, with what they held locked for ever."""
    extra = """
thread = threading.Thread(target=threading.Event().wait, name="mailer", daemon=True)
thread.start()
"""
    done = launcher.launch(extra=extra)
    assert done.status == 70
    assert "cannot become a daemon: there are other threads, 'mailer'" in done.err
    assert launcher.left() == []
    assert not launcher.pidfile.exists()


@pytest.mark.parametrize(
    ("files", "status", "sentence"),
    [
        ({"stdout": "no/log"}, 73, "cannot write the log 'no/log': no such file or directory"),
        ({"stderr": "/"}, 73, "cannot write the log '/': is a directory"),
        ({"stdin": "no"}, 66, "cannot read no: no such file or directory"),
    ],
)
def test_a_file_that_cannot_be_opened_is_told_before_anything_is_forked(
    launcher: Launcher, files: dict[str, str], status: int, sentence: str
) -> None:
    """In the background there is nobody to tell."""
    done = launcher.launch(daemon=files)
    assert (done.status, launcher.left()) == (status, [])
    assert sentence in done.err
    assert "Daemonized" not in done.err


def test_a_directory_that_is_not_there_is_told(launcher: Launcher) -> None:
    """By the daemon, which has made nothing yet."""
    done = launcher.launch(daemon={"working_dir": "/no/where"})
    assert (done.status, launcher.left()) == (70, [])
    assert "the working directory '/no/where' is of no use" in done.err


def test_closed_streams_are_no_obstacle(launcher: Launcher) -> None:
    """As cron or an init script may start it: the log must not end up in a socket."""
    log = launcher.folder / "log"
    told = f'{{"daemon": {{"stderr": "{log}"}}, "pidfile": "site.pid", "bind": "127.0.0.1:0"}}'
    shell = f"exec \"$0\" program.py '{told}' <&- >&- 2>&-"
    command = f"import os; os.execv('/bin/sh', ['sh', '-c', {shell!r}, {sys.executable!r}])"
    done = finished(launcher.spawn(["-c", command]))
    assert done.status == 0
    assert [os.readlink(f"/proc/{launcher.pid}/fd/{fd}") for fd in range(3)] == [
        "/dev/null",
        "/dev/null",
        str(log),
    ]


def test_a_socket_file_is_the_daemons_to_remove(launcher: Launcher) -> None:
    """It was made by the launcher, which is gone."""
    path = launcher.folder / "site.sock"
    done = launcher.launch(bind=f"unix:{path}")
    assert done.status == 0, done.err
    assert path.is_socket()
    launcher.end()
    assert not path.exists()


def test_under_systemd_there_is_a_warning(launcher: Launcher) -> None:
    """It works, and a unit of Type=notify works better."""
    done = launcher.launch(env={"NOTIFY_SOCKET": "/nowhere"})
    assert done.status == 0
    assert "systemd wants a service in the foreground" in done.err


def test_a_shell_of_a_desktop_is_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a session manager started has its INVOCATION_ID."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("INVOCATION_ID", "0123")
    monkeypatch.setenv("SYSTEMD_EXEC_PID", "1")
    assert not under_systemd()
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    assert under_systemd()
    monkeypatch.delenv("SYSTEMD_EXEC_PID")
    assert under_systemd()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")
@pytest.mark.parametrize("most", [1, 2])
def test_a_process_that_cannot_be_had_is_told(launcher: Launcher, most: int) -> None:
    """The first fork or the second; the program is where it was, and says so."""
    program = launcher.folder / "fork.py"
    program.write_text(f"""
import os, resource
from sitebus import background
from sitebus.errors import CannotDaemonize
resource.setrlimit(resource.RLIMIT_NPROC, ({most}, {most}))
os.setresuid(54321, 54321, 54321)
try:
    background.launch()
except CannotDaemonize as error:
    print(error)
    os._exit(len(os.listdir("/proc/self/fd")))
""")
    process = launcher.spawn(["fork.py"], python=python_for_everyone())
    done = finished(process)
    assert "no further process could be made (resource temporarily unavailable)" in done.out
    assert done.status == 4, "standard streams, and the directory that was listed"
    assert launcher.left() == []


def test_the_static_method_makes_a_daemon_at_once(launcher: Launcher) -> None:
    """As code for wspbus calls it, without a bus."""
    program = launcher.folder / "static.py"
    program.write_text("""
import os
import re
import shutil
from sitebus.plugins.daemon import Daemonizer
said = []
Daemonizer.daemonize("/dev/null", "out", "err", said.append)
print(said, flush=True)
os.rename("out", "done")
""")
    done = finished(launcher.spawn(["static.py"]))
    assert (done.status, done.out, done.err) == (0, "", "")
    wait_for((launcher.folder / "done").exists, PATIENCE)
    assert "Daemonized to PID: " in (launcher.folder / "done").read_text()


def test_a_bus_of_cherrypy_is_served_as_well(launcher: Launcher) -> None:
    """It makes no news of having started; the last start listener is the best there is."""
    pytest.importorskip("cherrypy.process.wspbus")
    program = launcher.folder / "foreign.py"
    program.write_text("""
import os
import re
import shutil
from cherrypy.process import wspbus
from sitebus.plugins.daemon import Daemonizer
from sitebus.plugins.pidfile import PIDFile
bus = wspbus.Bus()
Daemonizer(bus, stderr="err").subscribe()
PIDFile(bus, "site.pid").subscribe()
bus.subscribe("start", lambda: os.open("served", os.O_CREAT), 75)
import signal
signal.signal(signal.SIGTERM, lambda *_: bus.exit())  # before anybody hears that it serves
bus.start()
bus.block()
""")
    done = finished(launcher.spawn(["foreign.py"], warnings="ignore"))
    assert done.status == 0, done.err
    assert (launcher.folder / "served").exists()
    launcher.end()
    assert not launcher.pidfile.exists()


def test_it_starts_where_magicbus_starts() -> None:
    """One plugin speaks both vocabularies."""
    bus = ProcessBus()
    plugin = Daemonizer(bus)
    plugin.subscribe()
    assert plugin.start in bus.listeners["START"]
    assert plugin.started in bus.listeners["RUN"]
    plugin.unsubscribe()
    assert plugin.start not in bus.listeners["START"]


def test_a_refused_start_leaves_no_descriptor(bus: Engine, tmp_path: Path) -> None:
    """In the process itself, which may go on without becoming a daemon."""
    plugin = Daemonizer(bus, stdout=tmp_path / "out", stderr=tmp_path / "no" / "err")
    with nothing_left(), pytest.raises(CannotWriteLog):
        plugin.start()
    plugin.stderr = "/dev/null"
    plugin.working_dir = tmp_path / "no"
    with pytest.raises(CannotDaemonize, match="cannot be entered"):
        plugin.trial()


@pytest.mark.parametrize(
    ("told", "signalled", "status"),
    [
        ("ready", [], 0),
        ("ready", [signal.SIGINT], 130),
        ("78", [], 78),
        ("78", [signal.SIGINT], 78),
        ("0", [], 70),
        ("0", [signal.SIGTERM], 143),
        ("-9", [], 137),
        ("-40", [], 168),
        ("", [], 70),
    ],
)
def test_no_fate_of_the_daemon_but_serving_is_a_success(
    told: str, signalled: list[int], status: int
) -> None:
    """And the daemon's own status, which it has explained, goes before all others."""
    assert background.verdict(told, signalled)[0] == status


def test_the_page_of_the_manual_does_what_it_says(launcher: Launcher) -> None:
    """Its files as they stand there, and its commands in a shell, on a port that is free."""
    page = (ROOT / "docs/howto/daemon.rst").read_text()
    blocks = re.findall(r"^\.\. code-block:: (\w+)\n((?:\n|    .*\n)+)", page, re.MULTILINE)
    (ini, *_) = [textwrap.dedent(text) for language, text in blocks if language == "ini"]
    start, end = [textwrap.dedent(text) for language, text in blocks if language == "sh"]
    (launcher.folder / "site.ini").write_text(ini.replace(":caption: site.ini", ""))
    shutil.copy(ROOT / "examples/hello/hello.py", launcher.folder)
    command = launcher.folder / "sitebus-serve"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m sitebus "$@" --bind 127.0.0.1:0\n')
    command.chmod(0o755)
    path = os.pathsep.join((str(launcher.folder), os.environ["PATH"]))
    run = "import os, sys; os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])"

    done = finished(launcher.spawn(["-c", run, start], env={"PATH": path}))

    assert (done.status, done.out) == (0, "it serves\n")
    with requests.get(done.url, timeout=PATIENCE) as answer:
        assert answer.text == "Hello from sitebus: you asked for /\n"
    assert finished(launcher.spawn(["-c", run, end])).status == 0
    wait_for(lambda: not launcher.left(), PATIENCE, "the daemon to end")
    assert not launcher.pidfile.exists()
    assert "Bus EXITED" in (launcher.folder / "site.log").read_text()
