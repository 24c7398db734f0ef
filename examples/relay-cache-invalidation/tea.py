"""A price that every process keeps in memory, and forgets when anybody changes it.

The price itself is in a file, in the place of a database that both sites share.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import sitebus

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

STORE = Path(__file__).with_name("price.txt")

cache: dict[str, str] = {}


@sitebus.engine.subscribe("cache.price")
def forget() -> None:
    """Hear that the price has changed: here, in another process, or at the other site."""
    cache.clear()


@sitebus.engine.subscribe("relay.gap")
def forget_all(source: str, channel: str, lost: int) -> None:
    """Hear that messages of the other site are lost: any of them may have been about the price."""
    cache.clear()


def price() -> tuple[str, str]:
    """Answer the price, and where it comes from."""
    where = "memory" if "price" in cache else "the file"
    if "price" not in cache:
        cache["price"] = STORE.read_text() if STORE.exists() else "3"
    return cache["price"], where


def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    if environ["REQUEST_METHOD"] == "POST":
        STORE.write_text(environ["QUERY_STRING"] or "4")
        sitebus.engine.publish("cache.price")
    said, where = price()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"tea is {said}, says process {os.getpid()} from {where}\n".encode()]
