"""What may stand behind ``app =``: a reference, a folder of files, a redirect.

Decides how the text of a target is read, and makes the application it means. Loading what a
reference names is ``references``'s, telling what it is ``interfaces``'s; ranges, dates and
conditional requests of static files are WebOb's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sitebus import pages, references
from sitebus.errors import (
    AppFileNotFound,
    AppImportError,
    BadReference,
    NotAnApplication,
    nearest,
)
from sitebus.interfaces import Detected, Interface, describe, detect

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_REDIRECTS = {
    "301": "301 Moved Permanently",
    "302": "302 Found",
    "303": "303 See Other",
    "307": "307 Temporary Redirect",
    "308": "308 Permanent Redirect",
}

_INTERFACES: dict[str, Interface] = {
    "wsgi": "wsgi", "asgi": "asgi3", "asgi3": "asgi3", "asgi2": "asgi2", "factory": "factory",
}  # fmt: skip

_BLOCK = 1 << 16

#: What ``.gz`` and its like are when they are downloaded: files of their own, not an encoding that
#: a browser should take off.
_PACKED = {
    "gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz",
    "br": "application/x-brotli", "compress": "application/x-compress",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """An application that was opened, and what it is."""

    text: str
    app: Any
    detected: Detected


def open_target(text: str, *, directory: str | os.PathLike[str] = "") -> Any:
    """Answer the application that *text* means; see ``examine``."""
    return examine(text, directory=directory).app


def examine(text: str, *, directory: str | os.PathLike[str] = "") -> Target:
    """Open the application that *text* means, and tell what it is.

    Args:
        text: ``module:attr``, ``file.py:attr``, either behind ``wsgi:``, ``asgi:`` or ``factory:``;
            ``static:FOLDER``; ``redirect:URL`` or ``redirect:301 URL``.
        directory: The folder that relative files and folders are relative to.

    Raises:
        BadReference: The text is nothing of that.
        AppNotFound, AppImportError: See ``references.load``.
        NotAnApplication, UnclearInterface: What it names cannot be served.
    """
    scheme, rest = _scheme(text.strip())
    if scheme == "static":
        return Target(
            text, StaticFiles(os.path.join(directory, rest)), Detected("wsgi", "static files")
        )
    if scheme == "redirect":
        return Target(text, _redirect(text, rest), Detected("wsgi", "redirect"))
    return _examine_reference(text, scheme, rest, directory)


def _scheme(text: str) -> tuple[str, str]:
    scheme, colon, rest = text.partition(":")
    if not colon or "." in scheme or scheme not in ("static", "redirect", *_INTERFACES):
        _refuse_unknown(text, scheme, rest)
        return "", text
    if scheme in _INTERFACES and not _is_scheme(scheme, rest):
        return "", text
    return scheme, rest.strip()


def _is_scheme(word: str, rest: str) -> bool:
    """``wsgi:application`` may as well be the attribute of a module named ``wsgi``."""
    if ":" in rest or references.is_file(rest) or "." in rest:
        return True
    import importlib.util

    try:
        return importlib.util.find_spec(word) is None
    except ValueError:
        return False  # there is one, made by hand


def _refuse_unknown(text: str, scheme: str, rest: str) -> None:
    """``statik:/srv/files`` is no reference: no attribute's name has a slash."""
    if references.is_file(text) or references.is_file(scheme):
        return
    if "/" in rest or (":" in rest and not references.is_file(rest.partition(":")[0])):
        near = nearest(scheme, ("static", "redirect", *_INTERFACES))
        hint = f"did you mean {near}:?" if near else "use module:attribute, static: or redirect:"
        raise BadReference(text, f"there is no kind of target {scheme!r}; {hint}")


def _examine_reference(
    text: str, scheme: str, rest: str, directory: str | os.PathLike[str]
) -> Target:
    place, _ = references.split(rest)
    if references.is_file(place):
        rest = os.path.join(directory, rest)
    app = references.load(rest)
    said = _INTERFACES.get(scheme)
    if said == "factory":
        app = _made(app, rest)
    elif said is not None:
        return Target(text, app, detect(app, said))
    return Target(text, app, _found(app, text, rest))


