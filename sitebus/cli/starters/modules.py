"""One Python file: which applications it makes, as far as its text tells.

Nothing is run. What a name stands for is followed through imports, assignments and the functions
that make applications; what goes beyond that is not found, and can be named by hand.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

#: What is called to make an application: the interface, and who speaks it.
MAKERS: Mapping[str, tuple[str, str]] = {
    "flask.Flask": ("wsgi", "Flask"),
    "bottle.Bottle": ("wsgi", "Bottle"),
    "bottle.default_app": ("wsgi", "Bottle"),
    "falcon.App": ("wsgi", "Falcon"),
    "falcon.API": ("wsgi", "Falcon"),
    "cherrypy.tree.mount": ("wsgi", "CherryPy"),
    "cherrypy.Application": ("wsgi", "CherryPy"),
    "pecan.make_app": ("wsgi", "Pecan"),
    "pecan.deploy.deploy": ("wsgi", "Pecan"),
    "django.core.wsgi.get_wsgi_application": ("wsgi", "Django"),
    "django.core.asgi.get_asgi_application": ("asgi", "Django"),
    "channels.routing.ProtocolTypeRouter": ("asgi", "Channels"),
    "falcon.asgi.App": ("asgi", "Falcon"),
    "fastapi.FastAPI": ("asgi", "FastAPI"),
    "fastapi.applications.FastAPI": ("asgi", "FastAPI"),
    "starlette.applications.Starlette": ("asgi", "Starlette"),
    "quart.Quart": ("asgi", "Quart"),
    "litestar.Litestar": ("asgi", "Litestar"),
    "sanic.Sanic": ("asgi", "Sanic"),
    "blacksheep.Application": ("asgi", "BlackSheep"),
    "socketio.ASGIApp": ("asgi", "Socket.IO"),
    "socketio.WSGIApp": ("wsgi", "Socket.IO"),
}
#: Methods that answer an application, whatever they are asked of.
_METHODS = {"make_wsgi_app": ("wsgi", "Pyramid"), "wsgifunc": ("wsgi", "web.py")}
#: Their applications are an attribute of what is made.
_SERVERS = {"dash.Dash": ("server", "wsgi", "Dash")}

_WSGI = ["environ", "start_response"]
_ASGI = ["scope", "receive", "send"]


class Made(NamedTuple):
    """An application that a module has under a name, or a factory of one."""

    name: str
    interface: str
    framework: str
    factory: bool = False


class Later(NamedTuple):
    """A name whose value another module has: ``application = create_app()``, or an import."""

    name: str
    origin: str
    called: bool


class Module(NamedTuple):
    """What one file has."""

    made: tuple[Made, ...]
    later: tuple[Later, ...]
    tree: ast.Module


def read(source: bytes, package: str = "") -> Module:
    """Read the text of a module, which is in *package*.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: It is none, or none that Python reads.
    """
    with warnings.catch_warnings():
        # An author's escapes are the author's business.
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    reader = _Reader(package)
    reader.read(tree.body)
    return Module(tuple(reader.made.values()), tuple(reader.later), tree)


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Answer the statements that run when a module is imported, nested ones among them."""
    for each in body:
        if isinstance(each, ast.If) and _is_script(each.test):
            yield from statements(each.orelse)
        elif isinstance(each, (ast.If, ast.Try, ast.With)):
            for part in ("body", "handlers", "orelse", "finalbody"):
                yield from statements(_unwrapped(getattr(each, part, ())))
        else:
            yield each


def _unwrapped(nodes: Iterable[ast.AST]) -> Iterator[ast.stmt]:
    for node in nodes:
        if isinstance(node, ast.ExceptHandler):
            yield from node.body
        elif isinstance(node, ast.stmt):
            yield node


