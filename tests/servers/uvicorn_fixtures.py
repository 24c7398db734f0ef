"""What the tests of the uvicorn adapter share: a server on either kind of event loop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from sitebus.process import Engine
from sitebus.servers.uvicorn import UvicornServer
from tests.servers.shop import Shop

with suppress(ImportError):
    # The first loop opens a pipe for the signals of the process, which no loop closes.
    import uvloop

    uvloop.new_event_loop().close()

Host = Callable[..., UvicornServer]

#: What may parse HTTP.
PARSERS = ("httptools", "h11", "zttp")
#: What may speak WebSocket; the last one is deprecated, and says so.
WEBSOCKETS = (
    "websockets-sansio",
    "wsproto",
    pytest.param("websockets", marks=pytest.mark.filterwarnings("ignore")),
)


@pytest.fixture(params=["uvloop", "asyncio"])
def loop_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose event loop the engine has."""
    kind: str = request.param
    if kind == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)  # as if it were not installed
    else:
        pytest.importorskip("uvloop")
    return kind


@pytest.fixture
def shop(engine: Engine) -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.opened.give()


@pytest.fixture
def host(engine: Engine, shop: Shop) -> Host:
    """Start a server on a free port, with the shop behind it."""

    def start(application: Any = None, **settings: Any) -> UvicornServer:
        settings.setdefault("binds", ["127.0.0.1:0"])
        server = UvicornServer(engine, application or shop.asgi, **settings)
        server.subscribe()
        engine.start()
        return server

    return start


async def answer(send: Any, body: bytes = b"", *headers: tuple[bytes, bytes]) -> None:
    """Be the end of an application."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})
