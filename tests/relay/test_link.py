"""A link inside one process: what it promises of order, ends, descriptors and limits."""

from __future__ import annotations

import array
import gc
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitebus.errors import BadFrame, MessageTooLarge
from sitebus.relay import LIMIT, Link, Poller, encode
from sitebus.relay.link import CARRIES, QUEUE_BYTES, QUEUE_MESSAGES
from tests.helpers import open_descriptors, wait_for


class End:
    """One end of a link, with all that it was told."""

    def __init__(self, poller: Poller, sock: socket.socket) -> None:
        self.messages: list[dict[str, Any]] = []
        #: What the file that came with a message holds, or None.
        self.contents: list[str | None] = []
        self.ends: list[Link] = []
        self.threads: set[int] = set()
        self.link = Link(sock, poller, self._hear, self._ended)

    def _hear(self, message: dict[str, Any], fd: int | None) -> None:
        self.threads.add(threading.get_ident())
        self.contents.append(None if fd is None else os.pread(fd, 99, 0).decode())
        self.messages.append(message)

    def _ended(self, link: Link) -> None:
        self.threads.add(threading.get_ident())
        self.ends.append(link)


@pytest.fixture
def sockets(poller: Poller) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two that are connected; for a test of one end that speaks for the other by hand."""
    pair = Link.pair()
    yield pair
    poller.stop()
    for each in pair:
        each.close()


@pytest.fixture
def end(poller: Poller, sockets: tuple[socket.socket, socket.socket]) -> Iterator[End]:
    end = End(poller, sockets[0])
    yield end
    end.link.close()


@pytest.fixture
def ends(
    poller: Poller, end: End, sockets: tuple[socket.socket, socket.socket]
) -> Iterator[tuple[End, End]]:
    other = End(poller, sockets[1])
    yield end, other
    other.link.close()


@pytest.fixture
def raw(sockets: tuple[socket.socket, socket.socket]) -> socket.socket:
    """The other end of `end`, which may say anything."""
    return sockets[1]


def settle(poller: Poller) -> None:
    done = threading.Event()
    # What is ready now is read in the turn after the first.
    poller.call_soon(lambda: poller.call_soon(lambda: poller.call_soon(done.set)))
    assert done.wait(5)


def file_with(folder: Path, text: str) -> int:
    """Answer a descriptor of a file that holds *text*."""
    (folder / "file").write_text(text)
    return os.open(folder / "file", os.O_RDONLY)


def send_rights(sock: socket.socket, data: bytes, *fds: int) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    assert sock.sendmsg([data], rights) == len(data)


def test_messages_go_both_ways(ends: tuple[End, End], poller: Poller) -> None:
    """What is said at one end is heard at the other, in the poller's thread."""
    one, other = ends
    assert one.link.send({"is": "boot", "count": 2})
    assert other.link.send({"is": "ready"})
    wait_for(lambda: one.messages and other.messages)
    assert other.messages == [{"is": "boot", "count": 2}]
    assert one.messages == [{"is": "ready"}]
    assert one.threads == other.threads != {threading.get_ident()}
    assert (one.link.sent, one.link.received, one.link.lost) == (1, 1, 0)


def test_large_messages_arrive(ends: tuple[End, End]) -> None:
    """One fills the socket more than once."""
    one, other = ends
    messages = [{"text": chr(97 + number) * (LIMIT - 11)} for number in range(10)]
    assert all(map(one.link.send, messages))
    wait_for(lambda: len(other.messages) == 10)
    assert other.messages == messages
    assert (one.link.sent, one.link.lost) == (10, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_stream_may_be_cut_anywhere(poller: Poller, data: st.DataObject) -> None:
    """The system cuts where it likes."""
    messages: list[dict[str, Any]] = [{"message": "größer"}, {}, {"args": [1, None]}]
    stream = b"".join(encode(each) for each in messages)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=5).map(sorted))
    ours, raw = Link.pair()
    end = End(poller, ours)
    with raw:
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            raw.sendall(stream[start:stop])
            settle(poller)
        wait_for(lambda: len(end.messages) == 3)
    wait_for(lambda: end.ends)
    assert end.messages == messages


def test_every_thread_is_heard_in_its_order(ends: tuple[End, End]) -> None:
    """Any thread of a worker may log; and nothing is lost while the other end reads."""
    one, other = ends
    threads, count = 8, 1000
    refused: list[int] = []

    def speak(thread: int) -> None:
        results = [
            one.link.send({"thread": thread, "number": number, "text": "x" * 100})
            for number in range(count)
        ]
        refused.append(results.count(False))

    speakers = [threading.Thread(target=speak, args=(number,)) for number in range(threads)]
    for each in speakers:
        each.start()
    for each in speakers:
        each.join()
    wait_for(lambda: len(other.messages) == threads * count, 20)
    assert refused == [0] * threads
    for thread in range(threads):
        numbers = [each["number"] for each in other.messages if each["thread"] == thread]
        assert numbers == list(range(count))
    assert (one.link.sent, one.link.lost) == (threads * count, 0)


