"""A restart that would not come up again is refused while everything still runs."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

import pytest

from sitebus import trial
from sitebus.errors import CannotRestart, TrialFailed
from sitebus.reexec import Command
from sitebus.trial import Trial, places
from tests.helpers import ROOT, Child, nothing_left, wait_for


def command(program: Path, *options: str) -> Command:
    return Command(sys.executable, (sys.executable, *options, str(program)), str(program.parent))


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path / "program.py"


def try_out(program: Path, text: str, timeout: float = 20.0) -> None:
    program.write_text(textwrap.dedent(text))
    with nothing_left():
        Trial(command(program), timeout).run()


def test_a_program_that_would_start_passes(program: Path) -> None:
    """And starts nothing: its listeners may open files, ports and connections."""
    try_out(
        program,
        """
        import sitebus

        sitebus.engine.subscribe("start", lambda: open("started", "w"))
        sitebus.engine.subscribe("trial", lambda: open("tried", "w").close())
        sitebus.engine.start()
        open("went on", "w")
        """,
    )
    assert {each.name for each in program.parent.iterdir()} == {"program.py", "tried"}


def test_a_syntax_error_names_its_own_file_and_line(program: Path) -> None:
    """The last frame is the import's: not where the mistake is."""
    program.with_name("views.py").write_text("x = 1\ny = = 2\n")
    with pytest.raises(TrialFailed) as caught:
        try_out(program, "import sitebus\nimport views\nsitebus.engine.start()\n")
    error = caught.value
    assert error.file == str(program.with_name("views.py"))
    assert error.line == 2
    assert str(program) in error.files
    assert str(error).startswith(f"{error.file}:2: SyntaxError")


def test_a_failure_in_the_trial_is_told_once_and_whole(program: Path) -> None:
    with pytest.raises(TrialFailed, match=r"program.py:5: KeyError: 'secret'") as caught:
        try_out(
            program,
            """
            import sitebus

            def load():
                {}["secret"]

            sitebus.engine.subscribe("trial", load)
            sitebus.engine.start()
            """,
        )
    assert caught.value.text.count("KeyError") == 1


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("import sys; sys.exit('no database')", ""),
        ("print('connecting')\nimport sys; sys.exit('no database')", "connecting\nno database"),
    ],
)
def test_what_is_all_is_not_said_twice(program: Path, text: str, more: str) -> None:
    """Whoever logs the sentence adds what more there is."""
    with pytest.raises(TrialFailed, match="no database") as caught:
        try_out(program, text)
    assert caught.value.text == more


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; sys.exit(3)", "status 3 and said nothing"),
        ("pass", "without starting the bus"),
        ("import os; os.abort()", "status -6"),
        ("import sys; sys.exit('no database')", "no database"),
    ],
)
def test_a_program_that_does_not_get_there_fails(program: Path, text: str, said: str) -> None:
    with pytest.raises(TrialFailed, match=said):
        try_out(program, text)


def test_an_endless_import_has_its_time(program: Path) -> None:
    """And what it started ends with it."""
    text = """
        import subprocess
        child = subprocess.Popen(["sleep", "60"])
        print(child.pid, flush=True)
        while True:
            pass
    """
    with pytest.raises(TrialFailed, match=r"within 0\.5 s") as caught:
        try_out(program, text, timeout=0.5)
    pid = int(caught.value.text.split()[0])
    wait_for(lambda: not is_running(pid), what="the grandchild to end")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_flood_of_output_holds_nothing_up(program: Path) -> None:
    with pytest.raises(TrialFailed, match="the last line") as caught:
        try_out(program, "print('x' * 5_000_000)\nraise SystemExit('the last line')")
    assert len(caught.value.text) <= 65536


def test_a_trial_can_be_called_off(program: Path) -> None:
    program.write_text("while True: pass")
    running = Trial(command(program), 30)
    running.cancel()
    with nothing_left(), pytest.raises(CannotRestart, match="on its way out"):
        running.run()


def test_what_cannot_be_run_is_no_failure_of_the_program(tmp_path: Path) -> None:
    missing = Command(str(tmp_path / "python"), ("python",), str(tmp_path))
    with nothing_left(), pytest.raises(CannotRestart, match="no child could be started"):
        Trial(missing, 5).run()


def test_a_child_of_the_trial_is_no_trial(program: Path) -> None:
    """An application may run another site, which must not report in its place."""
    try_out(
        program,
        """
        import subprocess, sys
        import sitebus
        code = "import sitebus; sitebus.engine.start(); sitebus.engine.exit(); print('served')"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert out.stdout == "served\\n", out
        sitebus.engine.start()
        """,
    )
    assert not trial.is_one()


@pytest.mark.parametrize("end", ["sitebus.engine.start()", "sys.exit('broken')"])
def test_what_a_trial_started_ends_with_it(program: Path, end: str) -> None:
    """Or there would be one more of it after each save."""
    text = f"""
        import subprocess, sys, sitebus
        child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
        open("child", "w").write(str(child.pid))
        {end}
    """
    with nullcontext() if "start" in end else pytest.raises(TrialFailed, match="broken"):
        try_out(program, text)
    pid = int(program.with_name("child").read_text())
    wait_for(lambda: not is_running(pid), what="the grandchild to end")


