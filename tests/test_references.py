"""Loading what a text names, and saying whose fault it is when that fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitebus.errors import (
    AppFileNotFound,
    AppImportError,
    AppNotFound,
    BadReference,
    NotAnApplication,
    SitebusError,
)
from sitebus.references import call, load


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package to load from; forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    package = tmp_path / "zshop"
    package.mkdir()
    files = {
        "__init__.py": "def application(environ, start_response): ...\nversion = 1\n",
        "web.py": "class app:\n    class sub:\n        def leaf(environ, start_response): ...\n",
        "other.py": "def applcation(environ, start_response): ...\n",
        "needs.py": "import zshop.web\nimport zmissing_thing\n",
        "inner.py": "import zshop.nothing_here\n",
        "fails.py": "def work():\n    return 1 / 0\n\nwork()\n",
        "leaves.py": "import sys\nsys.exit('no')\n",
        "broken.py": "def app(:\n    pass\n",
        "lazy.py": "def __getattr__(name):\n    raise OSError('no disk')\n",
        "lazier.py": "def __getattr__(name):\n    raise KeyboardInterrupt(name)\n",
        "interrupts.py": "raise KeyboardInterrupt\n",
        "cancels.py": "import asyncio\nraise asyncio.CancelledError('off')\n",
        "quits.py": "class Quit(BaseException): ...\nraise Quit('enough')\n",
    }
    for name, text in files.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def name_of(obj: object) -> str:
    return str(getattr(obj, "__name__", obj))


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("zshop:application", "application"),
        ("zshop", "application"),
        (" zshop ", "application"),
        ("zshop.web", "app"),
        ("zshop.web:app", "app"),
        ("zshop.web:app.sub.leaf", "leaf"),
    ],
)
@pytest.mark.usefixtures("shop")
def test_a_module_and_an_attribute_are_found(reference: str, name: str) -> None:
    """Without an attribute, the usual names are tried."""
    assert name_of(load(reference)) == name


def test_a_file_is_loaded_as_a_module(shop: Path) -> None:
    """The one who has one file should not have to make a package of it."""
    assert name_of(load(f"{shop}/web.py:app")) == "app"
    assert name_of(load(f"{shop}/web.py")) == "app"
    assert load(f"{shop}/web.py:app") is load(f"{shop}/../zshop/web.py:app")


def test_a_file_can_import_its_neighbours(tmp_path: Path, shop: Path) -> None:
    """As it can when it is run as a script."""
    folder = tmp_path / "script"
    folder.mkdir()
    (folder / "zneighbour.py").write_text("def app(environ, start_response): ...\n")
    (folder / "zmain.py").write_text("from zneighbour import app\n")
    assert name_of(load(f"{folder}/zmain.py")) == "app"


def test_two_files_of_one_name_are_two_modules(tmp_path: Path, shop: Path) -> None:
    """Two mounts may each have their app.py; one of the standard library's names is no bar."""
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in ("zsame.py", "queue.py"):
            (folder / name).write_text(f"def app{number}(environ, start_response): ...\n")
    for name in ("zsame.py", "queue.py"):
        for number in (1, 2):
            assert name_of(load(f"{tmp_path}/{number}/{name}:app{number}")) == f"app{number}"
    import queue

    assert hasattr(queue, "Queue")


