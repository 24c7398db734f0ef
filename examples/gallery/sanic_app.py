"""The gallery's application in Sanic.

Sanic knows nothing of a prefix that a server takes off the path: it routes on the whole path, and
what it links to are its own routes. So its routes have the prefix, and site.ini leaves it on.
"""

from __future__ import annotations

import logging
from pathlib import Path

from sanic import Blueprint, HTTPResponse, Request, Sanic, Websocket
from sanic.response import html, json, redirect, text

log = logging.getLogger("gallery")

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{style}">
<h1>Sanic</h1>
<a href="{page}">A page</a>
"""

gallery = Blueprint("gallery", url_prefix="/sanic")
gallery.static("/static", Path(__file__).parent / "static", name="static")


def field(request: Request, name: str) -> str:
    """Answer a field of a form; without a form there is none, not even an empty one."""
    return str(request.form.get(name)) if request.form else ""


@gallery.before_server_start
async def start(app: Sanic) -> None:
    app.ctx.started = "Sanic"


@gallery.after_server_stop
async def stop(app: Sanic) -> None:
    log.info("Sanic has ended")


@gallery.get("/")
async def index(request: Request) -> HTTPResponse:
    style = request.app.url_for("gallery.static", filename="style.css")
    return html(PAGE.format(style=style, page=request.app.url_for("gallery.page", number=7)))


@gallery.get("/page/<number:int>")
async def page(request: Request, number: int) -> HTTPResponse:
    return text(f"Page {number}")


@gallery.get("/go")
async def go(request: Request) -> HTTPResponse:
    return redirect(request.app.url_for("gallery.page", number=7))


@gallery.get("/visitor")
async def visitor(request: Request) -> HTTPResponse:
    return json({"name": request.cookies.get("visitor", "")})


@gallery.post("/visitor")
async def enter(request: Request) -> HTTPResponse:
    name = field(request, "name")
    response = json({"name": name})
    response.add_cookie("visitor", name, secure=False)
    return response


@gallery.post("/echo")
async def echo(request: Request) -> HTTPResponse:
    return json({"text": field(request, "text")})


@gallery.get("/error")
async def error(request: Request) -> HTTPResponse:
    raise ValueError("a mistake in Sanic's handler")


@gallery.get("/started")
async def started(request: Request) -> HTTPResponse:
    return json({"started": request.app.ctx.started})


@gallery.websocket("/chat")
async def chat(request: Request, socket: Websocket) -> None:
    # Not "async for": Sanic's socket has that under its own server only.
    while (message := await socket.recv()) is not None:
        await socket.send(f"Sanic: {message!s}")


# Or Sanic would print every message a second time.
app = Sanic("gallery", configure_logging=False)
app.blueprint(gallery)
