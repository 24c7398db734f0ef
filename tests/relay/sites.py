"""Sites of a relay, each with its workers, for tests that ask them and restart them."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sitebus.cli.ctl_client import Client
from tests.helpers import PATIENCE, SiteProcess, wait_for
from tests.workers.site import children

APPLICATION = """\
import json
import os
import threading
import urllib.parse

import sitebus

HEARD = []
NEWS = []
GOT = []


def application(environ, start_response):
    relay = sitebus.engine.relay
    asked = json.loads(urllib.parse.unquote(environ["QUERY_STRING"]) or "null")
    found = None
    try:
        match environ["PATH_INFO"]:
            case "/publish":
                sitebus.engine.publish(*asked)
            case "/publish_large":
                sitebus.engine.publish("cache.large", "x" * asked[0])
            case "/put_large":
                relay.publish().put("cache.large", "x" * asked[0])
            case "/put":
                relay.publish().put(*asked, flush=5)
            case "/call":
                found = {node: str(each) for node, each in relay.call(*asked, timeout=10).items()}
            case "/vote":
                subscriber = relay.subscribe("vote")
                threading.Thread(target=lambda: vote(relay, subscriber), daemon=True).start()
            case "/peers":
                found = [peer.node for peer in relay.peers()]
            case "/overlap":
                # They are joined in this order: who sees the last of them sees all.
                for channels in ("over.x", "over.x", "over.*"):
                    subscriber = relay.subscribe(channels)
                    threading.Thread(target=collect, args=(subscriber,), daemon=True).start()
            case "/refused":
                relay.subscribe(asked)
            case "/subscribe":
                subscriber = relay.subscribe(asked)
                threading.Thread(target=lambda: collect(subscriber), daemon=True).start()
    except Exception as error:
        found = getattr(error, "exceptions", [error])[0]
        found = f"{type(found).__name__}: {found}"
    told = {"pid": os.getpid(), "heard": HEARD, "news": NEWS, "got": GOT, "found": found}
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def collect(subscriber):
    for message in subscriber:
        GOT.append(message)


def vote(relay, subscriber):
    relay.answer(subscriber.get(block=True, envelope=True), {"pid": os.getpid()})


class Listener:
    def __init__(self, bus):
        self.bus = bus

    def subscribe(self):
        self.bus.overhear("cache.*", lambda *message: HEARD.append(message))
        self.bus.overhear("relay.*", lambda *news: NEWS.append(news))
        self.bus.subscribe("ask.pid", os.getpid)
        self.bus.subscribe("ask.broken", lambda: 1 // 0)

    def unsubscribe(self):
        pass
"""


def write(folder: Path, relay: str, *, workers: int = 2, more: str = "") -> Path:
    """Write a site whose ``[relay]`` says *relay*, and answer its file."""
    folder.mkdir(exist_ok=True)
    (folder / "shop.py").write_text(APPLICATION)
    file = folder / "site.ini"
    file.write_text(
        f"[site]\nname = {folder.name}\n"
        "[server]\nbind = 127.0.0.1:0\n"
        "[logging]\naccess = off\n"
        "[control]\nsocket = ctl.sock\npublish = cache.x\n"
        "[mount /]\napp = shop:application\n"
        "[plugin listener]\nuse = shop:Listener\n"
        f"[workers]\ncount = {workers}\n"
        f"[relay]\n{relay}\n{more}"
    )
    return file


class RelaySite(SiteProcess):
    """``sitebus-serve`` on what `write` wrote."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str] = {}) -> None:
        super().__init__(
            "site.ini", *arguments, cwd=folder, env={"PYTHONDONTWRITEBYTECODE": "1", **env}
        )
        self.url  # noqa: B018 - printed once all workers serve
        self.control = Client(str(folder / "ctl.sock"))

    @property
    def relay(self) -> dict[str, Any]:
        """What it says of its relay to its operators."""
        found: dict[str, Any] = self.control.get("/v1/relay")
        return found

    def wait_for_peers(self, *names: str) -> None:
        """Wait until others are there that send what is wanted here."""

        def are_up() -> bool:
            return {peer["node"] for peer in self.relay["peers"] if peer["state"] == "up"} >= set(
                names
            )

        wait_for(are_up, PATIENCE, f"{names} to be up")

    def ask(self, path: str = "/", *values: Any) -> dict[str, Any]:
        """Answer what a worker, any of them, says."""
        match = re.search(r"http://([\d.]+):(\d+)", self.url)
        assert match
        connection = http.client.HTTPConnection(match[1], int(match[2]), timeout=PATIENCE)
        asked = f"?{quote(json.dumps(values))}" if values else ""
        try:
            connection.request("GET", path + asked, headers={"Connection": "close"})
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()

    @property
    def pids(self) -> set[int]:
        """The processes that serve."""
        found = {pid for pid, line in children(self.pid).items() if "sitebus.workers" in line}
        return found or {self.pid}

    def ask_all(self) -> list[dict[str, Any]]:
        """Answer what each of the workers says."""
        told: dict[int, dict[str, Any]] = {}

        def all_have_answered() -> bool:
            found = self.ask()
            told[found["pid"]] = found
            return told.keys() >= self.pids

        wait_for(all_have_answered, PATIENCE, "an answer of each worker")
        return [told[pid] for pid in sorted(told) if pid in self.pids]

    def heard(self) -> list[list[Any]]:
        """Answer what each of the workers has heard on channels ``cache.*``."""
        return [told["heard"] for told in self.ask_all()]
