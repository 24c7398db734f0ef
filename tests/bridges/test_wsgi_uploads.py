"""``wsgi.input`` under ASGI servers: every way to read it, as it comes and when it does not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sitebus.bridges import Threads, to_asgi
from sitebus.bridges.upload import AHEAD
from sitebus.errors import BodyTooLarge, ClientGone
from tests.bridges.apps import PLAIN, ask, chunked, scope_of, settled
from tests.bridges.hosts import Answer, Peer, under_asgi
from tests.helpers import wait_for

LINES = b"first\nsecond\n\nlast"


def reading(read: Callable[[Any], object]) -> Callable[..., Any]:
    """Answer an application that says what *read* makes of its input."""

    def app(environ: Any, start_response: Any) -> Any:
        said = repr(read(environ["wsgi.input"])).encode()
        start_response("200 OK", [*PLAIN, ("Content-Length", str(len(said)))])
        return [said]

    return app


READERS: dict[str, tuple[Callable[[Any], object], object]] = {
    "read": (lambda file: file.read(), LINES),
    "read(-1)": (lambda file: file.read(-1), LINES),
    "read(n)": (lambda file: [file.read(n) for n in (5, 100, 5)], [b"first", LINES[5:], b""]),
    "read(0)": (lambda file: [file.read(0), file.read(1)], [b"", b"f"]),
    "readline": (
        lambda file: [file.readline() for _ in range(5)],
        [b"first\n", b"second\n", b"\n", b"last", b""],
    ),
    "readline(n)": (
        lambda file: [file.readline(n) for n in (3, 100, 3, 3, 1, 100)],
        [b"fir", b"st\n", b"sec", b"ond", b"\n", b"\n"],
    ),
    "readlines": (lambda file: file.readlines(), [b"first\n", b"second\n", b"\n", b"last"]),
    "readlines(n)": (lambda file: file.readlines(1), [b"first\n"]),
    "iteration": (list, [b"first\n", b"second\n", b"\n", b"last"]),
    "readinto": (lambda file: file.readinto(bytearray(3)), 3),
}  # fmt: skip


def reading_as_named(environ: Any, start_response: Any) -> Any:
    """Be the application that reads as the path says, by the name of one of `READERS`."""
    read = list(READERS.values())[int(environ["PATH_INFO"][1:])][0]
    return reading(read)(environ, start_response)


#: These read to the end.
WHOLE = {"read", "read(-1)", "read(n)", "readline", "readlines", "iteration"}


@pytest.mark.parametrize("how", ["length", "chunked", "slowly", "expecting"])
def test_every_way_to_read_is_right(kind: str, how: str) -> None:
    """Frameworks use all of them."""
    with under_asgi(kind, reading_as_named) as host:
        for number, (name, (_, expected)) in enumerate(READERS.items()):
            if (kind, how) == ("hypercorn", "slowly") and name not in WHOLE:
                continue  # by itself it closes on who still sends when the answer is there
            with host.peer() as peer:
                answer = _sent(peer, f"/{number}", how)
                assert (name, answer.body) == (name, repr(expected).encode())
                assert peer.get("/0", "POST", "Content-Length: 1\r\n", b"x").body == b"b'x'"


def _sent(peer: Peer, path: str, how: str) -> Answer:
    """Send `LINES` and answer the answer."""
    length = f"Content-Length: {len(LINES)}\r\n"
    if how == "chunked":
        head = "Transfer-Encoding: chunked\r\n"
        return peer.get(path, "POST", head, chunked(LINES[:3], LINES[3:8], LINES[8:]))
    if how == "length":
        return peer.get(path, "POST", length, LINES)
    if how == "expecting":
        peer.ask(path, "POST", f"{length}Expect: 100-continue\r\n")
        assert peer.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        peer.send(LINES)
    else:
        peer.ask(path, "POST", length)
        for number in range(len(LINES)):
            peer.send(LINES[number : number + 1])
    return peer.answer()


@pytest.mark.parametrize("head", ["", "Content-Length: 0\r\n"])
def test_no_body_reads_as_none(kind: str, head: str) -> None:
    """Nor does anybody wait for one."""
    empty = {"read(n)": [b"", b"", b""], "read(0)": [b"", b""], "readline": [b""] * 5,
             "readline(n)": [b""] * 6, "readlines": [], "readlines(n)": [], "iteration": [],
             "readinto": 0}  # fmt: skip
    with under_asgi(kind, reading_as_named) as host:
        for number, name in enumerate(READERS):
            answer = host.get(f"/{number}", "POST", head)
            assert (name, answer.body) == (name, repr(empty.get(name, b"")).encode())


def test_the_first_of_a_body_is_read_before_the_rest_is_there(kind: str) -> None:
    """Uploads are worked on while they come."""
    seen: list[bytes] = []
    go = threading.Event()

    def read(file: Any) -> int:
        seen.append(file.read(5))
        go.set()
        return len(file.read())

    for head, first, rest in [
        ("Content-Length: 10\r\n", b"12345", b"67890"),
        ("Transfer-Encoding: chunked\r\n", chunked(b"12345")[:-5], chunked(b"67890")),
    ]:
        go.clear()
        with under_asgi(kind, reading(read)) as host, host.peer() as peer:
            peer.ask("/", "POST", head, first)
            assert go.wait(10)
            peer.send(rest)
            assert peer.answer().body == b"5"
    assert seen == [b"12345", b"12345"]


@pytest.mark.parametrize("size", [AHEAD - 1, AHEAD, AHEAD + 1, 3_000_000])
def test_large_bodies_arrive_whole(kind: str, size: int) -> None:
    """Whatever fits into which buffer."""
    sent = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    def read(file: Any) -> bool:
        came: bytes = file.read(1000) + b"".join(iter(lambda: file.read(40_001), b""))
        return came == sent

    with under_asgi(kind, reading(read)) as host:
        assert host.get("/", "POST", f"Content-Length: {size}\r\n", sent).body == b"True"


def test_a_slow_application_slows_the_client(kind: str) -> None:
    """Whole uploads would be in memory otherwise, of as many clients as there are."""
    go = threading.Event()
    sent = 0

    def read(file: Any) -> int:
        assert file.read(1) == b"x"
        assert go.wait(20)
        return len(file.read())

    with under_asgi(kind, reading(read)) as host, host.peer() as peer:
        peer.ask("/", "POST", "Content-Length: 50000000\r\n")

        def upload() -> None:
            nonlocal sent
            for _ in range(500):
                peer.send(b"x" * 100_000)
                sent += 100_000

        client = threading.Thread(target=upload)
        client.start()
        wait_for(lambda: sent)
        assert settled(lambda: sent) < 30_000_000, "nobody had read it"
        go.set()
        client.join(20)
        assert peer.answer().body == b"49999999"


@pytest.mark.parametrize(
    ("head", "first"),
    [
        ("Content-Length: 1000\r\n", b"x" * 10),
        ("Content-Length: 200000\r\n", b"x" * 100_000),
        ("Transfer-Encoding: chunked\r\n", chunked(b"x" * 10)[:-5]),
        ("Transfer-Encoding: chunked\r\n", b"ffff\r\nxxx"),
    ],
)
def test_an_upload_that_is_broken_off_is_an_error(kind: str, head: str, first: bytes) -> None:
    """Half a document saved as a whole one is worse than none."""
    caught: list[BaseException] = []
    begun = threading.Event()
    ways: dict[str, Callable[[Any], object]] = {
        "/read": lambda file: file.read(),
        "/readlines": lambda file: file.readlines(),
        "/iteration": list,
        "/readline": lambda file: file.readline(),
    }

    def app(environ: Any, start_response: Any) -> Any:
        try:
            environ["wsgi.input"].read(2)
            begun.set()
            ways[environ["PATH_INFO"]](environ["wsgi.input"])
        except BaseException as error:
            caught.append(error)
            raise
        start_response("200 OK", PLAIN)
        return [b"read"]

    with under_asgi(kind, app) as host:
        for number, path in enumerate(ways, 1):
            begun.clear()
            with host.peer() as peer:
                peer.ask(path, "POST", head, first)
                assert begun.wait(10)
                peer.leave()
            wait_for(lambda number=number: len(caught) == number)  # type: ignore[misc]
    assert {type(error) for error in caught} == {ClientGone}
    assert isinstance(caught[0], OSError)
    assert str(caught[0]) == "the client left before all of its request was read"


@pytest.mark.parametrize("kind", ["uvicorn", "uvicorn-h11-asyncio"])
def test_a_continue_is_only_sent_to_who_is_read(kind: str) -> None:
    """An application that wants nothing spares the client the upload; hypercorn asks for it all."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("403 Forbidden", [("Content-Length", "0")])
        return []

    with under_asgi(kind, app) as host, host.peer() as peer:
        peer.ask("/", "POST", "Content-Length: 5\r\nExpect: 100-continue\r\n")
        assert peer.until(b"\r\n\r\n").startswith(b"HTTP/1.1 403")


