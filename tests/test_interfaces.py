"""What an object is, told without calling it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sitebus.errors import (
    AppImportError,
    NotAnApplication,
    UnclearInterface,
    WrongInterface,
)
from sitebus.interfaces import Detected, Interface, detect
from tests.helpers import ROOT, SiteProcess, environment


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


def wsgi_of(view: Callable[..., Any]) -> Callable[..., Any]:
    """Make a view of a request an application, as small frameworks do."""

    @functools.wraps(view)
    def wrapper(environ: Any, start_response: Any) -> Any:
        return view(environ)

    return wrapper


def asgi_of(view: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(view)
    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        await view(scope)

    return wrapper


async def view(request: Any) -> Any:
    raise Called


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


class AsgiWrappedCall:
    __call__ = decorated(AsgiObject.__call__)


class AsgiStaticCall:
    __call__ = staticmethod(asgi)


class AsgiClass:
    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        raise Called

    def __await__(self) -> Iterator[None]:
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
        (AsgiClass, "asgi3", True),
        (AsgiWrappedCall(), "asgi3", True),
        (AsgiStaticCall(), "asgi3", True),
        (AsgiObject().__call__, "asgi3", True),
        (functools.partial(AsgiObject()), "asgi3", True),
        (functools.partial(Objects.asgi, Objects()), "asgi3", True),
        (lambda scope, receive, send: None, "asgi3", True),
        (asgi_of(view), "asgi3", True),
        (wsgi_of(view), "wsgi", True),
        (wsgi_of(factory), "wsgi", True),
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


@pytest.mark.parametrize(
    "obj",
    [
        anything,
        decorated(anything),
        print,
        lambda a, b, c, d: None,
        # A view is no application, and async alone does not make it one.
        view,
        decorated(view),
        asgi_with_config,
        # Nobody calls these by keywords.
        functools.partial(asgi_with_config, config={}),
        functools.partial(wsgi_three, config={}),
    ],
)
def test_what_could_be_anything_must_be_said(obj: object) -> None:
    """A wrong guess is a site of 500s."""
    with pytest.raises(UnclearInterface, match="say it: wsgi:"):
        detect(obj)
    assert detect(obj, "wsgi") == Detected("wsgi")


def test_the_check_says_what_is_a_guess(tmp_path: Path) -> None:
    """An operator may then say it outright, which makes it sure."""
    (tmp_path / "odd.py").write_text("def app(e, s): ...\n")
    mounts = ("[mount /a]", "app = odd:app", "[mount /b]", "app = wsgi:odd:app")
    (tmp_path / "site.ini").write_text("\n".join(mounts))

    with SiteProcess("--check=import", "site.ini", cwd=tmp_path) as child:
        assert child.wait() == 0

    shown = [line.split() for line in child.output.splitlines()]
    assert shown == [
        ["/a", "odd:app", "wsgi", "GUESSED"],
        ["/b", "wsgi:odd:app", "wsgi", "CERTAIN"],
    ]


#: A module of the gallery, or of a framework, and something in it that a user would mount.
INSTALLED = (
    ("flask_app", "app", Detected("wsgi", "Flask")),
    ("flask_app", "app.wsgi_app", Detected("wsgi")),
    ("django_app", "application", Detected("wsgi", "Django")),
    ("django.core.wsgi", "get_wsgi_application", Detected("factory", certain=False)),
    ("bottle_app", "app", Detected("wsgi", "Bottle")),
    ("bottle", "default_app()", Detected("wsgi", "Bottle")),
    ("pyramid_app", "application", Detected("wsgi", "Pyramid")),
    ("falcon_app", "application", Detected("wsgi", "Falcon")),
    ("cherrypy_app", "application", Detected("wsgi", "CherryPy")),
    ("cherrypy", "tree", Detected("wsgi", "CherryPy")),
    ("webpy_app", "application", Detected("wsgi", "web.py")),
    ("morepath_app", "application", Detected("wsgi", "Morepath")),
    ("turbogears_app", "application", Detected("wsgi", "TurboGears")),
    ("pecan_app", "application", Detected("wsgi", "Pecan")),
    ("pecan", "Pecan(object())", Detected("wsgi", "Pecan")),
    ("webob_app", "application", Detected("wsgi", "WebOb")),
    ("webob_app", "serve_static", Detected("wsgi", "WebOb")),
    ("dash_app", "server", Detected("wsgi", "Flask")),
    ("starlette_app", "app", Detected("asgi3", "Starlette")),
    ("starlette.endpoints", "HTTPEndpoint", Detected("asgi3")),
    ("starlette.staticfiles", "StaticFiles(directory='.')", Detected("asgi3")),
    ("fastapi_app", "app", Detected("asgi3", "FastAPI")),
    ("quart_app", "app", Detected("asgi3", "Quart")),
    ("litestar_app", "app", Detected("asgi3", "Litestar")),
    ("sanic_app", "app", Detected("asgi3", "Sanic")),
    ("falcon_asgi_app", "app", Detected("asgi3", "Falcon")),
    ("django_asgi_app", "application", Detected("asgi3", "Django")),
)

#: Something in such a module that is beside what a user meant, and a word of the remedy.
MISTAKEN = (
    ("dash_app", "dash", "mount its .server"),
    ("flask", "Blueprint('x', 'x')", "Flask application"),
    ("quart", "Blueprint('x', 'x')", "Quart application"),
    ("sanic", "Blueprint('x')", "Sanic application"),
    ("fastapi", "APIRouter()", "FastAPI application"),
    ("litestar_app", "static", "Litestar application"),
    ("litestar_app", "page", "Litestar application"),
    ("turbogears_app", "config", ".make_wsgi_app()"),
    ("tg", "AppConfig()", ".make_wsgi_app()"),
    ("pyramid.config", "Configurator()", ".make_wsgi_app()"),
    ("web", "application(())", ".wsgifunc()"),
    ("falcon_app", "falcon", "name an attribute of the module"),
)

#: Imports each, and tells what it is: in a process of its own, for frameworks change theirs.
LOOK = """\
import importlib, json, sys
from sitebus.errors import SitebusError
from sitebus.interfaces import detect

