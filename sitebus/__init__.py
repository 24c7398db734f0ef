"""One process bus that hosts Python web applications.

``sitebus.engine`` is the process's bus, ``sitebus.site`` the site it serves. Importing this package
opens, starts and registers nothing.
"""

from sitebus.bus import Bus
from sitebus.errors import ChannelFailures, SitebusError
from sitebus.machine import Graph, Machine, State, states
from sitebus.process import Engine, Priority, ProcessBus

__version__ = "0.1.0.dev0"

#: The bus of this process.
engine = Engine()

__all__ = [
    "Bus",
    "ChannelFailures",
    "Engine",
    "Graph",
    "Machine",
    "Priority",
    "ProcessBus",
    "SitebusError",
    "State",
    "engine",
    "states",
]
