"""The example, run both ways that it shows."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import requests

from tests.helpers import ROOT, Child, SiteProcess

EXAMPLE = ROOT / "examples" / "cherrypy-on-sitebus"


def test_the_unmodified_program_runs_on_the_engine(tmp_path: Path) -> None:
    """One call before it makes the difference."""
    folder = shutil.copytree(EXAMPLE, tmp_path / "shop")
    with Child([sys.executable, "serve.py", "127.0.0.1:0"], folder) as child:
        url = child.wait_for_output(r"Serving on (http://127\.0\.0\.1:\d+)")[1]
        assert requests.get(url, timeout=10).text == "Sold. 99 left.\n"

        assert child.stop() == 0
        assert "The shop is closed." in child.output


def test_the_same_application_is_mounted_in_a_site(tmp_path: Path) -> None:
    """Its plugin starts and stops with the site, and the site's server serves it."""
    folder = shutil.copytree(EXAMPLE, tmp_path / "shop")
    with SiteProcess("site.ini", "-b", "127.0.0.1:0", cwd=folder) as site:
        assert requests.get(site.url, timeout=10).text == "Sold. 99 left.\n"

        assert site.stop() == 0
        assert site.output.count("The shop is open.") == 1
        assert site.output.count("The shop is closed.") == 1
        assert site.output.count("Serving on") == 1
