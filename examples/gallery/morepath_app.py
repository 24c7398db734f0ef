"""The gallery's application in Morepath."""

from __future__ import annotations

from pathlib import Path

import morepath
from morepath import Request
from webob import Response
from webob.static import DirectoryApp

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{style}">
<h1>Morepath</h1>
<a href="{page}">A page</a>
"""

serve_static = DirectoryApp(str(Path(__file__).parent / "static"))


class App(morepath.App):
    pass


@App.path(path="")
class Root:
    pass


@App.path(path="page/{number}", converters={"number": int})
class Page:
    def __init__(self, number: int) -> None:
        self.number = number


@App.path(path="static/{name}")
class Static:
    def __init__(self, name: str) -> None:
        self.name = name


@App.html(model=Root)
def index(self: Root, request: Request) -> str:
    return PAGE.format(style=request.link(Static("style.css")), page=request.link(Page(7)))


@App.view(model=Page)
def page(self: Page, request: Request) -> str:
    return f"Page {self.number}"


@App.view(model=Static)
def static(self: Static, request: Request) -> Response:
    request.path_info = f"/{self.name}"
    return request.get_response(serve_static)


@App.view(model=Root, name="go")
def go(self: Root, request: Request) -> Response:
    return morepath.redirect(request.link(Page(7)))


@App.json(model=Root, name="visitor")
def visitor(self: Root, request: Request) -> dict[str, str]:
    return {"name": request.cookies.get("visitor", "")}


@App.json(model=Root, name="visitor", request_method="POST")
def enter(self: Root, request: Request) -> dict[str, str]:
    @request.after
    def remember(response: Response) -> None:
        response.set_cookie("visitor", request.POST["name"])

    return {"name": request.POST["name"]}


@App.json(model=Root, name="echo", request_method="POST")
def echo(self: Root, request: Request) -> dict[str, str]:
    return {"text": request.POST["text"]}


@App.view(model=Root, name="error")
def error(self: Root, request: Request) -> str:
    raise ValueError("a mistake in Morepath's view")


App.commit()
application = App()
