"""uvicorn's configuration, and its log; see `sitebus.servers._uvicorn`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.config import HTTP_PROTOCOLS, LOG_LEVELS, WS_PROTOCOLS
from uvicorn.importer import ImportFromStringError, import_from_string

from sitebus.errors import BadServerOption
from sitebus.servers._uvicorn_mended import ANY_LENGTH, mended
from sitebus.servers._uvicorn_polite import INVALID
from sitebus.servers._uvicorn_websocket import fresh
from sitebus.servers.complaints import Complaints

if TYPE_CHECKING:
    from sitebus.asgi import ASGIApplication, Receive, Scope, Send


#: How uvloop says that nothing can be written to a connection any more.
_CLOSED = "the handler is closed"


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """Be the application that uvicorn looks at."""
    raise AssertionError("never called")


def configure(
    options: Mapping[str, Any],
    app: ASGIApplication = _nobody,
    *,
    max_head: int = 0,
    header_timeout: float = 0.0,
    max_body: int = 0,
) -> uvicorn.Config:
    """Answer a loaded configuration.

    Args:
        options: Arguments of `uvicorn.Config`.
        app: The application; it is not called.
        max_head: The longest head of a request in bytes; 0 is any.
        header_timeout: Seconds from the first byte of a head to its end; 0 is any.
        max_body: The longest body that the head of a request may tell of; 0 is any.

    Raises:
        BadServerOption: What implements an option cannot be had.
    """
    for name, known in ("http", HTTP_PROTOCOLS), ("ws", WS_PROTOCOLS):
        _check_implementation(name, options.get(name, "auto"), known)
    config = uvicorn.Config(
        _nobody,
        # Given, so that WEB_CONCURRENCY is not asked.
        workers=1,
        # The loggers of the process are left alone; see Log.
        log_config=None,
        lifespan="off",
        interface="asgi3",
        reset_contextvars=True,
        server_header=False,
        h11_max_incomplete_event_size=max_head or ANY_LENGTH,
        **{name: value for name, value in options.items() if name != "log_level"},
    )
    config.load()
    _put_inside(config, app)
    kind = config.http_protocol_class
    config.http_protocol_class = mended(kind, max_head, header_timeout, max_body)
    if config.ws_protocol_class is not None:
        config.ws_protocol_class = fresh(config.ws_protocol_class)
    return config


def _check_implementation(name: str, value: Any, known: Mapping[str, Any]) -> None:
    if not isinstance(value, str):
        return
    if value not in known and ":" not in value:
        reason = f"it takes {_one_of(known)}, or module:Class"
        raise BadServerOption(f"uvicorn.{name}", value, reason)
    try:
        import_from_string(known.get(value, value))
    except (ImportError, ImportFromStringError) as error:
        reason = str(error).rstrip(".")
        if isinstance(error, ModuleNotFoundError):
            reason += f"; run: pip install {error.name}"
        raise BadServerOption(f"uvicorn.{name}", value, reason) from error


def _one_of(names: Mapping[str, Any]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


def _put_inside(config: uvicorn.Config, app: ASGIApplication) -> None:
    outer: Any = config.loaded_app
    if outer is _nobody:
        config.loaded_app = app
        return
    while outer.app is not _nobody:
        outer = outer.app
    outer.app = app


class Log(logging.Logger):
    """What protocols log to: the log of the bus.

    Args:
        log: Is told, as ``log(message, level, exc_info)``.
        level: The least level that is told, a number or as uvicorn calls it.

    Raises:
        BadServerOption: There is no such level.
    """

    def __init__(self, log: Callable[[str, int, Any], object], level: int | str) -> None:
        super().__init__("uvicorn.error", level_number(level))
        self._tell = log
        self.complaints = Complaints(lambda message, level: log(message, level, False))

    def complain(self, kind: str, message: str) -> None:
        """Tell who was refused, but not of everyone."""
        if self.isEnabledFor(logging.WARNING):
            self.complaints.tell(kind, message)

    def handle(self, record: logging.LogRecord) -> None:
        """Tell of one record."""
        error = (record.exc_info or (None, None))[1]
        if isinstance(error, asyncio.CancelledError):
            return  # by us; who was still busy is told elsewhere
        if isinstance(error, RuntimeError) and _CLOSED in str(error):
            return  # uvloop's word for a client that has left just now
        if record.msg == INVALID:
            return  # it is told why, and of whom
        # On one line, whatever a client put into it.
        said = record.getMessage().rstrip().encode("unicode_escape").decode("ascii")
        if record.levelno == logging.WARNING and not record.exc_info:
            self.complaints.tell(record.msg, said)
        else:
            self._tell(said, record.levelno, record.exc_info or False)


def level_number(level: int | str) -> int:
    """Answer the number of a *level* that uvicorn has a name for.

    Raises:
        BadServerOption: There is no such level.
    """
    if isinstance(level, int):
        return level
    if level.lower() not in LOG_LEVELS:
        raise BadServerOption("uvicorn.log_level", level, f"it takes {_one_of(LOG_LEVELS)}")
    return LOG_LEVELS[level.lower()]
