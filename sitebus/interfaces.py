"""What is this object: a WSGI application, an ASGI application, or a factory that makes one?

Decides by looking only; the object is never called, because calling an application to see what
happens has side effects and misleads. Loading the object is left to ``references``, serving it to
``mounts``. The rules run from sure to likely: a marker on the object, its framework, the shape of
its signature. What no rule knows is an error that says how to say it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from sitebus import references
from sitebus.errors import NotAnApplication, SitebusError, UnclearInterface, WrongInterface

if TYPE_CHECKING:
    from inspect import Signature

Interface = Literal["wsgi", "asgi3", "asgi2", "factory"]

INTERFACES: tuple[Interface, ...] = get_args(Interface)


class Detected(NamedTuple):
    """What an object is, and how sure that is."""

    interface: Interface
    #: The name of its framework, or "" for plain Python.
    framework: str = ""
    #: False when only the number of its parameters spoke for it.
    certain: bool = True


#: Dotted names of classes whose instances (and subclasses' instances) are applications, and of
#: functions that are.
_FRAMEWORKS: dict[str, tuple[Interface, str]] = {
    "flask.app.Flask": ("wsgi", "Flask"),
    "django.core.handlers.wsgi.WSGIHandler": ("wsgi", "Django"),
    "bottle.Bottle": ("wsgi", "Bottle"),
    "pyramid.router.Router": ("wsgi", "Pyramid"),
    "falcon.app.App": ("wsgi", "Falcon"),
    "cherrypy._cptree.Tree": ("wsgi", "CherryPy"),
    "cherrypy._cptree.Application": ("wsgi", "CherryPy"),
    "webob.dec.wsgify": ("wsgi", "WebOb"),
    "webob.static.DirectoryApp": ("wsgi", "WebOb"),
    "webob.static.FileApp": ("wsgi", "WebOb"),
    "morepath.app.App": ("wsgi", "Morepath"),
    "web.application.application.wsgifunc.<locals>.wsgi": ("wsgi", "web.py"),
    "tg.wsgiapp.TGApp": ("wsgi", "TurboGears"),
    "tg.support.registry.RegistryManager": ("wsgi", "TurboGears"),
    "tg.support.statics.StaticsMiddleware": ("wsgi", "TurboGears"),
    "pecan.core.PecanBase": ("wsgi", "Pecan"),
    "pecan.middleware.recursive.RecursiveMiddleware": ("wsgi", "Pecan"),
    "paste.urlmap.URLMap": ("wsgi", "Paste"),
    "whitenoise.base.WhiteNoise": ("wsgi", "WhiteNoise"),
    "socketio.middleware.WSGIApp": ("wsgi", "Socket.IO"),
    "sitebus.targets.StaticFiles": ("wsgi", "static files"),
    "sitebus.targets.Redirect": ("wsgi", "redirect"),
    "django.core.handlers.asgi.ASGIHandler": ("asgi3", "Django"),
    "falcon.asgi.app.App": ("asgi3", "Falcon"),
    "fastapi.applications.FastAPI": ("asgi3", "FastAPI"),
    "starlette.applications.Starlette": ("asgi3", "Starlette"),
    "starlette.routing.Router": ("asgi3", "Starlette"),
    "quart.app.Quart": ("asgi3", "Quart"),
    "litestar.app.Litestar": ("asgi3", "Litestar"),
    "sanic.app.Sanic": ("asgi3", "Sanic"),
    "channels.routing.ProtocolTypeRouter": ("asgi3", "Channels"),
    "channels.routing.URLRouter": ("asgi3", "Channels"),
    "blacksheep.server.application.Application": ("asgi3", "BlackSheep"),
    "socketio.asgi.ASGIApp": ("asgi3", "Socket.IO"),
    "engineio.async_drivers.asgi.ASGIApp": ("asgi3", "Engine.IO"),
}

#: Objects people mount by mistake, and what they meant.
_MISTAKES: dict[str, str] = {
    "dash.dash.Dash": "mount its .server, made with requests_pathname_prefix set to the prefix",
    "aiohttp.web_app.Application": "aiohttp applications speak neither WSGI nor ASGI",
    "tornado.web.Application": "Tornado applications speak neither WSGI nor ASGI",
    "web.application.application": "mount what its .wsgifunc() returns",
    "pyramid.config.Configurator": "mount what its .make_wsgi_app() returns",
    "tg.configurator.base.Configurator": "mount what its .make_wsgi_app() returns",
    "tg.configuration.app_config.AppConfig": "mount what its .make_wsgi_app() returns",
    "flask.blueprints.Blueprint": "register the blueprint on a Flask application and mount that",
    "quart.blueprints.Blueprint": "register the blueprint on a Quart application and mount that",
    "sanic.blueprints.Blueprint": "register the blueprint on a Sanic application and mount that",
    "fastapi.routing.APIRouter": "include the router in a FastAPI application and mount that",
    "litestar.router.Router": "give the router to a Litestar application and mount that",
    "litestar.handlers.base.BaseRouteHandler": "give it to a Litestar application and mount that",
    "flask_socketio.SocketIO": "mount the Flask application it was given",
    "socketio.server.Server": "wrap it in socketio.WSGIApp",
    "socketio.async_server.AsyncServer": "wrap it in socketio.ASGIApp",
    "hug.api.API": "mount the module's __hug_wsgi__",
    "gradio.blocks.Blocks": "mount the FastAPI application that gradio.mount_gradio_app makes",
    "robyn.Robyn": "Robyn brings its own server and speaks neither WSGI nor ASGI",
    "builtins.module": "name an attribute of the module, as in module:application",
}

_WSGI_NAMES = (
    {"environ", "env", "environment", "wsgi_environ"},
    {"start_response", "start", "start_resp"},
)


def detect(obj: object, said: Interface | None = None, *, reference: str = "") -> Detected:
    """Answer what *obj* is, without ever calling it; what was *said* outright stands, as a rule.

    Args:
        obj: Any object.
        said: What it is, where somebody knows.
        reference: What names it, for messages.

    Raises:
        NotAnApplication: It cannot be served; says what was probably meant.
        UnclearInterface: It could be anything, such as a function of ``*args``.
        WrongInterface: It is certainly not what was said.
        AppImportError: Its own code, a ``__getattr__`` for one, failed when it was looked at.
    """
    found = references.call(reference or _kind(obj), _look, obj, said, reference)
    if isinstance(found, SitebusError):
        raise found
    return found


def _look(obj: object, said: Interface | None, reference: str) -> Detected | SitebusError:
    """Errors are answered, to tell them from those that looking at *obj* raises."""
    found = _by_marker(obj) or _by_framework(obj)
    hint = "" if found else mistake(obj)
    if not callable(obj):
        reason = hint or f"it is of type {type(obj).__name__}, which cannot be called"
        return NotAnApplication(_named(obj, reference), reason)
    if said:
        return _told(obj, said, found, reference)
    if hint:
        return NotAnApplication(_named(obj, reference), hint)
    return found or _by_shape(obj) or UnclearInterface(_named(obj, reference))


def _told(
    obj: Callable[..., Any], said: Interface, found: Detected | None, reference: str
) -> Detected | SitebusError:
    """Answer what was *said*, unless *obj* certainly is something else."""
    stands = Detected(said, found.framework if found else "")
    shape = _by_own_shape(obj)
    sure = found if found and (_marked(obj) or _is_its_frameworks_call(obj)) else shape
    if said == "factory" or sure is None or said in (sure.interface, shape and shape.interface):
        return stands
    if said == "asgi3" and sure.interface == "asgi2":
        return sure  # which is ASGI too
    return WrongInterface(_named(obj, reference), said, sure.interface, sure.framework)


def _named(obj: object, reference: str) -> str:
    return repr(reference) if reference else describe(obj)


def mistake(obj: object) -> str:
    """Answer what somebody probably meant who mounts *obj*, or "" if it is no known mistake."""
    return _MISTAKES.get(_known_as(obj), "")


def describe(obj: object) -> str:
    """Name *obj* for a message: its dotted name where it has one, else its type's."""
    # Other objects are not asked: their attributes may be the application's own code.
    if issubclass(type(obj), (type, FunctionType, BuiltinFunctionType, MethodType)):
        named = cast("type", obj)
        return f"{named.__module__}.{named.__qualname__}"
    return f"{obj!r:.60}" if type(obj).__module__ == "builtins" else _kind(obj)