def _found(app: object, text: str, rest: str) -> Detected:
    detected = detect(app)
    if detected.interface == "factory":
        raise NotAnApplication(
            repr(text), f"it looks like a factory; say so with factory:{rest}, and it is called"
        )
    return detected


def _made(factory: object, reference: str) -> object:
    try:
        app = cast("Callable[[], object]", factory)()
    except (Exception, SystemExit) as error:  # the application's own code ran
        raise AppImportError(reference, error, _traceback_beyond(error)) from error
    if not callable(app):
        raise NotAnApplication(describe(factory), f"as a factory, it answered {app!r:.60}")
    return app


def _traceback_beyond(error: BaseException) -> str:
    import traceback

    frames = error.__traceback__
    shown = traceback.TracebackException.from_exception(error)
    if frames is not None and frames.tb_next is not None:
        shown.stack = traceback.StackSummary.extract(traceback.walk_tb(frames.tb_next))
    return "".join(shown.format())


def _redirect(text: str, rest: str) -> WSGIApplication:
    status, _, url = rest.partition(" ")
    if not url:
        status, url = "308", rest
    if status not in _REDIRECTS:
        raise BadReference(text, f"{status!r} is not one of the redirects {', '.join(_REDIRECTS)}")
    try:
        return Redirect(url.strip(), _REDIRECTS[status])
    except ValueError as error:
        raise BadReference(text, str(error)) from None


class Redirect:
    """Send every request on to the same place below another URL, query and all."""

    def __init__(self, url: str, status: str = _REDIRECTS["308"]) -> None:
        from urllib.parse import urlsplit

        parts = urlsplit(url)
        if not url.isprintable() or " " in url:
            raise ValueError("a URL has no spaces and no control characters; quote them")
        if not (parts.scheme in ("http", "https") and parts.netloc) and not (
            url.startswith("/") and not url.startswith("//")
        ):
            raise ValueError("the URL should begin with http://, https:// or /")
        self.url = url
        self.status = status
        self._path, self._query = parts.path.rstrip("/"), parts.query
        self._place = f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""
        self._tail = f"#{parts.fragment}" if parts.fragment else ""
        self._bare = parts.path

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = pages.redirect(self.location(environ), self.status)
        return pages.send(answer, environ, start_response)

    def location(self, environ: WSGIEnvironment) -> str:
        """Answer where the request *environ* should go."""
        rest = pages.quoted(environ.get("PATH_INFO", ""))
        if rest and not rest.startswith("/"):
            rest = "/" + rest
        path = self._path + rest if rest else self._bare
        if not self._place:
            # Two slashes would begin another host's URL.
            path = "/" + path.lstrip("/")
        query = pages.unbroken(environ.get("QUERY_STRING", ""))
        queries = "&".join(filter(None, (self._query, query)))
        return f"{self._place}{path}{'?' * bool(queries)}{queries}{self._tail}"


