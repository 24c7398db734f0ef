"""How editors and tools save files, told by the system and found by looking."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from tests.helpers import wait_for
from tests.reload.watching import WAYS, importable, watching

pytestmark = WAYS


def in_place(path: Path) -> None:
    path.write_text("X = 2222\n")


def same_size(path: Path) -> None:
    path.write_text("X = 2\n")


def renamed_over(path: Path) -> None:
    draft = path.with_name(".views.py.swp")
    draft.write_text("X = 22\n")
    draft.replace(path)


def with_an_older_time(path: Path) -> None:
    draft = path.with_name("copied")
    draft.write_text("X = 22\n")
    os.utime(draft, (1_000_000_000, 1_000_000_000))
    draft.replace(path)


def older_and_of_the_same_size(path: Path) -> None:
    path.write_text("X = 2\n")
    os.utime(path, (1_000_000_000, 1_000_000_000))


def of_the_same_size_and_time(path: Path) -> None:
    saved = path.stat()
    wait_for(lambda: _touched_anew(path, saved.st_ctime_ns))
    os.utime(path, ns=(saved.st_atime_ns, saved.st_mtime_ns))


def _touched_anew(path: Path, before: int) -> bool:
    path.write_text("X = 2\n")
    return path.stat().st_ctime_ns != before


def deleted(path: Path) -> None:
    path.unlink()


def made_anew(path: Path) -> None:
    path.unlink()
    path.write_text("X = 22\n")


def backed_up(path: Path) -> None:
    path.rename(path.with_name("views.py~"))
    path.write_text("X = 22\n")


def truncated(path: Path) -> None:
    os.truncate(path, 2)


def hard_linked(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("X = 22\n")
    path.unlink()
    os.link(other, path)


SAVES = [
    in_place,
    same_size,
    renamed_over,
    with_an_older_time,
    older_and_of_the_same_size,
    of_the_same_size_and_time,
    deleted,
    made_anew,
    backed_up,
    hard_linked,
    truncated,
]


@pytest.mark.parametrize("save", SAVES, ids=lambda save: save.__name__)
def test_a_save_is_noticed(tmp_path: Path, way: str, save: Callable[[Path], None]) -> None:
    """Every editor and tool has a way of its own, and a missed one is a wrong page."""
    path = tmp_path / "views.py"
    path.write_text("X = 1\n")
    with watching([path], way=way) as seen:
        save(path)
        assert seen.names() == ["views.py"]


def test_a_second_atomic_save_is_noticed(tmp_path: Path, way: str) -> None:
    """The first one has replaced the inode that was watched."""
    path = tmp_path / "views.py"
    path.write_text("X = 1\n")
    with watching([path], way=way) as seen:
        for text in ("X = 22\n", "X = 333\n"):
            draft = tmp_path / "draft"
            draft.write_text(text)
            draft.replace(path)
            assert seen.names() == ["views.py"]


def test_a_file_may_stay_open_after_it_was_written(tmp_path: Path, way: str) -> None:
    """Nobody says when it is done; so what is there counts, a little later."""
    path = tmp_path / "views.py"
    path.write_text("X = 1\n")
    with path.open("a") as file, watching([path], way=way) as seen:
        for _ in range(2):
            print("Y = 1", file=file, flush=True)
            assert seen.names() == ["views.py"]


def touch(path: Path) -> None:
    os.utime(path)


def save_the_same(path: Path) -> None:
    path.write_text(path.read_text())


def replace_by_the_same(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


def leave_junk(path: Path) -> None:
    for name in ("4913", ".views.py.swp", "views.py~", "#views.py#", ".#views.py"):
        path.with_name(name).write_text("junk")


@pytest.mark.parametrize(
    "act", [touch, save_the_same, replace_by_the_same, leave_junk], ids=lambda act: act.__name__
)
def test_what_changes_no_content_is_not(
    tmp_path: Path, way: str, act: Callable[[Path], None]
) -> None:
    """A restart for nothing is a stall for nothing."""
    path, marker = tmp_path / "views.py", tmp_path / "marker.py"
    path.write_text("X = 1\n")
    marker.write_text("")
    with watching([path, marker], way=way) as seen:
        act(path)
        marker.write_text("now")
        assert seen.names() == ["marker.py"]


def test_a_burst_is_one_change(tmp_path: Path, way: str) -> None:
    """A checkout writes many files, and the site should not restart in the middle of it."""
    paths = [tmp_path / f"m{number}.py" for number in range(100)]
    for path in paths:
        path.write_text("X = 1\n")
    with watching(paths, way=way, debounce=0.1) as seen:
        for path in paths:
            path.write_text("X = 22\n")
        assert len(seen.names()) == 100
        assert seen.quiet


def test_a_git_checkout_is_one_change(tmp_path: Path, way: str) -> None:
    """There and back again is none."""

    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    paths = [tmp_path / f"m{number}.py" for number in range(20)]
    git("init", "-q", "-b", "main")
    for text, branch in (("X = 1\n", "one"), ("X = 22\n", "two")):
        for path in paths:
            path.write_text(text)
        git("checkout", "-q", "-b", branch)
        git("add", ".")
        git("commit", "-qm", branch)
    with watching(paths, way=way, debounce=0.2) as seen:
        git("checkout", "-q", "one")
        assert len(seen.names()) == 20
        git("checkout", "-q", "two")
        assert len(seen.names()) == 20


def test_many_quick_saves_end_with_the_last(tmp_path: Path, way: str) -> None:
    """Whatever is told in between, the last save is told after it."""
    path = tmp_path / "views.py"
    path.write_text("X = 0\n")
    with watching([path], way=way) as seen:
        for number in range(1, 11):
            path.write_text(f"X = {number}\n")
            seen.next() if number % 3 == 0 else None
        seen.next()
        digest = seen.watcher.snapshot.states[str(path)].digest
    from sitebus.reload.stamps import look

    assert look(str(path)).digest == digest


def test_the_target_of_a_link_is_watched(tmp_path: Path, way: str) -> None:
    """Deployments link to shared files."""
    target = tmp_path / "shared" / "real.py"
    target.parent.mkdir()
    target.write_text("X = 1\n")
    link = tmp_path / "linked.py"
    link.symlink_to(target)
    with watching([link], way=way) as seen:
        target.write_text("X = 22\n")
        assert seen.names() == ["linked.py"]


def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path, way: str) -> None:
    """The link itself is replaced; neither of its targets is touched."""
    for name in "ab":
        (tmp_path / name).write_text(f"X = '{name}'\n")
    link = tmp_path / "current.py"
    link.symlink_to("a")
    with watching([link], way=way) as seen:
        (tmp_path / "next").symlink_to("b")
        (tmp_path / "next").replace(link)
        assert seen.names() == ["current.py"]


def test_a_directory_on_the_way_may_be_a_link(tmp_path: Path, way: str) -> None:
    """`current` pointing to the next release is how many sites are deployed."""
    for name in ("one", "two"):
        folder = tmp_path / "releases" / name / "shop"
        folder.mkdir(parents=True)
        (folder / "views.py").write_text(f"X = {name!r}\n")
        (folder / "same.py").write_text("\n")
    current = tmp_path / "current"
    current.symlink_to("releases/one")
    files = [current / "shop" / name for name in ("views.py", "same.py")]
    with watching(files, way=way) as seen:
        (tmp_path / "next").symlink_to("releases/two")
        (tmp_path / "next").replace(current)
        assert seen.names() == ["views.py"]
        # From now on the new place counts.
        (tmp_path / "releases" / "two" / "shop" / "same.py").write_text("Y = 1\n")
        assert seen.names() == ["same.py"]


def test_a_directory_may_be_replaced(tmp_path: Path, way: str) -> None:
    """The system's watch goes with the old directory."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "views.py").write_text("X = 1\n")
    with watching([folder / "views.py"], way=way) as seen:
        shutil.rmtree(folder)
        assert seen.names() == ["views.py"]
        folder.mkdir()
        (folder / "views.py").write_text("X = 22\n")
        assert seen.names() == ["views.py"]
        (folder / "views.py").write_text("X = 333\n")
        assert seen.names() == ["views.py"]


