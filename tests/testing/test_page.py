"""The how-to page about tests: its examples are run by pytest, as a reader would."""

from __future__ import annotations

from pathlib import Path

from tests.helpers import ROOT
from tests.test_docs import blocks_of
from tests.testing.conftest import Run


def test_the_examples_do_what_the_page_says(run: Run, project: Path) -> None:
    """One of them fails on purpose, and shows why."""
    for block in blocks_of(ROOT / "docs" / "howto" / "testing.rst"):
        if block.language == "python":
            (project / block.caption).write_text(block.text)
    result = run("-m", "pytest", "-p", "no:dash", "-q")
    assert "1 failed, 5 passed" in result.stdout, result.stdout
    assert "FAILED test_shop.py::test_there_is_coffee" in result.stdout
    assert "- site of shop.app -" in result.stdout
    assert "LookupError: we have tea\nGET /shop/coffee 500, 26 bytes by /shop" in result.stdout
    result = run("-m", "unittest", "test_unittest")
    assert result.stdout.endswith("\nOK\n")
