"""One connection of waitress's and its requests, and what is mended in how it answers them."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from waitress import channel, task

from sitebus.servers._waitress_reading import Parser, Refused
from sitebus.servers.heads import PHRASES, Refusal
from sitebus.servers.untaken import untaken
from sitebus.servers.waiting import NEVER

LogTo = Callable[[str, int, Any], object]

#: How many bytes of a request are told of one that hangs.
_MOST_TOLD = 200
#: What waitress adds to an answer whose application says what server it is.
_VIA = b"\r\nVia: waitress\r\n"
#: How many bytes of a body are copied, to be sent together with the head.
_MOST_JOINED = 1 << 16


class Log(logging.Logger):
    """Tells *log_to* what waitress logs, on one line whatever a client put into it."""

    def __init__(self, log_to: LogTo, level: int = logging.WARNING) -> None:
        super().__init__("waitress", level)
        self.log_to = log_to

    def handle(self, record: logging.LogRecord) -> None:
        text = record.getMessage().encode("unicode_escape").decode("ascii")
        self.log_to(text, record.levelno, record.exc_info or False)


class ApplicationLeft(RuntimeError):
    """An application tried to end the interpreter; it costs its own request and nothing else."""


class Task(task.WSGITask):  # type: ignore[misc]
    """One request."""

    @property
    def logger(self) -> logging.Logger:
        return self.channel.logger  # type: ignore[no-any-return]

    def get_environment(self) -> dict[str, Any]:
        is_new = self.environ is None
        environ: dict[str, Any] = super().get_environment()
        if is_new:
            environ["SERVER_SOFTWARE"] = self.channel.adj.ident or "sitebus"
            if self.request.path.startswith("//") and not self.channel.adj.url_prefix:
                # waitress makes it another path, and so perhaps another application's.
                environ["PATH_INFO"] = self.request.path
        return environ

    def build_response_header(self) -> bytes:
        ends = self.channel.server.house.draining and self.channel.ends_here
        stays = self.request.keeps and not ends
        # All that waitress understands of it.
        self.request.headers["CONNECTION"] = "keep-alive" if stays else "close"
        head: bytes = super().build_response_header()
        return head if self.channel.adj.ident else head.replace(_VIA, b"\r\n", 1)

    def write(self, data: bytes) -> None:
        if self.wrote_header or not data or len(data) > _MOST_JOINED:
            super().write(data)
            return
        # waitress sends the head by itself, and that costs as much as the rest of a request.
        parts: list[bytes] = []
        self.channel.write_soon = parts.append
        try:
            super().write(data)
        finally:
            del self.channel.write_soon
        self.channel.write_soon(b"".join(parts))

    def execute(self) -> None:
        try:
            super().execute()
        except Exception:
            raise
        except BaseException as leaving:
            raise ApplicationLeft(repr(leaving)) from leaving


class HeadTask(Task):
    """One request for the head of an answer, whatever the application makes."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        # What comes out of it would not pass through `write`.
        environ.pop("wsgi.file_wrapper", None)
        return environ

    def write(self, data: bytes) -> None:
        super().write(b"")

    def finish(self) -> None:
        if not self.wrote_header:
            self.write(b"")


def _task(client: Channel, request: Any) -> Task:
    return (HeadTask if request.command == "HEAD" else Task)(client, request)


