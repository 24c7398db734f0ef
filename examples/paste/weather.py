"""The weather in TurboGears, with its minimal configuration, made by a factory."""

from __future__ import annotations

from typing import Any

import tg
from tg import TGController, expose
from tg.configurator.minimal import MinimalApplicationConfigurator


class RootController(TGController):
    @expose()
    def index(self) -> str:
        return f"Sunny in {tg.config['place']}; tomorrow: {tg.url('/tomorrow')}\n"

    @expose("json")
    def tomorrow(self) -> dict[str, str]:
        return {"weather": "rain"}


def main(global_config: dict[str, str], **settings: str) -> Any:
    """Answer the WSGI application with the *settings* of its ``[app:main]`` section."""
    config = MinimalApplicationConfigurator()
    config.update_blueprint(
        {"root_controller": RootController(), "renderers": ["json"], "default_renderer": "json"}
    )
    return config.make_wsgi_app(global_config, settings)
