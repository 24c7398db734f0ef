"""What may leave a site, and what may enter it."""

from __future__ import annotations

import pytest

from sitebus.config.channels import LIFECYCLE
from sitebus.relay.policy import Policy


def test_nothing_crosses_that_was_not_allowed() -> None:
    """A relay that is on shares nothing by that."""
    policy = Policy()
    assert not policy.may_leave("cache.invalidate")
    assert not policy.may_enter("cache.invalidate", "web2")
    assert len(policy.wants) == 0


def test_patterns_allow_channels_of_the_application() -> None:
    """Each way has its own."""
    policy = Policy(["cache.*"], ["config.*"])
    assert policy.may_leave("cache.invalidate")
    assert not policy.may_leave("config.x")
    assert policy.may_enter("config.x", "anybody")
    assert not policy.may_enter("cache.invalidate", "anybody")


@pytest.mark.parametrize("channel", [*sorted(LIFECYCLE), "relay.gap", "worker.gone", "SIGTERM"])
def test_what_is_a_process_s_own_neither_leaves_nor_enters(channel: str) -> None:
    """A pattern that means everything would stop all sites when one stops."""
    policy = Policy(["*", channel], ["*", channel], {"*": ["web2"]})
    assert not policy.may_leave(channel)
    assert not policy.may_enter(channel, "web2")


def test_a_command_enters_from_those_who_are_named() -> None:
    """And from nobody else."""
    policy = Policy(commands={"graceful": ["control", "web2"], "stop": ["control"]})
    assert policy.may_enter("graceful", "web2")
    assert policy.may_enter("stop", "control")
    assert not policy.may_enter("stop", "web2")
    assert not policy.may_enter("exit", "control")
    assert {*policy.wants} == {"graceful", "stop"}


def test_a_rule_may_be_for_channels_of_the_application() -> None:
    """Then only those nodes send on them."""
    policy = Policy(commands={"deploy.*": ["control"]})
    assert policy.may_enter("deploy.now", "control")
    assert not policy.may_enter("deploy.now", "web2")
