"""Releases on a host: whole or not there, current at once or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sitebus.errors import (
    BadReleaseId,
    CannotWrite,
    DiskFull,
    NoPreviousRelease,
    NoSuchRelease,
    NotALink,
    NotATree,
    ReleaseBusy,
    ReleaseChanged,
    ReleaseDiffers,
    ReleaseNotWhole,
)
from sitebus.fleet import agent_releases
from sitebus.fleet.files import How
from sitebus.fleet.host import Host
from sitebus.fleet.releases import Releases, check_id
from sitebus.fleet.trees import look
from tests.fleet.places import here, over_ssh
from tests.fleet.rig import Loopback
from tests.helpers import environment, wait_for

HOWS = pytest.mark.parametrize("how", ["rsync", "tar"])


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """This machine, as a host."""
    with here(tmp_path_factory.mktemp("fleet")) as host:
        yield host


@pytest.fixture
def releases(host: Host, tmp_path: Path) -> Releases:
    return Releases(host, tmp_path / "shop")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What its developers have."""
    folder = tmp_path / "source"
    (folder / "static" / "deep").mkdir(parents=True)
    (folder / "site.ini").write_text("[site]\nname = shop\n")
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "secret").write_text("s")
    (folder / "secret").chmod(0o640)
    (folder / "static" / "deep" / "a.bin").write_bytes(os.urandom(300_000))
    (folder / "static" / "empty").mkdir()
    (folder / "static" / "latest").symlink_to("deep/a.bin")
    (folder / "größe 1.txt").write_text("ü")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    os.utime(folder / "run", (1_500_000_000, 1_500_000_000))
    return folder


