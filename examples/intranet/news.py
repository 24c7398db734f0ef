"""News, in Flask: a list that anybody on the intranet adds to."""

from __future__ import annotations

from flask import Flask, redirect, render_template_string, request, url_for
from werkzeug.wrappers import Response

app = Flask(__name__)

headlines = ["The kitchen has a new coffee machine"]

PAGE = """\
<!doctype html>
<html lang="en">
<title>News</title>
<h1>News</h1>
<ul>{% for headline in headlines %}
<li><a href="{{ url_for('headline', number=loop.index) }}">{{ headline }}</a></li>
{%- endfor %}</ul>
<form method="post"><input name="headline" required> <button>Tell everybody</button></form>
"""


@app.get("/")
def index() -> str:
    """List the headlines, each a link made by Flask for wherever this is mounted."""
    return render_template_string(PAGE, headlines=headlines)


@app.post("/")
def add() -> Response:
    """Add a headline and show it."""
    headlines.append(request.form["headline"])
    return redirect(url_for("headline", number=len(headlines)))


@app.get("/<int:number>")
def headline(number: int) -> tuple[str, int]:
    """Show one headline, the first being number 1."""
    if not 1 <= number <= len(headlines):
        return "There is no such headline.", 404
    return render_template_string("<h1>{{ text }}</h1>", text=headlines[number - 1]), 200
