"""The gallery's application in Starlette."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

log = logging.getLogger("gallery")

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{style}">
<h1>Starlette</h1>
<a href="{page}">A page</a>
"""


class State(TypedDict):
    started: str


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[State]:
    yield {"started": "Starlette"}
    log.info("Starlette has ended")


async def index(request: Request) -> Response:
    style, page = request.url_for("static", path="style.css"), request.url_for("page", number=7)
    return HTMLResponse(PAGE.format(style=style, page=page))


async def page(request: Request) -> Response:
    return PlainTextResponse(f"Page {request.path_params['number']}")


async def go(request: Request) -> Response:
    return RedirectResponse(request.url_for("page", number=7))


async def visitor(request: Request) -> Response:
    if request.method == "POST":
        async with request.form() as form:
            request.session["name"] = form["name"]
    return JSONResponse({"name": request.session.get("name", "")})


async def echo(request: Request) -> Response:
    async with request.form() as form:
        return JSONResponse({"text": form["text"]})


async def error(request: Request) -> Response:
    raise ValueError("a mistake in Starlette's endpoint")


async def started(request: Request) -> Response:
    return JSONResponse({"started": request.state.started})


async def chat(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(f"Starlette: {text}")


app = Starlette(
    lifespan=lifespan,
    middleware=[Middleware(SessionMiddleware, secret_key="nothing here is secret")],
    routes=[
        Route("/", index),
        Route("/page/{number:int}", page, name="page"),
        Route("/go", go),
        Route("/visitor", visitor, methods=["GET", "POST"]),
        Route("/echo", echo, methods=["POST"]),
        Route("/error", error),
        Route("/started", started),
        WebSocketRoute("/chat", chat),
        Mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static"),
    ],
)
