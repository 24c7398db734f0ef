"""The gallery's application in Bottle."""

from __future__ import annotations

from pathlib import Path

from bottle import Bottle, redirect, request, response, static_file, template

STATIC = Path(__file__).parent / "static"
SECRET = "nothing here is secret"

app = Bottle()

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{{ get_url('static', path='style.css') }}">
<h1>Bottle</h1>
<a href="{{ get_url('page', number=7) }}">A page</a>
"""


@app.get("/")
def index() -> str:
    return template(PAGE, get_url=app.get_url)


@app.get("/page/<number:int>", name="page")
def page(number: int) -> str:
    return f"Page {number}"


@app.get("/go")
def go() -> None:
    redirect(app.get_url("page", number=7))


@app.get("/static/<path:path>", name="static")
def static(path: str) -> object:
    return static_file(path, root=STATIC)


@app.get("/visitor")
def visitor() -> dict[str, str]:
    return {"name": request.get_cookie("visitor", "", secret=SECRET)}


@app.post("/visitor")
def enter() -> dict[str, str]:
    response.set_cookie("visitor", request.forms.name, secret=SECRET, path="/")
    return {"name": request.forms.name}


@app.post("/echo")
def echo() -> dict[str, str]:
    return {"text": request.forms.text}


@app.get("/error")
def error() -> None:
    raise ValueError("a mistake in Bottle's view")
