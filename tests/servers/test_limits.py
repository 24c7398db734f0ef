"""Bodies that are too large for an ASGI application, as the limit in front of it refuses them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sitebus.servers.limits import limited

Message = dict[str, Any]


async def takes_all(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def asked(body: list[bytes], length: bytes | None = None, version: str = "1.1") -> Any:
    """Answer what a client is sent, and what is complained of, where 5 bytes are the limit."""
    sent: list[Message] = []
    complaints: list[tuple[str, str]] = []
    pieces = list(body)

    async def receive() -> Message:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [] if length is None else [(b"content-length", length)]
    scope = {"type": "http", "http_version": version, "headers": headers, "client": ("1.2.3.4", 5)}
    app: Any = limited(takes_all, 5, lambda kind, message: complaints.append((kind, message)))
    asyncio.run(app(scope, receive, send))
    return sent, complaints


@pytest.mark.parametrize(
    ("body", "length"),
    [([b"123456"], b"6"), ([b"1234", b"56"], None), ([b""], b"9" * 5000)],
    ids=["length", "chunks", "digits"],
)
def test_a_body_that_is_too_large_ends_its_connection(
    body: list[bytes], length: bytes | None
) -> None:
    """Else the server would have to read the rest of it; and the log tells who it was."""
    (start, text), complaints = asked(body, length)
    assert start["status"] == 413
    assert (b"connection", b"close") in start["headers"]
    assert complaints == [
        (
            "413 Content Too Large",
            "Refused a request from 1.2.3.4: 413 Content Too Large. " + text["body"].decode(),
        )
    ]


def test_http_2_knows_no_field_for_it() -> None:
    """RFC 9113, section 8.2.2: it would be malformed."""
    (start, _), _ = asked([b"123456"], version="2")
    assert start["status"] == 413
    assert "connection" not in str(start["headers"])


def test_what_is_not_too_large_is_the_applications() -> None:
    """To the last byte."""
    (start, _), complaints = asked([b"123", b"45"], b"5")
    assert (start["status"], complaints) == (200, [])
