"""The command line is read with the parser of its flags, and without where there are none."""

from __future__ import annotations

import pytest

from sitebus.cli.arguments import UNSAID, parse
from sitebus.cli.flags import build_parser


def test_what_nobody_says_is_the_same_with_and_without_the_parser() -> None:
    """The defaults are written down once more, to be had without it."""
    targets = ["site.ini", "/wiki=wiki:app"]
    made = vars(build_parser().parse_intermixed_args(targets))
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in made.items()}
    assert plain == {**UNSAID, "targets": tuple(targets)}


@pytest.mark.parametrize(
    "targets", [["site.ini"], ["shop:app"], ["site.ini", "/wiki=wiki:app"], ["/=a:b", "/c=c:d"]]
)
def test_targets_mean_the_same_with_and_without_the_parser(targets: list[str]) -> None:
    """A flag that says what is so anyway changes nothing."""
    plain, flagged = parse(targets), parse([*targets, "--color", "auto"])
    assert (plain.config, plain.overrides) == (flagged.config, flagged.overrides)
    assert plain.options.targets == flagged.options.targets