def _kind(obj: object) -> str:
    return f"an instance of {type(obj).__module__}.{type(obj).__qualname__}"


def _known_as(obj: object) -> str:
    """Answer the dotted name by which *obj* stands in a table, or "".

    Its nearest ancestor decides: a FastAPI router is a Starlette router, and no application.
    """
    kinds: list[Any] = list(type(obj).__mro__)
    if type(obj) is FunctionType:
        kinds.insert(0, obj)
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return next((name for name in names if name in _FRAMEWORKS or name in _MISTAKES), "")


def _by_marker(obj: object) -> Detected | None:
    said = _marked(obj)
    known = _by_framework(obj)
    return Detected(said, known.framework if known else "") if said else None


def _marked(obj: object) -> Interface | None:
    said = _marker(obj, "__sitebus_interface__")
    if said in INTERFACES:
        return said
    if _marker(obj, "_asgi_single_callable"):
        return "asgi3"
    return "asgi2" if _marker(obj, "_asgi_double_callable") else None


def _marker(obj: object, name: str) -> object:
    # Proxies and mocks answer any attribute; a marker counts only where somebody wrote it down.
    for place in (obj, type(obj)):
        names = getattr(place, "__dict__", None)
        if names is not None and name in names:
            return cast(object, names[name])
    return None


