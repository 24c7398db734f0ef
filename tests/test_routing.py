"""The look-up table against a model that is too simple to be wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitebus.errors import BadHost, BadPrefix
from sitebus.mounts import Site
from sitebus.mounts.routing import Place, Prefixes, Table, normal_prefix, wire_prefix
from tests.wsgi_helpers import environ_of

SEGMENTS = st.sampled_from(["a", "b", "ab", "app", "é", "a b", "x"])
PREFIXES = st.lists(SEGMENTS, max_size=4).map(lambda parts: "".join("/" + part for part in parts))
HOSTS = st.sampled_from(
    ["", "example.org", "a.example.org", "*.example.org", "*.a.example.org", "[::1]"]
)
PORTS = st.sampled_from([None, 80, 8080])
PATHS = st.one_of(
    PREFIXES,
    st.builds(lambda p, tail: p + tail, PREFIXES, st.sampled_from(["/", "x", "/x", "//", "/../a"])),
    st.text(st.sampled_from(["/", "a", "b", ".", "é"]), max_size=12),
)
ASKED = st.sampled_from(
    ["example.org", "EXAMPLE.org.", "a.example.org:99", "b.a.example.org", "x.b.a.example.org",
     "[::1]:80", "[0:0::1]", "other.net", "", "example.org:80"]
)  # fmt: skip


def model(places: list[Place], host: str, port: int, path: str) -> Place | None:
    """Choose the host's table, then the longest prefix that is the path or followed by a slash."""
    name = host.lower().rsplit(":", 1)[0] if "]" not in host else "[::1]"
    name = name.removesuffix(".")

    def rank(place: Place) -> tuple[int, int, bool] | None:
        if place.port not in (None, port):
            return None
        if place.host == name:
            return (2, 0, place.port is not None)
        if place.host.startswith("*.") and name.endswith(place.host[1:]):
            return (1, len(place.host), place.port is not None)
        if not place.host:
            return (0, 0, place.port is not None)
        return None

    ranked = [(found, place) for place in places if (found := rank(place)) is not None]
    best = max((found for found, _ in ranked), default=None)
    table = [place for found, place in ranked if found == best]
    fits = [
        place
        for place in table
        if path == place.prefix or path.startswith(place.prefix + "/") or not place.prefix
    ]
    return max(fits, key=lambda place: len(place.prefix), default=None)


@given(st.builds(Place, PREFIXES, HOSTS, PORTS))
@settings(deadline=None)
def test_a_place_can_be_read_as_it_is_written(place: Place) -> None:
    """What a message or a list of mounts says can be pasted into a configuration."""
    host, slash, path = str(place).partition("/")
    assert Place.of(slash + path, host or None) == place


@given(st.lists(st.builds(Place, PREFIXES, HOSTS, PORTS), max_size=12), ASKED, PORTS, PATHS)
@settings(max_examples=400, deadline=None)
def test_the_table_answers_as_the_model(
    places: list[Place], host: str, port: int | None, path: str
) -> None:
    """Whatever is mounted where, each request has exactly one application, and it is that one."""
    table: Table[Place] = Table()
    for place in places:
        table = table.with_entry(place, place.prefix, place)
    chosen = table.choose(host, str(port or 443))
    found, length = chosen.find(path) if chosen else (None, 0)
    assert found == model(list(dict.fromkeys(places)), host, port or 443, path)
    assert path[:length] == (found.prefix if found else "")


@given(st.lists(st.builds(Place, PREFIXES, HOSTS, PORTS), max_size=8), ASKED, PORTS, PATHS)
@settings(max_examples=200, deadline=None)
def test_the_wsgi_face_answers_as_the_model(
    places: list[Place], host: str, port: int | None, path: str
) -> None:
    """The face has short cuts of its own; they must not lead elsewhere."""
    site = Site()
    for place in dict.fromkeys(places):
        site.mount(_naming(place), place.prefix, host=place.host or None, port=place.port)
    wire = wire_prefix(path)
    status: list[str] = []

    def start_response(code: str, headers: Any, exc_info: Any = None, /) -> Any:
        status.append(code)

    environ = environ_of("", host, SERVER_PORT=str(port or 443), SERVER_NAME="")
    environ["PATH_INFO"] = wire
    [body] = site.wsgi(dict(environ), start_response)
    place_found = model(list(dict.fromkeys(places)), host, port or 443, path)
    if place_found is None:
        assert status == ["404 Not Found"]
    else:
        rest = wire[len(wire_prefix(place_found.prefix)) :]
        assert body.decode() == repr((place_found, wire_prefix(place_found.prefix), rest))


