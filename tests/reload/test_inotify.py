"""The kernel's own notices: what they cost, what they hold, and what they must not miss."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import re
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sitebus.reload import places
from sitebus.reload.notices import LONGEST
from sitebus.reload.sources import Sources
from sitebus.reload.stamps import Snapshot
from sitebus.reload.watcher import Watcher
from tests.helpers import environment, wait_for
from tests.reload.watching import watching

if sys.platform != "linux":
    pytest.skip("not Linux", allow_module_level=True)

from sitebus.reload.inotify import Inotify


@pytest.fixture
def notices() -> Iterator[Inotify]:
    notices = Inotify(0.02)
    yield notices
    notices.close()


def folders(notices: Inotify) -> int:
    """Answer how many directories the kernel watches for *notices*."""
    told = Path(f"/proc/self/fdinfo/{notices._queue.fd}").read_text()
    return len(re.findall("^inotify wd:", told, re.MULTILINE))


def test_what_is_not_needed_any_more_is_given_back(notices: Inotify, tmp_path: Path) -> None:
    """Watches are counted, for each user."""
    inside = [tmp_path / str(number) for number in range(5)]
    for each in inside:
        each.mkdir()
    above = len(places.of([], [str(tmp_path)]).folders)
    for count in (5, 2, 3, 0):
        names = [str(tmp_path), *map(str, inside[:count])]
        notices.cover(places.of([], names), {})
        assert folders(notices) == above + count


def test_a_directory_that_was_moved_is_watched_by_its_new_name(
    notices: Inotify, tmp_path: Path
) -> None:
    """The kernel goes on watching it: the watch of the old name is that of the new one."""
    (tmp_path / "old").mkdir()
    notices.cover(places.of([str(tmp_path / "old" / "a.py")], []), {})
    before = folders(notices)
    (tmp_path / "old").rename(tmp_path / "new")
    assert notices.wait(5)
    notices.cover(places.of([str(tmp_path / "new" / "a.py")], []), {})
    assert folders(notices) == before
    (tmp_path / "new" / "a.py").write_text("")
    assert notices.wait(5)


def test_descriptors_are_not_inherited(notices: Inotify) -> None:
    """Whatever the site runs has no use for them."""
    assert notices._bell is not None
    for fd in (notices._queue.fd, notices._bell.fd):
        assert not os.get_inheritable(fd)


def test_a_list_that_ran_over_means_anything(notices: Inotify, tmp_path: Path) -> None:
    """What it does not hold may have been what matters."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip("the system keeps everything")
    notices.cover(places.of([str(tmp_path / "a.py")], []), {})
    for number in range(most + 1):
        (tmp_path / f"other{number % 2}").touch()
    assert notices.wait(5)


def test_what_is_being_written_is_waited_for(tmp_path: Path) -> None:
    """An editor may empty the file long before it fills it: nobody wants the empty one."""
    path = tmp_path / "views.py"
    path.write_text("X = 1\n")
    with watching([path], way="inotify", debounce=0.01) as seen:
        began = time.monotonic()
        with path.open("w") as file:
            wait_for(lambda: time.monotonic() - began > LONGEST / 3)
            file.write("X = 22\n")
        took = time.monotonic() - began
        assert seen.names() == ["views.py"]
        state = seen.watcher.snapshot.states[str(path)]
        assert took > LONGEST or (state.stamp is not None and state.stamp.size)
        path.write_text("X = 333\n")
        seen.next()


QUIET = """
import ctypes, hashlib, subprocess, sys
from pathlib import Path
from tests.helpers import wait_for
from tests.reload.watching import watching
import sitebus.reload.inotify
folder = Path(sys.argv[1])
paths = [folder / f"m{number}.py" for number in range(100)]
for path in paths:
    path.write_text("")
def wakeups():
    status = Path(f"/proc/self/task/{seen._thread.native_id}/status").read_bytes()
    return int(status.partition(b"\\nvoluntary_ctxt_switches:")[2].split()[0])
# Whoever starts a process may wake its own threads: here a shell does.
reads = 'cd "$0"; read go; for n in $(seq 40); do cat *.py; ls > /dev/null; done; sleep 1'
shell = subprocess.Popen(["sh", "-c", reads, folder], stdin=subprocess.PIPE)
with watching(paths, way="inotify") as seen:
    wait_for(lambda: seen.watcher._agenda.left() is None, 20)
    before = wakeups()
    shell.communicate(b"go")
    print(wakeups() - before)
"""