def _by_framework(obj: object) -> Detected | None:
    known = _FRAMEWORKS.get(_known_as(obj))
    return Detected(*known) if known else None


def _is_its_frameworks_call(obj: object) -> bool:
    """Tell whether to call *obj* is to call its framework: a subclass may have another call."""
    if type(obj) is FunctionType:
        return True
    for kind in type(obj).__mro__:
        if f"{kind.__module__}.{kind.__qualname__}" in _FRAMEWORKS:
            return True
        if "__call__" in vars(kind):
            return False
    return False


def _by_own_shape(obj: Callable[..., Any]) -> Detected | None:
    """Answer what is certain by the signature of *obj*, whatever it wraps or passes on."""
    try:
        found = _by_shape(obj) if _positional(_own_signature(obj)) else None
    except (TypeError, ValueError):
        return None
    return found if found and found.certain else None


def _by_shape(obj: Callable[..., Any]) -> Detected | None:
    awaited = _is_coroutine_function(obj)
    try:
        signature = _signature(obj)
    except (TypeError, ValueError):
        # Written in C, and says nothing more about itself.
        return Detected("asgi3") if awaited else None
    found = _by_names(signature)
    if isinstance(obj, type):
        return _of_class(obj, signature, found)
    if awaited and not (found and found.certain):
        return Detected("asgi3") if _takes(signature, 3) else None
    return found


def _signature(obj: Callable[..., Any]) -> Signature:
    """A wrapper that names its parameters means them; one of ``*args`` passes them on."""
    import inspect

    own = _own_signature(obj)
    return own if _positional(own) else inspect.signature(_plain(obj))


def _own_signature(obj: Callable[..., Any]) -> Signature:
    import inspect

    return inspect.signature(_plain(obj), follow_wrapped=False)


def _plain(obj: Callable[..., Any]) -> Callable[..., Any]:
    call = _call_of(type(obj))
    # Of a static one inspect would take a self away.
    return call.__func__ if isinstance(call, staticmethod) else obj


def _takes(signature: Signature, count: int) -> bool:
    try:
        signature.bind(*(None,) * count)
    except TypeError:
        return False
    return True


def _of_class(kind: type, signature: Signature, found: Detected | None) -> Detected | None:
    """A class is an application when making an instance answers a request."""
    names = _required(signature)
    if len(names) == 1 and _is_coroutine_function(_call_of(kind)):
        return Detected("asgi2", certain=names == ["scope"])
    if len(names) == 2 and not hasattr(kind, "__iter__"):
        return found if found and found.certain else None
    return found


def _by_names(signature: Signature) -> Detected | None:
    names = _positional(signature)
    if len(names) >= 2 and names[0] in _WSGI_NAMES[0] and names[1] in _WSGI_NAMES[1]:
        return Detected("wsgi")
    if names[:3] == ["scope", "receive", "send"]:
        return Detected("asgi3")
    required = _required(signature)
    if required == ["scope"]:
        return Detected("asgi2")
    if not names and any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):
        return None
    return _by_count(signature, len(required))


def _by_count(signature: Signature, count: int) -> Detected | None:
    shapes: dict[int, Interface] = {0: "factory", 2: "wsgi", 3: "asgi3"}
    if count not in shapes or not _takes(signature, count):
        return None
    return Detected(shapes[count], certain=False)


def _positional(signature: Signature) -> list[str]:
    return [
        parameter.name.lstrip("_")
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


def _required(signature: Signature) -> list[str]:
    return [
        parameter.name.lstrip("_")
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def _is_coroutine_function(obj: object) -> bool:
    """Also through partials, decorators that say what they wrap, and instances' ``__call__``."""
    import functools
    import inspect

    if isinstance(obj, type):
        return False  # calling a class never gives a coroutine
    while isinstance(obj, functools.partial):
        obj = obj.func
    if inspect.iscoroutinefunction(obj):
        return True
    wrapped = inspect.unwrap(obj) if callable(obj) else obj
    return inspect.iscoroutinefunction(wrapped) or _has_coroutine_call(wrapped)


def _has_coroutine_call(obj: object) -> bool:
    import inspect

    return not inspect.isroutine(obj) and inspect.iscoroutinefunction(_call_of(type(obj)))


def _call_of(kind: type) -> object:
    """What runs when an instance is called; ``callable`` would only tell whether anything does."""
    return next((vars(each)["__call__"] for each in kind.__mro__ if "__call__" in vars(each)), None)
