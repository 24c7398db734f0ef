"""The gallery's application in Falcon's ASGI flavour."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import falcon
from falcon.asgi import App, Request, Response, WebSocket

log = logging.getLogger("gallery")

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{root}/static/style.css">
<h1>Falcon</h1>
<a href="{root}/page/7">A page</a>
"""


class Index:
    async def on_get(self, request: Request, response: Response) -> None:
        response.content_type = falcon.MEDIA_HTML
        # root_path is the prefix; Falcon puts it in front of nothing by itself.
        response.text = PAGE.format(root=request.root_path)


class Page:
    async def on_get(self, request: Request, response: Response, number: int) -> None:
        response.content_type = falcon.MEDIA_TEXT
        response.text = f"Page {number}"


class Go:
    async def on_get(self, request: Request, response: Response) -> None:
        raise falcon.HTTPFound(f"{request.prefix}/page/7")


class Visitor:
    async def on_get(self, request: Request, response: Response) -> None:
        response.media = {"name": request.cookies.get("visitor", "")}

    async def on_post(self, request: Request, response: Response) -> None:
        name = (await request.get_media())["name"]
        response.set_cookie("visitor", name, path="/", secure=False)
        response.media = {"name": name}


class Echo:
    async def on_post(self, request: Request, response: Response) -> None:
        response.media = {"text": (await request.get_media())["text"]}


class Error:
    async def on_get(self, request: Request, response: Response) -> None:
        raise ValueError("a mistake in Falcon's responder")


class Started:
    """A resource, and the middleware that is told of the start and the end."""

    name = ""

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        self.name = "Falcon"

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        log.info("Falcon has ended")

    async def on_get(self, request: Request, response: Response) -> None:
        response.media = {"started": self.name}


class Chat:
    async def on_websocket(self, request: Request, socket: WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.send_text(f"Falcon: {await socket.receive_text()}")


started = Started()
app = App(middleware=[started])
app.add_route("/", Index())
app.add_route("/page/{number:int}", Page())
app.add_route("/go", Go())
app.add_route("/visitor", Visitor())
app.add_route("/echo", Echo())
app.add_route("/error", Error())
app.add_route("/started", started)
app.add_route("/chat", Chat())
app.add_static_route("/static", Path(__file__).parent / "static")