def test_a_body_that_is_not_read_disturbs_nothing(kind: str) -> None:
    """It must not be taken for the next request."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    for size in (10, 100_000):
        with under_asgi(kind, app) as host, host.peer() as peer:
            sent = b"x" * size
            assert peer.get("/", "POST", f"Content-Length: {size}\r\n", sent).body == b"ok"
            assert host.get("/").body == b"ok"


def test_both_ways_at_once(kind: str) -> None:
    """Some protocols answer each message as it comes."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield b"hello "
        for line in environ["wsgi.input"]:
            yield line.upper()

    with under_asgi(kind, app) as host, host.peer() as peer:
        peer.ask("/", "POST", "Transfer-Encoding: chunked\r\n")
        peer.until(b"hello ")
        for line in (b"one\n", b"two\n"):
            peer.send(chunked(line)[:-5])
            peer.until(line.upper())
        peer.send(b"0\r\n\r\n")
        peer.until(b"0\r\n\r\n")


def test_a_client_that_leaves_is_noticed_while_its_upload_is_read(kind: str) -> None:
    """A stream that goes on meanwhile must end."""
    caught: list[BaseException] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield b"begun"
        try:
            while True:
                environ["wsgi.input"].read(10)
        except OSError as error:
            caught.append(error)
            raise

    with under_asgi(kind, app) as host:
        with host.peer() as peer:
            peer.ask("/", "POST", "Content-Length: 100\r\n", b"x" * 15)
            peer.until(b"begun")
            peer.leave()
        wait_for(lambda: caught)


