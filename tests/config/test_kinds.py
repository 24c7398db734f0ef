"""What a setting's text may say: each kind reads its own writing, and refuses the rest."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.config import kinds
from sitebus.config.kinds import BadValue, Choice, Context, FilePath, Integer

HERE = Context(Path("/site"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 10.0),
        ("10s", 10.0),
        ("1.5 s", 1.5),
        ("500ms", 0.5),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1D", 86400.0),
        ("0", 0.0),
    ],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    """Nobody should have to know in which unit a library counts."""
    assert kinds.DURATION.parse(text, HERE) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("64KB", 65536),
        ("64 kb", 65536),
        ("1.5M", 1572864),
        ("2GB", 2 << 30),
    ],
)
def test_a_size_is_bytes(text: str, size: int) -> None:
    """A kilobyte is 1024 bytes wherever it is written."""
    assert kinds.SIZE.parse(text, HERE) == size


@pytest.mark.parametrize(
    ("kind", "texts", "expected"),
    [
        (
            kinds.DURATION,
            ["", "soon", "-1s", "1e9", "nan", "inf", "5 weeks", "1h30m", "٣s", "25h"],
            "5m",
        ),
        (kinds.SIZE, ["", "-1", "big", "1XB", "0x10", "100 MB ; about right"], "64KB"),
        (kinds.BOOLEAN, ["", "maybe", "2", "y e s"], "yes or no"),
        (Integer(1, 9), ["", "0", "10", "1.0", "1_0", "٣", "9" * 5000], "from 1 to 9"),
        (Choice("red", "green", "blue"), ["", "pink"], "red, green or blue"),
        (kinds.TEXT, [""], "not empty"),
        (kinds.PATH, ["", "a\0b"], "a path"),
        (kinds.DESTINATION, [""], "off"),
        (kinds.REFERENCE, ["", "a b", "a:", ":a", "a..b", "1a", "a:b c"], "module:attribute"),
        (kinds.NAME, ["", "a b", "a,b", "a]"], "without spaces"),
        (kinds.ADDRESSES, ["", "127.0.0.1:99999", "unix:", "not an address"], "write"),
        (kinds.NETWORKS, ["localhost", "10.0.0.1/8", "10.0.0.0/33", "::/0x", "**"], "write"),
        (kinds.BINDS, ["127.0.0.1:99999", "all, 127.0.0.1:80", "yes"], "as it is in bind, or all"),
    ],
)
def test_a_wrong_text_is_told_what_would_be_right(
    kind: kinds.Kind[object], texts: list[str], expected: str
) -> None:
    """The message is the only documentation that is read at that moment."""
    for text in texts:
        with pytest.raises(BadValue) as caught:
            kind.parse(text, HERE)
        assert expected in str(caught.value) or "expected" in str(caught.value)


@given(st.floats(0.001, 86400))
def test_a_duration_is_read_as_it_was_written(value: float) -> None:
    """``--print-config`` must not show what the site does not do."""
    text = kinds.DURATION.format(value)
    assert math.isclose(kinds.DURATION.parse(text, HERE), value, rel_tol=1e-4) or "e" in text


@given(st.integers(0, 1 << 50))
def test_a_size_is_read_as_it_was_written(value: int) -> None:
    """A size is exact: it is a limit."""
    assert kinds.SIZE.parse(kinds.SIZE.format(value), HERE) == value


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(30.0, "30s"), (0.5, "500ms"), (300.0, "5m"), (90.0, "90s"), (3600.0, "1h"), (0.0, "0s")],
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    """People read 5m faster than 300s."""
    assert kinds.DURATION.format(seconds) == text


def test_paths_are_relative_to_the_file_that_names_them() -> None:
    """A site must start from any directory."""
    assert kinds.PATH.parse("run/shop.pid", HERE) == Path("/site/run/shop.pid")
    assert kinds.PATH.parse("/run/shop.pid", HERE) == Path("/run/shop.pid")
    assert kinds.DESTINATION.parse("log", HERE) == "/site/log"
    assert kinds.DESTINATION.parse("-", HERE) == "-"
    assert kinds.GLOBS.parse("a/*.ini", HERE) == ("/site/a/*.ini",)
    assert str(kinds.ADDRESSES.parse("unix:s.sock", HERE)[0]) == "unix:/site/s.sock"


def test_a_file_that_has_to_be_there_is_looked_for(tmp_path: Path) -> None:
    """A certificate's misspelled path belongs to the list of all mistakes."""
    (tmp_path / "here").touch()
    context = Context(tmp_path)
    assert FilePath("file").parse("here", context) == tmp_path / "here"
    with pytest.raises(BadValue, match="there is no file"):
        FilePath("file").parse("gone", context)
    with pytest.raises(BadValue, match="is not a file"):
        FilePath("file").parse(".", context)
    with pytest.raises(BadValue, match="is not a directory"):
        FilePath("directory").parse("here", context)
    with pytest.raises(BadValue, match="cannot look at"):
        FilePath("file").parse("x" * 5000, context)


def test_lists_are_separated_by_commas_spaces_or_lines() -> None:
    """Each of the three is what somebody is used to."""
    assert kinds.NAMES.parse("a, b c\nd", HERE) == ("a", "b", "c", "d")
    assert kinds.NAMES.parse("", HERE) == ()
    assert kinds.NAMES.format(("a", "b")) == "a, b"


@pytest.mark.parametrize(
    "text", ["app", "shop.wsgi:application", "wsgi.py:app", "/srv/my site.py:app", "a:b.c"]
)
def test_a_reference_is_a_module_or_a_file(text: str) -> None:
    """Whether it can be imported is found out later, by importing it."""
    assert kinds.REFERENCE.parse(text, HERE) == text


def test_networks_are_brought_into_one_form() -> None:
    """Two ways to write a network must not look like two networks."""
    read = kinds.NETWORKS.parse("10.0.0.0/255.0.0.0, ::1/128 ::FFFF:192.0.2.0/120 UNIX *", HERE)
    assert read == ("10.0.0.0/8", "::1", "192.0.2.0/24", "unix", "*")
    assert kinds.NETWORKS.parse(kinds.NETWORKS.format(read), HERE) == read
    assert kinds.NETWORKS.parse("", HERE) == ()


def test_a_network_with_too_long_an_address_is_told_its_own() -> None:
    """Whether the address or the length was the slip, nobody can guess."""
    with pytest.raises(BadValue, match=r"write 10\.0\.0\.0/8"):
        kinds.NETWORKS.parse("10.1.2.3/8", HERE)


def test_binds_are_some_of_them_or_all() -> None:
    """They are compared with those of ``bind``, so they are read alike."""
    some = kinds.BINDS.parse("8080, unix:s.sock", HERE)
    assert some == kinds.ADDRESSES.parse("127.0.0.1:8080 unix:s.sock", HERE)
    assert kinds.BINDS.parse(kinds.BINDS.format(some), HERE) == some
    assert kinds.BINDS.parse("All", HERE) == "all"
    assert kinds.BINDS.format("all") == "all"
    assert kinds.BINDS.parse("", HERE) == ()
