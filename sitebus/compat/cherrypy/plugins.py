"""Every public name of ``cherrypy.process.plugins``: the plugins of `sitebus.plugins`.

They can be subclassed as wspbus' can: a method that is named like a channel listens there.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from sitebus import background
from sitebus.compat.named import Named
from sitebus.plugins import (
    SimplePlugin,
    autoreload,
    daemon,
    pidfile,
    privileges,
    signals,
    tasks,
    threads,
)
from sitebus.plugins.tasks import BackgroundTask, PerpetualTimer

__all__ = [
    "Autoreloader",
    "BackgroundTask",
    "Daemonizer",
    "DropPrivileges",
    "Monitor",
    "PIDFile",
    "PerpetualTimer",
    "SignalHandler",
    "SimplePlugin",
    "ThreadManager",
    "grp",
    "pwd",
]

pwd: ModuleType | None
grp: ModuleType | None
try:
    import grp
    import pwd
except ImportError:  # Windows has neither
    pwd, grp = None, None


class SignalHandler(signals.SignalHandler):
    """Answer signals while subscribed; SIGHUP restarts a daemon and ends any other process."""

    def handle_SIGHUP(self) -> None:  # noqa: N802 - the name that wspbus gave it
        """Restart a daemon; exit otherwise."""
        if background.is_daemon():
            self.bus.log("SIGHUP caught while daemonized. Restarting.")
            self._restart()
        else:
            self.bus.log("SIGHUP caught but not daemonized. Exiting.")
            self._exit()


class DropPrivileges(Named, privileges.DropPrivileges, SimplePlugin):
    """Become another user once everything that needs root is done."""


class Daemonizer(Named, daemon.Daemonizer, SimplePlugin):
    """Leave the terminal."""


class PIDFile(Named, pidfile.PIDFile, SimplePlugin):
    """Keep the process's number in a file."""


class Monitor(Named, tasks.Monitor, SimplePlugin):
    """Call something again and again while the bus runs."""


class Autoreloader(Named, autoreload.Autoreloader, SimplePlugin):
    """Restart when a file changes that the program was made of."""

    @classmethod
    def _file_for_file_module(cls, module: Any) -> str | None:
        """Answer the file of *module*, if it has one."""
        return getattr(module, "__file__", None)


class ThreadManager(Named, threads.ThreadManager, SimplePlugin):
    """Tell listeners of each thread that begins to serve, and of its end."""