def test_a_directory_further_up_may_be_replaced(tmp_path: Path, way: str) -> None:
    """A release is moved in place of the one before it."""
    for release, text in (("site", "X = 1\n"), ("new", "X = 22\n")):
        (tmp_path / release / "shop" / "pages").mkdir(parents=True)
        (tmp_path / release / "shop" / "pages" / "views.py").write_text(text)
    path = tmp_path / "site" / "shop" / "pages" / "views.py"
    with watching([path], way=way) as seen:
        (tmp_path / "site").rename(tmp_path / "old")
        (tmp_path / "new").rename(tmp_path / "site")
        assert seen.names() == ["views.py"]
        path.write_text("X = 333\n")
        assert seen.names() == ["views.py"]


def test_pipes_and_directories_are_no_files(tmp_path: Path, way: str) -> None:
    """To read a pipe is to wait for its writer, and a directory changes with what is in it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".env").mkdir()
    (tmp_path / "views.py").write_text("X = 1\n")
    named = [tmp_path / "pipe", tmp_path / "views.py"]
    with watching(named, watch=[str(tmp_path / "*")], way=way) as seen:
        (tmp_path / ".env" / "draft.swp").write_text("")
        (tmp_path / "views.py").write_text("X = 22\n")
        assert seen.names() == ["views.py"]


def test_a_file_that_is_not_there_yet_is_awaited(tmp_path: Path, way: str) -> None:
    """An optional settings file that somebody named."""
    path = tmp_path / "later" / "local.ini"
    with watching([path], way=way) as seen:
        path.parent.mkdir()
        path.write_text("a = 1")
        assert seen.names() == ["local.ini"]


def test_a_new_module_in_a_package_is_a_change(tmp_path: Path, way: str) -> None:
    """Packages look for plugins in themselves; editors' drafts are none."""
    package = tmp_path / "shop1"
    package.mkdir()
    (package / "__init__.py").write_text("")
    with (
        importable(tmp_path, "shop1"),
        watching(way=way, match="shop1") as seen,
    ):
        for junk in (".#draft.py", "draft.py~", "4913", "notes.txt", "a-b.py"):
            (package / junk).write_text("")
        (package / "plugin.py").write_text("")
        assert seen.names() == ["plugin.py"]