def picture(folder: Path) -> dict[str, object]:
    """Answer all that is in a directory, but for what belongs to the release as such."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.split("/")[0] in (".git", ".sitebus-release", ".sitebus-files"):
            continue
        about = path.lstat()
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = oct(about.st_mode)
        else:
            found[name] = (oct(about.st_mode), int(about.st_mtime), path.read_bytes())
    return found


def left(releases: Releases) -> list[str]:
    """Answer what is among the releases and is none."""
    folder = Path(releases.root) / "releases"
    names = (each.name for each in folder.iterdir()) if folder.exists() else iter(())
    return [name for name in names if name.startswith((".staging", ".leaving"))]


@HOWS
def test_what_arrives_is_what_was_sent(releases: Releases, source: Path, how: How) -> None:
    """Modes, times, links and names; and nothing of version control."""
    steps: list[tuple[int, int]] = []
    staged = releases.stage(source, "1", how=how, progress=lambda *step: steps.append(step))

    assert picture(Path(releases.root) / "releases" / "1") == picture(source)
    assert (staged.id, staged.files, staged.was_there) == ("1", 6, False)
    assert staged.size == look(source).size
    assert steps[-1] == (staged.size, staged.size)
    assert releases.current() is None
    (release,) = releases.list()
    assert release[:4] == ("1", True, False, False)
    assert left(releases) == []


@HOWS
def test_the_next_release_costs_what_is_new(releases: Releases, source: Path, how: How) -> None:
    """What both have is on the disk once, and is not sent again."""
    releases.stage(source, "1", how=how)
    (source / "site.ini").write_text("[site]\nname = shap\n")  # of the same size
    os.utime(source / "site.ini", (1_600_000_000, 1_600_000_000))
    staged = releases.stage(source, "2", how=how)

    folder = Path(releases.root) / "releases"
    assert picture(folder / "2") == picture(source)
    assert staged.sent < 20_000
    same = [(folder / each / "static" / "deep" / "a.bin").stat().st_ino for each in "12"]
    assert same[0] == same[1]
    assert (folder / "1" / "site.ini").read_text() != (folder / "2" / "site.ini").read_text()


@HOWS
def test_same_size_and_same_time_is_not_the_same(
    releases: Releases, source: Path, how: How
) -> None:
    """Builds that can be repeated give all files one time; content is what counts."""
    for number, text in ("1", "VERSION = 1\n"), ("2", "VERSION = 2\n"):
        (source / "version.py").write_text(text)
        os.utime(source / "version.py", (1_000_000_000, 1_000_000_000))
        releases.stage(source, number, how=how)
    folder = Path(releases.root) / "releases"
    assert (folder / "1" / "version.py").read_text() == "VERSION = 1\n"
    assert (folder / "2" / "version.py").read_text() == "VERSION = 2\n"


@HOWS
def test_what_was_written_to_on_the_host_is_not_taken_over(
    releases: Releases, source: Path, how: How
) -> None:
    """Somebody has mended a file in place: the next release has what was sent."""
    releases.stage(source, "1", how=how)
    mended = Path(releases.root) / "releases" / "1" / "site.ini"
    mended.write_text("[site]\nname = mend\n")
    releases.stage(source, "2", how=how)
    assert picture(Path(releases.root) / "releases" / "2") == picture(source)
    assert mended.read_text() == "[site]\nname = mend\n"


def test_the_same_once_more_is_no_mistake(releases: Releases, source: Path) -> None:
    """Another one of that name is."""
    releases.stage(source, "1")
    assert releases.stage(source, "1").was_there
    releases.activate("1")
    (source / "run").write_text("other\n")
    with pytest.raises(ReleaseDiffers, match="another release 1, and it is current") as caught:
        releases.stage(source, "1")
    assert caught.value.host == "web1"
    assert left(releases) == []


def test_a_flip_and_back(releases: Releases, source: Path) -> None:
    """Whoever goes back twice goes further back, and not to what was left."""
    root = Path(releases.root)
    for number in "123":
        (source / "id").write_text(number)
        releases.stage(source, number)
    assert releases.activate("1") is None
    assert releases.previous() is None
    assert releases.activate("2") == "1"
    assert releases.activate("3") == "2"
    assert releases.activate("3") == "3"
    assert os.readlink(root / "current") == "releases/3"
    assert (releases.current(), releases.previous()) == ("3", "2")
    assert [each.id for each in releases.list() if each.is_previous] == ["2"]

    assert releases.rollback() == "2"
    assert (releases.current(), releases.previous()) == ("2", "1")
    assert releases.rollback() == "1"
    with pytest.raises(NoPreviousRelease, match="release 1 is current, and nothing"):
        releases.rollback()
    assert (root / "current" / "id").read_text() == "1"


def test_going_back_by_name_is_going_back(releases: Releases, source: Path) -> None:
    """A roll that fails activates what was there: that keeps what it had before."""
    for number in "123":
        releases.stage(source, number)
        releases.activate(number)
    releases.activate("2")
    assert releases.previous() == "1"


def test_the_link_is_there_at_each_moment(releases: Releases, source: Path) -> None:
    """Who starts a worker meanwhile finds one release or the other."""
    for number in "12":
        (source / "id").write_text(number)
        releases.stage(source, number)
    releases.activate("1")
    seen, failures, over = set(), [], threading.Event()

    def watch() -> None:
        while not over.is_set():
            try:
                seen.add((Path(releases.root) / "current" / "id").read_text())
            except OSError as error:
                failures.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(50):
        releases.activate("2")
        releases.activate("1")
    over.set()
    thread.join()
    assert (seen, failures) == ({"1", "2"}, [])


def test_what_is_not_there_cannot_be_current(releases: Releases, source: Path) -> None:
    """Nor half a release, nor what somebody has put there."""
    with pytest.raises(NoSuchRelease, match="no release 7; the last are: none at all"):
        releases.activate("7")
    releases.stage(source, "1")
    releases.activate("1")
    with pytest.raises(NoSuchRelease, match="no release 7; the last are: 1"):
        releases.activate("7")
    (Path(releases.root) / "releases" / "2").mkdir()
    with pytest.raises(ReleaseNotWhole, match="was not staged by sitebus to its end"):
        releases.activate("2")
    with pytest.raises(ReleaseNotWhole):
        releases.stage(source, "2")
    assert releases.current() == "1"
    assert [(each.id, each.is_whole) for each in releases.list()] == [("2", False), ("1", True)]


def test_what_was_current_before_can_be_again(releases: Releases, source: Path) -> None:
    """A site that was not deployed by sitebus until now can be rolled back all the same."""
    root = Path(releases.root)
    (root / "releases" / "by-hand").mkdir(parents=True)
    (root / "current").symlink_to(root / "releases" / "by-hand")
    assert releases.current() == "by-hand"
    releases.stage(source, "1")
    assert releases.activate("1") == "by-hand"
    assert releases.rollback() == "by-hand"
    assert releases.remove_old(0) == ("1",)
    assert (root / "current").is_dir()


@pytest.mark.parametrize("kind", ["directory", "file", "elsewhere"])
def test_what_is_no_link_stays(releases: Releases, source: Path, kind: str, tmp_path: Path) -> None:
    """Somebody works there; nothing is guessed."""
    releases.stage(source, "1")
    place = Path(releases.root) / "current"
    make: dict[str, Callable[[], object]] = {
        "directory": place.mkdir,
        "file": place.touch,
        "elsewhere": lambda: place.symlink_to(tmp_path),
    }
    make[kind]()
    with pytest.raises(NotALink, match="no link to a release; move it"):
        releases.activate("1")
    assert os.path.lexists(place)
    assert not place.is_symlink() or os.readlink(place) == str(tmp_path)


def test_old_releases_go(releases: Releases, source: Path) -> None:
    """Never the current one, nor what a rollback leads to, however old."""
    for number in range(1, 8):
        releases.stage(source, str(number))
    releases.activate("1")
    releases.activate("2")
    assert releases.remove_old(keep=3) == ("3", "4")
    assert [each.id for each in releases.list()] == ["1", "2", "5", "6", "7"]
    assert releases.remove_old(keep=3) == ()
    assert picture(Path(releases.root) / "releases" / "7") == picture(source)
    assert left(releases) == []


@pytest.mark.parametrize(
    "id", ["", ".", "..", "a/b", "../x", ".staging-1", "-rf", "a b", "a\n", "x" * 101, "ü", "a\0"]
)
def test_a_name_that_leads_elsewhere_is_none(releases: Releases, source: Path, id: str) -> None:
    """Before any host is asked."""
    with pytest.raises(BadReleaseId, match="cannot be the name of a release"):
        releases.stage(source, id)
    with pytest.raises(BadReleaseId):
        releases.activate(id)
    assert not Path(releases.root).exists()


def test_names_that_are_good() -> None:
    """Dates, versions and hashes."""
    for number in ("42", "2026-11-21", "1.2.3+build_4", "a3f9c1e"):
        assert check_id(number) == number


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: (folder / "up").symlink_to("../other"), "leads out of it, to ../other"),
        (lambda folder: (folder / "etc").symlink_to("/etc"), "leads out of it, to /etc"),
        (lambda folder: (folder / "deep" / "x").symlink_to("../../y"), "leads out of it"),
        (lambda folder: os.mkfifo(folder / "pipe"), "neither a file nor a directory"),
        (lambda folder: (folder / os.fsdecode(b"\xff")).touch(), "not UTF-8"),
        (shutil.rmtree, "no such directory"),
    ],
)
def test_what_leads_out_is_not_sent(
    releases: Releases, tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    """A release is all there is to it."""
    folder = tmp_path / "odd"
    (folder / "deep").mkdir(parents=True)
    make(folder)
    with pytest.raises(NotATree, match=reason):
        releases.stage(folder, "1")
    assert not Path(releases.root).exists()


@pytest.mark.parametrize(
    "entry",
    [
        ["../x", "d", 0o755, 0, 0, ""],
        ["/x", "d", 0o755, 0, 0, ""],
        ["a/../../x", "d", 0o755, 0, 0, ""],
        ["x", "l", 0o777, 0, 0, "/etc/passwd"],
        ["x", "l", 0o777, 0, 0, "../../x"],
        [".sitebus-release", "f", 0o644, 0, 1, "0" * 64],
    ],
)
def test_the_host_refuses_what_leads_out_as_well(tmp_path: Path, entry: list[object]) -> None:
    """Whatever it is told."""
    answer = agent_releases.begin(str(tmp_path / "shop"), "1", "d", [entry])
    assert answer["refused"] == "error"
    assert "leads out of the release" in answer["said"]
    assert os.listdir(tmp_path) == ["shop"]
    assert not (tmp_path / "shop" / "releases" / ".staging-1").exists()


@HOWS
def test_what_changes_meanwhile_is_not_a_release(
    releases: Releases, source: Path, how: How
) -> None:
    """It would be neither what was there nor what is."""
    tree = look(source)
    (source / "secret").write_text("t")
    with pytest.raises(ReleaseChanged, match="secret has changed while release 1"):
        releases.stage(tree, "1", how=how)
    assert releases.list() == ()
    assert left(releases) == []
    assert releases.stage(source, "1", how=how).id == "1"


def test_two_who_stage_the_same(host: Host, source: Path, tmp_path: Path) -> None:
    """The second is told, and the first is not harmed; it does not matter who is on which host."""
    root = str(tmp_path / "shop")
    tree = look(source)
    rows = [list(each) for each in tree.entries]
    begun = agent_releases.begin(root, "1", tree.digest, rows)  # this process, as another host's
    assert begun["there"] is False
    try:
        with pytest.raises(ReleaseBusy, match="release 1 is being staged by somebody else"):
            Releases(host, root).stage(source, "1")
        assert Releases(host, root).stage(source, "2").id == "2"
        assert os.path.isdir(begun["draft"])
    finally:
        agent_releases.abandon(root, "1")
    assert Releases(host, root).stage(source, "1").id == "1"


def test_many_at_once(host: Host, source: Path, tmp_path: Path) -> None:
    """One stages; the others find it there, or hear that somebody is at it."""
    releases = Releases(host, tmp_path / "shop")
    outcomes: list[object] = []

    def stage() -> None:
        try:
            outcomes.append(releases.stage(source, "1").was_there)
        except ReleaseBusy as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=stage) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(False) == 1
    assert set(outcomes) <= {False, True, ReleaseBusy}
    assert picture(tmp_path / "shop" / "releases" / "1") == picture(source)
    assert left(releases) == []


@HOWS
def test_a_full_disk(host: Host, source: Path, small_disk: Path, how: How) -> None:
    """One sentence with both figures, nothing half, and what was current still is."""
    releases = Releases(host, small_disk)
    releases.stage(source, "1", how=how)
    releases.activate("1")
    (source / "big").write_bytes(bytes(6_000_000))
    with pytest.raises(
        DiskFull, match=r"release 2: it needs 6\.0 MB, and .* has 3\.\d MB free"
    ) as caught:
        releases.stage(source, "2", how=how)
    assert caught.value.needed >= 6_000_000 > caught.value.free
    assert releases.current() == "1"
    assert [each.id for each in releases.list()] == ["1"]
    assert left(releases) == []


@HOWS
def test_a_disk_that_fills_up_meanwhile(
    host: Host, source: Path, small_disk: Path, how: How
) -> None:
    """There was room when it began."""
    releases = Releases(host, small_disk)
    releases.stage(source, "1", how=how)
    releases.activate("1")
    (source / "big").write_bytes(os.urandom(2_000_000))
    is_full: list[int] = []

    def fill(done: int, total: int) -> None:
        if not is_full:
            is_full.append(done)
            (small_disk / "other").write_bytes(bytes(2_000_000))

    with pytest.raises(DiskFull, match="no room for release 2"):
        releases.stage(source, "2", how=how, progress=fill)
    assert releases.current() == "1"
    assert left(releases) == []
    (small_disk / "other").unlink()
    assert releases.stage(source, "2", how=how).id == "2"


@HOWS
def test_too_many_files_for_the_disk(host: Host, source: Path, small_disk: Path, how: How) -> None:
    """It has room for bytes, and none for names."""
    releases = Releases(host, small_disk)
    releases.stage(source, "1", how=how)
    for number in range(600):
        (source / f"{number}.txt").write_text(str(number))
    with pytest.raises(DiskFull):
        releases.stage(source, "2", how=how)
    assert left(releases) == []
    assert [each.id for each in releases.list()] == ["1"]


def test_where_nobody_may_write(host: Host, source: Path) -> None:
    """The system's reason, and the path."""
    with pytest.raises(CannotWrite, match=r"cannot write /proc/shop"):
        Releases(host, "/proc/shop").stage(source, "1")


