"""What stands in a ``[mount ...]`` heading."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.config import parse_place
from sitebus.mounts.routing import Place


@pytest.mark.parametrize(
    ("text", "host", "port", "prefix"),
    [
        ("/", None, None, ""),
        ("/wiki", None, None, "/wiki"),
        ("/wiki/", None, None, "/wiki"),
        ("/a/b", None, None, "/a/b"),
        ("docs.example.org/wiki", "docs.example.org", None, "/wiki"),
        ("Docs.Example.ORG./", "docs.example.org", None, ""),
        ("*.example.org:8443/api", "*.example.org", 8443, "/api"),
        ("[::1]:80/", "[::1]", 80, ""),
        ("localhost/", "localhost", None, ""),
    ],
)
def test_a_mount_point_is_host_port_and_prefix(
    text: str, host: str | None, port: int | None, prefix: str
) -> None:
    """Two spellings of one place must meet."""
    point = parse_place(text)
    assert point == Place(prefix, host or "", port)
    assert parse_place(str(point)) == point


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wiki", "did you mean [mount /wiki]?"),
        ("docs.example.org", "did you mean [mount docs.example.org/]?"),
        ("/a//b", "mount path '/a//b'"),
        ("//", "mount path"),
        ("/a/../b", "segment"),
        ("/a%20b", "it has"),
        ("/a?b", "it has"),
        ("host:0/", "mount host"),
        ("host:99999/", "mount host"),
        ("a b/x", "mount host"),
    ],
)
def test_what_is_no_place_is_refused(text: str, message: str) -> None:
    """A mount that no request can reach is a mistake, not a mount."""
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_place(text)


@given(st.text())
def test_any_text_is_a_place_or_a_sentence(text: str) -> None:
    """Headings come from strangers."""
    with contextlib.suppress(ValueError):
        point = parse_place(text)
        assert parse_place(str(point)) == point
