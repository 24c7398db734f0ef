"""``cherrypy.process`` over this package's own classes, and CherryPy itself on this engine.

`install` puts these modules where CherryPy looks for its own.
"""

from __future__ import annotations

import sys

from sitebus.compat.cherrypy import plugins, servers, wspbus
from sitebus.compat.cherrypy.wspbus import bus
from sitebus.errors import InstalledTooLate
from sitebus.process import Engine

__all__ = ["bus", "install", "plugins", "servers", "wspbus"]

_MODULES = {"wspbus": wspbus, "plugins": plugins, "servers": servers}


def install() -> Engine:
    """Make CherryPy run on ``sitebus.engine``, and answer that; to be called before it is imported.

    ``cherrypy.engine`` is then the bus of this process, and ``cherrypy.process`` is this package.
    A second call does nothing.

    Raises:
        InstalledTooLate: CherryPy was imported before, and holds on to a bus of its own.
    """
    package = sys.modules[__name__]
    present = sys.modules.get("cherrypy.process")
    if present is package:
        return bus
    if present is not None or "cherrypy" in sys.modules:
        raise InstalledTooLate("cherrypy", "sitebus.compat.cherrypy.install()")
    sys.modules["cherrypy.process"] = package
    for name, module in _MODULES.items():
        sys.modules[f"cherrypy.process.{name}"] = module
    return bus


class Guest:
    """CherryPy applications on a site that sitebus serves: the engine is shared, the server is not.

    In ``site.ini`` it is ``[plugin cherrypy]`` with ``use = sitebus.compat.cherrypy:Guest``.

    Args:
        bus: The engine; nothing but ``sitebus.engine`` will do.
        imports: Modules with plugins for ``cherrypy.engine``, separated by spaces or commas: they
            have to be imported before the site starts.
    """

    def __init__(self, bus: Engine, imports: str = "") -> None:
        self.bus = bus
        self.imports = imports.replace(",", " ").split()

    def subscribe(self) -> None:
        """Import CherryPy, without its server and its reloader.

        Raises:
            InstalledTooLate: CherryPy was imported before, and holds on to a bus of its own.
        """
        from importlib import import_module

        install()
        cherrypy = import_module("cherrypy")
        for name in self.imports:
            import_module(name)
        # The site has logs of its own for these two; CherryPy's tells of errors in its pages.
        bus.unsubscribe("log", cherrypy._buslog)
        for handler in tuple(cherrypy.log.access_log.handlers):
            cherrypy.log.access_log.removeHandler(handler)
        cherrypy.server.unsubscribe()
        cherrypy.engine.autoreload.unsubscribe()

    def unsubscribe(self) -> None:
        """CherryPy stays: what is imported cannot be taken back."""
