"""Which way of hearing of changes is taken, and what it says when it is not the best."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from sitebus.reload import notices, places
from sitebus.reload.notices import Native, Polling
from sitebus.reload.sources import Sources
from sitebus.reload.stamps import Snapshot
from sitebus.reload.watcher import Watcher
from tests.helpers import Child, environment, open_descriptors, wait_for
from tests.reload.watching import TOLD, WAYS, kind, made, watching


def test_places_are_real_directories(tmp_path: Path) -> None:
    """A change is told where it happens, however the path was spelled."""
    (tmp_path / "real" / "shop").mkdir(parents=True)
    (tmp_path / "real" / "shop" / "views.py").write_text("")
    (tmp_path / "link").symlink_to("real")
    found = places.of([str(tmp_path / "link" / "shop" / "views.py")], [])
    real = os.path.realpath(tmp_path)
    inside = {each for each in found.folders if each.startswith(real)}
    assert inside == {real, f"{real}/real", f"{real}/real/shop"}
    assert found.names >= {"link", "views.py", "real", "shop"}


def test_what_is_above_is_watched_as_far_as_it_may_be_replaced(tmp_path: Path) -> None:
    """Where everybody writes there is too much to hear; and nobody replaces the root."""
    shared = tmp_path / "shared"
    (shared / "site").mkdir(parents=True)
    shared.chmod(0o1777)
    real = os.path.realpath(tmp_path)
    assert set(places.of([], [f"{real}/shared/site"]).folders) == {f"{real}/shared/site"}
    assert os.sep not in places.of([], [os.path.dirname(os.__file__)]).folders


def test_links_in_circles_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    found = places.of([str(tmp_path / "a" / "x.py"), str(tmp_path / "a")], [str(tmp_path / "b")])
    real = os.path.realpath(tmp_path)
    assert {each for each in found.folders if each.startswith(real)} == {real}


MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:50 / /srv/nfs rw shared:1 - nfs4 server:/x rw
31 27 0:51 / /srv/with\\040space rw - 9p host rw
32 27 0:52 / /srv/nfs/local rw - tmpfs tmpfs rw
33 27 0:53 / /home/me rw - fuse.sshfs x rw
34 27 0:54 / /sys/fs/fuse/connections rw - fusectl fusectl rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv", None),
        ("/srv/nfs", "nfs4"),
        ("/srv/nfs/shop", "nfs4"),
        ("/srv/nfsx", None),
        ("/srv/nfs/local/shop", None),
        ("/srv/with space/x", "9p"),
        ("/home/me/x", "fuse.sshfs"),
        ("/sys/fs/fuse/connections", None),
    ],
)
def test_some_file_systems_are_silent(tmp_path: Path, folder: str, kind: str | None) -> None:
    """Others write there, and our kernel does not hear of it."""
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    found = places.silent(["/", folder], str(table))
    assert (found and found[1]) == kind


def test_without_a_table_none_is_silent() -> None:
    assert places.silent(["/srv"], "/nonexistent") is None


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is not installed."""
    monkeypatch.setattr(sys, "path", [each for each in sys.path if "site-packages" not in each])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    for name in [each for each in sys.modules if each.partition(".")[0] == "watchfiles"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a library is needed")
@pytest.mark.usefixtures("bare")
def test_linux_needs_no_library(tmp_path: Path) -> None:
    """The kernel tells whoever asks."""
    path = tmp_path / "a.py"
    path.write_text("")
    with watching([path]) as seen:
        assert kind(seen.watcher) == "inotify"
        path.write_text("X = 1\n")
        assert seen.names() == ["a.py"]
    assert not seen.logged


def test_a_python_that_calls_no_library_has_watchfiles() -> None:
    """It may have been built without libffi."""
    pytest.importorskip("watchfiles")
    script = (
        "import sys; sys.modules['_ctypes'] = None\n"
        "from sitebus.reload.notices import Native, native\n"
        "assert type(native(0.05)) is Native"
    )
    subprocess.run([sys.executable, "-c", script], env=environment(), check=True, timeout=30)


@pytest.mark.usefixtures("bare")
def test_the_library_may_be_missing(tmp_path: Path) -> None:
    """It is an extra; without it there is one line, and changes are still seen."""
    path = tmp_path / "a.py"
    path.write_text("")
    with watching([path], way=Native) as seen:
        path.write_text("X = 1\n")
        assert seen.names() == ["a.py"]
        path.write_text("X = 2\n")
        assert seen.names() == ["a.py"]
    assert len(seen.logged) == 1
    assert "pip install 'sitebus[reload]'" in seen.logged[0]


def test_the_library_is_loaded_without_its_package() -> None:
    """The package imports asyncio, which a site may not need, on every reload."""
    pytest.importorskip("watchfiles")
    script = (
        "import sys; from sitebus.reload.notices import _rust_notify as f; f()\n"
        "assert 'asyncio' not in sys.modules and 'anyio' not in sys.modules\n"
        "import watchfiles; assert watchfiles.main.RustNotify is f()"
    )
    subprocess.run([sys.executable, "-c", script], env=environment(), check=True, timeout=30)


LIMITED = """
import sys, threading
from pathlib import Path
from tests.reload.watching import made, watching
folder = Path(sys.argv[1])
paths = [folder / f"d{number}" / "a.py" for number in range(20)]
for path in paths:
    path.parent.mkdir()
    path.write_text("")
with watching(paths, way=made(sys.argv[2])) as seen:
    paths[3].write_text("X = 1\\n")
    print(seen.names(), seen.watcher.polls, len(seen.logged), *seen.logged)
"""


@TOLD
@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
def test_the_systems_limit_may_be_reached(tmp_path: Path, limit: str, way: str) -> None:
    """Editors and other sites watch, too; what is left is looking."""
    made(way)
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)
    most = {"max_inotify_watches": 5, "max_inotify_instances": 0}[limit]
    shell = (
        f"echo {most} > /proc/sys/user/{limit} && exec {sys.executable} {script} {tmp_path} {way}"
    )
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no user namespaces here")
    run = subprocess.run(
        [unshare, "--user", "--map-root-user", "sh", "-c", shell],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "unshare" in run.stderr:
        pytest.skip(run.stderr)
    assert run.stdout.startswith("['a.py'] True 1 Looking for changed files every"), run.stderr
    assert f"raise fs.inotify.{limit.replace('inotify', 'user')}" in run.stdout or (
        way == "watchfiles" and "raise fs.inotify.max_user_watches or" in run.stdout
    )


@WAYS
def test_a_wait_ends_when_it_is_told(way: str, tmp_path: Path) -> None:
    """A stop should not wait for the next look."""
    before = open_descriptors()
    notice = Polling(lambda: 3600.0) if way == "polling" else made(way)(0.01)
    notice.cover(places.of([], [str(tmp_path)]), {})
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(notice.wait(None)))
    waiting.start()
    notice.wake()
    waiting.join(5)
    assert answers == [False]
    notice.close()
    notice.wake()  # it may come late
    wait_for(lambda: not open_descriptors() - before)


