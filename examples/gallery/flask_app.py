"""The gallery's application in Flask."""

from __future__ import annotations

from flask import Flask, redirect, render_template_string, request, session, url_for
from werkzeug.wrappers import Response

app = Flask(__name__)
app.secret_key = "nothing here is secret"

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{{ url_for('static', filename='style.css') }}">
<h1>Flask</h1>
<a href="{{ url_for('page', number=7) }}">A page</a>
"""


@app.get("/")
def index() -> str:
    return render_template_string(PAGE)


@app.get("/page/<int:number>")
def page(number: int) -> str:
    return f"Page {number}"


@app.get("/go")
def go() -> Response:
    return redirect(url_for("page", number=7))


@app.get("/visitor")
def visitor() -> dict[str, str]:
    return {"name": session.get("name", "")}


@app.post("/visitor")
def enter() -> dict[str, str]:
    session["name"] = request.form["name"]
    return visitor()


@app.post("/echo")
def echo() -> dict[str, str]:
    return {"text": request.form["text"]}


@app.get("/error")
def error() -> str:
    raise ValueError("a mistake in Flask's view")