class Channel(channel.HTTPChannel):  # type: ignore[misc]
    """One client."""

    task_class = staticmethod(_task)
    parser_class = Parser
    #: waitress's, half read.
    request: Parser | None = None
    # When the last request was answered.
    _answered = 0.0
    # Whether its request was none, or too much of one, so that the rest of it may still come.
    _is_refused = False
    # What its client had still to take when it was last looked at, while there is more to send.
    _untaken = 0

    @property
    def logger(self) -> logging.Logger:
        return self.server.logger  # type: ignore[no-any-return]

    @property
    def _is_midway(self) -> bool:
        """Whether the next request has begun."""
        return self.request is not None and self.request.is_begun

    @property
    def ends_here(self) -> bool:
        """Whether nobody is behind a response that begins now: in a drain it is the last."""
        return len(self.requests) <= 1 and not self._is_midway

    @property
    def is_silent(self) -> bool:
        """Whether nothing was begun that would have to be finished."""
        return not self.requests and not self._is_midway and not self.total_outbufs_len

    def due(self, timeout: float) -> float:
        """Answer when to give it up, if it is its client's turn; who is silent has *timeout*."""
        if self.requests and not self.total_outbufs_len:
            return NEVER
        due = float(self.last_activity) + timeout
        request, house = self.request, self.server.house
        if request is None or self.requests or self.total_outbufs_len:
            return due
        return min(due, request.due(self._answered, house.header_timeout, timeout, house.min_rate))

    def give_up(self) -> None:
        """Close, because it is due; who has begun to ask is told why."""
        if self.total_outbufs_len and self._takes():
            return
        request = self.request
        is_told = self._is_midway and not (self.requests or self.total_outbufs_len)
        if request is None or not is_told or self.will_close:
            self.cut()
            return
        what = "body" if request.headers_finished else "head"
        request.refuse(Refusal(408, f"The {what} of the request did not come in time."))
        self.request, self._is_refused = None, True
        self._complain(request)
        try:
            self.error_task_class(self, request).service()
        except channel.ClientDisconnected:
            self.cut()
        else:
            self.last_activity = time.time()
            self.close_when_flushed = True
        request.close()

    def _takes(self) -> bool:
        """Tell whether the client has taken something since the last look; then it has time."""
        before, self._untaken = self._untaken, untaken(self.socket)
        if self._untaken >= before:
            return False
        self.last_activity = time.time()
        return True

    def _flush_some(self, do_close: bool = True) -> bool:
        is_sent = bool(super()._flush_some(do_close=do_close))
        if self.total_outbufs_len:
            self._untaken = untaken(self.socket)
        return is_sent

    def handle_close(self) -> None:
        if not (self.will_close and self._begin_to_part()):
            super().handle_close()

    def cut(self) -> None:
        """Close at once, whatever is still to be sent or heard."""
        self.will_close = False
        self.handle_close()

    def _begin_to_part(self) -> bool:
        """Say no more and hear the client out, if it may still speak.

        Closed with something unread, the connection would be reset, and the client might lose what
        it was sent.
        """
        if not (self._is_refused or (self.server.house.draining and _speaks(self.socket))):
            return False
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return False  # it has left
        self.will_close, self.request = False, None
        self.__class__ = Parting
        return True

    def service(self) -> None:
        busy = self.server.house.busy
        me = threading.get_ident()
        busy[me] = request = self.requests[0]
        if isinstance(request.error, Refused):
            self._is_refused = True
            self._complain(request)
        try:
            super().service()
        finally:
            self._answered = time.time()
            del busy[me]

    def _complain(self, request: Any) -> None:
        kind = f"{request.error.status} {PHRASES[request.error.status]}"
        who = self.addr[0] or f"a client of {self.server.server_name}"
        told = f"Refused a request from {who}: {kind}. {request.error.why}"
        self.server.house.complaints.tell(kind, told)

    def handle_error(self) -> None:
        # waitress would tell it with a traceback, and more than one line.
        error = sys.exception()
        if not isinstance(error, OSError):
            self.logger.error("a connection was lost: %r", error)
        self.cut()


class Parting(Channel):
    """One client that is told nothing more.

    A class, since waitress asks all clients in every turn of its loop whether they are `readable`:
    to look there whether this is one would cost the others more than their requests.
    """

    def readable(self) -> bool:
        return True

    def handle_read(self) -> None:
        # What it said too late; it is given its time, but no more of it for that.
        self.recv(self.adj.recv_bytes)


def _speaks(sock: socket.socket) -> bool:
    """Tell whether something is there that nobody has read."""
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False


def request_of(request: Any) -> str:
    if request is None or request.error is not None:
        return "no request"
    # As it was asked for, and escaped: it could forge lines of the log.
    asked = f"{request.command} {request.request_uri}"
    text = asked[:_MOST_TOLD].encode("unicode_escape").decode("ascii")
    return f"{text}..." if len(asked) > _MOST_TOLD else text