@WAYS
def test_a_wait_ends_after_a_while(way: str, tmp_path: Path) -> None:
    """Nobody told anything; when it polls it is time to look."""
    notice = Polling(lambda: 3600.0) if way == "polling" else made(way)(0.01)
    notice.cover(places.of([], [str(tmp_path)]), {})
    began = time.monotonic()
    assert notice.wait(0.05) is (way == "polling")
    assert time.monotonic() - began >= 0.045
    notice.close()


@TOLD
def test_what_was_closed_is_taken_again(way: str, tmp_path: Path) -> None:
    """Before a restart nothing may be held; if that is refused the watching goes on."""
    path = tmp_path / "a.py"
    path.write_text("")
    before = open_descriptors()
    make = made(way)
    watcher = Watcher(
        Sources({str(path)}.copy), Snapshot(), lambda: 3600.0, 0.01, False, print, make
    )
    watcher.look()
    for text in ("X = 1\n", "X = 22\n"):
        path.write_text(text)
        changes = watcher.wait()
        assert changes is not None
        assert changes.paths == (str(path),)
        watcher.close()
        # The library does so in a thread of its own.
        wait_for(lambda: not open_descriptors() - before)


@TOLD
def test_other_files_in_a_watched_directory_wake_nobody(tmp_path: Path, way: str) -> None:
    """A database beside the modules is written to all the time."""
    path = tmp_path / "a.py"
    path.write_text("")
    looks = 0
    with watching([path], way=way) as seen:
        before = seen.watcher._changed

        def counting() -> Mapping[str, object]:
            nonlocal looks
            looks += 1
            return before()

        seen.watcher._changed = counting  # type: ignore[method-assign,assignment]
        for number in range(50):
            (tmp_path / "data.sqlite-wal").write_text(str(number))
        path.write_text("X = 1\n")
        assert seen.names() == ["a.py"]
    assert looks <= 3


