"""Serve one application from code: ``quickstart.py [ADDRESS]``; Ctrl-C ends it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import sitebus


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Say which bus serves the request, and in which state it is."""
    body = f"This site is {sitebus.engine.state}.\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


if __name__ == "__main__":
    sitebus.quickstart(application, bind=sys.argv[1] if sys.argv[1:] else "127.0.0.1:8080")
