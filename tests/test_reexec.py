"""Running the same command line again: what it is, whether it can be, and what survives."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
import zipapp
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sitebus import reexec
from sitebus.errors import CannotRestart, NotMainThread
from sitebus.reexec import Command, Program
from tests.helpers import ROOT, Child, open_descriptors, wait_for

#: Runs itself again once; each life prints what it is.
PROGRAM = """
import json, os, sys
from sitebus import reexec

life = int(os.environ.get("LIFE", "0"))
print(json.dumps({
    "life": life,
    "pid": os.getpid(),
    "ppid": os.getppid(),
    "argv": sys.argv,
    "options": sys.orig_argv[1:],
    "executable": sys.executable,
    "prefix": sys.prefix,
    "cwd": os.getcwd(),
    "utf8": sys.flags.utf8_mode,
    "warnings": sys.warnoptions,
}), flush=True)
if life < 2:
    os.environ["LIFE"] = str(life + 1)
    os.environ["PATH"] = "/nowhere"
    os.chdir("/")
    reexec.execute(reexec.Command.of_this_process())
"""


def lives_of(argv: Sequence[str | Path], cwd: Path, **env: str) -> list[dict[str, Any]]:
    with Child(argv, cwd, env) as child:
        assert child.wait() == 0, child
        return [json.loads(line) for line in child.output.splitlines()]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with the program in every form that Python can run."""
    package = tmp_path / "pkg"
    for folder in (package, package / "inner"):
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "__main__.py").write_text(PROGRAM)
    (tmp_path / "mod.py").write_text(PROGRAM)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "script").write_text(f"#!{sys.executable}\n{PROGRAM}")
    (tmp_path / "bin" / "script").chmod(0o755)
    zipapp.create_archive(tmp_path / "pkg", tmp_path / "app.pyz", sys.executable)
    return tmp_path


FORMS = [
    [sys.executable, "-m", "pkg", "arg", "-m", "-c"],
    [sys.executable, "-m", "pkg.inner", ""],
    [sys.executable, "-mmod", "a b", "é\udcff"],
    [sys.executable, "-X", "utf8", "-W", "ignore", "-m", "mod"],
    [sys.executable, "-Xutf8", "-uWignore", "mod.py", "-X"],
    [sys.executable, "-c", PROGRAM, "-c", "-c"],
    [sys.executable, "-uc", PROGRAM],
    [sys.executable, "--check-hash-based-pycs", "always", "bin/../mod.py", "--", "-"],
    [sys.executable, "--", "mod.py"],
    [sys.executable, "pkg", "directory"],
    [sys.executable, "app.pyz", "zip"],
    ["bin/script", "by its first line"],
    ["./app.pyz"],
]


@pytest.mark.parametrize("argv", FORMS, ids=lambda argv: " ".join(argv[1:3])[:20])
def test_the_true_command_line_runs_again(argv: list[str], home: Path) -> None:
    """Same pid, directory and options, whatever the form, and also the second time."""
    lives = lives_of(argv, home)
    assert [life.pop("life") for life in lives] == [0, 1, 2]
    assert lives == [lives[0]] * 3
    assert lives[0]["cwd"] == str(home)
    assert lives[0]["ppid"] == os.getpid()
    assert lives[0]["utf8"] or not {"utf8", "-Xutf8"}.intersection(argv)


