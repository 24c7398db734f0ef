"""`SiteTestCase`, run by unittest and by pytest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testing.conftest import Run

CASES = """\
import pathlib, unittest
import requests
import shop
from sitebus.testing import SiteTestCase

pathlib.Path("site.ini").write_text("[mount /a]\\napp = shop:app\\n")

class ShopTest(SiteTestCase):
    application = shop.app

    def test_open(self):
        self.assertEqual(requests.get(self.url + "/good?quiet").text, "tea")

    def test_fails(self):
        self.assertTrue(requests.get(self.url + "/bad?plain").ok)

    def test_parts(self):
        for number in range(2):
            with self.subTest(number):
                self.assertTrue(requests.get(self.url + "/bad?part").ok)

    @unittest.skip("closed")
    def test_closed(self):
        requests.get(self.url + "/closed")

class FileTest(SiteTestCase, unittest.IsolatedAsyncioTestCase):
    ini = "site.ini"
    settings = {"site.development_pages": True}

    async def test_async(self):
        self.assertEqual(requests.get(self.url + "/a").text, "tea")
        self.assertIn("/a", requests.get(self.url + "/b").text)
        self.assertIn("GET /b 404", self.served.log)

    async def test_async_fails(self):
        self.assertTrue(requests.get(self.url + "/a/bad?async").ok)

class BareTest(SiteTestCase):
    def test_nothing(self):
        raise AssertionError("it was run")

del SiteTestCase
"""


@pytest.fixture(autouse=True)
def _cases(project: Path) -> None:
    (project / "test_it.py").write_text(CASES)


@pytest.mark.parametrize(
    ("runner", "summary"),
    [
        (("-m", "unittest"), "FAILED (failures=4, errors=1, skipped=1)"),
        (("-m", "pytest", "-p", "no:dash", "-q"), "failed"),
    ],
    ids=["unittest", "pytest"],
)
def test_what_a_site_said_is_printed_with_a_failure(
    run: Run, runner: tuple[str, ...], summary: str
) -> None:
    """With no more than the standard library, too."""
    result = run(*runner)
    assert summary in result.stdout
    for name in ("plain", "part", "async"):
        assert f"/bad?{name} 500" in result.stdout
    assert "RuntimeError: no tea left" in result.stdout
    assert "BareTest needs one of application and ini" in result.stdout
    assert "it was run" not in result.stdout


def test_a_success_prints_nothing(run: Run) -> None:
    """Nobody reads the log of what went well."""
    result = run("-m", "unittest", "-k", "test_open", "-k", "test_async", "-b")
    assert "GET /good" not in result.stdout
    result = run("-m", "unittest", "-k", "test_open")
    assert result.stdout.endswith("\nOK\n")
    assert "Bus" not in result.stdout
