"""What every adapter makes of the application that it is given in code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import requests

from sitebus.process import Engine
from tests.servers.conformance import NATIVE, Kind, engine, kind, only

#: Found here by pytest.
__all__ = ["engine", "kind"]


class Old:
    """An ASGI 2 application."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    async def __call__(
        self, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.scope["path"].encode()})


@only(NATIVE)
def test_asgi_2_applications_are_served_by_every_adapter(engine: Engine, kind: Kind) -> None:
    """Their libraries are told that they serve ASGI 3."""
    server = kind.make(engine, Old)
    server.subscribe()
    engine.start()
    url = server.addresses[0].url("http")
    assert requests.get(f"{url}/old", timeout=5, headers={"Connection": "close"}).text == "/old"
    engine.exit()
