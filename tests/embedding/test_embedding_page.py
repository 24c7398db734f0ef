"""The how-to page about hosts has what the tests of each host run, and nothing else."""

from __future__ import annotations

import re

import pytest

from tests.embedding.hosting import EXAMPLES, PAGE, commands

#: What the tests of a host type; each is a call of `Hosted.running` or, for Apache, of its own.
TYPED = {
    "apache2",
    "uwsgi",
    "gunicorn",
    "uvicorn",
    "hypercorn",
    "granian --interface asgi",
    "waitress-serve",
    "granian --interface wsgi",
}


def test_every_command_is_run_by_a_test_of_its_host() -> None:
    """One that is added to the page needs a test beside those."""
    assert len(commands()) == len(TYPED)
    for words in TYPED:
        assert len([each for each in commands() if words in each]) == 1


@pytest.mark.parametrize("host", ["apache", "uwsgi"])
def test_the_site_that_the_page_shows_is_that_of_every_host(host: str) -> None:
    """It is shown once, from the example of one of them."""
    included = re.findall(r"literalinclude:: \S+/examples/gunicorn/(\S+)", PAGE.read_text())
    files = set(included) - {"gunicorn.conf.py"}
    assert files == {"wsgi.py", "site.ini", "plain.py", "wiki.py"}
    for name in files:
        theirs, shown = EXAMPLES / host / name, EXAMPLES / "gunicorn" / name
        assert theirs.read_text() == shown.read_text()
