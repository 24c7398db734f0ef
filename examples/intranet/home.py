"""The landing page, in plain WSGI."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from wsgiref.types import StartResponse, WSGIEnvironment

PLACES = {
    "news/": "News, a Flask application",
    "people/": "People, a Django application",
    "rooms/": "Meeting rooms, a WebOb application",
    "files/handbook.txt": "The handbook, a file",
}

PAGE = """\
<!doctype html>
<html lang="en">
<title>Intranet</title>
<h1>Intranet</h1>
<ul>
{links}
</ul>
"""


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Link to every other application of the site."""
    if environ["PATH_INFO"] not in ("", "/"):
        return answer(start_response, "404 Not Found", "text/plain", "There is no such page.\n")
    # Wherever this is mounted, the others are beside it.
    base = escape(environ["SCRIPT_NAME"], quote=True)
    links = [f'<li><a href="{base}/{path}">{text}</a></li>' for path, text in PLACES.items()]
    return answer(start_response, "200 OK", "text/html", PAGE.format(links="\n".join(links)))


def answer(start_response: StartResponse, status: str, kind: str, text: str) -> Iterable[bytes]:
    """Send *text* as the whole response."""
    body = text.encode()
    headers = [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]
