"""Whether a file has changed since it was loaded."""

from __future__ import annotations

import json
import os
import py_compile
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitebus import legacy
from sitebus.errors import TrialFailed
from sitebus.reload import bytecode, stamps
from sitebus.reload.guard import MOST, Guard
from sitebus.reload.stamps import Snapshot, look
from tests.helpers import environment, open_descriptors

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "touch", "replace", "delete"]),
        st.sampled_from(["", "one", "two", "three"]),
    ),
    max_size=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_a_change_is_another_content_and_nothing_else(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    """Whatever is done to a file in between, what counts is what is in it at the end."""
    path = tmp_path / "file.txt"
    path.write_text("one")
    snapshot = Snapshot()
    assert snapshot.changes([str(path)]) == {}
    for number, (step, text) in enumerate(steps):
        if step == "delete":
            path.unlink(missing_ok=True)
        elif step == "touch" and path.exists():
            os.utime(path, ns=(number, number))
        elif step == "replace":
            (tmp_path / "draft").write_text(text)
            (tmp_path / "draft").replace(path)
        elif step == "write":
            path.write_text(text)
            os.utime(path, ns=(number, number))  # the clock of the system may stand still
    changed = path.read_text() != "one" if path.exists() else True
    found = snapshot.changes([str(path)])
    assert bool(found) is changed
    snapshot.accept(found)
    assert snapshot.changes([str(path)]) == {}


def test_what_changed_after_it_was_opened_has_changed(tmp_path: Path) -> None:
    """The first look at a file may be long after it was loaded."""
    path = tmp_path / "a.py"
    path.write_text("X = 1\n")
    written = path.stat().st_ctime_ns
    for opened, changed in ((written - 1, True), (written, False), (written + 1, False)):
        times = {str(path): opened}
        assert bool(Snapshot().changes([str(path)], lambda t=times: t)) is changed  # type: ignore[misc]


def test_an_older_copy_made_after_it_was_opened_has_changed(tmp_path: Path) -> None:
    """``cp -p`` and ``rsync -t`` keep the time of the original."""
    path = tmp_path / "a.py"
    path.write_text("X = 1\n")
    opened = path.stat().st_ctime_ns - 1
    os.utime(path, ns=(10**18, 10**18))
    assert Snapshot().changes([str(path)], lambda: {str(path): opened})


def test_a_change_since_a_module_was_imported_shows_in_its_bytecode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For modules that were imported before anybody watched what is opened."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "a.py"
    path.write_text("X = 1\n")
    py_compile.compile(str(path))
    assert Snapshot().changes([str(path)]) == {}
    path.write_text("X = 22\n")
    assert Snapshot().changes([str(path)])


def test_an_edit_in_the_tick_of_the_import_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the file system cannot tell which came first; the bytecode can."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "a.py"
    path.write_text("X = 1\n")
    saved = path.stat()
    py_compile.compile(str(path))
    opened = {str(path): saved.st_ctime_ns}
    assert Snapshot().changes([str(path)], lambda: opened) == {}
    for text in ("X = 2\n", "X = (\n"):
        path.write_text(text)
        os.utime(path, ns=(saved.st_atime_ns, saved.st_mtime_ns))
        opened[str(path)] = path.stat().st_ctime_ns
        assert Snapshot().changes([str(path)], lambda: opened)


def test_a_file_named_while_running_is_taken_as_it_is(tmp_path: Path) -> None:
    """It was not loaded by anybody we know."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("1")
    snapshot = Snapshot(since=time.time_ns() + 10**9)
    assert snapshot.changes([str(old)]) == {}
    snapshot.since = 0
    new.write_text("1")
    assert snapshot.changes([str(old), str(new)]) == {}


def handed_down(snapshot: Snapshot) -> Snapshot:
    after = Snapshot()
    after.load(legacy.read(legacy.write(snapshot.dump())))
    return after


def test_the_next_image_knows_what_the_last_one_knew(tmp_path: Path) -> None:
    """An edit between the two is no secret, and a touch is no change."""
    paths = [str(tmp_path / name) for name in ("same", "touched", "edited", "gone")]
    for path in paths:
        Path(path).write_text("X = 1\n")
    before = Snapshot()
    before.changes(paths)
    after = handed_down(before)
    os.utime(paths[1])
    Path(paths[2]).write_text("X = 22\n")
    after.since = 0
    assert set(after.changes(paths[:3])) == {paths[2]}


def test_what_the_next_image_has_opened_since_is_loaded(tmp_path: Path) -> None:
    """An edit before it was opened is what runs."""
    path = tmp_path / "a.py"
    path.write_text("X = 1\n")
    before = Snapshot()
    before.changes([str(path)])
    after = handed_down(before)
    path.write_text("X = 22\n")
    opened = path.stat().st_ctime_ns
    assert after.changes([str(path)], lambda: {str(path): opened}) == {}
    later = handed_down(before)
    assert later.changes([str(path)], lambda: {str(path): opened - 1})


def test_bytecode_of_the_trial_may_hide_an_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made from a source of the same size, in the same second, and was loaded for it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "a.py"
    path.write_text("X = 1\n")
    before = Snapshot()
    before.changes([str(path)])
    saved = path.stat()
    py_compile.compile(str(path))
    path.write_text("X = 2\n")
    os.utime(path, ns=(saved.st_atime_ns, saved.st_mtime_ns))
    opened = path.stat().st_ctime_ns + 10**9
    assert handed_down(before).changes([str(path)], lambda: {str(path): opened})


def test_a_file_that_appeared_between_two_images_is_new(tmp_path: Path) -> None:
    """A package looks for plugins when it is imported, and that may have been before."""
    (tmp_path / "a.py").write_text("")
    folders = {str(tmp_path): lambda name: True}
    before = Snapshot()
    assert before.new_names(folders) == []
    (tmp_path / "b.py").write_text("")
    assert handed_down(before).new_names(folders) == [str(tmp_path / "b.py")]


def test_a_legacy_leaves_no_descriptor_behind() -> None:
    before = open_descriptors()
    assert legacy.read(legacy.write({"a": ["\udc80", 1]})) == {"a": ["\udc80", 1]}
    assert open_descriptors() == before


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_strange_legacy_is_refused(tmp_path: Path, content: bytes) -> None:
    """An upgrade may have changed the format; and it is closed all the same."""
    (tmp_path / "x").write_bytes(content)
    before = open_descriptors()
    fd = os.open(tmp_path / "x", os.O_RDONLY)
    with pytest.raises(ValueError):  # noqa: PT011 - json has many words
        legacy.read(fd)
    assert open_descriptors() == before


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To read a film for a touch would cost more than a restart."""
    monkeypatch.setattr("sitebus.reload.stamps.MOST_READ", 3)
    path = tmp_path / "large"
    path.write_text("1234")
    assert look(str(path)).digest == ""
    snapshot = Snapshot()
    snapshot.changes([str(path)])
    os.utime(path, ns=(1, 1))
    assert snapshot.changes([str(path)])


# Bytecode.


def test_stale_bytecode_is_forgotten(tmp_path: Path) -> None:
    """Two saves of one size within a second: Python would run the first one for ever."""
    module = tmp_path / "m.py"
    module.write_text("print(1)\n")
    for options in ([], ["-O"], ["-OO"]):
        run = [sys.executable, *options, "-c", "import m"]
        subprocess.run(run, cwd=tmp_path, env=environment(), check=True, capture_output=True)
    saved = module.stat()
    module.write_text("print(2)\n")
    os.utime(module, ns=(saved.st_atime_ns, saved.st_mtime_ns))
    bytecode.forget([str(module), str(tmp_path / "page.html"), str(tmp_path / "gone.py")])
    assert not list(tmp_path.rglob("*.pyc"))
    run = [sys.executable, "-c", "import m"]
    said = subprocess.run(run, cwd=tmp_path, env=environment(), check=True, capture_output=True)
    assert said.stdout.strip() == b"2"


@pytest.mark.parametrize(
    ("text", "line"),
    [("X = (\n", 1), ("\n\nif x\n", 3), ("X = '\0'\n", 0), ("\tX\n Y\n", 1), ("é = '", 1)],
)
def test_what_cannot_be_compiled_is_refused(tmp_path: Path, text: str, line: int) -> None:
    """Before a child is started for it, and without running anything."""
    path = tmp_path / "m.py"
    path.write_text(text)
    with pytest.raises(TrialFailed) as refused:
        bytecode.check([str(path)])
    error = refused.value
    assert error.file == str(path)
    assert error.files == {str(path)}
    assert error.line == line or line != 1
    assert str(error).startswith(f"{path}:")
    assert not list(tmp_path.rglob("*.pyc"))


def test_good_code_is_compiled_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("# -*- coding: latin-1 -*-\nimport os\nos._exit(3)\nassert '\\d'\n")
    bytecode.check([str(path), str(tmp_path / "gone.py")])
    assert not list(tmp_path.rglob("*.pyc"))


# Loops.


def test_a_loop_tires() -> None:
    """A site that changes its own files while it starts would keep the machine busy."""
    guard = Guard()
    now, pauses = 1000.0, []
    for _ in range(12):
        pause = guard.pause(now)
        pauses.append(pause)
        now += pause
        guard.note(now)
        guard_state = json.loads(json.dumps(guard.dump()))
        guard = Guard()
        guard.load(**guard_state)  # each reload is another image
        now += 0.2
    assert pauses[:MOST] == [0.0] * MOST
    assert pauses[MOST:] == sorted(pauses[MOST:])
    assert pauses[-1] == 60.0


def test_a_busy_programmer_is_no_loop() -> None:
    guard = Guard()
    for second in range(0, 300, 3):
        assert guard.pause(float(second)) == 0.0
        guard.note(float(second))


def test_a_loop_is_forgotten_when_it_is_over() -> None:
    guard = Guard()
    for _ in range(MOST):
        guard.note(10.0)
    assert guard.pause(10.0) > 0
    assert guard.first
    assert guard.pause(500.0) == 0.0
    for _ in range(MOST):
        guard.note(500.0)
    assert guard.pause(500.0) > 0
    assert guard.first


def test_a_file_that_is_written_all_the_time_is_not_read_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at again instead: the thread that reads it has others to watch."""
    path = tmp_path / "log.xml"
    path.write_text("")
    real = stamps._stamp
    reads = 0

    def growing(status: os.stat_result) -> stamps.Stamp:
        nonlocal reads
        reads += 1
        assert reads < 20
        return real(status)._replace(size=reads)

    with monkeypatch.context() as patch:
        patch.setattr(stamps, "_stamp", growing)
        state = look(str(path))
    snapshot = Snapshot()
    snapshot.states[str(path)] = state._replace(digest="of a moment ago")
    assert list(snapshot.changes([str(path)])) == [str(path)]
