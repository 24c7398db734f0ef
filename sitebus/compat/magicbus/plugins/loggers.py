"""Every public name of ``magicbus.plugins.loggers``: those of `sitebus.plugins.loggers`."""

from __future__ import annotations

from sitebus.plugins import SimplePlugin
from sitebus.plugins.loggers import FileLogger, StderrLogger, StdoutLogger, StreamLogger

__all__ = ["FileLogger", "SimplePlugin", "StderrLogger", "StdoutLogger", "StreamLogger"]