def test_a_bare_name_finds_the_same_interpreter_again(home: Path) -> None:
    """The PATH has changed since: another ``python`` could be first on it, or none."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    lives = lives_of(["env", f"PATH={path}", Path(sys.executable).name, "mod.py"], home)
    assert [life["executable"] for life in lives] == [sys.executable] * 3
    assert {life["prefix"] for life in lives} == {sys.prefix}


def test_a_frozen_application_runs_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its program is its executable: interpreter options would be taken for its own."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/bin/true")
    monkeypatch.setattr(sys, "argv", ["app", "-x", "y"])
    command = Command.of_this_process()
    assert command == Command("/bin/true", ("/bin/true", "-x", "y"), reexec.STARTED_IN)
    command.check()


def test_the_directory_is_known_by_the_name_of_the_link(home: Path, tmp_path: Path) -> None:
    """With current -> releases/1 a restart after a deployment must run release 2."""
    old, new = tmp_path / "releases1", tmp_path / "releases2"
    for release in (old, new):
        release.mkdir()
        (release / "site.py").write_text(
            "import os, sys\n"
            "from sitebus import reexec\n"
            "print(os.path.basename(os.path.dirname(os.path.realpath('site.py'))), flush=True)\n"
            "current = sys.argv[1]\n"
            "if not os.environ.get('AGAIN'):\n"
            "    os.environ['AGAIN'] = '1'\n"
            "    os.symlink('releases2', current + '.new'); os.replace(current + '.new', current)\n"
            "    reexec.execute(reexec.Command.of_this_process())\n"
        )
    current = tmp_path / "current"
    current.symlink_to("releases1")
    with Child([sys.executable, "site.py", current], current, {"PWD": str(current)}) as child:
        assert child.wait() == 0
        assert child.output.split() == ["releases1", "releases2"]


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        ("python", Program("stdin")),
        ("python -", Program("stdin")),
        ("python -i -", Program("stdin")),
        ("python -u", Program("stdin")),
        ("python -W", Program("stdin")),
        ("python --", Program("stdin")),
        ("python a.py -m b", Program("script", "a.py")),
        ("python -W ignore -X dev a.py", Program("script", "a.py")),
        ("python -Wignore -Xdev -OO a.py", Program("script", "a.py")),
        ("python --check-hash-based-pycs always a.py", Program("script", "a.py")),
        ("python -- -m", Program("script", "-m")),
        ("python -m a.b -m c", Program("module", "a.b")),
        ("python -bm a", Program("module", "a")),
        ("python -bma", Program("module", "a")),
        ("python -c pass -m a", Program("code", "pass")),
        ("python -Icpass", Program("code", "pass")),
        ("python -W m -Xc a.py", Program("script", "a.py")),
    ],
)
def test_the_program_is_found_among_the_options(argv: str, program: Program) -> None:
    """A wrong guess would refuse a restart that works, or allow one that cannot."""
    assert Program.of(tuple(argv.split())) == program


# Refusals, before anything stops.


def command(*words: str, directory: str = "/", executable: str = sys.executable) -> Command:
    return Command(executable, ("python", *words), directory)


def test_what_started_this_test_can_be_run_again() -> None:
    """The check must not refuse what works: pytest itself is an example of ``-m``."""
    Command.of_this_process().check()
    command("-m", "json.tool").check()
    command("-m", "json").argv  # noqa: B018
    command("-c", "pass").check()


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (command("x.py", executable=""), "the interpreter is not known"),
        (Command(sys.executable, (), "/"), "the command line is empty"),
        (Command(sys.executable, ("", "x.py"), "/"), "the command line is empty"),
        (command("-c", "a\0b"), "a NUL"),
        (command("-c", "", executable="/nowhere/python"), "not there any more, or not executable"),
        (command("-c", "", executable="/etc/passwd"), "not there any more, or not executable"),
        (command("-c", "", executable="/etc"), "not there any more, or not executable"),
        (
            command("-c", "", directory="/nowhere/at/all"),
            "the directory it was started in, /nowhere/at",
        ),
        (command("-c", "", directory=""), "the directory it was started in, unknown,"),
        (command("-"), "did not come from a file"),
        (command(), "did not come from a file"),
        (command("gone.py"), "the program gone.py is not there any more"),
        (command("etc"), "the program etc is not there any more"),
        (command("-m", "no_such_module"), "no module 'no_such_module'"),
        (command("-m", "json.no_such_module"), "no module 'json.no_such_module'"),
        (command("-m", "json.tool.deeper"), "no module 'json.tool.deeper'"),
        (command("-m", "json"), "no module 'json' to run"),
    ],
)
def test_a_restart_that_cannot_work_is_refused_while_all_is_running(
    refused: Command, reason: str
) -> None:
    """After the stop it would be too late: the site would be gone."""
    with pytest.raises(CannotRestart) as caught:
        refused.check()
    assert reason in str(caught.value)
    assert caught.value.status == 70
    with pytest.raises(CannotRestart):
        reexec.execute(refused)


def test_looking_for_the_module_imports_nothing(tmp_path: Path) -> None:
    """Its import may start things, and a broken one is for the trial run to find."""
    package = tmp_path / "sitebus_reexec_probe"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "__main__.py").write_text("raise RuntimeError('imported')")
    command("-m", package.name, directory=str(tmp_path)).check()
    (package / "__main__.py").unlink()
    with pytest.raises(CannotRestart):
        command("-m", package.name, directory=str(tmp_path)).check()
    assert package.name not in sys.modules


def test_only_the_main_thread_may_exec() -> None:
    """The main thread's signal mask is what the new image gets."""
    caught: list[BaseException] = []

    def attempt() -> None:
        try:
            reexec.execute(command("-c", ""))
        except NotMainThread as error:
            caught.append(error)

    thread = threading.Thread(target=attempt, name="another")
    thread.start()
    thread.join()
    assert "in 'another'" in str(caught[0])


