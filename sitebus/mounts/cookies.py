"""Keep the cookies of two applications on one host apart.

Frameworks set their session's cookie for the path ``/`` even below a prefix, so that two
applications of one framework log each other's users out. Only ``Path=/`` is touched: an application
that says another path means it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sitebus.mounts import pages
from sitebus.mounts.routing import wire_prefix as wired

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from sitebus.asgi import ASGIApplication, Message, Receive, Scope, Send


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


#: Where the application is, for one whose ``root_path`` does not tell.
ROOT = "sitebus.root_path"


def narrowing_cookies_asgi(app: ASGIApplication) -> ASGIApplication:
    """Answer *app*, its cookies for ``/`` narrowed to the prefix it is mounted at."""

    async def narrowed(scope: Scope, receive: Receive, send: Send) -> None:
        root = wired(scope.get(ROOT) or scope.get("root_path", ""))

        async def narrow(message: Message) -> None:
            if root and message.get("headers"):
                pairs = [_narrowed_bytes(header, root) for header in message["headers"]]
                message = {**message, "headers": pairs}
            await send(message)

        await app(scope, receive, narrow)

    return narrowed


def _narrowed_bytes(header: tuple[bytes, bytes], path: str) -> tuple[bytes, bytes]:
    name, value = header
    if name.lower() != b"set-cookie":
        return header
    text = (str(name, "latin-1"), str(value, "latin-1"))
    return name, _narrowed(text, path)[1].encode("latin-1")


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
