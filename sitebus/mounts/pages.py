"""What the site itself answers: no such page, wrong host, a failure, a redirect.

Each function answers ``(status, headers, body)``, so that both faces of a site can send it.
In production an answer tells nothing about the site; in development it tells what helps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Answer = tuple[str, list[tuple[str, str]], bytes]


class Row(NamedTuple):
    """One mount, as the development page shows it."""

    place: str
    link: str
    name: str
    framework: str


def send(
    answer: Answer, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Give *answer* to a WSGI server."""
    status, headers, body = answer
    start_response(status, headers)
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


def plain(status: str, *headers: tuple[str, str]) -> Answer:
    """Answer *status* with nothing but its own words for a body."""
    return _text(status, status + "\n", headers)


def not_found(path: str, rows: Iterable[Row], *, html: bool) -> Answer:
    """Answer the development page for *path*: what is mounted, and what is nearest to it."""
    rows = sorted(rows)
    near = _nearest(path, rows)
    if html:
        return _html("404 Not Found", _not_found_html(path, rows, near))
    lines = [f"Nothing is mounted at {_shown(path)}", ""]
    lines += [f"  {row.place}  {row.name}  {row.framework}".rstrip() for row in rows]
    if near:
        lines += ["", f"The nearest is {near.place}"]
    return _text("404 Not Found", "\n".join(lines) + "\n")


def failure(error: BaseException, name: str, *, html: bool, text: str = "") -> Answer:
    """Answer the development page for an application's *error*, with its traceback, or *text*."""
    import traceback

    text = text or "".join(traceback.format_exception(error))
    title = f"The application at {name} failed"
    if not html:
        return _text("500 Internal Server Error", f"{title}\n\n{text}")
    return _html(
        "500 Internal Server Error",
        f"<h1>{_escaped(title)}</h1>\n<pre>{_escaped(text)}</pre>",
    )


def redirect(location: str, status: str = "308 Permanent Redirect") -> Answer:
    """Answer a redirect to *location*, which must be quoted already."""
    return plain(status, ("Location", location))


def quoted(path: str) -> str:
    """Quote a path as WSGI spells it (one character for each byte) for a ``Location``."""
    from urllib.parse import quote

    return quote(path.encode("latin-1", "replace"), safe="/:@!$&'()*+,;=~-._")


def requoted(environ: Mapping[str, Any], path: str, before: str = "") -> str:
    """Quote *path*, which follows *before* in the request, as the client did if that is known.

    What was quoted beyond need, such as a slash that is part of a name, cannot be told from the
    decoded path alone.
    """
    raw = str(environ.get("REQUEST_URI", "")).partition("?")[0]
    scheme, colon, rest = raw.partition("://")
    if colon and "/" not in scheme:
        raw = "/" + rest.partition("/")[2]
    # Whole segments are before it; whether those are these shows in what is left.
    left = raw.split("/")[before.count("/") + 1 :]
    raw = "".join("/" + segment for segment in left)
    return unbroken(raw) if path in _decoded(raw) else quoted(path)


def _decoded(raw: str) -> tuple[str, str]:
    """The ways servers decode a path: wholly, or without the slashes within a segment."""
    import re
    from urllib.parse import unquote

    kept = re.sub("%2f", "%252F", raw, flags=re.IGNORECASE)
    return unquote(raw, "latin-1"), unquote(kept, "latin-1")


def unbroken(query: str) -> str:
    """Answer a query string as it came, but for what cannot stand in a header."""
    from urllib.parse import quote

    return quote(query.encode("latin-1", "replace"), safe="%/:@!$&'()*+,;=~-._?[]{}|^`")


def wants_html(environ: Mapping[str, Any]) -> bool:
    """Tell whether it is a browser that asks."""
    return "text/html" in str(environ.get("HTTP_ACCEPT", ""))


def _nearest(path: str, rows: list[Row]) -> Row | None:
    import difflib

    # A long path is nobody's typing mistake, and comparing takes the square of its length.
    close = difflib.get_close_matches(path[:200], [row.link for row in rows[:1000]], n=1)
    return next((row for row in rows if close and row.link == close[0]), None)


def _not_found_html(path: str, rows: list[Row], near: Row | None) -> str:
    parts = [f"<h1>Nothing is mounted at <code>{_escaped(_shown(path))}</code></h1>"]
    if near:
        parts.append(f"<p>Did you mean {_link(near)}?</p>")
    parts.append("<table>\n<tr><th>Mount</th><th>Name</th><th>Framework</th></tr>")
    for row in rows:
        name, framework = _escaped(row.name), _escaped(row.framework)
        parts.append(f"<tr><td>{_link(row)}</td><td>{name}</td><td>{framework}</td></tr>")
    parts.append("</table>\n<p>This list is shown in development only.</p>")
    return "\n".join(parts)


def _link(row: Row) -> str:
    return f'<a href="{_escaped(row.link)}">{_escaped(row.place)}</a>'


def _shown(path: str) -> str:
    text = path.encode("latin-1", "replace").decode("utf-8", "replace")
    return text if len(text) <= 200 else f"{text[:200]}…"


def _escaped(text: str) -> str:
    import html

    return html.escape(text)


def _html(status: str, body: str) -> Answer:
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{status}</title>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    return _answer(status, "text/html; charset=utf-8", page)


def _text(status: str, text: str, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    return _answer(status, "text/plain; charset=utf-8", text, headers)


def _answer(status: str, kind: str, text: str, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    body = text.encode("utf-8", "backslashreplace")
    own = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    return status, [*own, *headers], body
