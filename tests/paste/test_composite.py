"""Where ``egg:sitebus#site`` mounts what it is told to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sitebus.errors import BadMountOption, BadPlace, BadPrefix, DuplicateMount
from sitebus.paste.composite import factory, place
from tests.wsgi_helpers import environ_of


class Shelf:
    """What PasteDeploy hands a composite: it knows every application by its name."""

    def get_app(self, name: str, global_conf: Mapping[str, str]) -> Any:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [f"{global_conf['who']} {name}".encode()]

        return application


def ask(path: str, **places: str) -> str:
    """Answer status and text of what a composite with these *places* says."""
    app = factory(Shelf(), {"who": "our"}, **places)
    told: list[str] = []
    said = app(environ_of(path), lambda status, headers, trouble=None: told.append(status))
    return f"{told[0][:3]} {b''.join(said).decode()}"


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("/", (None, None, "/")),
        ("/wiki", (None, None, "/wiki")),
        ("docs.example.org/", ("docs.example.org", None, "/")),
        ("domain docs.example.org /a", ("docs.example.org", None, "/a")),
        ("domain docs.example.org port 8080 /", ("docs.example.org", 8080, "/")),
        ("port 8080 /", (None, 8080, "/")),
    ],
)
def test_places_are_those_of_a_site_and_of_urlmap(key: str, found: tuple[Any, ...]) -> None:
    """A file for Paste's urlmap changes its use line alone."""
    assert place(key) == found


def test_every_application_is_told_the_globals() -> None:
    """PasteDeploy would not do it by itself."""
    assert ask("/wiki/x", **{"/": "home", "/wiki": "wiki"}) == "200 our wiki"


def test_a_site_has_options() -> None:
    """In development, what is not there lists what is."""
    assert ask("/gone", **{"/wiki": "wiki"}).startswith("404")
    assert "/wiki" in ask("/gone", **{"/wiki": "wiki", "development": "yes"})


@pytest.mark.parametrize(
    ("places", "kind"),
    [
        ({"wiki": "wiki"}, BadPlace),
        # As configparser reads http://docs.example.org/ = docs, and docs.example.org:81/ = docs
        ({"http": "//docs.example.org/ = docs"}, BadPlace),
        ({"docs.example.org": "81/ = docs"}, BadPlace),
        ({"/": "home", "strict_hosts": "perhaps"}, BadMountOption),
        ({"/a//b": "x"}, BadPrefix),
        ({"/a": "x", "/a/": "y"}, DuplicateMount),
    ],
)
def test_a_mistake_is_told(places: dict[str, str], kind: type[Exception]) -> None:
    """Paste's urlmap takes a key for an application of that name, and fails elsewhere."""
    with pytest.raises(kind):
        ask("/", **places)
