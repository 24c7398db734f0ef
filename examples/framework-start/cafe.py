"""What is on today: ``cafe.py [ADDRESS]``; change anything while it runs, Ctrl-C ends it."""

from __future__ import annotations

import sys
from pathlib import Path

from tiny import App
from tiny.serving import run

DISHES = {"soup": "Leek & potato", "pie": "Rhubarb"}

app = App(Path(__file__).with_name("templates"))


@app.page("/")
def menu() -> str:
    """Show what there is to eat."""
    return app.templates.render("menu.html", **DISHES)


if __name__ == "__main__":
    sys.exit(run(app, *sys.argv[1:2]))
