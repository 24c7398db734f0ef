"""The gallery's application in Litestar."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from litestar import Litestar, MediaType, Request, get, post, websocket_listener
from litestar.datastructures import State
from litestar.enums import RequestEncodingType
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.params import Body
from litestar.response import Redirect
from litestar.static_files import create_static_files_router

log = logging.getLogger("gallery")

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{style}">
<h1>Litestar</h1>
<a href="{page}">A page</a>
"""

Form = Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncGenerator[None, None]:
    app.state.started = "Litestar"
    yield
    log.info("Litestar has ended")


@get("/", media_type=MediaType.HTML)
async def index(request: Request) -> str:
    style = request.url_for("static", file_path="style.css")
    return PAGE.format(style=style, page=request.url_for("page", number=7))


@get("/page/{number:int}", name="page", media_type=MediaType.TEXT)
async def page(number: int) -> str:
    return f"Page {number}"


@get("/go")
async def go(request: Request) -> Redirect:
    return Redirect(request.url_for("page", number=7))


@get("/visitor")
async def visitor(request: Request) -> dict[str, str]:
    return {"name": request.session.get("name", "")}


@post("/visitor")
async def enter(request: Request, data: Form) -> dict[str, str]:
    request.session["name"] = data["name"]
    return {"name": data["name"]}


@post("/echo")
async def echo(data: Form) -> dict[str, str]:
    return {"text": data["text"]}


@get("/error")
async def error() -> None:
    raise ValueError("a mistake in Litestar's handler")


@get("/started")
async def started(state: State) -> dict[str, str]:
    return {"started": state.started}


@websocket_listener("/chat")
async def chat(data: str) -> str:
    return f"Litestar: {data}"


static = create_static_files_router(path="/static", directories=[Path(__file__).parent / "static"])

app = Litestar(
    [index, page, go, visitor, enter, echo, error, started, chat, static],
    lifespan=[lifespan],
    middleware=[ServerSideSessionConfig().middleware],
    # Or Litestar would set up the logging of the whole process.
    logging_config=None,
)
