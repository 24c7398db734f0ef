"""Sites that tell a benchmark of the birth of each worker: when it was forked, and serves.

The times are those of the monotonic clock, which all processes of a system share.
"""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from benchmarks import hosting
from benchmarks.processes import Server, sitebus
from benchmarks.startup import free_port

#: Where a process finds the socket to tell, in its environment.
VARIABLE = "BENCHMARK_BIRTHS"
#: How long a birth may take; seconds.
PATIENCE = 60.0
#: Functions of the large application.
PAGES = 8000

#: Imported by an application that tells; the times are taken before anything is sent.
TELLTALE = f"""\
import json
import os
import socket
import sys
import time

import sitebus

FORKED = [None]
THERE = [set()]


def forked():
    FORKED[0] = time.monotonic()
    THERE[0] = set(sys.modules)


def serves():
    now = time.monotonic()
    told = {{
        "pid": os.getpid(),
        "forked": FORKED[0],
        "ready": now,
        "late": sorted(set(sys.modules) - THERE[0]) if FORKED[0] else [],
    }}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
        teller.sendto(json.dumps(told).encode(), os.environ[{VARIABLE!r}])


os.register_at_fork(after_in_child=forked)
sitebus.engine.subscribe("started", serves, priority=100)
"""


#: What a request that computes does: some milliseconds, beside which the client, who is on the same
#: cores, costs little.
WORK = "sum(number * number for number in range(200_000))"

#: Answers at once, after a while, or after some work.
SITE = """\
import time

import telltale


def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1.5)
    elif environ["PATH_INFO"] == "/work":
        WORK
    body = environ["QUERY_STRING"].encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def hello(environ, start_response):
    body = BODY
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
""".replace("BODY", repr(hosting.BODY)).replace("WORK", WORK)

#: Imports what applications and their frameworks import, and is about as large as they are.
LARGE = """\
import asyncio, concurrent.futures, configparser, csv, ctypes, decimal, difflib, doctest
import email.mime.multipart, email.policy, fractions, ftplib, html.parser, http.cookiejar
import http.server, imaplib, inspect, ipaddress, json, logging.config, logging.handlers, mailbox
import multiprocessing.pool, optparse, pdb, pickletools, plistlib, pydoc, secrets, shelve, smtplib
import sqlite3, ssl, statistics, subprocess, tarfile, tempfile, tokenize, tracemalloc, typing
import unittest.mock, urllib.request, uuid, wsgiref.validate, xml.dom.minidom
import xml.etree.ElementTree, xml.sax, xmlrpc.client, zipfile, zoneinfo

import telltale
from siteapp import application
from pages import PAGES

ARTICLES = {
    f"article-{number}": {"name": f"Article {number}", "price": number / 2, "tags": [f"t{number}"]}
    for number in range(40_000)
}
"""

PAGE = '''
def page_{number}(request, key="key-{number}", *, limit={number}, **options):
    """Answer page {number} of the shop."""
    found = [row for row in request.rows("{number}", key) if row.price < limit]
    if not found:
        raise LookupError(f"nothing of {{key}} costs less than {{limit}} on page {number}")
    return {{"page": {number}, "rows": found, "title": "Page {number}", "options": options}}


PAGES.append(page_{number})
'''


class Birth(NamedTuple):
    """A worker that serves.

    Attributes:
        pid: Its process.
        forked: When it was forked; None if it was started by exec.
        ready: When it began to serve.
        late: The modules that it imported after the fork.
    """

    pid: int
    forked: float | None
    ready: float
    late: list[str]


class Register:
    """Hears of every birth while the block runs.

    Args:
        folder: Where its socket is put, and `telltale`, which applications import.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "births.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(str(self._path))
        self._socket.settimeout(PATIENCE)
        (folder / "telltale.py").write_text(TELLTALE)

    @property
    def environ(self) -> Mapping[str, str]:
        """What a server must find in its environment."""
        return {VARIABLE: str(self._path)}

    def next(self, count: int) -> list[Birth]:
        """Wait for so many births."""
        return [Birth(**json.loads(self._socket.recv(1 << 16))) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
        self._path.unlink()


class Site(NamedTuple):
    """Where the applications are, and how the site is served."""

    folder: Path
    register: Register
    adapter: str

    def serve(self, count: int, *options: str, target: str = "siteapp:application") -> Server:
        """Serve *target* with *count* workers; none for a process without any."""
        port = free_port()
        command = sitebus(target, port, count, *options, adapter=self.adapter)
        server = Server(command, self.folder, port, self.register.environ)
        return server.wait_serving(count)

    def serve_newborn(
        self, count: int, *options: str, target: str = "siteapp:application"
    ) -> tuple[Server, list[Birth]]:
        """Serve *target*, and answer who serves it."""
        server = self.serve(count, *options, target=target)
        try:
            return server, self.register.next(max(count, 1))
        except TimeoutError:
            server.close()
            raise


@contextmanager
def site(adapter: str) -> Iterator[Site]:
    """Put the applications into a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "siteapp.py").write_text(SITE)
        (folder / "large.py").write_text(LARGE)
        pages = "".join(PAGE.format(number=number) for number in range(PAGES))
        (folder / "pages.py").write_text(f"PAGES = []\n{pages}")
        with Register(folder) as register:
            yield Site(folder, register, adapter)