def test_polling_can_be_forced(tmp_path: Path) -> None:
    """Where a file system claims to tell, and does not."""
    path = tmp_path / "a.py"
    path.write_text("")
    with watching([path], way="polling") as seen:
        assert seen.watcher.polls
        assert not seen.logged


def test_a_silent_file_system_is_polled_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers on other systems mount what the host writes to."""
    here = os.path.realpath(tmp_path)
    monkeypatch.setattr(notices, "silent", lambda folders: (here, "nfs4"))
    path = tmp_path / "a.py"
    path.write_text("")
    with watching([path]) as seen:
        assert seen.watcher.polls
        assert seen.logged == [
            f"Looking for changed files every 0.03 s: {here} is on a file system (nfs4) that does "
            "not tell of every change"
        ]


@TOLD
def test_a_silent_file_system_may_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The first template that is opened may be the first file on it."""
    late = os.path.realpath(tmp_path / "late")
    monkeypatch.setattr(
        notices, "silent", lambda folders: (late, "nfs4") if late in folders else None
    )
    path, page = tmp_path / "a.py", tmp_path / "late" / "b.py"
    path.write_text("")
    page.parent.mkdir()
    page.write_text("")
    with watching([path], way=way) as seen:
        assert not seen.watcher.polls
        named = seen.watcher.sources.files()
        assert isinstance(named, set)
        named.add(str(page))
        wait_for(lambda: seen.watcher.polls)
        # What is only named is known from the first look on.
        wait_for(lambda: str(page) in seen.watcher.snapshot.states)
        page.write_text("X = 1\n")
        assert seen.names() == ["b.py"]
    assert len(seen.logged) == 1
    assert "nfs4" in seen.logged[0]


SUSPENDED = """
import sys
from pathlib import Path
from tests.reload.watching import made, watching
from tests.helpers import wait_for
path = Path(sys.argv[1])
path.write_text("")
with watching([path], way=made(sys.argv[2])) as seen:
    # Nothing else is about to make it look.
    wait_for(lambda: seen.watcher._agenda.left() is None, 20)
    print("watching", flush=True)
    print(seen.names(), flush=True)
"""


@TOLD
def test_a_site_that_was_suspended_looks_at_everything(tmp_path: Path, way: str) -> None:
    """Meanwhile more may be told than the system keeps, by a checkout or by somebody's search."""
    made(way)
    limit = Path("/proc/sys/fs/inotify/max_queued_events")
    if not limit.exists() or int(limit.read_text()) > 100_000:
        pytest.skip("the system keeps everything")
    script, path = tmp_path / "suspended.py", tmp_path / "site" / "a.py"
    script.write_text(SUSPENDED)
    path.parent.mkdir()
    with Child([sys.executable, script, path, way]) as child:
        child.wait_for_output("watching")
        child.signal(signal.SIGSTOP)
        left, end = int(limit.read_text()), time.monotonic() + 1
        while left > 0 or time.monotonic() < end:
            left -= 1
            path.with_name(f"other{left % 2}").touch()
        path.write_text("X = 1\n")
        child.signal(signal.SIGCONT)
        child.wait_for_output(re.escape("['a.py']"))
