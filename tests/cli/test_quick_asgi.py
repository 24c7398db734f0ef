"""Which server ``quickstart`` takes for ASGI applications."""

from __future__ import annotations

import pytest

from sitebus.cli.quick import _suiting
from sitebus.mounts import Site
from tests.asgi_helpers import saying


@pytest.fixture
def site() -> Site:
    made = Site()
    made.mount(saying("x"))
    return made


def test_an_asgi_application_gets_an_asgi_server(site: Site) -> None:
    """One that has WebSockets."""
    pytest.importorskip("uvicorn")
    assert _suiting(site) == {"server.adapter": "uvicorn"}
    assert _suiting(Site()) == {}


@pytest.mark.parametrize(
    "variable",
    ["SITEBUS_SERVER__ADAPTER", "SITEBUS_SERVER__adapter", "SITEBUS_SERVER_MAIN__ADAPTER"],
)
def test_what_the_environment_says_counts(
    site: Site, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the variable is spelt that the configuration would read."""
    monkeypatch.setenv(variable, "cheroot")
    assert _suiting(site) == {}
