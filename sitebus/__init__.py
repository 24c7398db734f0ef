"""One process bus that hosts Python web applications.

``sitebus.engine`` is the process's bus, ``sitebus.site`` the site it serves. Importing this package
opens, starts and registers nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sitebus.bus import Bus
from sitebus.errors import ChannelFailures, SitebusError
from sitebus.machine import Graph, Machine, State, states
from sitebus.mounts import Mount, Site
from sitebus.process import Engine, Priority, ProcessBus

if TYPE_CHECKING:
    from sitebus.mounts import Application

__version__ = "0.1.0.dev0"

#: The bus of this process.
engine = Engine()

#: The site of this process: what `mount`, `quickstart` and ``site.ini`` fill.
site = Site()

#: Put an application on the site of this process; see `Site.mount`.
mount = site.mount


def quickstart(
    app: Application | None = None,
    path: str = "/",
    bind: str = "127.0.0.1:8080",
    *,
    environment: str = "development",
    reload: bool = False,
    access_log: str = "-",
    log_level: str = "info",
    **server: Any,
) -> None:
    """Mount *app*, start the engine, and serve until Ctrl-C or SIGTERM; for the main thread.

    Args:
        app: The application; left out, what `mount` has mounted is served.
        path: Where it is mounted.
        bind: Where to listen: ``HOST:PORT``, ``unix:PATH``; several are separated by commas.
        environment: ``development`` lists the mounts where no mount answers; ``production``
            does not.
        reload: Restart the program when a file changes that it is made of, if the new code works.
        access_log: A file, ``-`` for standard output, or ``off``.
        log_level: The least severe message that is written to standard error.
        **server: Any other option of ``[server]``, such as ``threads=20``. Without ``adapter``, an
            ASGI application is served by uvicorn if that is installed.

    Raises:
        SystemExit: It could not start, or did not end well; the reason was printed. An end that
            was asked for is no reason.
    """
    from sitebus.cli import quick

    settings: dict[str, Any] = {
        "site.environment": environment,
        "server.bind": bind,
        "reload.enabled": "yes" if reload else None,
        "logging.access": access_log,
        "logging.level": log_level,
    }
    settings |= {f"server.{key}": server[key] for key in server}
    quick.run(engine, site, settings, app, path)


__all__ = [
    "Bus",
    "ChannelFailures",
    "Engine",
    "Graph",
    "Machine",
    "Mount",
    "Priority",
    "ProcessBus",
    "Site",
    "SitebusError",
    "State",
    "engine",
    "mount",
    "quickstart",
    "site",
    "states",
]
