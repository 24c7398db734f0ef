"""What a worker that was forked of a process that had loaded everything still has to import."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from tests.helpers import PATIENCE
from tests.workers.site import WorkerSite

#: Answers the modules that were imported in this process.
APPLICATION = """\
import json
import os
import sys

HAD = set()
os.register_at_fork(after_in_child=lambda: HAD.update(sys.modules))


def new():
    return json.dumps(sorted(set(sys.modules) - HAD)).encode()


def wsgi(environ, start_response):
    environ["wsgi.input"].read()
    body = new()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    await receive()
    body = new()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

SITE = """\
[site]
name = shop
[server]
adapter = {adapter}
bind = 127.0.0.1:0
[logging]
access = off
[mount /]
app = shop:{application}
[workers]
count = 1
preload = yes
"""


@pytest.mark.parametrize("application", ["wsgi", "asgi"])
@pytest.mark.parametrize("adapter", ["cheroot", "uvicorn", "hypercorn", "granian", "waitress"])
def test_nothing_is_imported_after_the_fork(adapter: str, application: str, tmp_path: Path) -> None:
    """Memory that is not shared, and a first request that waits for it."""
    pytest.importorskip(adapter)
    (tmp_path / "shop.py").write_text(APPLICATION)
    (tmp_path / "site.ini").write_text(SITE.format(adapter=adapter, application=application))
    with WorkerSite(tmp_path) as site:
        connection = http.client.HTTPConnection(*site.address, timeout=PATIENCE)
        connection.request("POST", "/?a=b", b"some body")
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read()) == []
        connection.close()
        assert site.stop() == 0
