"""The gallery's application in CherryPy."""

from __future__ import annotations

from pathlib import Path

import cherrypy

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{style}">
<h1>CherryPy</h1>
<a href="{page}">A page</a>
"""


class Root:
    @cherrypy.expose
    def index(self) -> str:
        return PAGE.format(style=cherrypy.url("/static/style.css"), page=cherrypy.url("/page/7"))

    @cherrypy.expose
    def page(self, number: str) -> str:
        return f"Page {int(number)}"

    @cherrypy.expose
    def go(self) -> None:
        # A path alone would be taken from the host's root: HTTPRedirect knows no prefix.
        raise cherrypy.HTTPRedirect(cherrypy.url("/page/7"))

    @cherrypy.expose
    @cherrypy.tools.json_out()
    def visitor(self, name: str | None = None) -> dict[str, str]:
        if name is not None:
            cherrypy.session["name"] = name
        return {"name": cherrypy.session.get("name", "")}

    @cherrypy.expose
    @cherrypy.tools.json_out()
    def echo(self, text: str) -> dict[str, str]:
        return {"text": text}

    @cherrypy.expose
    def error(self) -> None:
        raise ValueError("a mistake in CherryPy's handler")


CONFIG = {
    "/": {"tools.sessions.on": True},
    "/static": {
        "tools.staticdir.on": True,
        "tools.staticdir.dir": str(Path(__file__).parent / "static"),
        "tools.sessions.on": False,
    },
}

cherrypy.config.update({"environment": "embedded"})
# With None, the prefix is what the server says it is.
application = cherrypy.Application(Root(), script_name=None, config=CONFIG)
