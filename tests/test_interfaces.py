"""What an object is, told without calling it."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sitebus.errors import AppImportError, NotAnApplication, UnclearInterface
from sitebus.interfaces import Detected, Interface, detect


class Called(Exception):
    """Some specimen was called."""


def wsgi(environ: Any, start_response: Any) -> Any:
    raise Called


def wsgi_oddly_named(e: Any, s: Any) -> Any:
    raise Called


def wsgi_with_more(environ: Any, start_response: Any, extra: Any = None) -> Any:
    raise Called


def wsgi_three(config: Any, environ: Any, start_response: Any) -> Any:
    raise Called


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    raise Called


async def asgi_oddly_named(a: Any, b: Any, c: Any) -> None:
    raise Called


async def asgi_with_config(config: Any, scope: Any, receive: Any, send: Any) -> None:
    raise Called


def asgi_not_async(scope: Any, receive: Any, send: Any) -> Any:
    raise Called


def asgi2(scope: Any) -> Any:
    raise Called


def factory() -> Any:
    raise Called


def factory_with_defaults(config: Any = None, *, debug: bool = False) -> Any:
    raise Called


def anything(*args: Any, **kwargs: Any) -> Any:
    raise Called


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Objects:
    def wsgi(self, environ: Any, start_response: Any) -> Any:
        raise Called

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        raise Called

    def factory(self) -> Any:
        raise Called


class WsgiObject:
    def __call__(self, environ: Any, start_response: Any) -> Any:
        raise Called


class WsgiClass:
    def __init__(self, environ: Any, start_response: Any) -> None:
        raise Called

    def __iter__(self) -> Iterator[bytes]:
        raise Called


class WsgiClassOddlyNamed:
    def __init__(self, e: Any, s: Any) -> None:
        raise Called

    def __iter__(self) -> Iterator[bytes]:
        raise Called


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise Called


class AsgiMiddleware:
    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        raise Called


class Asgi2Class:
    def __init__(self, scope: Any) -> None:
        raise Called

    async def __call__(self, receive: Any, send: Any) -> None:
        raise Called


class FactoryClass:
    def __init__(self, debug: bool = False) -> None:
        raise Called

    def __call__(self, environ: Any, start_response: Any) -> Any:
        raise Called


class MarkedObject(WsgiObject):
    __sitebus_interface__ = "asgi3"


def marked(interface: str) -> Callable[..., Any]:
    def app(*args: Any) -> Any:
        raise Called

    app.__dict__[interface] = True
    return app


@pytest.mark.parametrize(
    ("obj", "interface", "certain"),
    [
        (wsgi, "wsgi", True),
        (wsgi_oddly_named, "wsgi", False),
        (wsgi_with_more, "wsgi", True),
        (functools.partial(wsgi_three, {}), "wsgi", True),
        (decorated(wsgi), "wsgi", True),
        (Objects().wsgi, "wsgi", True),
        (WsgiObject(), "wsgi", True),
        (functools.partial(WsgiObject()), "wsgi", True),
        (WsgiClass, "wsgi", True),
        (WsgiClassOddlyNamed, "wsgi", False),
        (lambda environ, start_response: None, "wsgi", True),
        (asgi, "asgi3", True),
        (asgi_oddly_named, "asgi3", True),
        (functools.partial(asgi_with_config, {}), "asgi3", True),
        (functools.partial(functools.partial(asgi_with_config), {}), "asgi3", True),
        (asgi_not_async, "asgi3", True),
        (decorated(asgi), "asgi3", True),
        (decorated(asgi_oddly_named), "asgi3", True),
        (Objects().asgi, "asgi3", True),
        (AsgiObject(), "asgi3", True),
        (AsgiMiddleware(), "asgi3", True),
        (asgi2, "asgi2", True),
        (Asgi2Class, "asgi2", True),
        (factory, "factory", False),
        (factory_with_defaults, "factory", False),
        (Objects().factory, "factory", False),
        (FactoryClass, "factory", False),
        (WsgiObject, "factory", False),
        (MarkedObject(), "asgi3", True),
        (marked("_asgi_single_callable"), "asgi3", True),
        (marked("_asgi_double_callable"), "asgi2", True),
    ],
)
def test_the_shape_tells(obj: object, interface: Interface, certain: bool) -> None:
    """It was never called: a specimen that is raises."""
    assert detect(obj) == Detected(interface, "", certain)


@pytest.mark.parametrize("obj", [anything, decorated(anything), print, lambda a, b, c, d: None])
def test_what_could_be_anything_must_be_said(obj: object) -> None:
    """A wrong guess is a site of 500s."""
    with pytest.raises(UnclearInterface, match="wsgi: or factory:"):
        detect(obj)
    assert detect(obj, "wsgi") == Detected("wsgi")


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


def impostor(name: str, **members: Any) -> Any:
    """Answer an instance of a class that looks like a framework's from outside."""
    module, _, kind = name.rpartition(".")
    return type(kind, (), {"__module__": module, **members})()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dash.dash.Dash", ".server"),
        ("aiohttp.web_app.Application", "neither"),
        ("tornado.web.Application", "neither"),
        ("web.application.application", "wsgifunc"),
        ("pyramid.config.Configurator", "make_wsgi_app"),
    ],
)
def test_a_known_mistake_gets_its_remedy(name: str, hint: str) -> None:
    """The object looks right, and is the one beside the right one."""
    with pytest.raises(NotAnApplication, match=hint):
        detect(impostor(name))
    with pytest.raises(NotAnApplication, match=hint):
        detect(impostor(name, __call__=anything))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("falcon.asgi.app.App", Detected("asgi3", "Falcon")),
        ("quart.app.Quart", Detected("asgi3", "Quart")),
        ("sanic.app.Sanic", Detected("asgi3", "Sanic")),
        ("bottle.Bottle", Detected("wsgi", "Bottle")),
    ],
)
def test_frameworks_that_are_not_installed_are_known_too(name: str, expected: Detected) -> None:
    """By the dotted name alone, so that nothing need be imported."""
    assert detect(impostor(name, __call__=anything)) == expected


@pytest.mark.parametrize("obj", [None, 42, "module:app", types])
def test_what_cannot_be_called_is_no_application(obj: object) -> None:
    """Said before it is served."""
    with pytest.raises(NotAnApplication) as caught:
        detect(obj)
    assert caught.value.status == 78


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, BaseException])
@pytest.mark.parametrize("said", [None, "wsgi"])
def test_an_object_that_will_not_be_looked_at_is_at_fault(
    error: type[BaseException], said: Interface | None
) -> None:
    """Looking runs its own code, which may raise anything."""

    class Touchy:
        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise error("hands off")

        def __call__(self, environ: Any, start_response: Any) -> Any:
            raise Called

    with pytest.raises(AppImportError, match="hands off") as caught:
        detect(Touchy(), said, reference="shop:touchy")
    assert "'shop:touchy'" in str(caught.value)
    assert caught.value.traceback_text.splitlines()[1].endswith("in __dict__")
    with pytest.raises(AppImportError, match="Touchy"):
        detect(Touchy(), said)


def test_what_is_said_makes_nothing_callable() -> None:
    """Nor an application of what is known to be none."""
    with pytest.raises(NotAnApplication, match=r"'shop:number' .* of type int"):
        detect(1, "wsgi", reference="shop:number")
