"""The gallery's application in Dash: a Flask application with pages made of components.

Dash asks $DASH_REQUESTS_PATHNAME_PREFIX where it is mounted; site.ini says so in [env].
"""

from __future__ import annotations

from dash import Dash, Input, Output, callback, dcc, html
from flask import Flask, redirect, request, session
from werkzeug.wrappers import Response

server = Flask(__name__, static_folder=None)
server.secret_key = "nothing here is secret"

dash = Dash(__name__, server=False, assets_folder="static", assets_url_path="static")
dash.init_app(server)
dash.layout = html.Div(
    [
        html.H1("Dash"),
        html.A("A page", href=dash.get_relative_path("/page/7")),
        dcc.Input(id="text"),
        html.P(id="shouted"),
    ]
)


@callback(Output("shouted", "children"), Input("text", "value"))
def shout(text: str | None) -> str:
    return (text or "").upper()


@server.get("/page/<int:number>")
def page(number: int) -> str:
    return f"Page {number}"


@server.get("/go")
def go() -> Response:
    return redirect(dash.get_relative_path("/page/7"))


@server.get("/visitor")
def visitor() -> dict[str, str]:
    return {"name": session.get("name", "")}


@server.post("/visitor")
def enter() -> dict[str, str]:
    session["name"] = request.form["name"]
    return visitor()


@server.post("/echo")
def echo() -> dict[str, str]:
    return {"text": request.form["text"]}


@server.get("/error")
def error() -> str:
    raise ValueError("a mistake in Dash's view")