@pytest.mark.parametrize(
    ("reference", "error", "status", "part"),
    [
        ("", BadReference, 78, "module:attribute"),
        (":app", BadReference, 78, "module:attribute"),
        ("zshop:", BadReference, 78, "nothing follows"),
        ("zshop:1x", BadReference, 78, "'1x'"),
        ("zshop:app()", BadReference, 78, "'app()'"),
        ("zshop..web", BadReference, 78, "not the name of a module"),
        ("./zshop:app", BadReference, 78, "ends in .py"),
        ("zshopp", AppNotFound, 78, "did you mean 'zshop'?"),
        ("zshop.webb:app", AppNotFound, 78, "did you mean 'zshop.web'?"),
        ("zshop.application", AppNotFound, 78, "zshop:application"),
        ("zshop:aplication", AppNotFound, 78, "did you mean 'application'?"),
        ("zshop.web:app.zub", AppNotFound, 78, "did you mean 'sub'?"),
        ("zshop.other", AppNotFound, 78, "did you mean zshop.other:applcation?"),
        ("zshop:version", NotAnApplication, 78, "of type int"),
        ("no/such/file.py:app", AppFileNotFound, 66, "no file"),
        ("zshop.needs", AppImportError, 70, "zmissing_thing"),
        ("zshop.inner", AppImportError, 70, "zshop.nothing_here"),
        ("zshop.fails", AppImportError, 70, "ZeroDivisionError"),
        ("zshop.leaves", AppImportError, 70, "SystemExit: no"),
        ("zshop.broken", AppImportError, 70, "SyntaxError"),
        ("zshop.lazy:app", AppImportError, 70, "no disk"),
        ("zshop.lazier:app", AppImportError, 70, "KeyboardInterrupt: app"),
        ("zshop.interrupts", AppImportError, 70, "with KeyboardInterrupt"),
        ("zshop.cancels", AppImportError, 70, "CancelledError: off"),
        ("zshop.quits", AppImportError, 70, "Quit: enough"),
    ],
)
@pytest.mark.usefixtures("shop")
def test_each_failure_is_one_clear_sentence(
    reference: str, error: type[SitebusError], status: int, part: str
) -> None:
    """What was tried, what is so, what would work; and a status that tells whose fault it is."""
    with pytest.raises(error) as caught:
        load(reference)
    assert type(caught.value) is error
    assert caught.value.status == status
    message = str(caught.value)
    assert part in message
    assert repr(reference) in message or "no such file" in message
    assert "\n" not in message


@pytest.mark.parametrize("how", ["zshop.{}", "{folder}/{}.py"])
def test_the_applications_own_traceback_is_kept(shop: Path, how: str) -> None:
    """Without our frames and importlib's: its author is not looking for a mistake there."""
    with pytest.raises(AppImportError) as caught:
        load(how.format("fails", folder=shop))
    text = caught.value.traceback_text
    assert text.splitlines()[1].endswith("in <module>")
    assert "return 1 / 0" in text
    assert "references.py" not in text
    assert "importlib" not in text

    with pytest.raises(AppImportError) as caught:
        load(how.format("broken", folder=shop))
    assert caught.value.traceback_text.startswith(f'  File "{shop}/broken.py", line 1')


def test_a_file_that_failed_can_be_loaded_once_it_is_mended(shop: Path) -> None:
    """Half a module must not be taken for the whole one."""
    with pytest.raises(AppImportError):
        load(f"{shop}/fails.py:app")
    (shop / "fails.py").write_text("def app(environ, start_response): ...  # mended\n")
    assert name_of(load(f"{shop}/fails.py:app")) == "app"


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, BaseException]
)
def test_a_strangers_call_costs_one_error(error: type[BaseException]) -> None:
    """Whatever it raises; and what is given to it cannot be taken for ours."""

    def fail(*, reference: str, function: str) -> int:
        raise error(reference + function)

    with pytest.raises(AppImportError) as caught:
        call("shop:make", fail, reference="a", function="b")
    assert type(caught.value.error) is error
    assert "'shop:make'" in str(caught.value)
    assert caught.value.traceback_text.splitlines()[1].endswith("in fail")
    assert call("shop:add", max, 1, 2) == 2


def test_a_call_that_does_not_begin_has_no_frames_of_ours() -> None:
    """The mistake is in how it was asked to be called."""
    with pytest.raises(AppImportError) as caught:
        call("shop:make", lambda needed: needed)
    assert "references.py" not in caught.value.traceback_text
    assert "needed" in caught.value.traceback_text


@pytest.mark.usefixtures("shop")
def test_other_default_names_and_no_check() -> None:
    """Plugins and factories are loaded the same way."""
    assert load("zshop", default="version", check=False) == 1
