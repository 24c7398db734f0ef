"""The gallery's application in Falcon, which leaves addresses to the application."""

from __future__ import annotations

from pathlib import Path

import falcon
from falcon import Request, Response

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{root}/static/style.css">
<h1>Falcon</h1>
<a href="{root}/page/7">A page</a>
"""


class Index:
    def on_get(self, request: Request, response: Response) -> None:
        response.content_type = falcon.MEDIA_HTML
        # root_path is the prefix; Falcon puts it in front of nothing by itself.
        response.text = PAGE.format(root=request.root_path)


class Page:
    def on_get(self, request: Request, response: Response, number: int) -> None:
        response.content_type = falcon.MEDIA_TEXT
        response.text = f"Page {number}"


class Go:
    def on_get(self, request: Request, response: Response) -> None:
        raise falcon.HTTPFound(f"{request.prefix}/page/7")


class Visitor:
    def on_get(self, request: Request, response: Response) -> None:
        response.media = {"name": request.cookies.get("visitor", "")}

    def on_post(self, request: Request, response: Response) -> None:
        name = request.get_media()["name"]
        response.set_cookie("visitor", name, path="/", secure=False)
        response.media = {"name": name}


class Echo:
    def on_post(self, request: Request, response: Response) -> None:
        response.media = {"text": request.get_media()["text"]}


class Error:
    def on_get(self, request: Request, response: Response) -> None:
        raise ValueError("a mistake in Falcon's responder")


application = falcon.App()
application.add_route("/", Index())
application.add_route("/page/{number:int}", Page())
application.add_route("/go", Go())
application.add_route("/visitor", Visitor())
application.add_route("/echo", Echo())
application.add_route("/error", Error())
application.add_static_route("/static", Path(__file__).parent / "static")
