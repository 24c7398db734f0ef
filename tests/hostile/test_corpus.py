"""Every entry of the corpus to every adapter: nothing gets through, stuck or is left behind."""

from __future__ import annotations

import sys

import pytest

from tests.hostile.conversation import LIMIT, SLACK
from tests.hostile.corpus import CORPUS
from tests.hostile.runner import VARIANTS, Ground, Report
from tests.servers.conftest import Certificate, certificates

#: Found here by pytest.
__all__ = ["certificates"]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere only 127.0.0.1 is this machine without being told"
)


#: What granian reads in compiled code and tells nobody of. docs/howto/granian.rst lists it, and
#: test_granian_contract.py fails once it does tell.
UNTOLD = (
    "chunk size: 5;a\\x00b",
    "target: http://localhost:x/x",
    "target: ://localhost/x",
    "target: another host",
    "Host: none, the target decides",
)


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def report(request: pytest.FixtureRequest, certificates: tuple[Certificate, Certificate]) -> Report:
    """What one adapter made of the whole corpus."""
    ground = Ground(request.param, certificates[0].tls)
    try:
        ground.open()
        report = ground.run(CORPUS)
    finally:
        took = ground.close()
    if took > LIMIT + SLACK:
        report.site.append(f"it took {took:.1f} s to stop")
    return report


@pytest.mark.parametrize("category", CORPUS)
def test_nothing_gets_through(
    report: Report, category: str, request: pytest.FixtureRequest
) -> None:
    """Each is refused, or read in one way only, and its connection closed in time."""
    problems = report.entries[category]
    if "granian" in request.node.callspec.id:
        problems = [each for each in problems if not each.startswith(UNTOLD)]

    assert not problems, f"{len(problems)} of {category} wrong:\n" + "\n".join(problems)


def test_the_site_is_as_it_was(report: Report) -> None:
    """It answers; no thread is busy, nothing is left open, and nobody was alarmed."""
    assert not report.site, "\n".join(report.site)
    assert "Traceback" not in report.printed
    assert "panicked" not in report.printed


def test_the_corpus_is_large() -> None:
    """Three hundred is the least that was asked for."""
    assert sum(map(len, CORPUS.values())) >= 300
