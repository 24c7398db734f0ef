"""The access log: one line for each request, written when its response ends.

Decides the format of a line and how it reaches its file: in one ``write`` to a descriptor opened
for appending, so that lines of threads and processes never mix and nothing is lost in a buffer.
Whether the file was moved away is looked for once a second: at every line it would cost too much.
What a client sends is escaped, so that no request can forge a line. When lines are written at all,
and under which name, is the site's business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, Self

from sitebus.logfile import LogFile
from sitebus.mounts.isolation import Stream

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    Serve = Callable[[WSGIEnvironment, StartResponse, str], Iterable[bytes] | None]

Format = Literal["combined", "json"]

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: The bytes that may not come from a client unescaped.
_UNSAFE = bytes(range(32)) + b'"\\\x7f'
#: How many of them a line has that is as it should be: four quoted fields and the line's end.
_OWN_UNSAFE = 9


class AccessLog:
    """Appends a line for each request to a file, or to standard output for ``-``."""

    def __init__(self, target: str | os.PathLike[str], form: Format = "combined") -> None:
        self.target = os.fspath(target)
        self.form = form
        #: How many lines could not be written, because the disk is full or a pipe is closed.
        self.lost = 0
        # Standard output may have been replaced, and may have no descriptor: always the real one.
        self._file = None if self.target == "-" else LogFile(self.target)
        self._fd = -1
        self._clock = (0, "")
        self._stamp = _iso_time if form == "json" else _clf_time
        self._line = _json_line() if form == "json" else _combined_line

    def open(self) -> Self:
        """Open the file for appending, making it if need be.

        Raises:
            CannotWriteLog: The file cannot be opened.
        """
        if self._fd < 0:
            self._fd = 1 if self._file is None else self._file.open().fileno()
        return self

    def reopen(self) -> None:
        """Follow a rotation: write to what the name stands for now; on failure, as before.

        Raises:
            CannotWriteLog: The file cannot be opened.
        """
        if self._file is not None and self._fd >= 0:
            self._file.reopen()
            self.lost = 0

    def close(self) -> None:
        """Close the file; what ends later is not logged."""
        self._fd = -1
        if self._file is not None:
            self._file.close()

    def record(
        self, environ: WSGIEnvironment, status: str, size: int, seconds: float, mount: str
    ) -> None:
        """Write the line of one request; never raises, whatever the client or the disk does."""
        if self._fd < 0:
            return
        second, stamp = self._clock
        now = int(time.time())
        if now != second:
            stamp = self._stamp(now)
            self._clock = now, stamp
            if self._file is not None:
                self._file.follow()
        try:
            line = self._line(environ, stamp, status[:3], size, seconds * 1000, mount)
            os.write(self._fd, line)
        except Exception as error:  # noqa: BLE001 - a full disk must not cost the response
            self._could_not(error)

    def _could_not(self, error: Exception) -> None:
        self.lost += 1
        if self.lost == 1:
            import logging

            logging.getLogger("sitebus.access").error("%s: %s", self.target, error)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()


def _combined_line(
    environ: WSGIEnvironment, stamp: str, status: str, size: int, ms: float, mount: str
) -> bytes:
    get = environ.get
    address, user = get("REMOTE_ADDR") or "-", get("REMOTE_USER") or "-"
    uri = get("REQUEST_URI") or _rebuilt_uri(environ)
    request = f"{get('REQUEST_METHOD')} {uri} {get('SERVER_PROTOCOL')}"
    referer, agent = get("HTTP_REFERER") or "-", get("HTTP_USER_AGENT") or "-"
    line = (
        f'{address} - {user} [{stamp}] "{request}" {status} {size} '
        f'"{referer}" "{agent}" "{mount}" {ms:.3f}\n'
    ).encode("ascii", "backslashreplace")
    if len(line) - len(line.translate(None, _UNSAFE)) == _OWN_UNSAFE:
        return line
    parts = [_escaped(text) for text in (address, user, request, referer, agent, mount)]
    address, user, request, referer, agent, mount = parts
    return (
        f'{address} - {user} [{stamp}] "{request}" {status} {size} '
        f'"{referer}" "{agent}" "{mount}" {ms:.3f}\n'
    ).encode("ascii")


def _escaped(text: object) -> str:
    escaped = str(text).encode("unicode_escape").decode("ascii")
    return escaped.replace('"', '\\"')


def _json_line() -> Callable[[WSGIEnvironment, str, str, int, float, str], bytes]:
    from json.encoder import encode_basestring_ascii as quoted

    def line(
        environ: WSGIEnvironment, stamp: str, status: str, size: int, ms: float, mount: str
    ) -> bytes:
        get = environ.get
        uri = get("REQUEST_URI") or _rebuilt_uri(environ)
        return (
            f'{{"time": "{stamp}", "address": {quoted(get("REMOTE_ADDR") or "")}, '
            f'"user": {quoted(get("REMOTE_USER") or "")}, '
            f'"method": {quoted(get("REQUEST_METHOD") or "")}, "uri": {quoted(uri)}, '
            f'"protocol": {quoted(get("SERVER_PROTOCOL") or "")}, '
            f'"status": {status}, "bytes": {size}, "ms": {ms:.3f}, '
            f'"referer": {quoted(get("HTTP_REFERER") or "")}, '
            f'"agent": {quoted(get("HTTP_USER_AGENT") or "")}, "mount": {quoted(mount)}}}\n'
        ).encode("ascii")

    return line


def _rebuilt_uri(environ: WSGIEnvironment) -> str:
    """For servers that do not tell what was asked for verbatim."""
    from sitebus.mounts.pages import quoted

    path = quoted(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))
    query = environ.get("QUERY_STRING")
    return f"{path}?{query}" if query else path


def _clf_time(second: int) -> str:
    now = time.localtime(second)
    # Not by strftime: %b follows the locale.
    return time.strftime(f"%d/{_MONTHS[now.tm_mon - 1]}/%Y:%H:%M:%S %z", now)


def _iso_time(second: int) -> str:
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(second))
    return f"{text[:-2]}:{text[-2:]}"


class _Request:
    """One request on its way through, as far as the log needs to know it."""

    __slots__ = ("begin", "begun", "environ", "log", "mount", "send", "status", "written")

    log: AccessLog
    environ: WSGIEnvironment
    mount: str
    begun: float
    begin: StartResponse
    status: str
    send: Callable[[bytes], object]
    #: How many bytes went through ``write``.
    written: int

    def start(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        self.status = status
        self.send = self.begin(status, headers, *exc_info)
        return self.write

    def write(self, data: bytes) -> None:
        self.send(data)
        self.written += len(data)

    def end(self, size: int) -> None:
        seconds = time.perf_counter() - self.begun
        self.log.record(self.environ, self.status, size + self.written, seconds, self.mount)


class _Body(list[bytes]):
    """A list that tells when the server is done with it."""

    __slots__ = ("request",)

    request: _Request | None

    def close(self) -> None:
        request, self.request = self.request, None
        if request is not None:
            request.end(sum(map(len, self)))


def logging_requests(serve: Serve, mount: str, log: AccessLog) -> Serve:
    """Answer *serve*, with a line in *log* for each of its requests, under the name *mount*."""
    clock = time.perf_counter

    def serve_and_log(
        environ: WSGIEnvironment, start_response: StartResponse, rest: str
    ) -> Iterable[bytes] | None:
        request = _Request()
        request.begun = clock()
        request.log, request.environ, request.mount = log, environ, mount
        request.begin, request.status, request.written = start_response, "500", 0
        try:
            response = serve(environ, request.start, rest)
        except BaseException:  # only on the way: the server gets it, and a line is due
            request.end(0)
            raise
        if type(response) is list or type(response) is tuple:
            body = _Body(response)
            body.request = request
            return body
        if type(response) is Stream:
            response.ended = request.end
        elif response is not None:
            request.end(0)  # a file that the server sends by itself: how much, only it knows
        return response

    return serve_and_log
