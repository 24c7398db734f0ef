"""Applications that PasteDeploy loads, as targets of a mount."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitebus.errors import AppFileNotFound, AppImportError, BadPasteFile, BadReference
from sitebus.targets import examine
from tests.wsgi_helpers import environ_of

INI = """\
[DEFAULT]
who = everybody

[app:main]
use = egg:shop
greeting = good %(hour)s
greeted = %(who)s

[app:plain]
use = call:shop:make

[filter:loud]
use = egg:shop#loud
mark = %(how_loud)s

[pipeline:shouted]
pipeline = loud plain

[filter-app:asked]
use = egg:shop#loud
mark = ?
next = plain

[composite:both]
use = egg:sitebus#site
/ = plain
/shout = shouted
wiki.example.org/ = asked

[app:broken]
use = egg:shop#broken

[app:missing]
use = egg:gone

[app:nameless]
use = egg:shop#nothing
"""


@pytest.fixture(autouse=True)
def installed(directory: Path, own_egg: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the eggs found, and forget the modules afterwards."""
    for each in (directory, own_egg):
        monkeypatch.syspath_prepend(str(each))
    (directory / "development.ini").write_text(INI)
    yield
    sys.modules.pop("shop", None)


def ask(directory: Path, reference: str, path: str = "/", host: str = "", **variables: str) -> str:
    """Answer what an application says."""
    text = f"paste:development.ini{reference}"
    given = {"hour": "day", "how_loud": "!", **variables}
    target = examine(text, directory=directory, variables=given)
    assert target.detected.interface == "wsgi"
    environ = environ_of(path)
    if host:
        environ["HTTP_HOST"] = host
    said = target.app(environ, lambda status, headers, trouble=None: None)
    return b"".join(said).decode()


def test_what_is_not_said_is_main(directory: Path) -> None:
    """As for pserve."""
    assert ask(directory, "") == "good day greeted=everybody |/"


def test_values_are_given_to_the_file(directory: Path) -> None:
    """Those of the reference are for it alone."""
    assert ask(directory, "#main", hour="night") == "good night greeted=everybody |/"
    assert ask(directory, "?hour=old%20times#main").startswith("good old times")


@pytest.mark.parametrize(
    ("name", "says"), [("plain", "hello |/"), ("shouted", "HELLO |/!"), ("asked", "HELLO |/?")]
)
def test_pipelines_and_filters_are_paste_s_own(directory: Path, name: str, says: str) -> None:
    """However it is put together, it is one application."""
    assert ask(directory, f"#{name}") == says


def test_a_composite_may_be_a_site(directory: Path) -> None:
    """The longest prefix wins, and hosts have tables of their own."""
    assert ask(directory, "#both", "/page") == "hello |/page"
    assert ask(directory, "#both", "/shout/page") == "HELLO /SHOUT|/PAGE!"
    assert ask(directory, "#both", "/shout", host="wiki.example.org") == "HELLO |/SHOUT?"


@pytest.mark.parametrize(
    ("reference", "kind", "says"),
    [
        ("#missing", BadPasteFile, "gone is not installed, and the file has egg:gone"),
        ("#nameless", BadPasteFile, "Entry point 'nothing' not found in egg 'shop'"),
        ("#absent", BadPasteFile, "No section 'absent'"),
        ("#broken", AppImportError, "no database"),
    ],
)
def test_whose_fault_it_is(
    directory: Path, reference: str, kind: type[Exception], says: str
) -> None:
    """An application's own failure has a traceback, a slip in the file has none."""
    with pytest.raises(kind) as caught:
        ask(directory, reference)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failure_s_traceback_begins_with_the_application(directory: Path) -> None:
    """What is above is nobody's business who has to mend it."""
    with pytest.raises(AppImportError) as caught:
        ask(directory, "#broken")
    assert "shop.py" in caught.value.traceback_text
    assert "targets.py" not in caught.value.traceback_text


def test_a_file_has_to_be_there(directory: Path) -> None:
    """And to be named."""
    with pytest.raises(AppFileNotFound, match="there is no file"):
        examine("paste:gone.ini", directory=directory)
    with pytest.raises(BadReference, match="name a file"):
        examine("paste:", directory=directory)
