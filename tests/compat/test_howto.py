"""The programs on the how-to pages that serve without sitebus's own banner."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import pytest

from tests.helpers import ROOT, Child


def program_of(page: str) -> str:
    """Answer the first Python file on *page*."""
    text = (ROOT / "docs" / "howto" / page).read_text()
    block = re.search(r"code-block:: python\n    :caption: app.py\n((?:    .*\n|\n)+)", text)
    assert block is not None
    return textwrap.dedent(block[1])


@pytest.mark.parametrize(
    ("page", "says"),
    [("cherrypy.rst", "Serving on http://127.0.0.1"), ("magicbus.rst", "Tick.")],
)
def test_the_program_of_the_page_runs(page: str, says: str, tmp_path: Path) -> None:
    """As it stands there, but for the port."""
    free = 'cherrypy.config.update({"server.socket_port": 0})\n    cherrypy.quickstart('
    program = program_of(page).replace("cherrypy.quickstart(", free)
    (tmp_path / "app.py").write_text(program)
    with Child([sys.executable, "app.py"], tmp_path) as child:
        child.wait_for_output(says)

        assert child.stop() == 0
