"""Clients on raw sockets, one thread each: who asks in which manner.

What a client is owed depends on its manner. One that connects for each request, or that keeps its
connection and uses it whenever it likes (`Strict`, `Thoughtful`), is owed an answer every time. One
that looks before it asks (`Polite`) may find its connection closed. One that is slow, but not too
slow, is owed its answer as well. One that leaves in the middle, or says nothing, is owed what it
stayed for; how its visit ends then is its own doing.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from random import Random
from typing import ClassVar, NamedTuple, Self

from benchmarks.soak import applications
from benchmarks.soak.talk import Farewell, Talk
from benchmarks.soak.tally import Tally
from benchmarks.soak.wire import PATIENCE, Answer, Connection, Failure, Lost
from sitebus.sockets.addresses import Address

#: Seconds between two requests of a client that is in a hurry.
PACE = 0.01
#: The longest that one thinks between two requests; servers keep connections longer than that.
THOUGHT = 2.0
#: How long one takes over a request or an answer if it is slow, but not too slow.
SLOWLY = 1.5
#: How long one stays that says nothing, or says it without an end.
STAY = 3.0
_UPLOAD = b"0123456789abcdef" * 256


class Wanted(NamedTuple):
    """A target to ask for, and whether an answer is the right one."""

    target: str
    fits: Callable[[Answer], bool]


#: Makes up what to ask for next.
Errand = Callable[[Random], Wanted]


def echo(prefix: str = "", page: str = "echo") -> Errand:
    """Ask for what nobody else asks for, and want no other answer."""

    def errand(random: Random) -> Wanted:
        token = f"{random.getrandbits(64):x}"
        return Wanted(
            f"{prefix}/{page}?{token}",
            lambda answer: answer.status == 200 and answer.body == token.encode(),
        )

    return errand


class World(NamedTuple):
    """What all clients of a load share.

    Attributes:
        address: Where to connect.
        prefixes: Where `applications` are mounted.
        errands: What those in a hurry ask for.
        over: Set when they shall leave.
        patience: How long they wait for a byte.
        tls: Whom they believe, if they come by TLS.
    """

    address: Address
    prefixes: Sequence[str]
    errands: Sequence[Errand]
    over: threading.Event
    patience: float = PATIENCE
    tls: ssl.SSLContext | None = None


class Client:
    """Somebody who visits again and again until the world is over."""

    #: The name of its manner in reports.
    kind: ClassVar[str]
    #: Seconds between two visits.
    pace: ClassVar[float] = PACE

    def __init__(self, world: World, tally: Tally, seed: int) -> None:
        self.world = world
        self.tally = tally
        self.random = Random(seed)

    def run(self) -> None:
        """Visit until the world is over."""
        while not self.world.over.is_set():
            try:
                self.visit()
            except Lost as lost:
                self.tally.lose(lost)
            self.world.over.wait(self.pause())
        self.leave()

    def visit(self) -> None:
        raise NotImplementedError

    def pause(self) -> float:
        return self.pace

    def leave(self) -> None:
        """Close what is open."""

    def connect(self, buffer: int = 0, *, again: bool = False) -> Connection:
        world = self.world
        connection = Connection(world.address, world.patience, buffer, world.tls)
        self.tally.note_opened(again=again)
        return connection

    def errand(self) -> Wanted:
        return self.random.choice(self.world.errands)(self.random)

    def prefix(self) -> str:
        return self.random.choice(self.world.prefixes)


class New(Client):
    """A connection for each request."""

    kind = "new connections"

    def visit(self) -> None:
        wanted = self.errand()
        with self.tally.answering(), self.connect() as connection:
            connection.send(request(wanted.target, "Connection: close"))
            check(connection.answer(), wanted)


class Strict(Client):
    """One connection for as long as the server says, used without a look and never tried again."""

    kind = "strict kept-alive"

    def __init__(self, world: World, tally: Tally, seed: int) -> None:
        super().__init__(world, tally, seed)
        self.connection: Connection | None = None
        self._had_one = False

    def visit(self) -> None:
        try:
            self.ask(self.errand())
        except Lost:
            self.leave()
            raise

    def ask(self, wanted: Wanted) -> None:
        with self.tally.answering():
            if self.connection is None:
                self.connection = self.connect(again=self._had_one)
                self._had_one = True
            self.connection.send(request(wanted.target))
            answer = self.connection.answer()
            check(answer, wanted)
        if answer.closes:
            self.leave()

    def leave(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Polite(Strict):
    """One kept connection, looked at before it is used again, as good client libraries do."""

    kind = "polite kept-alive"

    def visit(self) -> None:
        if self.connection is not None and self.connection.is_readable:
            self.leave()
        super().visit()


class Thoughtful(Strict):
    """One kept connection, with some thinking between two requests."""

    kind = "thinking kept-alive"

    def pause(self) -> float:
        return self.random.uniform(0, THOUGHT)


class Unhurried(Strict):
    """One kept connection, and requests that take 300 ms."""

    kind = "300 ms requests"

    def errand(self) -> Wanted:
        return echo(self.prefix(), "slow")(self.random)


class SlowHead(Client):
    """A head that comes in pieces."""

    kind = "slow heads"

    def visit(self) -> None:
        wanted = echo(self.prefix())(self.random)
        with self.tally.answering(), self.connect() as connection:
            _send_slowly(connection, request(wanted.target, "Connection: close"))
            check(connection.answer(), wanted)


class SlowBody(Client):
    """A body that comes in pieces."""

    kind = "slow bodies"

    def visit(self) -> None:
        body = self.random.randbytes(len(_UPLOAD))
        digest = hashlib.sha256(body).hexdigest().encode()
        with self.tally.answering(), self.connect() as connection:
            connection.send(upload(self.prefix(), len(body)))
            _send_slowly(connection, body)
            check(connection.answer(), Wanted("upload", lambda answer: answer.body == digest))


class SlowReader(Client):
    """A big answer, read in pieces through a small buffer."""

    kind = "slow readers"
    pieces = 20

    def visit(self) -> None:
        with self.tally.answering(), self.connect(buffer=4096) as connection:
            connection.send(request(f"{self.prefix()}/big", "Connection: close"))
            status, headers = connection.head()
            body = b"".join(self._read(connection, int(headers.get("content-length", "0"))))
            check(Answer(status, headers, body), Wanted("big", is_big))

    def _read(self, connection: Connection, length: int) -> Iterator[bytes]:
        piece = -(-length // self.pieces) or 1
        for start in range(0, length, piece):
            yield connection.read(min(piece, length - start))
            _wait(SLOWLY / self.pieces)


class AbortedUpload(Client):
    """A body that ends too early, by a close or by a reset."""

    kind = "aborted uploads"
    pace = 0.1

    def visit(self) -> None:
        with self.connect() as connection:
            connection.send(upload(self.prefix(), 4 * len(_UPLOAD)))
            connection.send(_UPLOAD)
            _wait(self.random.uniform(0, 0.05))
            if self.random.random() < 0.5:
                connection.leave_rudely()
        self.tally.note_own()


class AbandonedDownload(Client):
    """A big answer of which only the beginning is read."""

    kind = "abandoned downloads"
    pace = 0.1

    def visit(self) -> None:
        with self.connect() as connection:
            connection.send(request(f"{self.prefix()}/big"))
            status, headers = connection.head()
            check(Answer(status, headers, b""), Wanted("big", lambda answer: answer.status == 200))
            connection.read(self.random.randrange(1, len(applications.BIG) // 4))
            connection.leave_rudely()
        self.tally.note_own()


class Silent(Client):
    """Connects, says nothing, and stays until it or the server has had enough."""

    kind = "silent connections"

    def visit(self) -> None:
        with self.connect() as connection:
            connection.is_closed_within(STAY)
        self.tally.note_own()


class Dawdler(Client):
    """Sends a head that does not end, a few bytes at a time."""

    kind = "endless heads"

    def visit(self) -> None:
        with self.connect() as connection, suppress(Lost):  # the server has had enough
            connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            for number in range(10):
                connection.send(b"X-%d: y\r\n" % number)
                if connection.is_closed_within(STAY / 10):
                    break
        self.tally.note_own()


class Talker(Client):
    """A WebSocket for as long as the server says, on which each text must come back.

    A server that leaves says so, and that it or another will be back; an end without a word is a
    loss, whatever was under way.
    """

    kind = "websockets"
    pace = 0.05
    #: Going away, and service restart (RFC 6455, section 7.4.1, and its registry).
    leaving = (1001, 1012)

    def __init__(self, world: World, tally: Tally, seed: int) -> None:
        super().__init__(world, tally, seed)
        self.talk: Talk | None = None
        self._had_one = False

    def visit(self) -> None:
        try:
            self.exchange(f"{self.random.getrandbits(64):x}")
        except Farewell as farewell:
            self.leave()
            if farewell.code not in self.leaving:
                raise Lost(Failure.WRONG, f"closed with {farewell.code}") from None
        except Lost:
            self.leave()
            raise

    def exchange(self, text: str) -> None:
        """Say something, and hear it back."""
        with self.tally.answering():
            if self.talk is None:
                self.talk = self._begun()
            else:
                self.talk.attend()
            self.talk.say(text)
            heard = self.talk.hear()
            if heard != text:
                raise Lost(Failure.WRONG, f"{heard!r:.100} to {text!r}")

    def _begun(self) -> Talk:
        connection = self.connect(again=self._had_one)
        self._had_one = True
        try:
            return Talk(connection, f"{self.prefix()}/talk")
        except Lost:
            connection.close()
            raise

    def leave(self) -> None:
        if self.talk is not None:
            self.talk.close()
            self.talk = None


#: Who comes in a mixed load, and how many of them.
MIXED: dict[type[Client], int] = {
    New: 4,
    Strict: 4,
    Polite: 2,
    Thoughtful: 20,
    Unhurried: 3,
    SlowHead: 2,
    SlowBody: 2,
    SlowReader: 2,
    AbortedUpload: 1,
    AbandonedDownload: 1,
    Silent: 5,
    Dawdler: 2,
}


#: Who comes by TLS. Nobody who thinks for long: what is idle there cannot be handed over.
SECURE: dict[type[Client], int] = {New: 2, Strict: 2, Unhurried: 1, SlowBody: 1, AbortedUpload: 1}
#: Who talks over WebSockets.
TALKING: dict[type[Client], int] = {Talker: 3}


class Load:
    """Clients at work, from when it is entered until its block ends.

    Args:
        addresses: Where they connect, each of them to one.
        clients: How many of which manner, for each address.
        seed: What makes up their minds.
        prefixes: Where `applications` are mounted.
        errands: What those in a hurry ask for; ``/echo`` of the applications, if nothing is said.
        patience: How long they wait for a byte, in seconds.
        tls: Whom they believe, if they come by TLS.
        manner: What is said of all of them in reports.
    """

    def __init__(
        self,
        addresses: Iterable[Address],
        clients: Mapping[type[Client], int] = MIXED,
        *,
        seed: int = 0,
        prefixes: Sequence[str] = ("",),
        errands: Sequence[Errand] = (),
        patience: float = PATIENCE,
        tls: ssl.SSLContext | None = None,
        manner: str = "",
    ) -> None:
        self.tallies = {kind.kind: Tally(f"{manner}{kind.kind}") for kind in clients}
        self._over = threading.Event()
        errands = errands or [echo(prefix) for prefix in prefixes]
        worlds = [World(each, prefixes, errands, self._over, patience, tls) for each in addresses]
        self._visitors = [
            kind(world, self.tallies[kind.kind], seed := seed + 1)
            for kind, count in clients.items()
            for world in worlds
            for _ in range(count)
        ]
        self._pool = ThreadPoolExecutor(len(self._visitors))
        self._running: list[Future[None]] = []

    @property
    def ok(self) -> int:
        """How many requests were answered as they should be."""
        return sum(tally.ok for tally in self.tallies.values())

    @property
    def failed(self) -> int:
        return sum(tally.failed for tally in self.tallies.values())

    @property
    def examples(self) -> list[str]:
        """Some of the failures, in words."""
        return [line for tally in self.tallies.values() for line in tally.examples]

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(visitor.run) for visitor in self._visitors]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with self._pool:
            for each in self._running:
                each.result()  # a client that crashed has not asked to the end


def request(target: str, *headers: str) -> bytes:
    """Answer the bytes of a request without a body."""
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def upload(prefix: str, length: int) -> bytes:
    """Answer the head of a request with a body of *length* bytes."""
    lines = [f"POST {prefix}/upload HTTP/1.1", "Host: localhost", "Connection: close"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def check(answer: Answer, wanted: Wanted) -> None:
    """Raise what is wrong with an answer."""
    if answer.status >= 500:
        raise Lost(
            Failure.SERVER_ERROR, f"{answer.status} to {wanted.target}: {answer.body!r:.200}"
        )
    if not wanted.fits(answer):
        raise Lost(Failure.WRONG, f"{answer.status} to {wanted.target}: {answer.body!r:.200}")


def is_big(answer: Answer) -> bool:
    return answer.status == 200 and answer.body == applications.BIG


def _send_slowly(connection: Connection, data: bytes, pieces: int = 10) -> None:
    size = -(-len(data) // pieces)
    for start in range(0, len(data), size):
        connection.send(data[start : start + size])
        _wait(SLOWLY / pieces)


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)
