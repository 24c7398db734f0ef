"""What applications under uvicorn are told of TLS, and of who their client is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sitebus.process import Engine
from sitebus.servers.tls import TLS
from sitebus.servers.uvicorn import UvicornServer
from tests.servers.client import Client
from tests.servers.conftest import Certificate
from tests.servers.test_client_certs import Person, person
from tests.servers.test_hypercorn_defences import secure_client

#: Found here by pytest.
__all__ = ["person"]


async def tell(scope: Any, receive: Any, send: Any) -> None:
    body = json.dumps(scope.get("extensions")).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("parser", ["httptools", "h11"])
def test_an_application_is_told_who_its_client_is(
    engine: Engine, certificate: Certificate, person: Person, parser: str
) -> None:
    tls = TLS(*certificate.tls[:3], person.authority, "optional")
    server = UvicornServer(
        engine, tell, binds=["127.0.0.1:0"], tls=tls, linger=0.05, native={"http": parser}
    )
    server.subscribe()
    engine.start()
    with Client(server.addresses[0], tls=secure_client(certificate, person)) as client:
        told = json.loads(client.get().body)["tls"]
        assert told["client_cert_name"].endswith("C=DE")
        assert told["client_cert_chain"][0].split() == person.certificate.read_text().split()
        assert told["server_cert"] in certificate.certificate.read_text()
        assert told["tls_version"] == 0x0304
        assert json.loads(client.get().body)["tls"] == told
    with Client(server.addresses[0], tls=secure_client(certificate, None)) as nobody:
        told = json.loads(nobody.get().body)["tls"]
        assert (told["client_cert_name"], told["client_cert_chain"]) == (None, [])
    engine.exit()
