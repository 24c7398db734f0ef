"""A small web framework: each path leads to a function, which answers a page from a template."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from string import Template
from wsgiref.types import StartResponse, WSGIEnvironment

View = Callable[[], str]


class Templates:
    """The templates in *folder*, each read when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Template] = {}

    def render(self, name: str, **values: object) -> str:
        """Fill the template *name*; values are text, whatever is in them."""
        read = self._read
        if name not in read:
            read[name] = Template((self.folder / name).read_text(encoding="utf-8"))
        return read[name].substitute({key: escape(str(values[key])) for key in values})

    def forget(self) -> None:
        """Read every template again when it is next asked for."""
        # A new dictionary: who reads an old file at this moment puts it into the old one.
        self._read = {}


class App:
    """A WSGI application, with its templates in *folder*."""

    def __init__(self, folder: Path) -> None:
        self.templates = Templates(folder.absolute())
        self._views: dict[str, View] = {}

    def page(self, path: str) -> Callable[[View], View]:
        """Have the decorated function answer at *path*."""

        def add(view: View) -> View:
            self._views[path] = view
            return view

        return add

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        view = self._views.get(environ["PATH_INFO"] or "/")
        status = "200 OK" if view else "404 Not Found"
        body = (view() if view else "<p>There is no such page.</p>\n").encode()
        headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [body]
