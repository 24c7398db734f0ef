"""Keep the cookies of two applications on one host apart.

Frameworks set their session's cookie for the path ``/`` even below a prefix, so that two
applications of one framework log each other's users out. Only ``Path=/`` is touched: an application
that says another path means it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sitebus.mounts import pages

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def narrowing_cookies(app: WSGIApplication) -> WSGIApplication:
    """Answer *app*, its cookies for ``/`` narrowed to the prefix it is mounted at."""

    def narrowed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        script = environ.get("SCRIPT_NAME", "")

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            if script and isinstance(headers, list):
                headers = [_narrowed(header, script) for header in headers]
            return start_response(status, headers, *exc_info)

        return app(environ, start)

    return narrowed


def _narrowed(header: tuple[str, str], path: str) -> tuple[str, str]:
    """Rewrite ``Path=/``, and nothing else, unless the cookie's name forbids any other path."""
    name, value = header
    if name.lower() != "set-cookie" or value.startswith("__Host-"):
        return header
    parts = value.split(";")
    own = pages.quoted(path)
    parts[1:] = [
        f" Path={own}" if part.strip().lower().replace(" ", "") == "path=/" else part
        for part in parts[1:]
    ]
    return name, ";".join(parts)
