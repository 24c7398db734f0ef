"""The gallery's application in Pyramid."""

from __future__ import annotations

from pathlib import Path

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.request import Request
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory

STATIC = str(Path(__file__).parent / "static")

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{style}">
<h1>Pyramid</h1>
<a href="{page}">A page</a>
"""


def index(request: Request) -> Response:
    style = request.static_path(f"{STATIC}/style.css")
    return Response(PAGE.format(style=style, page=request.route_path("page", number=7)))


def page(request: Request) -> Response:
    return Response(f"Page {int(request.matchdict['number'])}")


def go(request: Request) -> Response:
    return HTTPFound(request.route_url("page", number=7))


def visitor(request: Request) -> dict[str, str]:
    if request.method == "POST":
        request.session["name"] = request.POST["name"]
    return {"name": request.session.get("name", "")}


def echo(request: Request) -> dict[str, str]:
    return {"text": request.POST["text"]}


def error(request: Request) -> Response:
    raise ValueError("a mistake in Pyramid's view")


with Configurator() as config:
    config.set_session_factory(SignedCookieSessionFactory("nothing here is secret"))
    config.add_static_view("static", STATIC)
    for name, pattern, view, renderer in (
        ("index", "/", index, None),
        ("page", "/page/{number}", page, None),
        ("go", "/go", go, None),
        ("visitor", "/visitor", visitor, "json"),
        ("echo", "/echo", echo, "json"),
        ("error", "/error", error, None),
    ):
        config.add_route(name, pattern)
        config.add_view(view, route_name=name, renderer=renderer)
    application = config.make_wsgi_app()
