"""What a running site answers about itself: control socket, health and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sitebus.config import Configuration
    from sitebus.plugins import Plugin
    from sitebus.process import Engine


def from_configuration(
    configuration: Configuration, engine: Engine, metrics: Callable[[], Any] | None = None
) -> Iterator[Plugin]:
    """Make the control socket that ``[control]`` asks for.

    Without a file, a site has one only if somebody said so. One that nobody asked for in so many
    words does not keep a site from starting when it cannot be made.

    Args:
        configuration: What the site was put together from.
        engine: Its bus; a supervisor's, where there are workers.
        metrics: What is answered to who asks for metrics, as text or as JSON can say it.
    """
    from sitebus.config import DEFAULT  # sitebus-ctl comes by here, and needs none of it

    told = configuration.one("control")
    asked = any(told.value(key).origin != DEFAULT for key in ("enabled", "socket"))
    if not told["enabled"] or not (asked or configuration.path is not None):
        return
    from sitebus.control.socketplugin import ControlSocket

    yield ControlSocket(
        engine,
        told["socket"],
        name=configuration.site["name"],
        configuration=configuration,
        mode=told["mode"],
        group=told["group"],
        operators=told["operators"],
        viewers=told["viewers"],
        publish=told["publish"],
        metrics=metrics,
        required=asked,
    )