def _naming(place: Place) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [repr((place, environ["SCRIPT_NAME"], environ["PATH_INFO"])).encode()]

    return app


@given(st.lists(PREFIXES, unique=True, max_size=8), st.data())
@settings(deadline=None)
def test_what_is_taken_out_leaves_no_trace(prefixes: list[str], data: st.DataObject) -> None:
    """A table that forgot something would answer for a mount that is gone."""
    table: Prefixes[str] = Prefixes()
    for prefix in prefixes:
        table = table.with_entry(prefix, prefix)
    gone = data.draw(st.lists(st.sampled_from(prefixes), unique=True)) if prefixes else []
    for prefix in gone:
        table = table.without_entry(prefix)
    fresh: Prefixes[str] = Prefixes()
    for prefix in prefixes:
        if prefix not in gone:
            fresh = fresh.with_entry(prefix, prefix)
    assert table == fresh


@pytest.mark.parametrize(
    ("given_prefix", "normal"),
    [("", ""), ("/", ""), ("/a", "/a"), ("/a/", "/a"), ("/a/b", "/a/b"), ("/a b", "/a b")],
)
def test_a_prefix_has_one_form(given_prefix: str, normal: str) -> None:
    """Two ways to write one place would let two mounts have it."""
    assert normal_prefix(given_prefix) == normal


@pytest.mark.parametrize(
    "prefix",
    [
        "a",
        "//",
        "/a//b",
        "/a//",
        "/.",
        "/a/..",
        "/a?b",
        "/a#b",
        "/%61",
        "/a\n",
        "/a\\b",
        "/ a",
        "/\0",
    ],
)
def test_a_prefix_that_could_not_match_is_refused(prefix: str) -> None:
    """It would be dead, or mean something else than it says."""
    with pytest.raises(BadPrefix) as caught:
        normal_prefix(prefix)
    assert repr(prefix) in str(caught.value)
    assert caught.value.status == 78


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("Example.ORG.", None, ("example.org", None)),
        ("example.org:8080", None, ("example.org", 8080)),
        ("[::1]:80", None, ("[::1]", 80)),
        ("::1", None, ("[::1]", None)),
        ("[0:0:0:0:0:0:0:1]", 8080, ("[::1]", 8080)),
        ("*", 81, ("", 81)),
        (None, None, ("", None)),
        ("*.Example.org", None, ("*.example.org", None)),
        ("bücher.example", None, ("xn--bcher-kva.example", None)),
    ],
)
def test_a_host_has_one_form(
    host: str | None, port: int | None, expected: tuple[str, int | None]
) -> None:
    """What a browser sends must be what was mounted."""
    assert Place.of("/", host, port).table == expected


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("http://example.org", None), ("example.org/x", None), ("a.*.org", None), ("*.", None),
        ("example.org:x", None), ("example.org:80", 81), ("x", 0), ("x", 70000), ("a b", None),
        ("[::1", None), ("*.:80", None), ("x:" + "9" * 5000, None), ("*:0", None), ("**", None),
    ],
)  # fmt: skip
def test_a_host_that_no_request_has_is_refused(host: str, port: int | None) -> None:
    """The mount would be dead."""
    with pytest.raises(BadHost) as caught:
        Place.of("/", host, port)
    assert caught.value.status == 78


def test_hosts_are_remembered_but_not_without_end() -> None:
    """A client chooses its Host: a thousand different ones must not grow the process."""
    table: Table[str] = Table()
    table = table.with_entry(Place("", "*.example.org"), "", "x")
    for number in range(5000):
        assert table.choose(f"{number}.example.org", "80") is not None
    assert len(table._chosen) <= 1024
    assert table.choose("a" * 100_000 + ".example.org", "80") is not None
