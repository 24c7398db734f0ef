"""One client of the corpus: it does what an entry says, and sees how the server takes it."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from typing import NamedTuple

from tests.hostile.entries import Drip, Entry, Moment, Step

#: What the site allows a client, in seconds, and how much later a busy machine may notice.
LIMIT, SLACK = 3.0, 10.0
#: How long a pause between two pieces is, so that they come as two; and between two drops.
PIECE, DROP = 0.002, 0.1
#: How long a client waits at most to be told something before it goes on.
MOMENT = 0.3


class Outcome(NamedTuple):
    """What a client got."""

    peer: str
    received: bytes
    closed: bool
    seconds: float


class Conversation:
    """One client and its connection."""

    def __init__(self, entry: Entry, peer: str) -> None:
        self.entry = entry
        self.peer = peer
        self._received = b""
        self._news = asyncio.Event()
        self._latest = time.monotonic()
        self._socket = socket.socket()

    async def hold(self, address: tuple[str, int]) -> Outcome:
        """Do as the entry says, and then wait for the server to close."""
        began = time.monotonic()
        with self._socket as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.bind((self.peer, 0))
            try:
                await asyncio.get_running_loop().sock_connect(sock, address)
            except ConnectionRefusedError:
                return Outcome(self.peer, b"no site", False, 0.0)
            reading = asyncio.ensure_future(self._read())
            sending = asyncio.ensure_future(self._send())
            try:
                closed = await self._wait(reading, sending)
            finally:
                for task in (sending, reading):
                    task.cancel()
                await asyncio.gather(sending, reading, return_exceptions=True)
            if Moment.RESET in self.entry.steps:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return Outcome(self.peer, self._received, closed, time.monotonic() - began)

    async def _wait(self, reading: asyncio.Task[None], sending: asyncio.Task[None]) -> bool:
        """Answer whether the server has closed, in time."""
        if self.entry.leaves:
            await asyncio.wait([sending], timeout=LIMIT + SLACK)
            return True
        while not reading.done():
            left = self._latest + LIMIT + SLACK - time.monotonic()
            if left <= 0:
                return False
            await asyncio.wait([reading], timeout=left)
        return True

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):
            while data := await loop.sock_recv(self._socket, 1 << 16):
                self._received += data
                self._latest = time.monotonic()
                self._news.set()

    async def _send(self) -> None:
        # A server that refuses what comes does not read the rest.
        with suppress(ConnectionError):
            for step in self.entry.steps:
                await self._do(step)

    async def _do(self, step: Step) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(step, bytes):
            await loop.sock_sendall(self._socket, step)
            self._latest = time.monotonic()
            if len(self.entry.steps) > 1:
                await asyncio.sleep(PIECE)
        elif isinstance(step, Drip):
            for byte in step.data:
                await loop.sock_sendall(self._socket, bytes([byte]))
                await asyncio.sleep(DROP)
        elif step is Moment.AWAIT:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), MOMENT)
        elif step is Moment.HALF_CLOSE:
            self._socket.shutdown(socket.SHUT_WR)
