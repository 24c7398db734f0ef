"""A site of one process, for tests of ``sitebus-ctl``: python ctl_site.py SITE.INI."""

from __future__ import annotations

import sys

from sitebus.config import read
from sitebus.control import from_configuration
from sitebus.plugins.signals import SignalHandler
from sitebus.process import Engine


def main() -> int:
    """Serve nothing but the control socket."""
    engine = Engine()
    configuration = read(sys.argv[1])
    for plugin in (*from_configuration(configuration, engine), SignalHandler(engine)):
        plugin.subscribe()
    engine.subscribe("shop.price", lambda *values: print("price", *values, flush=True))
    engine.subscribe("log", lambda message, level: print(message, flush=True))
    engine.subscribe("started", lambda: print("serving", flush=True))
    engine.start()
    return engine.block()


if __name__ == "__main__":
    sys.exit(main())
