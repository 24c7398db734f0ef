"""What this node sends: numbered and written in whatever thread sends it, then queued.

Whoever empties the queue is told once for all that comes together.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sitebus.errors import BadName, MessageTooLarge, RelayStopped
from sitebus.relay.envelope import HOPS, VERSION, Envelope, check_name, is_id
from sitebus.relay.frames import LIMIT, dump
from sitebus.relay.sequences import Mark, Numbers

#: What may wait for the poller: messages, and bytes.
MOST = 100_000
MOST_BYTES = 64 * 1024 * 1024
#: So many channels have their beginnings of messages remembered.
_REMEMBERED = 4096

#: What numbers take at most: of the message, of the stream and its base, of the clock.
_NUMBERS = 160

_NO_BODY = b'"args":[],"kw":{}}'


class Item(NamedTuple):
    """A message that waits to go out."""

    envelope: Envelope
    stream: str
    mark: Mark
    data: bytes


class Outgoing:
    """The queue of one node's life.

    Args:
        node: Its name.
        epoch: Of this life.
        ring: Is called, in the thread that sends, when the queue is no longer empty.
    """

    def __init__(self, node: str, epoch: str, ring: Callable[[], object]) -> None:
        self._node = node
        self._epoch = epoch
        self._ring = ring
        self._head = f'{{"v":{VERSION},"src":{json.dumps(node)},"ep":"{epoch}","hops":{HOPS},'
        self._room = len(json.dumps(node)) + _NUMBERS
        self._name = f"{node}-{epoch}-"
        self._quoted_name = json.dumps(self._name)[:-1]
        # Reentrant: what is finalized while it is held may want to send.
        self._lock = threading.RLock()
        self._numbers = Numbers()
        self._count = 0
        self._queue: deque[Item] = deque()
        #: Bytes that came in, and those that went out; each has one writer at a time.
        self._in = self._out = 0
        self._rung = self._open = self._busy = False
        #: What is yet to be numbered, more than one only while a thread interrupts itself.
        self._blanks: deque[tuple[Envelope, str, bytes]] = deque()
        #: What had no room: how far streams came by that, and by how many messages.
        self._spilled: dict[str, tuple[Mark, int]] = {}
        self._heads: dict[tuple[str, str | None, bool], str] = {}

    def open(self) -> None:
        """Take messages from here on."""
        self._open = True

    def close(self) -> None:
        """Take no more."""
        with self._lock:
            self._open = False

    def put(
        self,
        channel: str,
        args: list[Any] | tuple[Any, ...],
        kw: Mapping[str, Any],
        *,
        keep: bool,
        to: str | None,
        re: str | None,
        call: str | None,
    ) -> Envelope:
        """Number a message and have it wait; see `sitebus.relay.Mesh.send`."""
        kwargs = dict(kw)
        body = dump({"args": args, "kw": kwargs})[1:] if args or kwargs else _NO_BODY
        head = self._heads.get((channel, to, keep)) or self._new_head(channel, to, keep)
        if re is not None or call is not None:
            head += f'"re":{_id(re)},"call":{_id(call)},'
        size = len(head) + len(body) + self._room
        if size > LIMIT:
            raise MessageTooLarge(size, LIMIT)
        blank = Envelope(
            "", self._node, self._epoch, channel, 0, time.time(), args, kwargs,
            re, HOPS, False, to, call, keep,
        )  # fmt: skip
        with self._lock:
            if not self._open:
                raise RelayStopped(channel)
            self._blanks.append((blank, head, body))
            if self._busy:
                # In the middle of another: what is finalized just then sends. It has its turn.
                return blank
            envelope = self._number(blank)
            rings, self._rung = not self._rung, True
        if rings:
            self._ring()
        return envelope

    def take(self, most: int) -> Iterator[Item]:
        """Answer up to *most* messages, in order."""
        for _ in range(most):
            # It gets shorter nowhere else, so looking needs no lock.
            if not self._queue:
                return
            item = self._queue.popleft()
            self._out += len(item.data)
            yield item

    def rest(self) -> dict[str, tuple[Mark, int]] | None:
        """Have the ring sound with the next message, if none waits now.

        Returns:
            What had no room, each only once: how far its stream has come, and how many messages
            that was. None if some wait, which have lower numbers than those.
        """
        with self._lock:
            if self._queue:
                return None
            self._rung = False
            found, self._spilled = self._spilled, {}
        return found

    def __len__(self) -> int:
        return len(self._queue)

    def _new_head(self, channel: str, to: str | None, keep: bool) -> str:
        head = f'{self._head}"ch":{json.dumps(check_name("channel", channel))},'
        if to is not None:
            head += f'"to":{json.dumps(check_name("node", to))},'
        if keep:
            head += '"keep":true,'
        if len(self._heads) >= _REMEMBERED:
            self._heads.clear()
        self._heads[channel, to, keep] = head
        return head

    def _number(self, wanted: Envelope) -> Envelope:
        """Number all that is to be numbered, one after the other; answer what *wanted* became."""
        found = wanted
        while self._blanks:
            self._busy = True
            try:
                blank, head, body = self._blanks.popleft()
                envelope = self._add(blank, head, body)
                if blank is wanted:
                    found = envelope
            finally:
                self._busy = False
        return found

    def _add(self, blank: Envelope, head: str, body: bytes) -> Envelope:
        """Number a message, and have it wait."""
        stream = blank.stream
        mark = self._numbers.following(stream)
        self._numbers.use(stream, mark)
        self._count += 1
        name = f"{self._name}{self._count}"
        envelope = Envelope(
            name, self._node, self._epoch, blank.ch, mark.number, blank.ts, blank.args, blank.kw,
            blank.re, HOPS, False, blank.to, blank.call, blank.keep, mark.base,
        )  # fmt: skip
        if len(self._queue) >= MOST or self._in - self._out > MOST_BYTES:
            _, count = self._spilled.get(stream, (mark, 0))
            self._spilled[stream] = (mark, count + 1)
            return envelope
        base = f'"base":{mark.base},' if mark.base else ""
        id_ = f'{self._quoted_name}{self._count}"'
        numbers = f'"id":{id_},"seq":{mark.number},"ts":{blank.ts:.6f},{base}'
        data = f"{head}{numbers}".encode() + body
        self._queue.append(Item(envelope, stream, mark, data))
        self._in += len(data)
        return envelope


def _id(text: str | None) -> str:
    if text is not None and not is_id(text):
        raise BadName("call", text, "it is too long, or no text")
    return json.dumps(text)
