"""What ``${...}`` stands for."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.config.interpolation import CannotExpand, Expanded, Scope, expand

VARIABLES = {"HOME_TOWN": "Graz", "EMPTY": "", "API_TOKEN": "t0", "DOLLARS": "$$ ${here}"}


def scope(directory: Path = Path("/site"), **more: str) -> Scope:
    variables = VARIABLES | more

    def variable(name: str) -> Expanded | None:
        return Expanded(variables[name]) if name in variables else None

    def lookup(section: str, key: str) -> Expanded:
        if (section, key) == ("mount example.org:8443/x", "app"):
            return Expanded("found")
        raise CannotExpand("no such setting")

    return Scope(directory, variable, lookup)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("100% %(here)s %%", "100% %(here)s %%"),
        ("a$b $ $1 cost$", "a$b $ $1 cost$"),
        ("$$ $${here} $$$$", "$ ${here} $$"),
        ("${here}/x", "/site/x"),
        ("in ${env:HOME_TOWN}!", "in Graz!"),
        ("${env:NOPE:-}", ""),
        ("${env:NOPE:-a:-b}", "a:-b"),
        ("${env:EMPTY}", ""),
        ("${env:EMPTY:-full}", "full"),
        ("${env:NOPE:-${env:ALSO_NOT:-${here}}}", "/site"),
        ("${env:DOLLARS}", "$$ ${here}"),
        ("${mount example.org:8443/x:app}", "found"),
    ],
)
def test_placeholders_are_replaced_and_nothing_else_is(text: str, expanded: str) -> None:
    """A password with a percent sign or a dollar has cost people evenings."""
    assert expand(text, scope()).text == expanded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${here", "without '}'"),
        ("${}", "names nothing"),
        ("${hre}", "did you mean ${here}?"),
        ("${HOME_TOWN}", "did you mean ${env:HOME_TOWN}?"),
        ("${env:NOPE}", "'NOPE' is not set"),
        ("${file:gone}", "cannot read"),
        ("${file:a\0b}", "cannot read"),
        ("${secret:../../etc/passwd}", "not the name of a secret"),
        ("${secret:}", "not the name of a secret"),
        ("${site:nope}", "no such setting"),
        ("${env:N:-" * 20 + "}" * 20, "deep"),
        ("${env:N:-" * 5000, "without '}'"),
    ],
)
def test_a_placeholder_for_nothing_says_so(text: str, message: str) -> None:
    """An empty text instead would be found out in production."""
    with pytest.raises(CannotExpand) as caught:
        expand(text, scope())
    assert message in str(caught.value)


def test_files_and_secrets_lose_the_end_of_their_line_and_are_secret(tmp_path: Path) -> None:
    """Editors end every file with a new line; passwords do not."""
    (tmp_path / "db").write_bytes(b"p$w${here}%\r\n")
    assert expand("${file:db}", scope(tmp_path)) == ("p$w${here}%", True)
    credentials = scope(CREDENTIALS_DIRECTORY=str(tmp_path))
    assert expand("x${secret:db}", credentials) == ("xp$w${here}%", True)
    with pytest.raises(CannotExpand, match=r"looked for .* and /run/secrets/gone"):
        expand("${secret:gone}", credentials)


def test_a_file_that_is_no_small_text_is_refused(tmp_path: Path) -> None:
    """A value is a line or a few, not a photograph."""
    (tmp_path / "photo").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "large").write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(CannotExpand, match="not UTF-8"):
        expand("${file:photo}", scope(tmp_path))
    with pytest.raises(CannotExpand, match="larger than 1MB"):
        expand("${file:large}", scope(tmp_path))


def test_a_value_cannot_grow_without_end() -> None:
    """Ten settings that name each other twice are a thousand times the first."""
    with pytest.raises(CannotExpand, match="grows beyond"):
        expand("${env:BIG}${env:BIG}", scope(BIG="x" * ((1 << 19) + 1)))


@given(st.text(alphabet="${}:-ehrnvA x%", max_size=60))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    """Nothing else may come out of a value."""
    with contextlib.suppress(CannotExpand):
        assert isinstance(expand(text, scope()).text, str)
