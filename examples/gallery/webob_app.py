"""The gallery's application in WebOb, whose requests and responses need no framework."""

from __future__ import annotations

from pathlib import Path

from webob import Request, Response
from webob.dec import wsgify
from webob.exc import HTTPFound, HTTPNotFound
from webob.static import DirectoryApp

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{root}/static/style.css">
<h1>WebOb</h1>
<a href="{root}/page/7">A page</a>
"""

serve_static = DirectoryApp(str(Path(__file__).parent / "static"))


def index(request: Request) -> Response:
    return Response(PAGE.format(root=request.script_name))


def page(request: Request) -> Response:
    return Response(f"Page {int(request.path_info.removeprefix('/page/'))}")


def static(request: Request) -> Response:
    request.path_info_pop()
    return request.get_response(serve_static)


def go(request: Request) -> Response:
    return HTTPFound(location=f"{request.application_url}/page/7")


def visitor(request: Request) -> Response:
    if request.method != "POST":
        return Response(json={"name": request.cookies.get("visitor", "")})
    response = Response(json={"name": request.POST["name"]})
    response.set_cookie("visitor", request.POST["name"])
    return response


def echo(request: Request) -> Response:
    return Response(json={"text": request.POST["text"]})


def error(request: Request) -> Response:
    raise ValueError("a mistake in WebOb's view")


VIEWS = {
    "": index,
    "page": page,
    "static": static,
    "go": go,
    "visitor": visitor,
    "echo": echo,
    "error": error,
}


@wsgify
def application(request: Request) -> Response:
    view = VIEWS.get(request.path_info_peek() or "")
    return view(request) if view else HTTPNotFound()
