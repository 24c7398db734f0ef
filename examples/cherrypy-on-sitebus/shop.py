"""A shop of one page, as it was written for CherryPy alone."""

# CherryPy ships no types.
# mypy: allow-subclassing-any, allow-untyped-decorators

import threading
from typing import Any

import cherrypy
from cherrypy.process import plugins


class Stock(plugins.SimplePlugin):
    """Opens and closes with the engine, and sells on the channel ``sell``."""

    def __init__(self, bus: Any, pieces: int) -> None:
        super().__init__(bus)
        self.pieces = pieces
        self.lock = threading.Lock()
        self.is_open = False

    def start(self) -> None:
        self.is_open = True
        self.bus.log("The shop is open.")

    def stop(self) -> None:
        self.is_open = False
        self.bus.log("The shop is closed.")

    def sell(self) -> int:
        with self.lock:
            self.pieces -= 1
            return self.pieces


class Shop:
    @cherrypy.expose
    def index(self) -> str:
        (left,) = cherrypy.engine.publish("sell")
        return f"Sold. {left} left.\n"


cherrypy.engine.listeners["sell"] = set()
Stock(cherrypy.engine, pieces=100).subscribe()

application = cherrypy.tree.mount(Shop(), "", {"/": {}})


if __name__ == "__main__":
    cherrypy.quickstart(Shop(), "", {"/": {}})
