"""Which files a site is made of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import types
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sitebus.reload import modules, opened
from sitebus.reload.globs import Glob, Ignored
from sitebus.reload.opened import OPENED
from sitebus.reload.sources import Sources
from tests.helpers import environment
from tests.reload.watching import importable


def test_the_sites_own_modules_are_watched_by_default(tmp_path: Path) -> None:
    """The standard library and installed packages change by an upgrade, not by an edit."""
    (tmp_path / "own1.py").write_text("")
    with importable(tmp_path, "own1"):
        files = modules.imported().files
    assert str(tmp_path / "own1.py") in files
    assert not [each for each in files if "site-packages" in each]
    assert os.__file__ not in files


def test_a_match_of_ones_own_decides_alone() -> None:
    """As in wspbus, where it is the only choice there is."""
    assert modules.imported(r"json(\.|$)").files >= {sys.modules["json"].__file__}
    assert os.__file__ not in modules.imported(r"^(?!os$).+").files


def test_odd_modules_do_no_harm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Anything may be in sys.modules, and asking it may do anything."""

    class Lazy(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise ImportError(f"asked for {name}")

    class Slots:
        __slots__ = ()

    odd: dict[str, object] = {
        "odd_none": None,
        "odd_lazy": Lazy("odd_lazy"),
        "odd_slots": Slots(),
        "odd_number": 3,
        "odd_file_none": types.ModuleType("x"),
        "odd_string": types.ModuleType("y"),
        "odd_gone": types.ModuleType("z"),
        "odd_path": types.ModuleType("p"),
    }
    vars(odd["odd_file_none"])["__file__"] = None
    vars(odd["odd_string"])["__file__"] = "<string>"
    vars(odd["odd_gone"])["__file__"] = str(tmp_path / "gone.py")
    vars(odd["odd_path"])["__path__"] = 3
    for name, module in odd.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert modules.imported("odd_").files == {str(tmp_path / "gone.py")}


def test_an_extension_module_is_watched_as_its_library() -> None:
    """A rebuilt extension is new code."""
    import _json

    path = getattr(_json, "__file__", None)
    if path is None:
        pytest.skip("built in")
    assert modules.imported("_json").files == {path}


def test_bytecode_without_a_source_is_watched_itself(tmp_path: Path) -> None:
    """Sites are sometimes delivered without their sources."""
    import py_compile

    source = tmp_path / "lone1.py"
    source.write_text("X = 1\n")
    py_compile.compile(str(source), cfile=str(tmp_path / "lone1.pyc"))
    source.unlink()
    with importable(tmp_path, "lone1"):
        assert modules.imported("lone1").files == {str(tmp_path / "lone1.pyc")}


@pytest.mark.parametrize(
    ("compiled", "source"),
    [
        ("__pycache__/m.cpython-311.pyc", "m.py"),
        ("__pycache__/m.cpython-311.opt-2.pyc", "m.py"),
        ("__pycache__/page.html.cpython-313.pyc", "page.html.py"),
        ("m.pyc", "m.py"),
        ("m.py", "m.py"),
    ],
)
def test_bytecode_stands_for_its_source(tmp_path: Path, compiled: str, source: str) -> None:
    """What is opened at an import is mostly the bytecode."""
    (tmp_path / source).write_text("")
    assert modules.source(str(tmp_path / compiled)) == str(tmp_path / source)


WATCHED = """
import importlib, os, sys
from sitebus.reload.opened import OPENED
from sitebus.reload.sources import Sources
OPENED.start()
for path in sys.argv[1:]:
    open(path).close()
found = Sources(set, lambda: "nothing").find().files
print(*sorted(os.path.relpath(each) for each in found), sep="\\n")
"""


def watched_of(folder: Path, *paths: str | Path) -> set[str]:
    """Open *paths* in a program that is started in *folder*."""
    run = subprocess.run(
        [sys.executable, "-c", WATCHED, *paths],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return set(run.stdout.split())


def test_what_the_site_opens_is_watched_if_it_is_its_own(tmp_path: Path) -> None:
    """Not the caches of tools, not hidden files, not what is installed, not other people's."""
    project, other = tmp_path / "project", tmp_path / "other"
    own = ["page.html", "t/a.jinja2", "t/b.mako", "settings.toml", "static/site.css", ".env"]
    foreign = [
        "data.csv",
        "page.html~",
        ".git/x.html",
        "venv/lib/site-packages/p/x.html",
        "node_modules/x.html",
        "__pycache__/x.html",
    ]
    for path in [*(project / each for each in own + foreign), other / "page.html"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert watched_of(project, *own, *foreign, other / "page.html") == set(own)
    # However it is named.
    assert watched_of(project, *(project / each for each in own)) == set(own)


def test_temporary_files_are_nobodys() -> None:
    """A site that is started in the root of the machine opens them, too."""
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".html") as file:
        assert watched_of(Path("/"), file.name) == set()


def test_configuration_counts_until_the_site_is_up(tmp_path: Path) -> None:
    """What is opened later is the application's data."""
    found = Sources(set, lambda: "nothing")
    found._roots = frozenset({str(tmp_path)})
    OPENED.start()
    try:
        early, late = tmp_path / "early.ini", tmp_path / "late.ini"
        for path in (early, late):
            path.write_text("")
        early.read_text()
        found.ready = OPENED.times[str(early)]
        OPENED.times[str(late)] = found.ready + 1
        assert set(found._opened()) == {str(early)}
    finally:
        OPENED.stop()


def test_only_reading_is_noted(tmp_path: Path) -> None:
    """What a site writes is its output."""
    OPENED.start()
    try:
        path = tmp_path / "page.html"
        path.write_text("x")
        assert str(path) not in OPENED.times
        fd = os.open(path, os.O_RDONLY)
        os.close(fd)
        assert str(path) in OPENED.times
    finally:
        OPENED.stop()


def test_there_is_an_end_to_noting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site may make a million pages."""
    OPENED.start()
    try:
        monkeypatch.setattr(opened, "MOST_NOTED", len(OPENED.times) + 1)
        for name in ("a.html", "b.html"):
            (tmp_path / name).write_text("")
            (tmp_path / name).read_text()
        assert str(tmp_path / "a.html") in OPENED.times
        assert str(tmp_path / "b.html") not in OPENED.times
    finally:
        OPENED.stop()


def test_pictures_leave_room_for_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template may be opened for the first time after a thousand visitors."""
    OPENED.start()
    try:
        monkeypatch.setattr(opened, "MOST_STATIC", len(OPENED.times))
        for name in ("a.png", "b.html"):
            (tmp_path / name).write_text("")
            (tmp_path / name).read_text()
        assert str(tmp_path / "a.png") not in OPENED.times
        assert str(tmp_path / "b.html") in OPENED.times
    finally:
        OPENED.stop()


def test_an_import_that_fails_every_time_is_no_news() -> None:
    """Some libraries try one at every request, and to find the sources again costs something."""
    OPENED.start()
    try:
        found = Sources(set)
        found.find()
        with suppress(ImportError):
            exec("import nothing_of_this_name", {})
        assert not found.stale
    finally:
        OPENED.stop()


def test_the_hook_never_gets_in_the_way(tmp_path: Path) -> None:
    """It runs inside everybody's open, whatever that is given."""
    OPENED.start()
    try:
        path = tmp_path / "x.html"
        path.write_bytes(b"1")
        fd = os.open(os.fsencode(path), os.O_RDONLY)
        with open(fd, "rb") as file:
            assert file.read() == b"1"
        sys.audit("open")
        sys.audit("open", None, None, None)
        sys.audit("open", "x.html", "r", "flags")
    finally:
        OPENED.stop()


def test_nothing_is_noted_while_nobody_wants_it(tmp_path: Path) -> None:
    """A hook stays for the life of the process."""
    OPENED.start()
    OPENED.stop()
    path = tmp_path / "page.html"
    path.write_text("")
    path.read_text()
    assert not OPENED.wanted
    assert not OPENED.times


def test_a_development_install_is_the_sites_own(tmp_path: Path) -> None:
    """It is edited like the site."""
    own = tmp_path / "src" / "lib1.py"
    own.parent.mkdir()
    own.write_text("")
    with importable(own.parent, "lib1"):
        assert str(own) in modules.imported().files
    assert not modules.is_library(str(own.parent))


PATTERNS = [
    ("*.html", "a.html", True),
    ("*.html", "t/a.html", False),
    ("t/**/*.html", "t/a.html", True),
    ("t/**/*.html", "t/x/y/a.html", True),
    ("t/**/*.html", "u/a.html", False),
    ("t/**", "t/x/y", True),
    ("t/?.html", "t/a.html", True),
    ("t/[ab].html", "t/b.html", True),
    ("t/[!ab].html", "t/b.html", False),
    ("t/[!ab].html", "t/c.html", True),
    ("t/a+b.html", "t/a+b.html", True),
]


@pytest.mark.parametrize(("pattern", "path", "matches"), PATTERNS)
def test_patterns_mean_what_they_do_elsewhere(pattern: str, path: str, matches: bool) -> None:
    """As in a shell, with ``**`` for any number of directories."""
    assert Glob.of(pattern, "/site").matches(f"/site/{path}") is matches


@given(st.text(alphabet="ab*?[]!./\\^-", max_size=12))
@example("[?--]")
@example("[a---b]")
def test_any_text_is_a_pattern(text: str) -> None:
    """A strange one matches little, but it is no error."""
    glob = Glob.of(text, "/site")
    assert isinstance(glob.matches("/site/a.html"), bool)
    assert isinstance("/site/a.html" in Ignored([text], "/site"), bool)


@given(st.lists(st.sampled_from(["a", "b", "x.html"]), min_size=1, max_size=4))
def test_a_plain_path_matches_itself_and_nothing_else(parts: list[str]) -> None:
    path = "/".join(parts)
    glob = Glob.of(path, "/nowhere")
    assert glob.matches(f"/nowhere/{path}")
    assert not glob.matches(f"/nowhere/{path}x")


def test_a_directory_stands_for_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "t" / "x").mkdir(parents=True)
    for name in ("a.html", "x/b.html"):
        (tmp_path / "t" / name).write_text("")
    files, folders = Glob.of("t", str(tmp_path)).walk()
    assert {os.path.relpath(each, tmp_path) for each in files} == {"t/a.html", "t/x/b.html"}
    assert len(folders) == 2


def test_the_start_of_the_process_is_known() -> None:
    """Files that were loaded before anybody watched were loaded after it."""
    script = (
        "import time; from sitebus.reload.sources import started\n"
        "found = started(); assert found <= time.time_ns(); print(found)"
    )
    before = time.time_ns()
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, check=True
    )
    after = time.time_ns()
    # The system counts in hundredths of a second.
    assert before - 50_000_000 < int(run.stdout) < after
    assert re.fullmatch(rb"\d+\s*", run.stdout)
