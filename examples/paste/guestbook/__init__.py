"""A guestbook in Pyramid, made by a factory as its starters make it."""

from __future__ import annotations

import logging
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.request import Request
from pyramid.response import Response

log = logging.getLogger(__name__)


def main(global_config: dict[str, str], **settings: str) -> Any:
    """Answer the WSGI application with the *settings* of its ``[app:...]`` section."""
    with Configurator(settings=settings) as config:
        config.registry.entries = []
        config.add_route("book", "/")
        config.add_route("sign", "/sign")
        config.add_view(book, route_name="book")
        config.add_view(sign, route_name="sign", request_method="POST")
        return config.make_wsgi_app()


def book(request: Request) -> Response:
    title = request.registry.settings["guestbook.title"]
    return Response("\n".join([title, *request.registry.entries]), content_type="text/plain")


def sign(request: Request) -> Response:
    name = request.POST["name"]
    log.debug("%s was here", name)
    request.registry.entries.append(name)
    return HTTPFound(request.route_url("book"))