@pytest.mark.parametrize("how", ["length", "chunked"])
def test_a_body_that_is_too_large_is_refused(kind: str, how: str) -> None:
    """With a 413, if nothing has been said before."""
    caught: list[BaseException] = []

    def app(environ: Any, start_response: Any) -> Any:
        try:
            body = environ["wsgi.input"].read()
        except OSError as error:
            caught.append(error)
            raise
        start_response("200 OK", PLAIN)
        return [b"%d" % len(body)]

    def send(size: int) -> int:
        sent = b"x" * size
        if how == "length":
            return host.get("/", "POST", f"Content-Length: {size}\r\n", sent).status
        return host.get("/", "POST", "Transfer-Encoding: chunked\r\n", chunked(sent)).status

    with under_asgi(kind, app, max_body=1000) as host:
        assert send(1000) == 200
        assert send(1001) == 413
    if how == "chunked":
        assert isinstance(caught[0], BodyTooLarge)
        assert str(caught[0]) == "the request's body is larger than the 1000 bytes that are taken"


# Message by message.


def test_a_body_after_the_response_is_an_error(threads: Threads) -> None:
    """A thread that the application left behind must not wait for ever."""
    kept: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        kept.append(environ["wsgi.input"])
        start_response("200 OK", PLAIN)
        return [b"x"]

    scope = scope_of(headers=[(b"transfer-encoding", b"chunked")])
    ask(to_asgi(app, threads), scope)
    with pytest.raises(ClientGone):
        kept[0].read(1)


def test_a_body_that_a_server_ends_too_soon_is_an_error(threads: Threads) -> None:
    """Not every server says that a client left; some just end the body."""

    def app(environ: Any, start_response: Any) -> Any:
        environ["wsgi.input"].read()
        raise AssertionError

    scope = scope_of(headers=[(b"content-length", b"10")])
    with pytest.raises(ClientGone):
        ask(to_asgi(app, threads), scope, {"type": "http.request", "body": b"12345"})


def test_a_client_that_left_before_it_sent_anything_costs_no_thread(threads: Threads) -> None:
    """Nobody would get the answer."""

    def app(environ: Any, start_response: Any) -> Any:
        raise AssertionError

    scope = scope_of(headers=[(b"content-length", b"10")])
    assert ask(to_asgi(app, threads), scope, {"type": "http.disconnect"}) == []


def test_http_2_tells_no_length(threads: Threads) -> None:
    """There is no header that says whether a body follows."""
    app = reading(lambda file: file.read())
    scope = scope_of(http_version="2", method="POST")
    pieces: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"one ", "more_body": True},
        {"type": "http.request", "body": b"", "more_body": True},
        {"type": "http.request", "body": b"two"},
    ]
    assert ask(to_asgi(app, threads), scope, *pieces)[1]["body"] == b"b'one two'"


def test_no_more_is_received_ahead_than_was_said(threads: Threads) -> None:
    """A client that is faster than the application must not fill the memory."""
    import asyncio

    received = 0
    go = threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        environ["wsgi.input"].read(1)
        assert go.wait(10)
        start_response("200 OK", PLAIN)
        return [b"x"]

    async def receive() -> dict[str, Any]:
        nonlocal received
        await asyncio.sleep(0)
        received += 1000
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    async def send(message: Any) -> None:
        pass

    async def main() -> None:
        scope = scope_of(headers=[(b"transfer-encoding", b"chunked")])
        task = asyncio.ensure_future(to_asgi(app, threads)(scope, receive, send))
        # As long as it may take: what is received afterwards would be too much.
        await asyncio.sleep(0.2)
        go.set()
        await task

    asyncio.run(main())
    assert AHEAD <= received <= 2 * AHEAD