#: Stages, and is ended in the middle.
STAGES = """\
import os, signal, sys

from sitebus import fleet


def die(done, total):
    if done > 1_000_000:
        os.kill(os.getpid(), signal.SIGKILL)

with fleet.open(sys.argv[1]) as hosts:
    hosts["web1"].releases.stage(sys.argv[2], "2", how=sys.argv[3], progress=die)
"""


@HOWS
@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_nothing_to_activate(
    releases: Releases, source: Path, how: str, tmp_path: Path
) -> None:
    """What is left goes with the next release, whatever that is called."""
    releases.stage(source, "1")
    releases.activate("1")
    (source / "big").write_bytes(os.urandom(40_000_000))
    file = tmp_path / "fleet.ini"
    file.write_text(
        f"[fleet]\nmethod = local\npython = {sys.executable}\n[site]\nroot = {releases.root}\n"
        "[hosts]\nweb1 = here\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", STAGES, str(file), str(source), how],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [each.id for each in releases.list()] == ["1"]
    with pytest.raises(NoSuchRelease):
        releases.activate("2")
    assert releases.current() == "1"

    (source / "big").unlink()

    def staged() -> bool:
        releases.stage(source, "3")
        return left(releases) == []

    wait_for(staged, 20, "the rest to be removed")


@pytest.mark.slow
@HOWS
def test_thousands_of_small_files(releases: Releases, tmp_path: Path, how: How) -> None:
    """Node modules, translations, thumbnails; the second time they are only linked."""
    folder = tmp_path / "many"
    for number in range(4000):
        path = folder / str(number // 100) / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}" * (number % 50))
    releases.stage(folder, "1", how=how)
    (folder / "0" / "1.txt").write_text("changed")
    second = releases.stage(folder, "2", how=how)
    assert picture(Path(releases.root) / "releases" / "2") == picture(folder)
    assert second.sent < 20_000  # of the 365 kB that there are


@HOWS
def test_over_ssh(loopback: Loopback, source: Path, tmp_path: Path, how: How) -> None:
    """The same, with a real sshd between."""
    with over_ssh(loopback, tmp_path) as host:
        releases = Releases(host, tmp_path / "shop")
        releases.stage(source, "1", how=how)
        assert releases.activate("1") is None
        assert picture(tmp_path / "shop" / "current" / ".") == picture(source)
