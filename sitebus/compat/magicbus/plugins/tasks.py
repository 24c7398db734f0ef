"""Every public name of ``magicbus.plugins.tasks``: the plugins of `sitebus.plugins`.

They can be subclassed as magicbus' can: by overriding START and STOP.
"""

from __future__ import annotations

from sitebus.compat.named import Named
from sitebus.plugins import SimplePlugin, autoreload, tasks, threads
from sitebus.plugins.tasks import BackgroundTask, PerpetualTimer

__all__ = [
    "Autoreloader",
    "BackgroundTask",
    "Monitor",
    "PerpetualTimer",
    "SimplePlugin",
    "ThreadManager",
]


class Monitor(Named, tasks.Monitor, SimplePlugin):
    """Call something again and again while the bus runs."""

    START = tasks.Monitor.start
    STOP = tasks.Monitor.stop


class Autoreloader(Named, autoreload.Autoreloader, SimplePlugin):
    """Restart when a file changes that the program was made of."""

    START = autoreload.Autoreloader.start
    STOP = autoreload.Autoreloader.stop


class ThreadManager(Named, threads.ThreadManager, SimplePlugin):
    """Tell listeners of each thread that begins to serve, and of its end."""

    STOP = threads.ThreadManager.stop
