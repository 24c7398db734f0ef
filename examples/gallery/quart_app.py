"""The gallery's application in Quart."""

from __future__ import annotations

import logging

from quart import Quart, redirect, render_template_string, request, session, url_for, websocket
from werkzeug.wrappers import Response

log = logging.getLogger("gallery")
app = Quart(__name__)
app.secret_key = "nothing here is secret"

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{{ url_for('static', filename='style.css') }}">
<h1>Quart</h1>
<a href="{{ url_for('page', number=7) }}">A page</a>
"""


@app.before_serving
async def start() -> None:
    app.config["STARTED"] = "Quart"


@app.after_serving
async def stop() -> None:
    log.info("Quart has ended")


@app.get("/")
async def index() -> str:
    return await render_template_string(PAGE)


@app.get("/page/<int:number>")
async def page(number: int) -> str:
    return f"Page {number}"


@app.get("/go")
async def go() -> Response:
    return redirect(url_for("page", number=7))


@app.get("/visitor")
async def visitor() -> dict[str, str]:
    return {"name": session.get("name", "")}


@app.post("/visitor")
async def enter() -> dict[str, str]:
    session["name"] = (await request.form)["name"]
    return await visitor()


@app.post("/echo")
async def echo() -> dict[str, str]:
    return {"text": (await request.form)["text"]}


@app.get("/error")
async def error() -> str:
    raise ValueError("a mistake in Quart's view")


@app.get("/started")
async def started() -> dict[str, str]:
    return {"started": app.config["STARTED"]}


@app.websocket("/chat")
async def chat() -> None:
    while True:
        text = str(await websocket.receive())
        await websocket.send(f"Quart: {text}")