@pytest.mark.parametrize("failing", [False, True])
def test_a_new_package_is_one(tmp_path: Path, way: str, failing: bool) -> None:
    """It may be what was missing: in a package, or beside it if there was a failure."""
    package = tmp_path / "shop_with_parts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    with (
        importable(tmp_path, package.name),
        watching(match=package.name, way=way, failing=failing) as seen,
    ):
        parent = tmp_path if failing else package
        (parent / "parts" / "small").mkdir(parents=True)
        (parent / "parts" / "small" / "__pycache__").mkdir()
        (parent / "parts" / "small" / "#screws.py").write_text("")
        (parent / "parts" / "small" / "screws.py").write_text("")
        assert seen.names() == ["screws.py"]
        (parent / "parts" / f"fast{EXTENSION_SUFFIXES[0]}").write_text("")
        assert seen.names() == [f"fast{EXTENSION_SUFFIXES[0]}"]


def test_a_new_module_in_a_namespace_package_is_one_too(tmp_path: Path, way: str) -> None:
    """It has no file of its own, only directories."""
    (tmp_path / "space1").mkdir()
    with (
        importable(tmp_path, "space1"),
        watching(way=way, match="space1") as seen,
    ):
        (tmp_path / "space1" / "module.py").write_text("")
        assert seen.names() == ["module.py"]