class Heir:
    """What is left to a new image that will never come to be."""

    fds: Sequence[int] = ()

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("failure", ["too long", "not a program"])
def test_a_failed_exec_changes_nothing(failure: str, tmp_path: Path) -> None:
    """The old image is all there is then: directory, descriptors, signals must be as they were."""
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    executable = str(broken) if failure == "not a program" else sys.executable
    environ = {"LONG": "x" * 4_000_000} if failure == "too long" else {}
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    arrived: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: arrived.append(number))
    try:
        before = _condition()
        with pytest.raises(CannotRestart, match="could not be executed"):
            reexec.execute(command("-c", "", executable=executable), Heir(environ))
        assert _condition() == before
        os.kill(os.getpid(), signal.SIGUSR1)
        assert arrived == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, previous)
        os.close(reader)
        os.close(writer)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["failed", "unwanted"])
def test_a_signal_during_an_exec_that_does_not_happen_is_not_lost(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches the handlers of the old image, once they are back; here through another thread."""
    arrived: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: arrived.append(number))
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()

    def signalled(*_: object) -> bool:
        os.kill(os.getpid(), signal.SIGUSR1)
        if kind == "failed":
            raise OSError("no exec")
        return False

    try:
        if kind == "failed":
            monkeypatch.setattr(os, "execve", signalled)
            with pytest.raises(CannotRestart, match="no exec"):
                reexec.execute(command("-c", ""))
        else:
            reexec.execute(command("-c", ""), still_wanted=signalled)
        wait_for(lambda: arrived)
        assert arrived == [signal.SIGUSR1]
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, previous)


def _condition() -> object:
    return (
        os.getcwd(),
        {fd: os.get_inheritable(fd) for fd in open_descriptors()},
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        {number: signal.getsignal(number) for number in reexec.CONTROL_SIGNALS},
        _wakeup_fd(),
        reexec.HELD in os.environ,
    )


def _wakeup_fd() -> int:
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


# Descriptors.

DESCRIPTORS = """
import os, resource, sys, tempfile
from sitebus import reexec

if "AGAIN" not in os.environ:
    os.environ["AGAIN"] = "1"
    for _ in range(20):
        os.set_inheritable(os.dup(1), True)
    os.set_inheritable(os.dup2(1, 900), True)
    reexec.execute(reexec.Command.of_this_process())
reexec.release_signals()
def is_open(fd):
    try:
        os.fstat(fd)
        return True
    except OSError:
        return False
print([fd for fd in range(1000) if is_open(fd)])
"""


def test_an_exec_leaves_only_the_standard_streams_open() -> None:
    """Applications make descriptors inheritable for their children; each restart would add them."""
    with Child([sys.executable, "-c", DESCRIPTORS]) as child:
        assert child.wait() == 0
        assert child.output == "[0, 1, 2]\n"


def test_only_open_descriptors_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the limit can be 2**30: counting up to it takes eleven minutes."""
    asked: list[int] = []
    real = os.get_inheritable

    def counting(fd: int) -> bool:
        asked.append(fd)
        return real(fd)

    monkeypatch.setattr(os, "get_inheritable", counting)
    high = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 500)
    try:
        with pytest.raises(CannotRestart):
            reexec.execute(command("-c", ""), Heir({"LONG": "x" * 4_000_000}))
        assert high in asked
        assert len(asked) <= len(open_descriptors()) + 5
    finally:
        os.close(high)


# Signals.

SIGNALLED = """
import os, select, signal, sys, threading, time
from sitebus import reexec

number, threads = int(sys.argv[1]), int(sys.argv[2])
if "AGAIN" not in os.environ:
    os.environ["AGAIN"] = "1"
    for _ in range(threads):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    if number in (signal.SIGUSR1, signal.SIGINT):  # one with a handler of the old image
        signal.signal(number, lambda *_: print("the old image took it", flush=True))
    else:
        signal.signal(number, signal.SIG_DFL)
    exec_ = os.execve
    def late(path, argv, environ):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        note = int(environ[reexec.HELD].split()[1])
        # An exec in the very same moment could end the thread that takes the signal.
        while number not in signal.sigpending() and not select.select([note], [], [], 0)[0]:
            pass
        exec_(path, argv, environ)
    os.execve = late
    reexec.execute(reexec.Command.of_this_process())
time.sleep(0.02)
print("held:", reexec.HELD in os.environ, flush=True)
arrived = []
signal.signal(number, lambda *args: arrived.append(args[0]))
reexec.release_signals()
print("arrived:", arrived == [number], reexec.HELD in os.environ, flush=True)
print("blocked:", sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
print("open:", [fd for fd in range(3, 50) if os.path.exists(f"/dev/fd/{fd}")])
"""


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_the_exec_reaches_the_new_image_once(
    number: signal.Signals, threads: int
) -> None:
    """Lost, ``systemctl stop`` waits for its timeout; unblocked, it kills a site that reloads.

    With other threads the kernel gives it to one that does not block it.
    """
    with Child([sys.executable, "-c", SIGNALLED, str(int(number)), str(threads)]) as child:
        assert child.wait() == 0, child
        assert child.output == "held: True\narrived: True False\nblocked: []\nopen: []\n"


