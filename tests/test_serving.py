"""Who serves what since when, and that a watched application is the same application."""

from __future__ import annotations

import _thread
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Self
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.serving import Registry, Request, ThreadPicture
from tests.helpers import wait_for

Environ = dict[str, Any]


def environ_for(path: str = "/") -> Environ:
    environ: Environ = {"REMOTE_ADDR": "192.0.2.1", "QUERY_STRING": ""}
    environ |= {"SCRIPT_NAME": "", "PATH_INFO": path}
    setup_testing_defaults(environ)
    return environ


class Server:
    """What a server sees of a response."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.written: list[bytes] = []

    def start_response(self, *said: Any) -> Callable[[bytes], object]:
        self.said.append(said)
        return self.written.append


class Body:
    """An iterable that counts what is done to it."""

    def __init__(self, chunks: Iterable[bytes] = (b"a", b"b")) -> None:
        self.chunks = list(chunks)
        self.given = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            self.given += 1
            yield chunk

    def close(self) -> None:
        self.closed += 1


class SizedBody(Body):
    def __len__(self) -> int:
        return len(self.chunks)


def answering(result: Any) -> Any:
    def app(environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return result() if callable(result) else result

    return app


def generated() -> Iterator[bytes]:
    yield b"a"
    yield b"b"


def ask(registry: Registry, app: Any, path: str = "/", extra: Environ | None = None) -> Any:
    environ = environ_for(path) | (extra or {})
    return registry.watch(app)(environ, Server().start_response)


def paths(registry: Registry) -> list[str]:
    return [serving.path for serving in registry.serving()]


@pytest.fixture
def registry() -> Registry:
    return Registry()


@contextmanager
def hasty_threads() -> Iterator[None]:
    """Have the interpreter change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# From the call to the close.


@pytest.mark.parametrize("result", [[b"a"], (b"a", b"b"), generated, Body, SizedBody, [], iter(())])
def test_a_request_lasts_until_its_response_is_closed(registry: Registry, result: Any) -> None:
    """A thread that sends to a slow client is as busy as one that computes."""
    response = ask(registry, answering(result), "/slow")
    assert paths(registry) == ["/slow"]

    list(response)
    assert paths(registry) == ["/slow"]

    response.close()
    assert paths(registry) == []


def test_the_application_is_served_while_it_is_called(registry: Registry) -> None:
    """Most of the time is spent there."""
    seen: list[Any] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        seen.extend(registry.serving())
        return answering([])(environ, start_response)  # type: ignore[no-any-return]

    ask(registry, app, "/a b\n", {"SCRIPT_NAME": "/shop", "QUERY_STRING": "token=secret"})

    (serving,) = seen
    assert str(serving) == "GET /shop/a b\\n for 192.0.2.1"
    assert serving.thread == threading.get_ident()
    assert 0 <= serving.age < 5


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_application_that_raises_has_ended(
    registry: Registry, error: type[BaseException]
) -> None:
    """What it raised is for the server, unchanged."""

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        raise error("as told")

    with pytest.raises(error, match="as told"):
        ask(registry, app)
    assert registry.in_flight() == []


def test_a_body_that_raises_is_served_until_it_is_closed(registry: Registry) -> None:
    """The server closes it in any case."""

    def body() -> Iterator[bytes]:
        yield b"a"
        raise ValueError("as told")

    response = ask(registry, answering(body))
    with pytest.raises(ValueError, match="as told"):
        list(response)
    assert paths(registry) == ["/"]
    response.close()
    assert paths(registry) == []


def test_a_close_that_raises_ends_the_request(registry: Registry) -> None:
    """Its error is for the server."""

    class Broken(Body):
        def close(self) -> None:
            raise ValueError("as told")

    response = ask(registry, answering(Broken))
    with pytest.raises(ValueError, match="as told"):
        response.close()
    assert paths(registry) == []


def test_a_response_that_is_dropped_has_ended(registry: Registry) -> None:
    """Not every server closes what it was given; a thread must not look busy for ever."""
    for result in ([b"a"], Body()):
        response = ask(registry, answering(result))
        assert paths(registry) == ["/"]
        del response
        assert paths(registry) == []
    assert isinstance(result, Body)
    assert result.closed == 0, "what the server does not close is not ours to close"