def test_what_the_site_made_and_read_itself_is_no_change(tmp_path: Path, way: str) -> None:
    """A site that generates modules must not restart for them, for ever."""
    (tmp_path / "shop2").mkdir()
    (tmp_path / "shop2" / "__init__.py").write_text("")
    marker = tmp_path / "marker.py"
    marker.write_text("")
    with (
        importable(tmp_path, "shop2"),
        watching([marker], way=way, match="shop2", debounce=0.1) as seen,
    ):
        (tmp_path / "shop2" / "made.py").write_text("X = 1\n")
        with importable(tmp_path, "shop2.made"):
            marker.write_text("now")
            assert seen.names() == ["marker.py"]


def test_a_module_imported_later_is_watched(tmp_path: Path, way: str) -> None:
    """Views are often imported by the first request."""
    (tmp_path / "lazy1.py").write_text("X = 1\n")
    with watching(way=way, match="lazy1") as seen, importable(tmp_path, "lazy1"):
        path = str(tmp_path / "lazy1.py")
        wait_for(lambda: path in seen.watcher.snapshot.states)
        (tmp_path / "lazy1.py").write_text("X = 22\n")
        assert seen.names() == ["lazy1.py"]


def test_an_edit_right_after_the_import_is_not_lost(tmp_path: Path, way: str) -> None:
    """What counts is what was loaded, not what was there when somebody first looked."""
    path = tmp_path / "lazy2.py"
    path.write_text("X = 1\n")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    with watching(way=way, match="lazy2") as seen, importable(tmp_path, "lazy2"):
        # Even if it happens before the watcher has ever seen the file.
        wait_for(lambda: _later_tick(path))
        assert seen.names() == ["lazy2.py"]


def _later_tick(path: Path) -> bool:
    """Save in another tick of the file system's clock than the import."""
    from sitebus.reload.opened import OPENED

    first = OPENED.times.get(str(path), 1 << 62)
    path.write_text("X = 22\n")
    return path.stat().st_ctime_ns > first


def test_a_file_never_imported_is_left_alone(tmp_path: Path, way: str) -> None:
    """Notes, scripts and tests lie beside a site's modules."""
    (tmp_path / "shop3").mkdir()
    for name in ("__init__.py", "unused.py"):
        (tmp_path / "shop3" / name).write_text("")
    marker = tmp_path / "marker.py"
    marker.write_text("")
    with (
        importable(tmp_path, "shop3"),
        watching([marker], way=way, match="shop3", debounce=0.1) as seen,
    ):
        (tmp_path / "shop3" / "unused.py").write_text("X = 1\n")
        marker.write_text("now")
        assert seen.names() == ["marker.py"]


def test_patterns_find_what_appears_later(tmp_path: Path, way: str) -> None:
    """In directories that appear later, too."""
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "page.html").write_text("1")
    with watching(way=way, watch=[f"{folder}/**/*.html"]) as seen:
        (folder / "page.html").write_text("22")
        assert seen.names() == ["page.html"]
        (folder / "new.html").write_text("1")
        assert seen.names() == ["new.html"]
        (folder / "mail").mkdir()
        (folder / "mail" / "body.html").write_text("1")
        assert seen.names() == ["body.html"]
        (folder / "mail" / "body.txt").write_text("1")
        (folder / "mail" / "body.html").write_text("22")
        assert seen.names() == ["body.html"]


