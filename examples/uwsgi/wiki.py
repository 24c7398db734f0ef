"""An application in Flask."""

from __future__ import annotations

from flask import Flask, url_for

application = Flask(__name__)


@application.get("/")
def index() -> str:
    return f"Flask, at {url_for('index')}\n"