answers = []
for name, expression in json.loads(sys.argv[1]):
    try:
        answers.append(detect(eval(expression, vars(importlib.import_module(name)))))
    except (SitebusError, ImportError) as error:
        answers.append(f"{type(error).__name__}: {error}")
print("", json.dumps(answers), sep="\\n")
"""


@pytest.fixture(scope="module")
def looked() -> dict[tuple[str, str], Any]:
    """What each of the above was taken for, or why it was not."""
    asked = [each[:2] for each in (*INSTALLED, *MISTAKEN)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOOK, json.dumps(asked)],
        env=environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "examples/gallery")])),
        stdout=subprocess.PIPE,
        text=True,
        timeout=50,
        check=True,
    )
    return dict(zip(asked, json.loads(done.stdout.splitlines()[-1]), strict=True))


def installed(answer: Any) -> Any:
    """Skip the test of a framework that is not there, except where all of them should be."""
    if str(answer).startswith("ModuleNotFoundError") and "CI" not in os.environ:
        pytest.skip(f"needs examples/gallery/requirements.txt: {answer}")
    return answer


@pytest.mark.slow
@pytest.mark.parametrize(("module", "expression", "expected"), INSTALLED)
def test_what_frameworks_make_is_known(
    looked: dict[tuple[str, str], Any], module: str, expression: str, expected: Detected
) -> None:
    """The table has their names by heart: a class that has moved would be missed."""
    assert installed(looked[module, expression]) == list(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("module", "expression", "remedy"), MISTAKEN)
def test_what_frameworks_have_beside_it_is_known(
    looked: dict[tuple[str, str], Any], module: str, expression: str, remedy: str
) -> None:
    """What was meant is said, not only that this is wrong."""
    answer = installed(looked[module, expression])

    assert answer.startswith("NotAnApplication: ")
    assert remedy in answer


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


@pytest.mark.parametrize(
    ("obj", "said", "sentence"),
    [
        (asgi, "wsgi", "tests.test_interfaces.asgi was said to speak WSGI, but it speaks ASGI; "
         "say that, or leave it to be found out"),
        (asgi_oddly_named, "wsgi", "but it speaks ASGI;"),
        (wsgi, "asgi3", "was said to speak ASGI, but it speaks WSGI;"),
        (AsgiMiddleware(), "wsgi", "but it speaks ASGI;"),
        (WsgiClass, "asgi3", "but it speaks WSGI;"),
        (asgi2, "wsgi", "but it speaks ASGI 2;"),
        (asgi, "asgi2", "was said to speak ASGI 2, but it speaks ASGI;"),
        (marked("_asgi_single_callable"), "wsgi", "but it speaks ASGI;"),
    ],
)  # fmt: skip
def test_what_is_certain_contradicts_what_is_said(
    obj: object, said: Interface, sentence: str
) -> None:
    """A word that is believed against all evidence makes every request a 500."""
    with pytest.raises(WrongInterface) as caught:
        detect(obj, said)
    assert sentence in str(caught.value)
    assert caught.value.status == 78


@pytest.mark.parametrize(
    ("obj", "said", "interface"),
    [
        # It may make one of the other.
        (decorated(asgi), "wsgi", "wsgi"),
        (decorated(wsgi), "asgi3", "asgi3"),
        # Only a guess.
        (wsgi_oddly_named, "asgi3", "asgi3"),
        # The marker came with the class it derives from, or what it wraps.
        (MarkedObject(), "wsgi", "wsgi"),
        # Both are ASGI.
        (asgi2, "asgi3", "asgi2"),
        (Asgi2Class, "asgi3", "asgi2"),
    ],
)
def test_what_is_not_certain_is_left_to_who_says_it(
    obj: object, said: Interface, interface: Interface
) -> None:
    """Who says it has a reason."""
    assert detect(obj, said).interface == interface
