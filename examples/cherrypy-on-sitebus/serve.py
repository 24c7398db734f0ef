"""Serve the shop: ``serve.py [HOST:PORT]``; Ctrl-C ends it.

What differs from CherryPy alone is the call of ``install``, before its first import.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from sitebus.compat.cherrypy import install

if __name__ == "__main__":
    install()

    import cherrypy

    host, _, port = (sys.argv[1] if sys.argv[1:] else "127.0.0.1:8080").rpartition(":")
    cherrypy.config.update({"server.socket_host": host, "server.socket_port": int(port)})
    runpy.run_path(str(Path(__file__).with_name("shop.py")), run_name="__main__")
