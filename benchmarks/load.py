"""A load client in a process of its own that counts every failure.

Some clients keep their connection for as long as the server says, use it without a look, and never
ask twice; others connect for each request. Each asks for what nobody else asks for and wants no
other answer. What is refused, reset, cut off, wrong, 5xx or late is a failure, under its own name.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from benchmarks.soak.wire import Failure

#: The longest that a client waits for an answer; in seconds.
PATIENCE = 20.0
#: Seconds before a client tries again that could not connect.
SULK = 0.01


class Result(NamedTuple):
    """What the clients saw.

    Attributes:
        answered: Requests answered as they should be.
        failures: Those that were not, by the value of a `Failure`.
        gap: The longest time in which nobody was answered; seconds.
        p99: Within how many seconds 99 of 100 were answered.
        longest: The slowest answer.
        seconds: How long they asked.
    """

    answered: int
    failures: Mapping[str, int]
    gap: float
    p99: float
    longest: float
    seconds: float

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def kinds(self) -> str:
        """The failures, in words."""
        return ", ".join(f"{number} {kind}" for kind, number in self.failures.items()) or "-"


class Load:
    """The process, as whoever started it sees it; whatever it does, it ends with the block.

    Args:
        port: Where the server listens.
        kept: How many clients keep their connection.
        each: How many connect for each request.
        thought: Seconds that each thinks between an answer and its next request.
        path: What they ask for.
    """

    def __init__(
        self, port: int, kept: int, each: int, *, thought: float = 0.0, path: str = "/"
    ) -> None:
        told = [str(value) for value in (port, kept, each, thought, path)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", *told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # they have begun

    def finish(self) -> Result:
        """Have everybody get the answer they wait for, and leave."""
        told, _ = self._process.communicate()
        return Result(**json.loads(told))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()


class Tally:
    """What is counted, for all clients together."""

    def __init__(self) -> None:
        self.failures: Counter[Failure] = Counter()
        self.over = False
        self._latencies = array("d")
        self._began = time.perf_counter()
        self._last = 0.0
        self._gap = 0.0

    def answered(self, began: float) -> None:
        now = time.perf_counter()
        self._latencies.append(now - began)
        if self._last:
            self._gap = max(self._gap, now - self._last)
        self._last = now

    def result(self) -> Result:
        now = time.perf_counter()
        ordered = sorted(self._latencies) or [0.0]
        return Result(
            answered=len(self._latencies),
            failures={str(failure): number for failure, number in self.failures.items()},
            gap=self._gap,
            p99=ordered[len(ordered) * 99 // 100],
            longest=ordered[-1],
            seconds=now - self._began,
        )


class Lost(Exception):
    """A request was not answered as it should have been."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


class Connection(asyncio.Protocol):
    """One connection, and the one request that may be under way on it."""

    def __init__(self) -> None:
        self.is_closed = False
        self._transport: asyncio.WriteTransport | None = None
        self._received = b""
        self._uses = 0
        self._lost: Failure | None = None
        self._waiting: asyncio.Future[bytes] | None = None

    async def ask(self, request: bytes) -> bytes:
        """Send a request, and answer the body of what comes.

        Raises:
            Lost: Nothing came, or the wrong thing.
        """
        self._uses += 1
        self._received = b""
        if self._lost is not None:
            raise Lost(self._ending())  # whoever does not look finds it out by asking
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await asyncio.wait_for(self._waiting, PATIENCE)
        except TimeoutError:
            raise Lost(Failure.TIMEOUT) from None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # What the loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are so in all but their class.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.lower().split(b"\r\n")
        named = (line[15:].strip() for line in lines if line.startswith(b"content-length:"))
        length = next((int(value) for value in named if value.isdigit()), None)
        if length is None or len(body) > length:
            self._fail(Failure.WRONG)
        elif len(body) == length:
            self.is_closed = b"connection: close" in lines
            self._conclude(lines[0].split()[1], body)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = _named(error) if error else Failure.EOF_UNANSWERED
        self._fail(self._ending())

    def _conclude(self, status: bytes, body: bytes) -> None:
        if status == b"200":
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_result(body)
        else:
            self._fail(Failure.SERVER_ERROR if status[:1] == b"5" else Failure.WRONG)

    def _ending(self) -> Failure:
        """Name the end of this connection by what was under way."""
        if self._lost is not Failure.EOF_UNANSWERED:
            return self._lost or Failure.WRONG
        if self._received:
            return Failure.EOF_MIDWAY
        return Failure.EOF_REUSED if self._uses > 1 else self._lost

    def _fail(self, failure: Failure) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Lost(failure))


def _named(error: Exception) -> Failure:
    if isinstance(error, TimeoutError):
        return Failure.TIMEOUT
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return Failure.REFUSED
    return Failure.RESET


class Client:
    """Somebody who asks again and again; *keeps* says whether over one connection."""

    _tokens = itertools.count()

    def __init__(self, port: int, path: str, thought: float, tally: Tally, *, keeps: bool) -> None:
        self._port = port
        self._path = path
        self._thought = thought
        self._tally = tally
        self._keeps = keeps
        self._connection: Connection | None = None

    async def run(self) -> None:
        while not self._tally.over:
            try:
                await self._visit()
            except Lost as lost:
                self._tally.failures[lost.failure] += 1
                self._leave()
                await asyncio.sleep(SULK)
            await asyncio.sleep(self._thought)
        self._leave()

    async def _visit(self) -> None:
        token = str(next(self._tokens))
        end = "" if self._keeps else "Connection: close\r\n"
        request = f"GET {self._path}?{token} HTTP/1.1\r\nHost: localhost\r\n{end}\r\n"
        began = time.perf_counter()
        if self._connection is None:
            self._connection = await self._connect()
        body = await self._connection.ask(request.encode())
        if body != token.encode():
            raise Lost(Failure.WRONG)
        self._tally.answered(began)
        if not self._keeps or self._connection.is_closed:
            self._leave()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        made = loop.create_connection(Connection, "127.0.0.1", self._port)
        try:
            return (await asyncio.wait_for(made, PATIENCE))[1]
        except OSError as error:
            raise Lost(_named(error)) from error

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


async def ask(port: int, kept: int, each: int, thought: float, path: str) -> None:
    """Ask until standard input ends, and print what was seen."""
    tally = Tally()
    clients = [
        Client(port, path, thought, tally, keeps=number < kept) for number in range(kept + each)
    ]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run())
        print("going", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        tally.over = True
    print(json.dumps(tally.result()._asdict()))


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run *work* on the loop that costs the machine least."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


if __name__ == "__main__":
    port, kept, each, thought, path = sys.argv[1:]
    _run(ask(int(port), int(kept), int(each), float(thought), path))