def test_what_is_finalized_in_the_middle_of_sending_may_send(ends: tuple[End, End]) -> None:
    """A destructor that logs runs wherever the collector does."""
    one, other = ends
    counts = {"main": 0, "collector": 0}

    def speak(phase: str, info: dict[str, int]) -> None:
        if threading.current_thread() is threading.main_thread() and phase == "stop":
            number, counts["collector"] = counts["collector"], counts["collector"] + 1
            assert one.link.send({"who": "collector", "number": number})

    before = gc.get_threshold()
    gc.callbacks.append(speak)
    gc.set_threshold(1)
    try:
        for number in range(1500):
            counts["main"] += 1
            # Some that make the socket full, so that there is a queue to be in the middle of.
            text = "x" * (50_000 if number % 100 == 0 else 10)
            assert one.link.send({"who": "main", "number": number, "text": text})
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(speak)
    wait_for(lambda: len(other.messages) == sum(counts.values()), 20)
    assert counts["collector"] > 100
    for who, count in counts.items():
        assert [e["number"] for e in other.messages if e["who"] == who] == list(range(count))


def test_who_does_not_read_costs_no_more_than_the_queue(end: End, raw: socket.socket) -> None:
    """Sending goes on without waiting; what is dropped is counted, and the rest is whole."""
    text = "x" * 10_000
    taken = [number for number in range(2000) if end.link.send({"number": number, "text": text})]
    in_socket = end.link.sent
    assert 0 < in_socket < 100
    assert end.link.lost == 2000 - len(taken) > 0
    assert QUEUE_BYTES * 0.9 < (len(taken) - in_socket) * 10_000 < QUEUE_BYTES
    other = End(end.link._poller, raw)
    wait_for(lambda: len(other.messages) == len(taken))
    assert [each["number"] for each in other.messages] == taken
    assert end.link.send({"number": -1})
    wait_for(lambda: other.messages[-1] == {"number": -1})
    other.link.close()


def test_small_messages_are_limited_by_number(end: End) -> None:
    """An object in a queue weighs more than its bytes."""
    results = [end.link.send({}) for _ in range(QUEUE_MESSAGES + 2000)]
    taken = results.index(False)
    assert taken - end.link.sent == QUEUE_MESSAGES
    assert not any(results[taken:])
    assert end.link.lost == len(results) - taken


def test_what_cannot_be_sent_is_the_callers_error(end: End, tmp_path: Path) -> None:
    """Nothing of it is on its way, and its descriptor is not left behind."""
    before = open_descriptors()
    with pytest.raises(TypeError, match="is b'x'"):
        end.link.send({"data": b"x"}, file_with(tmp_path, "a"))
    with pytest.raises(MessageTooLarge):
        end.link.send({"data": "x" * LIMIT}, file_with(tmp_path, "a"))
    fd = file_with(tmp_path, "a")
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        end.link.send({"is": "kept"}, fd)
    assert open_descriptors() == before
    assert (end.link.sent, end.link.lost) == (0, 0)
    assert end.link.send({"is": "fine"})


def test_a_descriptor_comes_with_its_message(ends: tuple[End, End], tmp_path: Path) -> None:
    """Whatever is sent around it, and however many wait."""
    one, other = ends
    before = open_descriptors()
    expected: list[str | None] = []
    for number in range(300):
        carried = str(number) if number % 3 == 0 else None
        fd = None if carried is None else file_with(tmp_path, carried)
        if fd is not None:
            os.unlink(tmp_path / "file")
        assert one.link.send({"number": number, "text": "x" * (number * 50)}, fd)
        expected.append(carried)
    wait_for(lambda: len(other.messages) == 300)
    assert other.contents == expected
    assert [each["number"] for each in other.messages] == list(range(300))
    assert not any(CARRIES in each for each in other.messages)
    wait_for(lambda: open_descriptors() == before)


def test_a_descriptor_is_closed_in_a_program_that_is_started(
    poller: Poller, raw: socket.socket, end: End
) -> None:
    """A worker's child must not keep a visitor's connection open."""
    inheritable: list[bool] = []

    def hear(message: dict[str, Any], fd: int | None) -> None:
        assert fd is not None
        inheritable.append(os.get_inheritable(fd))

    end.link._on_message = hear
    send_rights(raw, encode({CARRIES: True}), 0)
    wait_for(lambda: inheritable)
    assert inheritable == [False]


