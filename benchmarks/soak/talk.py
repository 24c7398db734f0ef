"""A WebSocket as a client with a raw socket speaks it (RFC 6455), for short texts.

A client library would answer a close by itself, and hide with which code it came, or that none did.
"""

from __future__ import annotations

import base64
import hashlib
import os

from benchmarks.soak.wire import Connection, Failure, Lost

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
#: What a close without a code counts as.
NO_CODE = 1005
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FINAL, _MASKED, _LONG = 0x80, 0x80, 126


class Farewell(Exception):
    """The other side has closed, and said with which code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Talk:
    """One WebSocket on a connection that was just made; whatever goes wrong with it is a `Lost`."""

    def __init__(self, connection: Connection, target: str) -> None:
        self.connection = connection
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            *(f"GET {target} HTTP/1.1", "Host: localhost", "Upgrade: websocket"),
            *("Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"),
        ]
        connection.send("\r\n".join([*lines, "", ""]).encode())
        status, headers = connection.head()
        if status >= 500:
            raise Lost(Failure.SERVER_ERROR, f"{status} to {target}")
        if status != 101 or headers.get("sec-websocket-accept") != accepting(key):
            raise Lost(Failure.WRONG, f"{status} to {target}: {headers}")

    def say(self, text: str) -> None:
        self.connection.send(frame(TEXT, text.encode(), os.urandom(4)))

    def hear(self) -> str:
        """Answer the next text.

        Raises:
            Farewell: The other side closes instead; it has been answered.
        """
        while (text := self._heed()) is None:
            pass
        return text

    def attend(self) -> None:
        """Answer what has come meanwhile, and wait for nothing.

        Raises:
            Farewell: The other side has closed; it has been answered.
            Lost: It has said something, to which it was not asked.
        """
        while self.connection.has_received:
            text = self._heed()
            if text is not None:
                raise Lost(Failure.WRONG, f"{text!r:.100} out of the blue")

    def _heed(self) -> str | None:
        """Answer the text of the next frame, if it has any; a ping is answered."""
        kind, data = self._next()
        if kind == CLOSE:
            self.connection.send(frame(CLOSE, data, os.urandom(4)))
            raise Farewell(int.from_bytes(data[:2]) if data else NO_CODE)
        if kind == PING:
            self.connection.send(frame(PONG, data, os.urandom(4)))
        return data.decode() if kind == TEXT else None

    def _next(self) -> tuple[int, bytes]:
        first, length = self.connection.read(2)
        if length == _LONG:
            length = int.from_bytes(self.connection.read(2))
        return first & 15, self.connection.read(length)

    def close(self) -> None:
        self.connection.close()


def accepting(key: str) -> str:
    """Answer what a server says that takes *key* for the beginning of a WebSocket."""
    return base64.b64encode(hashlib.sha1((key + _MAGIC).encode()).digest()).decode()


def frame(kind: int, data: bytes, mask: bytes = b"") -> bytes:
    """Answer one frame of fewer than 126 bytes; clients must *mask* theirs."""
    head = bytes([_FINAL | kind, len(data) | (_MASKED if mask else 0)])
    key = (mask or bytes(4)) * (len(data) // 4 + 1)
    return head + mask + bytes(a ^ b for a, b in zip(data, key, strict=False))
