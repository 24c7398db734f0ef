"""A release that begins to run, and then cannot answer."""

from __future__ import annotations

from typing import Any


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise ConnectionError("the database is not there")
