"""cheroot's package is imported without what it needs for its version alone, where that is safe."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import requests

from sitebus.servers._cheroot_package import installed_version
from tests.helpers import SiteProcess, environment

LOAD = """\
import sys

sys.path[:0] = sys.argv[1:]
from sitebus.servers import _cheroot_package

finders = list(sys.meta_path)
_cheroot_package.load()
import cheroot

assert sys.meta_path == finders
print(cheroot.__version__, getattr(cheroot, "more", "nothing more"))
print("importlib.metadata" in sys.modules)
"""

SITE = """\
import sys


def application(environ, start_response):
    body = repr("importlib.metadata" in sys.modules).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
"""

AS_IT_IS = """\
from importlib import metadata

try:
    __version__ = metadata.version("cheroot")
except Exception:
    __version__ = "unknown"
"""
WITH_MORE = f"{AS_IT_IS}\nmore = len(__version__)\n"


def load(*paths: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, paths)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def install(folder: Path, source: str, *beside: str) -> Path:
    (folder / "cheroot").mkdir()
    (folder / "cheroot" / "__init__.py").write_text(source)
    for name in beside:
        (folder / name).mkdir()
        (folder / name / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: cheroot\nVersion: 12.3\n"
        )
    return folder


def test_the_version_is_the_installed_one_and_costs_nothing() -> None:
    """A third of the import of cheroot's server is the search for it."""
    assert load() == [f"{version('cheroot')} nothing more", "False"]


def test_a_site_comes_up_without_the_search(tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text(SITE)
    with SiteProcess("application:application", "-b", "127.0.0.1:0", cwd=tmp_path) as site:
        assert requests.get(site.url, timeout=10).text == "False"


@pytest.mark.parametrize(
    ("source", "beside", "said"),
    [
        pytest.param(AS_IT_IS, ["cheroot-12.3.dist-info"], "12.3 nothing more", id="as it is"),
        pytest.param(WITH_MORE, ["cheroot-12.3.dist-info"], "12.3 4", id="it does more"),
        pytest.param(WITH_MORE, [], None, id="nobody knows the version"),
    ],
)
def test_what_the_package_does_is_done(
    tmp_path: Path, source: str, beside: list[str], said: str | None
) -> None:
    """One that does more than is known of it is imported as any other."""
    known = load(install(tmp_path, source, *beside))
    # The one that is installed here is found by its name, as it would be without us.
    assert known[0] == (said or f"{version('cheroot')} {len(version('cheroot'))}")
    assert known[1] == str(source != AS_IT_IS)


@pytest.mark.parametrize(
    "beside",
    [
        pytest.param([], id="none"),
        pytest.param(["cheroot-1.dist-info", "cheroot-2.dist-info"], id="two"),
        pytest.param(["cheroot-1.egg-info"], id="an old one"),
        pytest.param(["cheroot_more-1.dist-info"], id="another's"),
    ],
)
def test_a_version_that_is_not_certain_is_none(tmp_path: Path, beside: list[str]) -> None:
    install(tmp_path, AS_IT_IS, *beside)
    assert installed_version(str(tmp_path / "cheroot" / "__init__.py")) is None


def test_where_no_folder_is_no_version_is() -> None:
    assert installed_version("/nowhere/cheroot/__init__.py") is None