STORM = """
import os, signal, sys
from sitebus import reexec
import threading

caught = []
signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
reexec.release_signals()
threading.Thread(target=threading.Event().wait, daemon=True).start()
life = int(os.environ.get("LIFE", "0"))
os.environ["LIFE"] = str(life + 1)
os.write(1, b"\\n")
sys.stdin.buffer.raw.read(1)
if life < 8:
    reexec.execute(reexec.Command.of_this_process(), still_wanted=lambda: not caught)
print("caught" if caught else "never", flush=True)
"""


@pytest.mark.slow
def test_a_sigterm_at_any_moment_of_many_restarts_is_never_lost(tmp_path: Path) -> None:
    """In other engines 37 of 40 such signals were: the site restarted and went on serving."""
    import random
    import subprocess

    choose = random.Random(7)
    (tmp_path / "storm.py").write_text(STORM)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(15):
        with subprocess.Popen(
            [sys.executable, "-u", "storm.py"],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            try:
                assert process.stdin
                assert process.stdout
                assert process.stdout.readline() == b"\n"  # its handler is installed
                process.stdin.write(b"." * 20)
                process.stdin.flush()
                deadline = time.monotonic() + choose.uniform(0, 0.06)
                while time.monotonic() < deadline:
                    pass
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
                assert process.stdout.read().strip() == b"caught"
            finally:
                process.kill()


def test_an_ignored_signal_stays_ignored() -> None:
    """So it was asked for, by nohup."""
    code = (
        "import os, signal\n"
        "from sitebus import reexec\n"
        "if 'AGAIN' not in os.environ:\n"
        "    os.environ['AGAIN'] = '1'\n"
        "    signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "    reexec.execute(reexec.Command.of_this_process())\n"
        "reexec.release_signals()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)\n"
    )
    with Child([sys.executable, "-c", code]) as child:
        assert child.wait() == 0
        assert child.output == "True\n"


def test_releasing_without_an_exec_does_nothing() -> None:
    """Every start calls it; most were no restart."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        environ: dict[str, str] = {}
        reexec.release_signals(environ)
        assert signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})


def test_a_child_with_the_variable_is_unblocked_and_keeps_its_descriptors() -> None:
    """It was started too early and has its parent's block; the number is some file of its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    reader, writer = os.pipe()
    try:
        reexec.release_signals({reexec.HELD: f"1 {reader} {int(signal.SIGUSR2)}"})
        assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        os.fstat(reader)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        os.close(reader)
        os.close(writer)


def test_output_is_flushed_before_the_exec() -> None:
    """What was printed last, into a pipe, is often why the restart happened."""
    code = (
        "import os, sys\n"
        "from sitebus import reexec\n"
        "if 'AGAIN' not in os.environ:\n"
        "    os.environ['AGAIN'] = '1'\n"
        "    print('last words')\n"
        "    sys.stderr = None\n"
        "    reexec.execute(reexec.Command.of_this_process())\n"
    )
    with Child([sys.executable, "-c", code], env={"PYTHONUNBUFFERED": ""}) as child:
        assert child.wait() == 0
        assert child.output == "last words\n"


def test_importing_the_rooms_is_cheap() -> None:
    """Both are part of ``import sitebus``: what is heavy waits until it is needed."""
    heavy = "asyncio email encodings.idna http ipaddress logging pathlib ssl subprocess tempfile"
    code = (
        "import sys; old = set(sys.modules); import sitebus.sockets, sitebus.reexec;"
        "print(sorted(set(sys.argv[1].split()) & (set(sys.modules) - old)))"
    )
    with Child([sys.executable, "-S", "-c", code, heavy + " traceback urllib.parse"]) as child:
        assert child.wait() == 0
        assert child.output == "[]\n"
