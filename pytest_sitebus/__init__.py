"""The entry point of the pytest plugin: nothing but the name of what has the fixtures.

Every run of pytest loads this where sitebus is installed, and who has no test of a site should not
wait for it: so it is no part of `sitebus`, which would be imported with it, after pytest has
rewritten the assertions of all that is. ``-p no:sitebus`` leaves it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

FIXTURES = "pytest_sitebus.fixtures"


def pytest_configure(config: pytest.Config) -> None:
    """Bring the fixtures, unless a ``conftest.py`` has."""
    config.pluginmanager.import_plugin(FIXTURES)
