"""What ``[health]`` asks for, in each of the processes that a site may be made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sitebus.control.health import Health
from sitebus.plugins import Plugin
from sitebus.process import Engine

if TYPE_CHECKING:
    from sitebus.control.families import Family
    from sitebus.mounts import Site


def plugins(
    engine: Engine,
    told: Mapping[str, Any],
    site: Site | None,
    *,
    families: Callable[[], Iterable[Family]] | None = None,
    worker: bool = False,
) -> Iterator[Plugin]:
    """Make the plugins of a process: how it is, what it counts, and the address for both.

    Args:
        engine: The process's own.
        told: The section's settings.
        site: Whose requests are counted; None in a supervisor, which gets none.
        families: What ``/metrics`` tells; what this process counts if left out.
        worker: The address is the supervisor's; this process tells it, over their link.
    """
    health = Health(engine, told["check_timeout"])
    yield health
    if not told["bind"]:
        return
    from sitebus.control.admin import AdminServer

    if told["metrics"]:
        from sitebus.control.builtin import Metrics
        from sitebus.control.metrics import REGISTRY

        yield Metrics(engine, site)
        families = families or REGISTRY.families
    if not worker:
        yield AdminServer(engine, told["bind"], health, families if told["metrics"] else None)