def test_a_response_may_be_closed_by_another_thread(registry: Registry) -> None:
    """And its own thread may be at the next request by then."""
    first, second = (ask(registry, answering(Body), path) for path in ("/1", "/2"))
    closer = threading.Thread(target=first.close)
    closer.start()
    closer.join()
    assert paths(registry) == ["/2"]
    second.close()
    assert paths(registry) == []


def test_a_request_within_a_request_is_part_of_it(registry: Registry) -> None:
    """The client waits for the outer one."""
    inner = registry.watch(answering([b"inner"]))

    def app(environ: Environ, start_response: Any) -> Any:
        response: Any = inner(environ_for("/inner"), start_response)
        assert paths(registry) == ["/outer"]
        response.close()
        assert paths(registry) == ["/outer"]
        return response

    ask(registry, app, "/outer").close()
    assert paths(registry) == []


def test_what_has_ended_is_not_kept(registry: Registry) -> None:
    """An idle thread must not keep the last upload alive."""

    class Upload:
        pass

    upload = Upload()
    gone = weakref.ref(upload)
    response = ask(registry, answering([b"a"]), extra={"upload": upload})
    del upload
    response.close()
    assert gone() is None


def test_overlapping_responses_of_one_thread_do_not_pile_up(registry: Registry) -> None:
    """A server that goes through several bodies in one thread is never without one."""
    open_responses = [ask(registry, answering(Body), "/0")]
    for number in range(1, 1000):
        open_responses.append(ask(registry, answering(Body), f"/{number}"))
        open_responses.pop(0).close()
    gc.collect()
    # Not isinstance(): lazy objects that other tests have left would come to life.
    kept = sum(type(each) is Request for each in gc.get_objects())
    assert kept < 20
    open_responses.pop().close()


@given(st.lists(st.tuples(st.sampled_from(["begin", "end", "drop", "look"]), st.integers(0, 9))))
def test_the_oldest_open_request_is_told(steps: list[tuple[str, int]]) -> None:
    """Whatever a server does in which order."""
    registry = Registry()
    watched: Any = registry.watch(answering(Body))
    open_ones: list[tuple[str, Any]] = []
    for number, (step, which) in enumerate(steps):
        if step == "begin":
            response = watched(environ_for(f"/{number}"), Server().start_response)
            open_ones.append((f"/{number}", response))
        elif step in ("end", "drop") and open_ones:
            _, response = open_ones.pop(which % len(open_ones))
            if step == "end":
                response.close()
        response = None
        assert paths(registry) == [path for path, _ in open_ones[:1]]


# The same application.


@pytest.mark.parametrize("result", [[b"a"], [b"a", b"b"], generated, Body])
def test_both_sides_keep_the_rules(registry: Registry, result: Any) -> None:
    """The standard library's own checker stands on both sides."""
    app = validator(answering(result))
    response = validator(registry.watch(app))(environ_for(), Server().start_response)
    try:
        body = b"".join(response)
    finally:
        response.close()  # type: ignore[attr-defined]
    assert body in (b"a", b"ab")


@pytest.mark.parametrize("kind", [Body, SizedBody])
def test_a_body_is_closed_once(registry: Registry, kind: type[Body]) -> None:
    """PEP 3333 wants it closed, and nothing says that twice does no harm."""
    body = kind()
    response = ask(registry, answering(body))
    list(response)
    assert body.closed == 0
    response.close()
    response.close()
    assert body.closed == 1


def test_a_body_is_not_read_ahead(registry: Registry) -> None:
    """An event stream has to arrive as it is made."""
    body = Body([b"a", b"", b"c"])
    chunks = iter(ask(registry, answering(body)))
    assert body.given == 0
    assert [(next(chunks), body.given) for _ in range(3)] == [(b"a", 1), (b"", 2), (b"c", 3)]


@pytest.mark.parametrize("result", [[b"a"], (b"a",), SizedBody([b"a"])])
def test_a_server_can_still_count_the_pieces(registry: Registry, result: Any) -> None:
    """One piece tells it the Content-Length."""
    assert len(ask(registry, answering(result))) == 1


