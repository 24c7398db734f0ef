"""What the tests of the hypercorn adapter share: a server, and a client that speaks HTTP/2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import h2.events
import pytest
from h2.connection import H2Connection

from sitebus.process import Engine
from sitebus.servers.hypercorn import HypercornServer
from tests.servers.client import Client
from tests.servers.shop import Shop

Connect = Callable[..., Client]
Meanwhile = Callable[..., Future[Any]]
Serve = Callable[..., HypercornServer]


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.opened.give()


@pytest.fixture
def serve(engine: Engine, shop: Shop) -> Serve:
    """Subscribe a hypercorn server on a free port and start the engine."""

    def start(application: Any = None, **settings: Any) -> HypercornServer:
        settings.setdefault("binds", ["127.0.0.1:0"])
        settings.setdefault("linger", 0.05)
        settings.setdefault("drain_timeout", 5.0)
        server = HypercornServer(engine, application or shop.asgi, **settings)
        server.subscribe()
        engine.start()
        return server

    return start


def stop_begins(engine: Engine, server: HypercornServer, meanwhile: Meanwhile) -> Future[Any]:
    """Stop *engine* in another thread, and return once *server* accepts nothing more."""
    stop = meanwhile(engine.stop)
    assert server.httpserver.shut.wait(5)
    return stop


class Http2:
    """A client that speaks HTTP/2 without asking first, and looks at every frame."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.h2 = H2Connection()
        self.h2.initiate_connection()
        self.events: list[Any] = []
        self.body = b""
        self.flush()

    def flush(self) -> None:
        self.client.send(self.h2.data_to_send())

    def ask(self, path: str = "/", method: str = "GET", *, end: bool = True) -> int:
        number: int = self.h2.get_next_available_stream_id()
        head = {":method": method, ":path": path, ":scheme": "http", ":authority": "localhost"}
        self.h2.send_headers(number, list(head.items()), end_stream=end)
        self.flush()
        return number

    def read_until(self, kind: type, number: int | None = None, silently: bool = False) -> Any:
        """Answer the first event of a *kind*, of stream *number*; *silently* sends nothing."""
        while not (found := self.found(kind, number)):
            data = self.client.socket.recv(65536)
            assert data, f"closed before {kind.__name__}; there was {self.events}"
            for event in self.h2.receive_data(data):
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived):
                    self.body += event.data
                    self.h2.acknowledge_received_data(len(event.data), event.stream_id)
            if not silently:
                with suppress(OSError):  # whether it was closed the next read says
                    self.flush()
        return found[0]

    def found(self, kind: type, number: int | None = None) -> list[Any]:
        return [
            each
            for each in self.events
            if isinstance(each, kind) and number in (None, getattr(each, "stream_id", None))
        ]

    def get(self, path: str = "/") -> int:
        """Answer the status, once the response is whole."""
        number = self.ask(path)
        self.read_until(h2.events.StreamEnded, number)
        head = self.found(h2.events.ResponseReceived, number)[0].headers
        return int(dict(head)[b":status"])
