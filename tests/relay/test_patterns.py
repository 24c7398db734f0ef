"""Which channels patterns mean."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.relay.patterns import NONE, Patterns

TEXTS = st.text("ab.*", max_size=8)


@pytest.mark.parametrize(
    ("pattern", "channel", "is_meant"),
    [
        ("cache.*", "cache.invalidate", True),
        ("cache.*", "cache.", True),
        ("cache.*", "cache", False),
        ("cache.*", "cache.a.b", True),
        ("*", "anything", True),
        ("*.gone", "worker.gone", True),
        ("a*c", "abc", True),
        ("a*c", "abcd", False),
        ("cache.x", "cache.x", True),
        ("cache.x", "cacheax", False),
        ("[ab]", "a", False),
        ("a?", "ab", False),
    ],
)
def test_a_star_is_the_only_magic(pattern: str, channel: str, is_meant: bool) -> None:
    """Channels may have dots, brackets and question marks in their names."""
    assert (channel in Patterns([pattern])) is is_meant


@given(st.lists(TEXTS, max_size=4), st.text("ab.", max_size=8))
def test_they_mean_what_shells_mean(patterns: list[str], channel: str) -> None:
    """With stars alone, `fnmatch` is an independent opinion."""
    expected = any(fnmatch.fnmatchcase(channel, each) for each in patterns)
    both = Patterns(patterns)
    assert [channel in both, channel in both] == [expected, expected]


def test_one_text_is_not_taken_for_many() -> None:
    """Else ``cache`` would want the channels c, a, h and e."""
    with pytest.raises(TypeError, match=r"write \('cache',\)"):
        Patterns("cache")


def test_they_are_sets() -> None:
    """What is wanted is added to, and taken from."""
    some = Patterns(["a", "b*"])
    assert some | ["c"] == Patterns(["a", "b*", "c"])
    assert list(some - ["b*", "z"]) == ["a"]
    assert some & ["b*"] == Patterns(["b*"])
    assert hash(some) == hash(Patterns(["b*", "a"]))
    assert len(some) == 2
    assert 5 not in some
    assert len(NONE) == 0


def test_a_hostile_pattern_takes_no_time() -> None:
    """A peer sends its patterns, and the thread that matches them serves everybody."""
    patterns = Patterns(["*a" * 100 + "b"])
    start = time.process_time()
    assert "a" * 250 not in patterns
    assert time.process_time() - start < 0.1


def test_what_was_asked_before_is_not_remembered_for_ever() -> None:
    """Names of channels may be made up, one for each job say."""
    patterns = Patterns(["a*"])
    for number in range(20_000):
        assert f"a{number}" in patterns
    assert len(patterns._answers) <= 4096
