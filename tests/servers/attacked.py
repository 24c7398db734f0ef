"""A server in a process of its own, to be attacked: bare cheroot, or ours with the same site.

    python -m tests.servers.attacked bare|ours SETTINGS

SETTINGS are JSON. The port is printed once it serves, and a line for each that is logged.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_hoard: list[int] = []
_opened = threading.Event()


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Do what the path says."""
    path = environ["PATH_INFO"]
    if path == "/overrun":
        start_response("200 OK", [("Content-Length", "2")])
        return iter([b"ab", b"HTTP/1.1 200 Forged\r\n\r\n"])
    said = _ACTIONS.get(path, lambda _: "hello")(environ["wsgi.input"])
    body = str(said).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def _take_all_descriptors(_: Any) -> int:
    try:
        while True:
            _hoard.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return len(_hoard)


def _give_them_back(_: Any) -> str:
    while _hoard:
        os.close(_hoard.pop())
    return "given back"


def _wait(_: Any) -> bool:
    return _opened.wait(20)


def _go_on(_: Any) -> str:
    _opened.set()
    return "going on"


def _stop_collecting(_: Any) -> str:
    gc.collect()
    gc.disable()
    return "none"


_ACTIONS: dict[str, Callable[[Any], object]] = {
    "/readline": lambda body: body.readline(),
    "/lines": lambda body: list(body),
    "/all-lines": lambda body: body.readlines(),
    "/hoard": _take_all_descriptors,
    "/release": _give_them_back,
    "/wait": _wait,
    "/go": _go_on,
    "/collect-no-more": _stop_collecting,
    "/garbage": lambda _: gc.collect(),
}


def bare(settings: dict[str, Any]) -> None:
    from cheroot.ssl.builtin import BuiltinSSLAdapter
    from cheroot.wsgi import Server

    tls = settings.pop("tls", None)
    path = settings.pop("unix", None)
    descriptor = settings.pop("descriptor", None)
    server = Server(path or ("127.0.0.1", 0), application, **settings)
    if tls:
        server.ssl_adapter = BuiltinSSLAdapter(*tls)
    if descriptor is not None:
        # The only way to hand it a socket: it takes the third descriptor, as from systemd.
        os.dup2(descriptor, 3)
        os.environ["LISTEN_PID"] = str(os.getpid())
    server.error_log = lambda msg="", level=20, traceback=False: print("log", msg, flush=True)  # type: ignore[method-assign]
    server.prepare()
    print(0 if path else server.bind_addr[1], flush=True)
    server.serve()


def ours(settings: dict[str, Any]) -> None:
    from sitebus.process import Engine
    from sitebus.servers.cheroot import CherootServer
    from sitebus.servers.tls import TLS

    tls = settings.pop("tls", None)
    path = settings.pop("unix", None)
    descriptor = settings.pop("descriptor", None)
    bind = f"unix:{path}" if path else "127.0.0.1:0"
    if descriptor is not None:
        bind = f"fd:{descriptor}"
    engine = Engine()
    server = CherootServer(
        engine,
        application,
        binds=[bind],
        tls=TLS(Path(tls[0]), Path(tls[1])) if tls else None,
        **settings,
    )
    server.subscribe()
    engine.subscribe("log", lambda message, level: print("log", message, flush=True))
    engine.start()
    print(server.addresses[0].port or 0, flush=True)
    engine.block()


if __name__ == "__main__":
    {"bare": bare, "ours": ours}[sys.argv[1]](json.loads(sys.argv[2]))
