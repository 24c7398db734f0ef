"""The gallery's application in web.py."""

# ruff: noqa: N802 - web.py finds a method by the request's

from __future__ import annotations

import json
import mimetypes
from pathlib import Path

import web

STATIC = Path(__file__).parent / "static"

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{home}/static/style.css">
<h1>web.py</h1>
<a href="{home}/page/7">A page</a>
"""


class Index:
    def GET(self) -> str:
        web.header("Content-Type", "text/html; charset=utf-8")
        return PAGE.format(home=web.ctx.homepath)


class Page:
    def GET(self, number: str) -> str:
        web.header("Content-Type", "text/plain; charset=utf-8")
        return f"Page {number}"


class Go:
    def GET(self) -> None:
        raise web.seeother("/page/7")  # puts the prefix in front


class Static:
    def GET(self, name: str) -> bytes:
        if not (STATIC / name).is_file():
            raise web.notfound()
        web.header("Content-Type", mimetypes.guess_type(name)[0] or "application/octet-stream")
        return (STATIC / name).read_bytes()


class Visitor:
    def GET(self) -> str:
        return json.dumps({"name": web.cookies(visitor="").visitor})

    def POST(self) -> str:
        name = web.input().name
        web.setcookie("visitor", name, path="/")
        return json.dumps({"name": name})


class Echo:
    def POST(self) -> str:
        return json.dumps({"text": web.input().text})


class Error:
    def GET(self) -> None:
        raise ValueError("a mistake in web.py's handler")


ROUTES = (
    "/", Index,
    r"/page/(\d+)", Page,
    "/go", Go,
    r"/static/([\w.-]+)", Static,
    "/visitor", Visitor,
    "/echo", Echo,
    "/error", Error,
)  # fmt: skip

web.config.debug = False
application = web.application(ROUTES).wsgifunc()
