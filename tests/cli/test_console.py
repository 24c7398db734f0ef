"""When colours are wanted, and what the banner says."""

from __future__ import annotations

import io
import json

import pytest

from sitebus.cli.console import Banner, Console, MountLine, table, wants_colour


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "choice", "environ", "wanted"),
    [
        (True, "auto", {}, True),
        (False, "auto", {}, False),
        (True, "auto", {"NO_COLOR": "1"}, False),
        (True, "auto", {"NO_COLOR": ""}, True),
        (True, "auto", {"TERM": "dumb"}, False),
        (False, "auto", {"FORCE_COLOR": "1"}, True),
        (True, "auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, True),
        (True, "never", {"FORCE_COLOR": "1"}, False),
        (False, "always", {"NO_COLOR": "1"}, True),
    ],
)
def test_who_decides_on_colours(
    terminal: bool, choice: str, environ: dict[str, str], wanted: bool
) -> None:
    """A flag beats the environment, which beats the terminal."""
    stream = Terminal() if terminal else io.StringIO()
    assert wants_colour(stream, choice, environ) is wanted


BANNER = Banner(
    version="1.0",
    pid=42,
    config="site.ini",
    mounts=(MountLine("/", "shop:app", "Flask"), MountLine("/wiki", "wiki:app", "")),
    urls=("http://127.0.0.1:8080", "http+unix://%2Frun%2Fsite.sock"),
)


def test_the_banner_is_one_screen() -> None:
    """What runs, where it is, and how it ends."""
    assert BANNER.text(Console(io.StringIO())).splitlines() == [
        "sitebus 1.0 (pid 42), site.ini",
        "  /      shop:app  Flask",
        "  /wiki  wiki:app",
        "serving on http://127.0.0.1:8080",
        "serving on http+unix://%2Frun%2Fsite.sock",
        "Ctrl-C to stop",
    ]


def test_colours_add_nothing_else() -> None:
    """A log that keeps them can be read without them."""
    import re

    plain, coloured = (BANNER.text(Console(io.StringIO(), colour)) for colour in (False, True))
    assert "\033[" not in plain
    assert "\033[" in coloured
    assert re.sub(r"\033\[[0-9;]*m", "", coloured) == plain


def test_a_banner_is_a_record_too() -> None:
    """For logs of JSON lines."""
    record = json.loads(json.dumps(BANNER.record()))
    assert record["event"] == "serving"
    assert record["mounts"][0] == {"place": "/", "target": "shop:app", "framework": "Flask"}


def test_a_terminal_that_is_gone_is_borne() -> None:
    """A site goes on when the window it was started in is closed."""
    stream = io.StringIO()
    stream.close()
    Console(stream).write("hello")


def test_a_table_of_nothing_is_nothing() -> None:
    """The first site of all has no mounts yet."""
    assert table([]) == []