def test_nobody_is_woken_while_nothing_changes(tmp_path: Path) -> None:
    """Neither by time going by, nor by whoever opens, reads and lists what is watched."""
    run = subprocess.run(
        [sys.executable, "-c", QUIET, tmp_path],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    # Less than once in each round. The first look may not quite have come to its end, the shell's
    # end may be heard, and on a busy machine each may have to wait for the interpreter's lock.
    assert int(run.stdout) < 40


def test_who_writes_to_other_files_wakes_seldom(tmp_path: Path) -> None:
    """A log beside the modules is written to at every request."""
    notices = Inotify(0.1)
    notices.cover(places.of([str(tmp_path / "a.py")], []), {})
    waiting = threading.Thread(target=notices.wait, args=(None,))
    waiting.start()
    status = Path(f"/proc/self/task/{waiting.native_id}/status")
    began, before = time.monotonic(), _switches(status)
    script = 'n=0; while [ $n -lt 20000 ]; do n=$((n+1)); echo $n >> "$0"; done'
    subprocess.run(["sh", "-c", script, tmp_path / "site.log"], check=True)
    took, after = time.monotonic() - began, _switches(status)
    assert waiting.is_alive()
    notices.wake()
    waiting.join(5)
    notices.close()
    # Two waits in each length of a debounce, the few that are free, and some for the interpreter's
    # lock.
    assert after - before <= 3 * math.ceil(took / 0.1) + 15


def _switches(status: Path) -> int:
    return int(status.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])


CLOSED = """
import os, sys
from pathlib import Path
from sitebus.reload import places
from sitebus.reload.inotify import Inotify
if os.geteuid() == 0:
    os.setuid(65534)
folder = Path(sys.argv[1])
(folder / "shop").mkdir()
path = folder / "shop" / "a.py"
path.write_text("")
(folder / "shop").chmod(0o300)
notices = Inotify(0.02)
cover = lambda: notices.cover(places.of([str(path), str(folder / "b.py")], []), {})
cover()
(folder / "b.py").write_text("")
print(notices.wait(5))
(folder / "shop").chmod(0o700)
print(notices.wait(5))
cover()
path.write_text("X = 1")
print(notices.wait(5))
"""


def test_a_directory_that_may_not_be_read_is_left_out_until_it_may() -> None:
    """The others are watched all the same."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        run = subprocess.run(
            [sys.executable, "-c", CLOSED, folder],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert run.stdout.split() == ["True"] * 3, run.stderr


def test_a_set_of_ones_own_is_asked(tmp_path: Path) -> None:
    """It cannot tell that a file was added to it."""
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("")
    second.write_text("")
    paths = {str(first)}
    with watching(paths, way="inotify") as seen:
        paths.add(str(second))
        wait_for(lambda: str(second) in seen.watcher.snapshot.states)
        second.write_text("X = 1\n")
        assert seen.names() == ["b.py"]


@pytest.mark.parametrize("way", ["inotify", "polling"])
def test_a_write_through_a_mapping_is_noticed(tmp_path: Path, way: str) -> None:
    """Some tools edit in place without a write; watchfiles does not tell of it."""
    path = tmp_path / "views.py"
    path.write_text("X = 1\n")
    with watching([path], way=way) as seen:
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[:1] = b"Y"
            memory.flush()
        assert seen.names() == ["views.py"]


def test_who_is_eager_waits_for_no_more(tmp_path: Path) -> None:
    """But for the end of the writing: half a file is of no use to anybody."""
    path = tmp_path / "views.py"
    path.write_text("X = 1\n")
    notices = Inotify(LONGEST)
    try:
        notices.cover(places.of([str(path)], []), {})
        notices.eager = True
        began = time.monotonic()
        path.write_text("X = 22\n")
        assert notices.wait(5)
        assert time.monotonic() - began < LONGEST / 2

        with path.open("w") as file, ThreadPoolExecutor() as pool:
            waiting = pool.submit(notices.wait, 5)
            file.write("X = 333\n")
            file.flush()
            with pytest.raises(TimeoutError):
                waiting.result(LONGEST / 3)
            file.close()
            assert waiting.result(5)
    finally:
        notices.close()


def test_a_draft_beside_it_delays_no_save(tmp_path: Path) -> None:
    """Many editors write the new text elsewhere first, and then give it the name."""
    path, draft = tmp_path / "views.py", tmp_path / "views.py~"
    path.write_text("X = 1\n")
    notices = Inotify(LONGEST)
    notices.eager = True
    notices.cover(places.of([str(path)], []), {})
    with ThreadPoolExecutor() as pool:
        for _ in range(3):
            waiting = pool.submit(notices.wait, 5)
            draft.write_text("X = 22\n")
            wait_for(lambda: not _unread(notices))
            began = time.monotonic()
            draft.replace(path)
            assert waiting.result(5)
            assert time.monotonic() - began < LONGEST / 2
    notices.close()


def _unread(notices: Inotify) -> int:
    return int.from_bytes(fcntl.ioctl(notices._queue.fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_wait_can_be_ended_and_begun_again(tmp_path: Path) -> None:
    """Whoever watches may have something else to do; no change is lost meanwhile."""
    path = tmp_path / "views.py"
    path.write_text("X = 1\n")
    watcher = Watcher(Sources({str(path)}.copy), Snapshot(), lambda: 60.0, 0.01, False, print)
    assert watcher.look() is None
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(watcher.wait)
        watcher.call()
        assert waiting.result(5) is None
        path.write_text("X = 22\n")
        changes = pool.submit(watcher.wait).result(5)
        assert changes is not None
        assert changes.paths == (str(path),)
    watcher.close()