@pytest.mark.parametrize("result", [generated, Body, iter(())])
def test_what_had_no_length_has_none(registry: Registry, result: Any) -> None:
    """A server would believe it."""
    assert not hasattr(ask(registry, answering(result)), "__len__")


def test_start_response_is_the_servers_own(registry: Registry) -> None:
    """Its ``write`` and its ``exc_info`` are nobody else's business."""
    server, environ = Server(), environ_for()

    def app(given: Environ, start_response: Any) -> list[bytes]:
        assert given is environ
        write = start_response("200 OK", [])
        write(b"early")
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oops", [], sys.exc_info())
        return []

    before = dict(environ)
    registry.watch(app)(environ, server.start_response)
    assert environ == before
    assert server.written == [b"early"]
    assert [len(said) for said in server.said] == [2, 3]


def test_a_file_goes_to_the_server_as_it_is(registry: Registry) -> None:
    """Else a server could not send it by itself."""
    with open(__file__, "rb") as file:
        wrapped = FileWrapper(file)
        response = ask(registry, answering(wrapped), extra={"wsgi.file_wrapper": FileWrapper})
        assert response is wrapped
        assert paths(registry) == []


def test_nonsense_fails_where_it_did(registry: Registry) -> None:
    """None is no body; the server is told so when it iterates, as without us."""
    response = ask(registry, answering(lambda: None))
    with pytest.raises(TypeError, match="NoneType"):
        iter(response)
    response.close()
    assert paths(registry) == []


# Threads.


class Working:
    """A thread that is inside an application until told to leave."""

    def __init__(self, registry: Registry, path: str, name: str) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()

        def app(environ: Environ, start_response: Any) -> list[bytes]:
            self.wait_inside()
            return []

        self.thread = threading.Thread(target=ask, args=(registry, app, path), name=name)

    def wait_inside(self) -> None:
        self.entered.set()
        assert self.leave.wait(20)

    def __enter__(self) -> Self:
        self.thread.start()
        assert self.entered.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.leave.set()
        self.thread.join()


def picture_of(registry: Registry, ident: int | None) -> ThreadPicture:
    (picture,) = (each for each in registry.threads() if each.ident == ident)
    return picture


def test_a_thread_is_pictured_with_its_request_and_its_stack(registry: Registry) -> None:
    """Which thread, at what, since when, and where in the code."""
    registry.locate = lambda environ: "/shop" if environ["PATH_INFO"] == "/report" else "?"
    with Working(registry, "/report", "worker 1") as working:
        picture = picture_of(registry, working.thread.ident)
    assert (picture.name, picture.daemon) == ("worker 1", False)
    assert picture.request is not None
    assert (picture.request.path, picture.request.mount) == ("/report", "/shop")
    assert 0 <= picture.age < 5
    assert "in Working.wait_inside\n    assert self.leave.wait(20)\n" in picture.stack
    assert "watched" in picture.stack
    assert [frame.function for frame in picture.inside][:2] == [
        "Working.__init__.<locals>.app",
        "Working.wait_inside",
    ]
    assert str(picture).startswith(f"worker 1 ({working.thread.ident}), 0.0 s at GET /report for")


def test_every_thread_is_pictured(registry: Registry) -> None:
    """Also those that no `threading.Thread` knows, and those that serve nothing."""
    idents: list[int] = []
    leave = threading.Lock()

    def foreign() -> None:
        idents.append(threading.get_ident())
        with leave:
            pass

    with leave, Working(registry, "/", "worker 1"):
        _thread.start_new_thread(foreign, ())
        wait_for(lambda: idents)
        picture = picture_of(registry, idents[0])
        here = picture_of(registry, threading.get_ident())
        known = {each.ident for each in threading.enumerate()}
        assert known | set(idents) <= {each.ident for each in registry.threads()}
    assert picture.name == f"foreign thread {idents[0]}"
    assert picture.request is None
    assert picture.age == 0
    assert here.name == threading.current_thread().name
    assert here.inside == here.frames


def test_the_longest_request_comes_first(registry: Registry) -> None:
    """Whoever asks wants to know of that one."""
    with (
        Working(registry, "/1", "first"),
        Working(registry, "/2", "second"),
        Working(registry, "/3", "third"),
    ):
        names = [picture.name for picture in registry.threads()]
    assert names[:3] == ["first", "second", "third"]
    assert threading.current_thread().name in names[3:]


