"""What may stand behind ``app =``: a reference, a folder of files, a redirect.

Decides how the text of a target is read, and makes the application it means. Loading what a
reference names is ``references``'s, telling what it is ``interfaces``'s; ranges, dates and
conditional requests of static files are WebOb's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sitebus import references
from sitebus.errors import AppFileNotFound, BadReference, NotAnApplication, nearest
from sitebus.interfaces import Detected, Interface, describe, detect
from sitebus.mounts import pages

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

#: What we make ourselves, or have PasteDeploy make, which is WSGI.
_OWN = ("static", "redirect", "paste")

_BLOCK = 1 << 16

#: The headers in which WebOb reads numbers, and the longest that makes sense: a number of more
#: digits than the interpreter reads, or a year of five, is an error to it.
_READ_BY_WEBOB = ("HTTP_RANGE", "HTTP_IF_RANGE", "HTTP_IF_MODIFIED_SINCE",
                  "HTTP_IF_UNMODIFIED_SINCE")  # fmt: skip
_LONGEST = 200

#: What ``.gz`` and its like are when they are downloaded: files of their own, not an encoding that
#: a browser should take off.
_PACKED = {
    "gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz",
    "br": "application/x-brotli", "compress": "application/x-compress",
}  # fmt: skip


class Target(NamedTuple):
    """An application that was opened, and what it is."""

    text: str
    app: Any
    detected: Detected


def open_target(text: str, *, directory: str | os.PathLike[str] = "") -> Any:
    """Answer the application that *text* means; see ``examine``."""
    return examine(text, directory=directory).app


def examine(
    text: str,
    *,
    directory: str | os.PathLike[str] = "",
    said: Interface | None = None,
    factory: bool = False,
    variables: Mapping[str, str] = {},
) -> Target:
    """Open the application that *text* means, and tell what it is.

    Args:
        text: ``module:attr``, ``file.py:attr``, either behind ``wsgi:``, ``asgi:`` or ``factory:``;
            ``static:FOLDER``; ``redirect:URL`` or ``redirect:301 URL``; ``paste:FILE.ini#NAME``.
        directory: The folder that relative files and folders are relative to.
        said: What the application is, as if the text said so too. That it is a ``factory`` is not
            the interface of what the factory makes: that is looked at.
        factory: What the text names is called, and what that answers is the application.
        variables: Values for the ``%(NAME)s`` in a PasteDeploy file.

    Raises:
        BadReference: The text is nothing of that, or something else was said beside it.
        AppNotFound, AppImportError: See ``references.load``.
        NotAnApplication, UnclearInterface: What it names cannot be served.
    """
    scheme, rest = _scheme(text.strip())
    if "factory" in (said, scheme):
        factory = True
    said = _agreed(text, scheme, None if said == "factory" else said)
    if scheme in _OWN and factory:
        raise BadReference(text, f"what {scheme}: makes is an application already, no factory")
    if scheme == "static":
        return Target(text, _static(text, rest, directory), Detected("wsgi", "static files"))
    if scheme == "redirect":
        return Target(text, _redirect(text, rest), Detected("wsgi", "redirect"))
    if scheme == "paste":
        from sitebus.paste.applications import load

        app = load(text, rest, directory, variables)
        return Target(text, app, detect(app, "wsgi", reference=text))
    return _examine_reference(text, rest, directory, said, factory)


def _agreed(text: str, scheme: str, said: Interface | None) -> Interface | None:
    """Answer the interface that *text* or *said* tell, or None if neither does."""
    told: Interface | None = "wsgi" if scheme in _OWN else _INTERFACES.get(scheme)
    if told is None or told == "factory":
        return said
    if said not in (None, told):
        raise BadReference(
            text, f"{scheme}: makes its interface {told}, and beside it {said} was said; say one"
        )
    return told


def _scheme(text: str) -> tuple[str, str]:
    scheme, colon, rest = text.partition(":")
    if not colon or "." in scheme or scheme not in (*_OWN, *_INTERFACES):
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
        near = nearest(scheme, (*_OWN, *_INTERFACES))
        hint = f"did you mean {near}:?" if near else "use module:attribute, static: or redirect:"
        raise BadReference(text, f"there is no kind of target {scheme!r}; {hint}")


def _examine_reference(
    text: str,
    rest: str,
    directory: str | os.PathLike[str],
    said: Interface | None,
    factory: bool,
) -> Target:
    place, _ = references.split(rest)
    if references.is_file(place, directory):
        rest = os.path.join(directory, os.path.expanduser(rest))
    app = references.load(rest, check=factory)
    if factory:
        app = _made(cast("Callable[[], object]", app), rest)
    detected = detect(app, said, reference=text)
    if detected.interface == "factory":
        reason = f"it looks like a factory; say so with factory:{rest}, and it is called"
        if factory:
            reason = "the factory answered something that looks like a factory again"
        raise NotAnApplication(repr(text), reason)
    return Target(text, app, detected)


def _made(factory: Callable[[], object], reference: str) -> object:
    app = references.call(reference, factory)
    if not callable(app):
        reason = f"as a factory, it answered {describe(app)}"
        raise NotAnApplication(describe(factory), reason)
    return app


def _static(text: str, rest: str, directory: str | os.PathLike[str]) -> StaticFiles:
    if not rest:
        raise BadReference(text, "name a folder, as in static:public")
    return StaticFiles(os.path.join(directory, os.path.expanduser(rest)))


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
        if not (url.isprintable() and url.isascii()) or " " in url:
            raise ValueError("a URL has ASCII alone, no spaces and no control characters; quote it")
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
        script = environ.get("SCRIPT_NAME", "")
        rest = pages.requoted(environ, environ.get("PATH_INFO", ""), script)
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
            file = self._open(environ.get("PATH_INFO", ""))
        except PermissionError:
            return pages.send(pages.plain("403 Forbidden"), environ, start_response)
        except (OSError, ValueError):  # no such file, a name too long, a NUL in it
            return pages.send(pages.plain("404 Not Found"), environ, start_response)
        if file is None:
            return pages.send(_with_slash(environ), environ, start_response)
        try:
            response = _response(file)
            body: Iterable[bytes] = response(_conditions(environ, file.etag), start_response)
        except BaseException:
            file.close()
            raise
        return body

    def _open(self, asked: str) -> _File | None:
        """Open the file for the path *asked*; answer None for a folder without its slash."""
        path = self.find(asked)
        if os.path.isdir(path):
            if not asked.endswith("/"):
                return None
            path = self._inside(os.path.join(path, self.index))
        return _File(path)

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
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    path = pages.requoted(environ, path)
    query = pages.unbroken(environ.get("QUERY_STRING", ""))
    # One slash in front, lest it be read as another host.
    return pages.redirect(f"/{path.lstrip('/')}/{'?' * bool(query)}{query}")


def _response(file: _File) -> Any:
    """Answer WebOb's response for a file, which answers conditional and range requests itself."""
    from webob import Response

    response = Response(
        app_iter=file,
        content_type=_type_of(file.path),
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
    nonsense = {name for name in _READ_BY_WEBOB if not _is_readable(name, environ.get(name))}
    if "HTTP_IF_RANGE" in nonsense:
        nonsense.add("HTTP_RANGE")  # of another version than ours, as far as we know
    if nonsense:
        environ = {name: value for name, value in environ.items() if name not in nonsense}
    if environ.get("HTTP_IF_NONE_MATCH", "").strip() == "*":
        # To WebOb that is no condition at all.
        return {**environ, "HTTP_IF_NONE_MATCH": f'"{etag}"'}
    return environ


def _is_readable(name: str, value: str | None) -> bool:
    """Tell whether WebOb can make sense of a header; where it cannot, it may raise."""
    from webob.datetime_utils import parse_date

    if not value:
        return True
    if name == "HTTP_RANGE":
        # Of several ranges it would send the first alone; a server may also send everything.
        return len(value) < _LONGEST and "," not in value
    try:
        date = parse_date(value[:_LONGEST])
    except (ValueError, OverflowError):
        return False
    return len(value) < _LONGEST and (date is not None or not value.endswith(" GMT"))


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
        self.path = path
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
