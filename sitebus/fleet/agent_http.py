"""What is asked of a control socket, and what is answered: HTTP with JSON, and streams of events.

Only the standard library, as Python 3.8 has it. Which socket is meant is found in `agent_site`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

    Said = dict[str, Any]

#: How long an answer may take that nobody asked to wait for; seconds.
PATIENCE = 15.0


class SiteError(Exception):
    """Something that was asked of a site was not done."""

    is_the_agents = True

    def __init__(self, sentence: str, **fields: Any) -> None:
        super().__init__(sentence)
        self.fields = fields


class NoSite(SiteError):
    """No site answers."""


class Ended(NoSite):
    """The site closed the connection before it had answered."""


class SiteRefused(SiteError):
    """The site says no."""


class SiteDenied(SiteRefused):
    """The site says no to this user."""


class TimedOut(SiteError):
    """It takes longer than it may."""


def ask(path: str, method: str, target: str, said: Said | None = None, wait: float = 0.0) -> Any:
    """Answer what the site behind a socket says; *wait* is how long it was asked to wait.

    Raises:
        NoSite: There is none.
        SiteRefused: It says no.
    """
    body = b"" if said is None else json.dumps(said).encode()
    head = f"{method} {target} HTTP/1.1\r\nHost: sitebus\r\nConnection: close\r\n"
    with _connected(path) as sock:
        sock.settimeout(PATIENCE + wait)
        with contextlib.suppress(BrokenPipeError):  # it has answered already
            sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        with sock.makefile("rb") as stream:
            status, answer = _answer(path, stream)
    _check(status, answer)
    return answer


def _answer(path: str, stream: Any) -> tuple[int, Any]:
    try:
        status, fields = _head(stream)
        return status, _body(stream, fields)
    except socket.timeout:  # noqa: UP041 - no TimeoutError before Python 3.10
        raise TimedOut(f"the site behind {path} is silent; see its log") from None
    except OSError:
        raise Ended(f"the site behind {path} has ended; start it") from None


@contextlib.contextmanager
def _connected(path: str) -> Iterator[socket.socket]:
    """Connect; whoever stops this thread's work closes the connection."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(PATIENCE)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise _unreachable(path, error) from None

    def close() -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    thread = threading.current_thread()
    on_stop = getattr(thread, "on_stop", None)
    if on_stop is not None:
        on_stop(close)
    try:
        yield sock
    finally:
        if on_stop is not None:
            cast(Any, thread).not_on_stop(close)
        sock.close()


def _unreachable(path: str, error: OSError) -> SiteError:
    if error.errno in (errno.EACCES, errno.EPERM):
        sentence = f"this user may not use the control socket {path}; see [control] operators"
        return SiteDenied(sentence, code=403)
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR, errno.ENOTSOCK):
        return NoSite(f"no site answers on {path}; start it")
    return NoSite(f"cannot reach {path}: {(error.strerror or str(error)).lower()}; start it")


def _check(status: int, answer: Any) -> None:
    if status < 400:
        return
    known = isinstance(answer, dict) and isinstance(answer.get("error"), str)
    sentence = answer["error"] if known else f"the site answers with status {status}"
    more = {key: each for key, each in answer.items() if key != "error"} if known else {}
    raise (SiteDenied if status == 403 else SiteRefused)(sentence, code=status, more=more)


def _head(stream: Any) -> tuple[int, dict[str, str]]:
    words = stream.readline().split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ConnectionResetError("no answer")
    fields = {}
    line = stream.readline().strip()
    while line:
        name, _, value = line.decode("latin-1").partition(":")
        fields[name.lower()] = value.strip()
        line = stream.readline().strip()
    return int(words[1]), fields


def _body(stream: Any, fields: dict[str, str]) -> Any:
    told = fields.get("content-length") or "0"
    if not told.isdigit():
        raise ConnectionResetError("no answer")
    length = int(told)
    data = stream.read(length)
    if len(data) < length:
        raise ConnectionResetError("half an answer")
    text = data.decode("utf-8", "replace")
    try:
        return json.loads(text) if fields.get("content-type") == "application/json" else text
    except ValueError:
        raise ConnectionResetError("no answer") from None


def events(path: str, target: str, last: str, seconds: float | None) -> Iterator[list[Any]]:
    """Yield the events of a stream, each its identifier, name and data, to its end.

    Args:
        path: The socket.
        target: Which stream.
        last: The identifier to go on from.
        seconds: How long to wait for each.
    """
    with _connected(path) as sock:
        field = f"Last-Event-ID: {last}\r\n" if last else ""
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: sitebus\r\n{field}\r\n".encode())
        with sock.makefile("rb") as stream:
            status, fields = _head(stream)
            if status != 200:
                _check(status, _body(stream, fields))
            sock.settimeout(seconds)
            yield from _events(stream)


def _events(stream: Any) -> Iterator[list[Any]]:
    fields: dict[str, str] = {}
    for line in stream:
        name, _, value = line.decode("utf-8", "replace").rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield [fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"])]
            fields = {}
