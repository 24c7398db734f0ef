"""One process bus that hosts Python web applications.

``sitebus.engine`` is the process's bus, ``sitebus.site`` the site it serves. Importing this package
opens, starts and registers nothing; but the trial of a restart has to end with who waits for it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sitebus import trial
from sitebus.bus import Bus
from sitebus.errors import ChannelFailures, SitebusError
from sitebus.machine import Graph, Machine, State, states
from sitebus.mounts import Mount, Site
from sitebus.process import Engine, Priority, ProcessBus

if TYPE_CHECKING:
    import os

    from sitebus.asgi import ASGIApplication
    from sitebus.embedding.faces import Embedded
    from sitebus.mounts import Application

__version__ = "0.1.0.dev0"

trial.mind_parent()

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


def embed(
    target: str | os.PathLike[str] | Site | Application,
    *,
    environment: str | None = None,
    access_log: str | None = None,
    log_level: str | None = None,
    reload: bool | None = None,
) -> Embedded:
    """Answer a site as a WSGI application, for a program of somebody else's that runs the process.

    The bus starts and ends with the process that serves; Apache (mod_wsgi), uWSGI and gunicorn are
    known by what they tell of that. Sockets, signals, user, file mask, standard output and the
    command line are the host's; what a file says of them is told, and has no effect.

    There is one such site in a process: to embed the same again, as hosts do that run a script
    again, changes nothing; another target takes its place.

    An application that cannot be imported answers 500, with the reason if it is in development.

    Args:
        target: A ``site.ini``, beside the file that calls this or in the current directory; a
            reference such as ``module:app``; an application; or a `Site`.
        environment: ``development`` or ``production``; what the file says if left out, like the
            other arguments.
        access_log: A file, or ``off``; off if nobody says, for the host has one, and standard
            output is the host's as well.
        log_level: The least severe message that is written, to standard error if nobody says.
        reload: Have Apache replace a daemon process when a file changes that the site is made of;
            other hosts do not know how.

    Returns:
        The application; its ``start()`` starts the bus before the first request in a process that
        was forked after the site was embedded.

    Raises:
        SitebusError: The file has mistakes (all are told at once), or a part cannot be made.
        CannotEmbed: The engine of this process runs already, or has run.
    """
    from sitebus import embedding

    said = {
        "environment": environment,
        "access_log": access_log,
        "log_level": log_level,
        "reload": reload,
    }
    return embedding.wsgi(engine, site, target, _caller(), said)


def embed_asgi(
    target: str | os.PathLike[str] | Site | Application,
    *,
    environment: str | None = None,
    access_log: str | None = None,
    log_level: str | None = None,
) -> ASGIApplication:
    """Answer a site as an ASGI application, for uvicorn, Hypercorn, Granian and their like.

    The bus starts at the lifespan's startup and ends at its shutdown; with a host that has no
    lifespan it starts at the first request. Everything else is as with `embed`.
    """
    from sitebus import embedding

    said = {"environment": environment, "access_log": access_log, "log_level": log_level}
    return embedding.asgi(engine, site, target, _caller(), said)


def _caller() -> str | None:
    """Answer the file that called what called this."""
    file = sys._getframe(2).f_globals.get("__file__")
    return file if isinstance(file, str) else None


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
    "embed",
    "embed_asgi",
    "engine",
    "mount",
    "quickstart",
    "site",
    "states",
]