def test_dropped_messages_close_their_descriptors(end: End, tmp_path: Path) -> None:
    """A full queue, and one that nobody will read any more."""
    before = open_descriptors()
    while end.link.send({"text": "x" * 100_000}):
        pass
    # One that fits into what is left, and one that does not.
    assert end.link.send({}, file_with(tmp_path, "a"))
    assert not end.link.send({"text": "x" * 200_000}, file_with(tmp_path, "b"))
    assert len(open_descriptors() - before) == 1
    end.link.close()
    wait_for(lambda: end.link.fileno() == -1)
    assert not end.link.send({}, file_with(tmp_path, "c"))
    assert open_descriptors() < before


def misbehave_extra(raw: socket.socket, fd: int) -> None:
    send_rights(raw, encode({CARRIES: True, "text": "0"}), fd, fd, fd)


def misbehave_unasked(raw: socket.socket, fd: int) -> None:
    for _ in range(50):
        send_rights(raw, encode({"is": "unknown"}), fd)


def misbehave_halves(raw: socket.socket, fd: int) -> None:
    for byte in encode({"is": "unknown", "text": "x" * 100}):
        send_rights(raw, bytes([byte]), fd)


def misbehave_promise(raw: socket.socket, fd: int) -> None:
    raw.sendall(encode({CARRIES: True, "is": "kept"}))


@pytest.mark.parametrize(
    "misbehave", [misbehave_extra, misbehave_unasked, misbehave_halves, misbehave_promise]
)
def test_strange_descriptors_are_not_kept(
    poller: Poller,
    end: End,
    raw: socket.socket,
    tmp_path: Path,
    misbehave: Callable[[socket.socket, int], None],
) -> None:
    """A peer of another release must not fill the table of this process; and the link lives on."""
    fd = file_with(tmp_path, "content")
    before = open_descriptors()
    misbehave(raw, fd)
    os.close(fd)
    # Read together, a message without the descriptor that it promises would take the next one's.
    settle(poller)
    send_rights(raw, encode({CARRIES: True, "last": 1}), own := file_with(tmp_path, "own"))
    os.close(own)
    wait_for(lambda: end.messages and end.messages[-1] == {"last": 1})
    assert end.contents[-1] == "own"
    settle(poller)
    assert open_descriptors() == before - {fd}


def test_half_a_message_with_a_descriptor_is_not_kept(
    poller: Poller, end: End, raw: socket.socket, tmp_path: Path
) -> None:
    """Its sender has died in the middle."""
    before = open_descriptors()
    fd = file_with(tmp_path, "a")
    send_rights(raw, encode({CARRIES: True})[:-1], fd)
    os.close(fd)
    settle(poller)
    raw.close()
    wait_for(lambda: end.ends)
    assert len(before - open_descriptors()) == 2
    assert end.messages == []


def test_a_lost_descriptor_is_not_mistaken_for_the_next(
    poller: Poller, end: End, raw: socket.socket, tmp_path: Path
) -> None:
    """A table was full when the first came, and has room when the rest of its message does."""
    fd = file_with(tmp_path, "second")
    free = os.dup(fd)
    os.close(free)
    first, second = encode({CARRIES: True, "number": 1}), encode({CARRIES: True, "number": 2})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        send_rights(raw, first[:5], fd)
        settle(poller)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    def rest() -> None:
        """In the poller's thread, so that one read has both."""
        raw.sendall(first[5:])
        send_rights(raw, second, fd)
        os.close(fd)

    poller.call_soon(rest)
    wait_for(lambda: len(end.messages) == 2)
    assert end.contents == [None, "second"]


def test_a_receiver_that_raises_costs_its_message(
    poller: Poller, end: End, raw: socket.socket, tmp_path: Path, errors: list[BaseException]
) -> None:
    """The descriptor is closed, what comes after is heard."""
    before = open_descriptors()
    hear = end._hear

    def fail(message: dict[str, Any], fd: int | None) -> None:
        end.link._on_message = hear
        raise KeyError(message["is"])

    end.link._on_message = fail
    fd = file_with(tmp_path, "a")
    send_rights(raw, encode({CARRIES: True, "is": "kept"}) + encode({"is": "next"}), fd)
    os.close(fd)
    wait_for(lambda: end.messages)
    assert end.messages == [{"is": "next"}]
    assert [repr(each) for each in errors] == ["KeyError('kept')"]
    errors.clear()
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "data",
    [b"\0\0\0\2[]", b"\0\0\0\4null", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"],
    ids=["list", "null", "too large", "another protocol"],
)
def test_what_is_no_message_ends_the_link(
    end: End, raw: socket.socket, tmp_path: Path, data: bytes
) -> None:
    """What came before it is heard; its descriptor is not kept."""
    before = open_descriptors()
    fd = file_with(tmp_path, "a")
    send_rights(raw, encode({"is": "good"}) + data, fd)
    os.close(fd)
    wait_for(lambda: end.ends)
    assert end.messages == [{"is": "good"}]
    assert isinstance(end.link.error, BadFrame)
    assert raw.recv(1) == b""
    assert len(before - open_descriptors()) == 1
    assert not end.link.send({"is": "late"})


