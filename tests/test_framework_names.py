"""What an application of a framework is, told by whose it is."""

from __future__ import annotations

from typing import Any

import pytest

from sitebus.errors import WrongInterface
from sitebus.interfaces import Detected, detect


def test_frameworks_are_known_by_their_names() -> None:
    """Their signatures say little: a WebOb function takes a request and anything."""
    import cherrypy
    import flask
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler
    from webob.dec import wsgify

    class Shop(flask.Flask):
        pass

    assert detect(flask.Flask("x")) == Detected("wsgi", "Flask")
    assert detect(Shop("x")) == Detected("wsgi", "Flask")
    assert detect(wsgify(lambda request: None)) == Detected("wsgi", "WebOb")
    assert detect(WSGIHandler.__new__(WSGIHandler)) == Detected("wsgi", "Django")
    assert detect(ASGIHandler.__new__(ASGIHandler)) == Detected("asgi3", "Django")
    assert detect(cherrypy.tree) == Detected("wsgi", "CherryPy")
    assert detect(flask.Flask("x"), "wsgi") == Detected("wsgi", "Flask")


def test_a_framework_contradicts_what_is_said() -> None:
    """Unless somebody has given it another call, which their word then is about."""
    import fastapi
    import flask

    class Both(flask.Flask):
        async def __call__(self, *args: Any) -> Any:  # type: ignore[override]
            raise AssertionError

    with pytest.raises(WrongInterface, match=r"'wsgi:shop:app' .* is FastAPI and speaks ASGI"):
        detect(fastapi.FastAPI(), "wsgi", reference="wsgi:shop:app")
    with pytest.raises(WrongInterface, match="Flask and speaks WSGI"):
        detect(flask.Flask("x"), "asgi3")
    assert detect(Both("x"), "asgi3").interface == "asgi3"