class StaticFiles:
    """Serve the files of a folder: with types, ranges, ``ETag`` and dates; and nothing outside it.

    Hidden files (``.git``, ``.env``; not ``.well-known``) and links that lead out of the folder are
    not found. A folder answers with its ``index.html``, never with a listing.
    """

    def __init__(self, folder: str, *, index: str = "index.html") -> None:
        if not os.path.isdir(folder):
            reason = "it is not a folder" if os.path.exists(folder) else "there is no such folder"
            raise AppFileNotFound(f"static:{folder}", reason)
        self.folder = os.path.realpath(folder)
        self.index = index

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            answer = pages.plain("405 Method Not Allowed", ("Allow", "GET, HEAD"))
            return pages.send(answer, environ, start_response)
        try:
            return self._serve(environ, start_response)
        except PermissionError:
            return pages.send(pages.plain("403 Forbidden"), environ, start_response)
        except (OSError, ValueError):  # no such file, a name too long, a NUL in it
            return pages.send(pages.plain("404 Not Found"), environ, start_response)

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked = environ.get("PATH_INFO", "")
        path = self.find(asked)
        if os.path.isdir(path):
            if not asked.endswith("/"):
                return pages.send(_with_slash(environ), environ, start_response)
            path = self._inside(os.path.join(path, self.index))
        response = _response(path)
        body: Iterable[bytes] = response(_conditions(environ, response.etag), start_response)
        return body

    def find(self, asked: str) -> str:
        """Answer the file or folder for the path *asked*, as WSGI spells it.

        Raises:
            FileNotFoundError: There is none that may be served.
        """
        names = asked.encode("latin-1").decode("utf-8", "surrogateescape").split("/")
        if names and not names[0]:
            del names[0]
        if names and not names[-1]:
            del names[-1]
        if not all(map(_is_served, names)):
            raise FileNotFoundError(asked)
        path = self._inside(os.path.join(self.folder, *names))
        if asked.endswith("/") and not os.path.isdir(path):
            raise FileNotFoundError(asked)
        return path

    def _inside(self, path: str) -> str:
        real = os.path.realpath(path, strict=True)
        if os.path.commonpath((self.folder, real)) != self.folder:
            raise FileNotFoundError(path)
        return real


def _is_served(name: str) -> bool:
    if not name or "\\" in name or "\0" in name or (os.name == "nt" and ":" in name):
        return False
    return not name.startswith(".") or name == ".well-known"


def _with_slash(environ: WSGIEnvironment) -> pages.Answer:
    path = pages.quoted(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))
    query = pages.unbroken(environ.get("QUERY_STRING", ""))
    # One slash in front, lest it be read as another host.
    return pages.redirect(f"/{path.lstrip('/')}/{'?' * bool(query)}{query}")


def _response(path: str) -> Any:
    """Answer WebOb's response for a file, which answers conditional and range requests itself."""
    from webob import Response

    file = _File(path)
    response = Response(
        app_iter=file,
        content_type=_type_of(path),
        content_length=file.size,
        last_modified=int(file.mtime),
        etag=file.etag,
        accept_ranges="bytes",
        conditional_response=True,
    )
    if response.content_type.startswith("text/"):
        response.charset = "utf-8"
    # Browsers would otherwise run an upload that looks like a page, whatever its type says.
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _conditions(environ: WSGIEnvironment, etag: str) -> WSGIEnvironment:
    """Say what a request asks so that WebOb answers it rightly."""
    if environ.get("HTTP_IF_NONE_MATCH", "").strip() == "*":
        # To WebOb that is no condition at all.
        return {**environ, "HTTP_IF_NONE_MATCH": f'"{etag}"'}
    if "," in environ.get("HTTP_RANGE", ""):
        # Of several ranges WebOb would send the first alone; a server may also send everything.
        return {name: value for name, value in environ.items() if name != "HTTP_RANGE"}
    return environ


def _type_of(path: str) -> str:
    import mimetypes

    kind, encoding = mimetypes.guess_type(path)
    if encoding is not None:
        return _PACKED.get(encoding, "application/octet-stream")
    return kind or "application/octet-stream"


class _File:
    """An open file, or a part of it, as the body of a response."""

    def __init__(self, path: str) -> None:
        # Opening a pipe waits for its other end; a device is nobody's file.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileNotFoundError(path)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - the server closes it
        info = os.fstat(self._file.fileno())
        self.size = self._left = info.st_size
        self.mtime = info.st_mtime
        self.etag = f"{info.st_mtime_ns:x}-{info.st_size:x}"

    def app_iter_range(self, start: int, stop: int | None) -> _File:
        """Narrow it to the bytes from *start* to *stop*; WebOb calls this for a range request."""
        self._file.seek(start)
        self._left = (self.size if stop is None else stop) - start
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        # Never more than was announced, even if the file grows meanwhile.
        block = self._file.read(min(_BLOCK, self._left)) if self._left else b""
        if not block:
            self.close()
            raise StopIteration
        self._left -= len(block)
        return block

    def close(self) -> None:
        self._left = 0
        self._file.close()