def test_the_end_of_the_stream_is_told_once(ends: tuple[End, End], poller: Poller) -> None:
    """At the other end; who closes knows."""
    one, other = ends
    one.link.send({"is": "last"})
    one.link.close(flush=5)
    wait_for(lambda: other.ends)
    assert other.messages == [{"is": "last"}]
    assert other.ends == [other.link]
    assert other.link.error is None
    assert other.link.fileno() == one.link.fileno() == -1
    settle(poller)
    assert one.ends == []
    assert not one.link.send({})
    assert one.link.lost == 1


def test_last_words_are_heard_by_who_was_speaking(end: End, raw: socket.socket) -> None:
    """The worker that cannot boot says why, and does not wait for what it is told meanwhile."""
    while end.link.send({"text": "x" * 50_000}):
        pass
    queued = QUEUE_BYTES // 50_000
    raw.sendall(b"".join(encode({"number": number}) for number in range(100)))
    raw.close()
    end.link.send({"is": "late"})
    wait_for(lambda: end.ends)
    assert [each["number"] for each in end.messages] == list(range(100))
    assert end.link.lost >= queued


def test_closing_waits_for_what_is_under_way(ends: tuple[End, End]) -> None:
    """The last metrics of a worker count, too."""
    one, other = ends
    for number in range(60):
        assert one.link.send({"number": number, "text": "x" * 50_000})
    one.link.close(flush=10)
    assert (one.link.sent, one.link.lost) == (60, 0)
    assert one.link.fileno() == -1
    wait_for(lambda: other.ends)
    assert len(other.messages) == 60


def test_closing_waits_no_longer_than_it_was_told(end: End, tmp_path: Path) -> None:
    """Who does not read cannot hold a process that ends."""
    while end.link.send({"text": "x" * 50_000}):
        pass
    end.link.send({}, file_with(tmp_path, "a"))
    sent, lost = end.link.sent, end.link.lost
    began = time.monotonic()
    end.link.close(flush=0.1)
    assert time.monotonic() - began < 5
    wait_for(lambda: end.link.lost > lost + 50)
    assert end.link.fileno() == -1
    assert end.link.sent == sent


def test_closing_in_the_pollers_thread_waits_for_nobody(
    ends: tuple[End, End], poller: Poller
) -> None:
    """It sends on, and then closes."""
    one, other = ends
    times: list[float] = []

    def close() -> None:
        for number in range(60):
            assert one.link.send({"number": number, "text": "x" * 50_000})
        began = time.monotonic()
        one.link.close(flush=10)
        times.append(time.monotonic() - began)

    poller.call_soon(close)
    wait_for(lambda: other.ends)
    assert len(other.messages) == 60
    assert one.link.lost == 0
    assert times[0] < 5


def test_closing_from_a_message_hears_no_more(end: End, raw: socket.socket) -> None:
    """Who has closed is not told of what came with the same read."""
    hear = end._hear

    def close(message: dict[str, Any], fd: int | None) -> None:
        hear(message, fd)
        end.link.close()

    end.link._on_message = close
    raw.sendall(encode({"number": 1}) + encode({"number": 2}))
    wait_for(lambda: end.link.fileno() == -1)
    assert end.messages == [{"number": 1}]
    assert end.ends == []


def test_a_link_can_be_closed_when_its_poller_is_gone(end: End, poller: Poller) -> None:
    """The order of a shutdown must not leave a descriptor."""
    while end.link.send({"text": "x" * 100_000}):
        pass
    poller.stop()
    end.link.close(flush=60)
    assert end.link.fileno() == -1


def test_an_end_that_is_told_of_may_be_closed_again(end: End, raw: socket.socket) -> None:
    """Closing twice is no error, from whatever thread."""
    raw.close()
    wait_for(lambda: end.ends)
    end.link.close()
    end.link.close(flush=1)
    assert "lost 0" in repr(end.link)