def _is_script(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and "__main__" in ast.unparse(test)


class _Reader:
    """The names of a module, from its first line to its last."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.imported: dict[str, str] = {}
        self.made: dict[str, Made] = {}
        self.later: list[Later] = []
        #: Classes whose instances are applications.
        self._classes: dict[str, tuple[str, str]] = {}
        self._held: dict[str, tuple[str, str, str]] = {}

    def read(self, body: Iterable[ast.stmt]) -> None:
        for each in statements(body):
            if isinstance(each, (ast.Import, ast.ImportFrom)):
                self._import(each)
            elif isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self._function(each)
            elif isinstance(each, ast.ClassDef):
                self._class(each)
            elif isinstance(each, (ast.Assign, ast.AnnAssign)) and each.value is not None:
                targets = each.targets if isinstance(each, ast.Assign) else [each.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        self._assign(target.id, each.value)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                self.imported[alias.asname or first] = alias.name if alias.asname else first
            return
        module = self._absolute(node)
        for alias in node.names:
            origin, name = f"{module}.{alias.name}", alias.asname or alias.name
            self.imported[name] = origin
            self.later.append(Later(name, origin, called=False))

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.package.split(".")
        base = parts[: len(parts) - node.level + 1]
        return ".".join([*base, *filter(None, [node.module])])

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        names = _positional(node.args)
        if node.name.startswith("_") or node.decorator_list:
            # A middleware, a fixture, a view: what it is, its decorator knows.
            return
        if isinstance(node, ast.FunctionDef) and names[:2] == _WSGI:
            self.made[node.name] = Made(node.name, "wsgi", "")
        elif names[:3] == _ASGI and isinstance(node, ast.AsyncFunctionDef):
            self.made[node.name] = Made(node.name, "asgi", "")
        elif isinstance(node, ast.FunctionDef) and len(node.args.defaults) >= len(names):
            self._factory(node)

    def _factory(self, node: ast.FunctionDef) -> None:
        """Take a function that answers an application, as far as its own lines tell."""
        if any(default is None for default in node.args.kw_defaults):
            return
        inner = _Reader(self.package)
        inner.imported = dict(self.imported)
        inner.made, inner._classes = dict(self.made), self._classes
        inner.read(node.body)
        for each in ast.walk(node):
            if isinstance(each, ast.Return) and each.value is not None:
                found = inner.application(each.value)
                if found is not None:
                    self.made[node.name] = Made(node.name, *found, factory=True)
                    return

    def _class(self, node: ast.ClassDef) -> None:
        bases = [_dotted(base, self.imported) for base in node.bases]
        known = next((MAKERS[base] for base in bases if base in MAKERS), None)
        if known is not None:
            self._classes[node.name] = known
        for each in node.body:
            if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
                names = _positional(each.args)[1:]
                if each.name == "__call__" and names[:2] == _WSGI:
                    self._classes.setdefault(node.name, ("wsgi", ""))
                elif each.name == "__call__" and names[:3] == _ASGI:
                    self._classes.setdefault(node.name, ("asgi", ""))

    def _assign(self, name: str, value: ast.expr) -> None:
        found = self.application(value)
        origin = _dotted(value.func, self.imported) if isinstance(value, ast.Call) else ""
        if origin in _SERVERS:
            self._held[name] = _SERVERS[origin]
        elif found is not None:
            self.made[name] = Made(name, *found)
        elif origin and "." in origin:
            self.later.append(Later(name, origin, called=True))

    def application(self, value: ast.expr) -> tuple[str, str] | None:
        """Answer interface and framework of what an expression makes, if that is an application."""
        if isinstance(value, ast.Name):
            made = self.made.get(value.id)
            return (made.interface, made.framework) if made and not made.factory else None
        if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
            attribute, *kind = self._held.get(value.value.id, ("",))
            return (kind[0], kind[1]) if attribute == value.attr else None
        return self._called(value) if isinstance(value, ast.Call) else None

    def _called(self, call: ast.Call) -> tuple[str, str] | None:
        name = _dotted(call.func, self.imported)
        if name in MAKERS or name in self._classes:
            return MAKERS.get(name) or self._classes[name]
        if isinstance(call.func, ast.Attribute) and call.func.attr in _METHODS:
            return _METHODS[call.func.attr]
        made = self.made.get(name)
        if made is not None and made.factory:
            return made.interface, made.framework
        # A middleware around what is known.
        around = [each for each in call.args if isinstance(each, (ast.Name, ast.Call))]
        return next(filter(None, map(self.application, around[:1])), None)


def _positional(arguments: ast.arguments) -> list[str]:
    return [each.arg.lstrip("_") for each in (*arguments.posonlyargs, *arguments.args)]


def _dotted(node: ast.expr, imported: Mapping[str, str]) -> str:
    """Answer what a chain of names stands for; empty if it is something else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([imported.get(node.id, node.id), *reversed(names)])