def test_a_request_that_has_ended_has_no_picture(registry: Registry) -> None:
    """A stack must not be taken for that of the request before."""
    response = ask(registry, answering([]))
    ((slot, request),) = registry.in_flight()
    assert registry.picture(slot, request) is not None
    response.close()
    assert registry.picture(slot, request) is None
    with_next = ask(registry, answering([]), "/next")
    assert registry.picture(slot, request) is None
    with_next.close()


def test_threads_that_are_gone_are_forgotten(registry: Registry) -> None:
    """Even in the middle of a request, and even if the next has their identifier."""
    kept: list[Any] = []
    idents = set()
    for number in range(50):
        thread = threading.Thread(
            target=lambda number=number: kept.append(ask(registry, answering(Body), f"/{number}"))
        )
        thread.start()
        thread.join()
        idents.add(thread.ident)
        assert paths(registry) == []
    assert len(registry._slots) < 50 or len(idents) == 50
    for response in kept:
        response.close()


def test_what_servers_can_do_adds_up(registry: Registry) -> None:
    """Whether all are busy depends on how many there are."""
    assert registry.workers == 0
    registry.capacity.update({"a": 10, "b": 3})
    assert registry.workers == 13


def test_a_sleeper_is_woken_by_the_next_request_only(registry: Registry) -> None:
    """It says itself when it wants to be woken again."""
    woken: list[int] = []

    def wake() -> None:
        registry.sleeper = None
        woken.append(len(registry.in_flight()))

    ask(registry, answering([])).close()
    registry.sleeper = wake
    ask(registry, answering([])).close()
    ask(registry, answering([])).close()
    assert woken == [1], "and it finds the request there"


# Many threads at once.


def even(random: Random) -> None:
    dawdle(random)


def odd(random: Random) -> None:
    dawdle(random)


def dawdle(random: Random) -> None:
    for _ in range(random.randrange(60)):
        pass


class Busy(threading.Thread):
    """A thread of a server: request after request, each of one of two kinds."""

    def __init__(self, registry: Registry, seed: int, stop: threading.Event) -> None:
        super().__init__(name=f"busy {seed}")
        self.registry = registry
        self.random = Random(seed)
        self.stop = stop
        self.served = 0
        self.error: BaseException | None = None

    def app(self, environ: Environ, start_response: Any) -> Any:
        call = {"/even": even, "/odd": odd}[environ["PATH_INFO"]]
        call(self.random)
        if self.random.random() < 0.5:
            return [b"a"]
        return self.body(call)

    def body(self, call: Callable[[Random], None]) -> Iterator[bytes]:
        yield b"a"
        call(self.random)
        yield b"b"

    def run(self) -> None:
        watched: Any = self.registry.watch(self.app)
        try:
            while not self.stop.is_set():
                path = self.random.choice(("/even", "/odd"))
                environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET"}
                response = watched(environ, None)
                list(response)
                if self.random.random() < 0.9:
                    response.close()
                del response
                self.served += 1
        except BaseException as error:
            self.error = error


def judge(picture: ThreadPicture) -> None:
    """A stack that is told with a request must be that request's."""
    if picture.request is None:
        return
    functions = {frame.function for frame in picture.frames}
    others = {"/even": "odd", "/odd": "even"}[picture.request.path]
    assert others not in functions, picture


@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_blamed_for_the_next_request(registry: Registry, seed: int) -> None:
    """Threads serve short requests of two kinds while others look at them all the time."""
    stop = threading.Event()
    threads = [Busy(registry, 100 * seed + number, stop) for number in range(8)]
    with hasty_threads():
        for thread in threads:
            thread.start()
        try:
            seen = 0
            for _ in range(300):
                for picture in registry.threads():
                    judge(picture)
                    seen += picture.request is not None
                for slot, request in registry.in_flight():
                    picture_now = registry.picture(slot, request)
                    if picture_now is not None:
                        judge(picture_now)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    errors = [thread.error for thread in threads if thread.error]
    assert not errors
    assert all(thread.served for thread in threads)
    assert seen > 0
    assert registry.in_flight() == []
