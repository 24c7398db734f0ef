"""The gallery's application in TurboGears, with its minimal configuration."""

from __future__ import annotations

from pathlib import Path

import tg
from tg import TGController, expose
from tg.configurator.components.statics import StaticsConfigurationComponent
from tg.configurator.minimal import MinimalApplicationConfigurator

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{style}">
<h1>TurboGears</h1>
<a href="{page}">A page</a>
"""


class RootController(TGController):
    @expose()
    def index(self) -> str:
        return PAGE.format(style=tg.url("/static/style.css"), page=tg.url("/page/7"))

    @expose()
    def page(self, number: str) -> str:
        return f"Page {int(number)}"

    @expose()
    def go(self) -> None:
        tg.redirect("/page/7")

    @expose("json")
    def visitor(self, name: str | None = None) -> dict[str, str]:
        if name is None:
            return {"name": tg.request.cookies.get("visitor", "")}
        tg.response.set_cookie("visitor", name)
        return {"name": name}

    @expose("json")
    def echo(self, text: str) -> dict[str, str]:
        return {"text": text}

    @expose()
    def error(self) -> None:
        raise ValueError("a mistake in TurboGears' controller")


config = MinimalApplicationConfigurator()
config.register(StaticsConfigurationComponent)
config.update_blueprint(
    {
        "root_controller": RootController(),
        "renderers": ["json"],
        "default_renderer": "json",
        "paths": {"static_files": str(Path(__file__).parent)},
    }
)
application = config.make_wsgi_app()