def at_once(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("1")


def moved_in(path: Path) -> None:
    top = next(each for each in reversed(path.parents) if not each.exists())
    draft = top.with_name("draft")
    at_once(draft / path.relative_to(top))
    draft.rename(top)


def linked_in(path: Path) -> None:
    top = next(each for each in reversed(path.parents) if not each.exists())
    draft = top.with_name("draft")
    at_once(draft / path.relative_to(top))
    top.symlink_to("draft")


PATTERNS = [
    *("later/*.txt", "later/pages/*.txt", "later/a/b/c/*.txt", "later/**/*.txt"),
    *("later/pages", "later/a/b", "later", "later/pages/x.txt", "later/*/x.txt"),
    *("later/[p]ages/*.txt", "late?/pages/*.txt"),
]


@pytest.mark.parametrize(
    ("pattern", "come"),
    [
        pytest.param(pattern, come, id=f"{pattern}-{come.__name__}")
        for pattern in PATTERNS
        for come in (at_once, moved_in, linked_in)
        # Patterns do not follow links, which may lead in circles.
        if come is not linked_in or "?" not in pattern
    ],
)
def test_a_pattern_may_begin_where_nothing_is_yet(
    tmp_path: Path, way: str, pattern: str, come: Callable[[Path], None]
) -> None:
    """Whoever names what is generated has not always generated it."""
    inside = {"later": "", "later/*.txt": "", "later/a/b/c/*.txt": "a/b/c", "later/a/b": "a/b"}
    path = tmp_path / "later" / inside.get(pattern, "pages") / "x.txt"
    with watching(way=way, watch=[f"{tmp_path}/{pattern}"]) as seen:
        come(path)
        assert seen.names() == ["x.txt"]
        path.write_text("22")
        assert seen.names() == ["x.txt"]
        path.with_name("y.txt").write_text("1")
        if not pattern.endswith("x.txt"):
            assert seen.names() == ["y.txt"]


def test_what_a_pattern_named_may_go_and_come_again(tmp_path: Path, way: str) -> None:
    """A generator begins by removing what it made the last time."""
    path = tmp_path / "made" / "pages" / "x.txt"
    with watching(way=way, watch=[f"{path.parent}/*.txt"], debounce=0.01) as seen:
        for _ in range(10):
            at_once(path)
            assert seen.names() == ["x.txt"]
            shutil.rmtree(tmp_path / "made")
            assert seen.names() == ["x.txt"]


def test_a_named_directory_may_come_later(tmp_path: Path, way: str) -> None:
    """Until then it might have been a file."""
    path = tmp_path / "later" / "data" / "x.txt"
    with watching([path.parent], way=way) as seen:
        at_once(path)
        assert seen.names() == ["x.txt"]


def test_what_is_ignored_may_come_later(tmp_path: Path, way: str) -> None:
    """A cache is a directory to be made by the site."""
    ignore = [f"{tmp_path}/data/cache"]
    with watching(way=way, watch=[f"{tmp_path}/data"], ignore=ignore, debounce=0.1) as seen:
        at_once(tmp_path / "data" / "cache" / "x.txt")
        at_once(tmp_path / "data" / "y.txt")
        assert seen.names() == ["y.txt"]


def test_two_patterns_may_name_one_directory(tmp_path: Path, way: str) -> None:
    """So may a pattern and a package, or one and the templates that were opened."""
    patterns = [f"{tmp_path}/*.{kind}" for kind in ("txt", "json")]
    with watching(way=way, watch=patterns) as seen:
        for name in ("a.txt", "b.json"):
            (tmp_path / name).write_text("1")
            assert seen.names() == [name]


def test_what_is_ignored_is_left_alone(tmp_path: Path, way: str) -> None:
    """By name, or by path."""
    paths = [tmp_path / name for name in ("a.py", "b.gen.py", "made/c.py")]
    (tmp_path / "made").mkdir()
    for path in paths:
        path.write_text("")
    ignore = ["*.gen.py", f"{tmp_path}/made/*"]
    with watching(paths, way=way, ignore=ignore, debounce=0.1) as seen:
        for path in reversed(paths):
            path.write_text("X = 1\n")
        assert seen.names() == ["a.py"]


def test_an_archive_is_watched_as_one_file(tmp_path: Path, way: str) -> None:
    """Modules may come from a zip file."""
    import zipfile

    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zipped1.py", "X = 1\n")
    with importable(path, "zipped1"), watching(way=way, match="zipped1") as seen:
        assert seen.watcher.subject.files == {str(path)}
        with zipfile.ZipFile(tmp_path / "next", "w") as archive:
            archive.writestr("zipped1.py", "X = 22\n")
        (tmp_path / "next").replace(path)
        assert seen.names() == ["packed.zip"]
