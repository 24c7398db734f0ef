"""What the control socket asks of workers is what the supervisor has; the type checker says so."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from sitebus.control.crew import Crew, JobView
from sitebus.workers.supervisor import JobTicket, Supervisor
from tests.control.clients import FakeCrew, Ticket

if TYPE_CHECKING:

    def real(crew: Supervisor, job: JobTicket) -> tuple[Crew, JobView]:
        return crew, job

    def fake(crew: FakeCrew, job: Ticket) -> tuple[Crew, JobView]:
        return crew, job


@pytest.mark.parametrize("name", [name for name in vars(Crew) if not name.startswith("_")])
def test_the_workers_of_these_tests_are_like_real_ones(name: str) -> None:
    """Else what is tested with them would prove nothing."""
    member = getattr(FakeCrew, name, None)
    if callable(member):
        there = inspect.signature(getattr(Supervisor, name)).parameters
        here = inspect.signature(member).parameters
        assert list(here) == list(there)
