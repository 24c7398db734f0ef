"""The relay that ``[relay]`` asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sitebus.config.relay import commands_of, settings_of

if TYPE_CHECKING:
    from sitebus.config import Configuration
    from sitebus.process import Engine
    from sitebus.relay.plugin import Relay


def from_configuration(configuration: Configuration, engine: Engine) -> Iterator[Relay]:
    """Make the relay of a site, if it has one.

    Args:
        configuration: What the site was put together from.
        engine: Its bus; a supervisor's, where there are workers.
    """
    told = settings_of(configuration)
    if told is None:
        return
    from sitebus.relay.plugin import Relay

    yield Relay(
        engine,
        node=told["node"],
        bind=told["bind"],
        peers=told["peers"],
        keys=told["keys"],
        export=told["export"],
        import_=told["import"],
        commands=commands_of(configuration),
        hub=told["hub"],
        hubs=told["hubs"],
        retain=told["retain"],
        high_water=told["high_water"],
        heartbeat=told["heartbeat"],
    )