@pytest.mark.parametrize(
    ("end", "said"),
    [("sitebus.engine.start()", ""), ("os._exit(3)", "status 3"), ("1 / 0", "Zero")],
)
def test_what_a_trial_forked_does_not_hold_its_report_up(
    program: Path, end: str, said: str
) -> None:
    """A fork has every pipe, as that of a multiprocessing.Manager made at import."""
    text = f"""
        import os, signal, sitebus
        if os.fork() == 0:
            signal.pause()
        {end}
    """
    with pytest.raises(TrialFailed, match=said) if said else nullcontext():
        try_out(program, text)


def test_another_bus_has_no_say_in_a_trial(program: Path) -> None:
    """An application may have one of its own, and a mistake in the next line."""
    with pytest.raises(TrialFailed, match="nothing_of_that_name"):
        try_out(
            program,
            """
            import sitebus

            def load():
                for bus in (sitebus.Engine(), sitebus.engine):
                    bus.subscribe("start", lambda: open("started", "w"))
                    bus.start()
                assert sitebus.ProcessBus().transition("RUN") == []
                import nothing_of_that_name

            sitebus.engine.subscribe("trial", load)
            sitebus.engine.start()
            """,
        )
    assert not program.with_name("started").exists()


def test_frames_of_installed_packages_are_not_blamed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.touch()
    text = f'  File "{mine}", line 3, in f\n  File "{os.__file__}", line 9, in g\n'
    assert [each.line for each in places(text)] == [9, 3]
    assert places(f"sitebus-serve: {mine}:7: [server] has no setting 'x'")[-1].line == 7


PROGRAM = """
    import os, sys, threading
    import sitebus
    from sitebus.plugins.signals import SignalHandler

    engine = sitebus.engine
    pass  # MORE
    SignalHandler(engine).subscribe()
    engine.subscribe("restart_refused", lambda error: print("refused", error, flush=True))
    engine.start()
    print("pid", os.getpid(), flush=True)


    @engine.subscribe("main")
    def look():
        if os.path.exists("go"):
            os.unlink("go")
            engine.restart_soon()

    sys.exit(engine.block(0.02))
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


def ask_for_restart(site: Path) -> None:
    site.with_name("go").touch()


def test_a_broken_edit_leaves_the_old_code_running(site: Path) -> None:
    good = site.read_text()
    with Child([sys.executable, site], site.parent) as child:
        child.wait_for_output("pid")
        site.write_text(good.replace("pass  # MORE", "import nothing_of_that_name"))
        ask_for_restart(site)
        refused = child.wait_for_output(r"^refused (.*)$")[1]
        assert refused.startswith(f"{site}:7: ModuleNotFoundError")
        assert child.output.count("pid") == 1

        site.write_text(good.replace("pass  # MORE", "print('new code', flush=True)"))
        ask_for_restart(site)
        child.wait_for_output(rf"new code\n[^\0]*pid {child.pid}$")
        assert child.stop() == 0


@pytest.mark.parametrize("call", ["engine.restart_soon", "engine.restart"])
def test_sigterm_does_not_wait_for_a_trial(site: Path, call: str) -> None:
    """Be it the main thread that waits for it; and to be asked to end is no refusal."""
    site.write_text(site.read_text().replace("engine.restart_soon", call))
    with Child([sys.executable, site], site.parent) as child:
        child.wait_for_output("pid")
        site.write_text("open('trying', 'w').close()\nwhile True: pass")
        ask_for_restart(site)
        wait_for(site.with_name("trying").exists, 20)
        child.signal(signal.SIGTERM)
        assert child.wait(10) == 0
        assert "refused" not in child.output


def test_a_restart_asked_for_during_a_trial_has_one_of_its_own(site: Path) -> None:
    """The trial that runs has read the mistake already which the operator has just mended."""
    good = site.read_text()
    with Child([sys.executable, site], site.parent) as child:
        child.wait_for_output("pid")
        site.write_text(
            "import os, time\n"
            "open('trying', 'w').close()\n"
            "while not os.path.exists('enough'): time.sleep(0.01)\n"
            "raise SystemExit('the mistake')\n"
        )
        ask_for_restart(site)
        wait_for(site.with_name("trying").exists, 20)
        site.write_text(good.replace("pass  # MORE", "print('new code', flush=True)"))
        ask_for_restart(site)
        wait_for(lambda: not site.with_name("go").exists())
        site.with_name("enough").touch()
        child.wait_for_output(rf"refused the mistake[^\0]*new code\n[^\0]*pid {child.pid}$")
        assert child.stop() == 0


def test_a_trial_ends_when_the_site_is_killed(site: Path) -> None:
    """Nobody else would end it, whatever kind of program it is."""
    with Child([sys.executable, site], site.parent) as child:
        child.wait_for_output("pid")
        site.write_text(
            "import os, sitebus\n"
            "open('trying.new', 'w').write(str(os.getpid()))\n"
            "os.rename('trying.new', 'trying')\n"
            "while True: pass\n"
        )
        ask_for_restart(site)
        trying = site.with_name("trying")
        wait_for(trying.exists, 20)
        child.signal(signal.SIGKILL)
        wait_for(lambda: not is_running(int(trying.read_text())), 10)
