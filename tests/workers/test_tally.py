"""How many requests a worker has had, and how old the oldest is that waits for its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from sitebus.process import Engine
from sitebus.servers import Faces
from sitebus.workers.tally import Tally


@pytest.fixture
def tally() -> Tally:
    return Tally(Engine())


def faces_around(tally: Tally, asgi: Callable[..., Any]) -> Faces:
    return tally.around(Faces(lambda environ, start_response: [b"x"], lambda: asgi, None))  # type: ignore[arg-type]


async def _quiet(message: object) -> None:
    """Take what is sent."""


def test_each_request_counts_once_whichever_way_it_came(tally: Tally) -> None:
    """To look does not count; a websocket and a lifespan are no requests."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start"})

    faces = faces_around(tally, app)
    assert tally.requests == 0
    faces.wsgi({}, lambda *_: lambda _: None)
    assert [tally.requests, tally.requests] == [1, 1]
    for kind in ("http", "websocket", "lifespan"):
        asyncio.run(faces.asgi()({"type": kind}, None, _quiet))
    assert tally.requests == 2
    assert tally.oldest(time.monotonic()) == 0


def test_an_asgi_request_waits_until_its_response_begins(tally: Tally) -> None:
    """A stream of events that goes on for hours is no request that hangs."""
    ages: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ages.append(tally.oldest(time.monotonic() + 5))
        await send({"type": "http.response.start"})
        ages.append(tally.oldest(time.monotonic() + 5))

    asyncio.run(faces_around(tally, app).asgi()({"type": "http"}, None, _quiet))
    assert ages[0] >= 5
    assert ages[1] == 0


def test_a_request_whose_application_fails_waits_no_longer(tally: Tally) -> None:
    """It would look like one that hangs, for ever."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - nothing but this one is raised
        asyncio.run(faces_around(tally, app).asgi()({"type": "http"}, None, _quiet))
    assert tally.oldest(time.monotonic() + 5) == 0
