"""The gallery's application in FastAPI."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import Cookie, FastAPI, Form, Request, Response, WebSocket
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

log = logging.getLogger("gallery")

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{style}">
<h1>FastAPI</h1>
<a href="{page}">A page</a>
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.started = "FastAPI"
    yield
    log.info("FastAPI has ended")


app = FastAPI(lifespan=lifespan)
app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")


@app.get("/", response_class=HTMLResponse)
async def index(request: Request) -> str:
    style, page = request.url_for("static", path="style.css"), request.url_for("page", number=7)
    return PAGE.format(style=style, page=page)


@app.get("/page/{number}", response_class=PlainTextResponse)
async def page(number: int) -> str:
    return f"Page {number}"


@app.get("/go")
async def go(request: Request) -> RedirectResponse:
    return RedirectResponse(request.url_for("page", number=7))


@app.get("/visitor")
async def visitor(visitor: Annotated[str, Cookie()] = "") -> dict[str, str]:
    return {"name": visitor}


@app.post("/visitor")
async def enter(name: Annotated[str, Form()], response: Response) -> dict[str, str]:
    response.set_cookie("visitor", name)
    return {"name": name}


@app.post("/echo")
async def echo(text: Annotated[str, Form()]) -> dict[str, str]:
    return {"text": text}


@app.get("/error")
async def error() -> None:
    raise ValueError("a mistake in FastAPI's path operation")


@app.get("/started")
async def started(request: Request) -> dict[str, str]:
    return {"started": request.app.state.started}


@app.websocket("/chat")
async def chat(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(f"FastAPI: {text}")
