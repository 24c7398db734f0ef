"""An application that misbehaves costs its own request, and nothing else."""

from __future__ import annotations

import contextlib
import gc
import http.client
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest

from sitebus.errors import ClientGone, ResponseBroken, ResponseRefused
from sitebus.mounts import Mount, Site
from sitebus.mounts.isolation import (
    GOOD_NAMES,
    GOOD_STATUSES,
    GOOD_VALUES,
    Stream,
    check_header,
    check_status,
)
from tests.wsgi_helpers import ask, environ_of, nothing, saying, served

PLAIN = [("Content-Type", "text/plain")]


def raising(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise error

    return app


def raising_after_start(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN, ("Content-Length", "99")])
    raise SystemExit(3)


def recursing(environ: Any, start_response: Any) -> Iterable[bytes]:
    return recursing(environ, start_response)


def generating(error: BaseException) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN, ("Content-Length", "99")])
        yield b""
        raise error

    return app


def streaming(chunk: Any, headers: Any = PLAIN) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Iterator[Any]:
        start_response("200 OK", headers)
        yield chunk

    return app


def answering(result: Any, status: Any = "200 OK", headers: Any = PLAIN) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, headers)
        return result

    return app


def never_starting(environ: Any, start_response: Any) -> Iterable[bytes]:
    return [b"body"]


def never_starting_stream(environ: Any, start_response: Any) -> Iterator[bytes]:
    yield b"body"


def never_starting_empty_stream(environ: Any, start_response: Any) -> Iterator[bytes]:
    yield from ()


def starting_twice(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    start_response("201 Created", PLAIN)
    return [b"body"]


def writing_text(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)("text")
    return []


def starting_oddly(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK")
    return []


def clearing(environ: Any, start_response: Any) -> Iterable[bytes]:
    environ.clear()
    raise KeyError("gone")


class Unclosable:
    closed = 0

    def __iter__(self) -> Iterator[bytes]:
        raise KeyboardInterrupt

    def close(self) -> None:
        self.closed += 1


#: Each costs a 500, before any of its bytes is out.
FAILURES = {
    "Exception": raising(ValueError("secret")),
    "SystemExit": raising(SystemExit),
    "KeyboardInterrupt": raising(KeyboardInterrupt),
    "GeneratorExit": raising(GeneratorExit),
    "StopIteration": raising(StopIteration),
    "MemoryError": raising(MemoryError),
    "BaseException": raising(BaseException("bare")),
    "group": raising(BaseExceptionGroup("many", [KeyboardInterrupt()])),
    "recursion": recursing,
    "after start_response": raising_after_start,
    "in iteration": generating(ValueError("secret")),
    "SystemExit in iteration": generating(SystemExit()),
    "KeyboardInterrupt in iteration": generating(KeyboardInterrupt()),
    "iter() raises": answering(Unclosable()),
    "None": answering(None),
    "str": answering("text"),
    "bytes": answering(b"bytes"),
    "int": answering(42),
    "list of str": answering(["text"]),
    "list of None": answering([b"x", None]),
    "tuple of int": answering((1,)),
    "generator of str": streaming("text"),
    "no start_response": never_starting,
    "no start_response, stream": never_starting_stream,
    "no start_response, empty stream": never_starting_empty_stream,
    "start_response twice": starting_twice,
    "start_response without headers": starting_oddly,
    "status bytes": answering([b""], status=b"200 OK"),
    "status int": answering([b""], status=200),
    "status without number": answering([b""], status="OK"),
    "status empty": answering([b""], status=""),
    "status like a sign of ours": answering([b""], status="forwarded"),
    "status None": answering([b""], status=None),
    "status injected": answering([b""], status="200 OK\r\nX: y"),
    "headers None": answering([b"x"], headers=None),
    "headers tuple": answering([b"x"], status="299 New", headers=(("A", "b"),)),
    "headers dict": answering([b"x"], headers={"Content-Type": "text/plain"}),
    "header bytes": answering([b"x"], headers=[(b"A", b"b")]),
    "header int": answering([b"x"], headers=[("Content-Length", 3), ("A", "b")]),
    "header triple": answering([b"x"], headers=[("a", "b", "c")]),
    "stream, header int": streaming(b"x", headers=[("A", 3)]),
    "write of text": writing_text,
    "header with a line's end": answering([b"x"], headers=[("Location", "/x\r\nSet-Cookie: a=b")]),
    "header with LF": answering([b"x"], headers=[("Content-Type", "a\nb")]),
    "header with CR": answering([b"x"], headers=[("Content-Type", "a\rb")]),
    "header with NUL": answering([b"x"], headers=[("Content-Type", "a\0b")]),
    "header not latin-1": streaming(b"x", headers=[("X", "\u20ac")]),
    "header's name with a line's end": answering([b"x"], headers=[("X: y\r\nZ", "a")]),
    "header's name with a space": answering([b"x"], headers=[("X ", "a")]),
    "header's name empty": answering([b"x"], headers=[("", "a")]),
    "header's name not ASCII": answering([b"x"], headers=[("\xe9", "a")]),
    "known header, int": answering([b"x"], headers=[("Content-Length", 1)]),
    "stream, header with a line's end": streaming(b"x", headers=[("A", "b\nc: d")]),
    "list, unusual status, header with LF": answering([b""], "299 X", headers=[("A", "b\nc: d")]),
    "status 100": answering([], status="100 Continue"),
    "status 103": answering(iter([b""]), status="103 Early Hints"),
    "environ cleared": clearing,
}


@pytest.fixture(params=FAILURES)
def failing(request: pytest.FixtureRequest) -> Any:
    return FAILURES[request.param]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_failure_is_a_logged_500(failing: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A client is told that it failed, the operator why; nothing else is told to the client."""
    site = Site()
    mount = site.mount(failing, "/bad", interface="wsgi")
    answer = ask(site.wsgi, "/bad/x")
    assert answer.status == "500 Internal Server Error"
    assert answer.body == b"500 Internal Server Error\n"
    assert b"secret" not in answer.body
    assert answer.headers["Content-Length"] == str(len(answer.body))
    [record] = [each for each in caplog.records if each.name == "sitebus.mount./bad"]
    assert record.exc_info
    assert record.levelno == logging.ERROR
    assert mount.in_flight == 0


def test_failures_leave_a_server_alive() -> None:
    """A server stops on SystemExit and KeyboardInterrupt, or loses a thread."""
    site = Site(on_error=lambda mount, environ, error: None)
    for number, app in enumerate(FAILURES.values()):
        site.mount(app, f"/{number}", interface="wsgi")
    site.mount(saying("well"), "/well")
    with served(site.wsgi) as (server, _), contextlib.closing(_connection(server)) as client:
        for number, name in enumerate(FAILURES):
            client.request("GET", f"/{number}")
            response = client.getresponse()
            assert (name, response.status) == (name, 500)
            assert response.read() == b"500 Internal Server Error\n"
        client.request("GET", "/well")
        assert client.getresponse().status == 200


def _connection(server: Any) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.bind_addr[1], timeout=10)


class Breaking:
    """A body that ends badly after its first chunk."""

    def __init__(self, error: BaseException, *, in_close: bool = False) -> None:
        self.error = error
        self.in_close = in_close
        self.closed = 0

    def __call__(self, environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        return self

    def __iter__(self) -> Iterator[bytes]:
        yield b"first"
        if not self.in_close:
            raise self.error

    def close(self) -> None:
        self.closed += 1
        if self.in_close:
            raise self.error


@pytest.mark.parametrize(
    "error", [ValueError(), SystemExit(), KeyboardInterrupt(), GeneratorExit()]
)
def test_half_a_body_breaks_the_connection_off(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """No client, and no cache, may take half a body for a whole one."""
    body = Breaking(error)
    site = Site()
    mount = site.mount(body, "/")
    with served(site.wsgi) as (server, _):
        for _ in range(8):
            with contextlib.closing(_connection(server)) as client:
                client.request("GET", "/")
                with pytest.raises(http.client.IncompleteRead) as caught:
                    client.getresponse().read()
                assert caught.value.partial == b"first"
    assert body.closed == 8
    assert mount.in_flight == 0
    assert len([each for each in caplog.records if each.name == "sitebus.mount./"]) == 8


def test_what_breaks_off_is_an_exception_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """A BaseException would stop the server; one for a lost client is not reported twice."""
    site = Site()
    site.mount(Breaking(SystemExit()), "/")
    response = iter(site.wsgi(environ_of(), nothing))
    assert next(response) == b"first"
    with pytest.raises(ResponseBroken) as caught:
        next(response)
    assert isinstance(caught.value, ConnectionResetError)
    assert str(caught.value) == "the application at / broke off its response"


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), KeyboardInterrupt()])
def test_a_failing_close_costs_nothing(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is complete by then; only the log may know."""
    site = Site()
    mount = site.mount(Breaking(error, in_close=True), "/")
    with served(site.wsgi) as (server, _), contextlib.closing(_connection(server)) as client:
        for _ in range(3):
            client.request("GET", "/")
            assert client.getresponse().read() == b"first"
    assert mount.in_flight == 0
    assert len([each for each in caplog.records if each.name == "sitebus.mount./"]) == 3


def test_an_error_after_write_breaks_off() -> None:
    """What went through write() cannot be taken back."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)(b"out")
        raise SystemExit

    site = Site(on_error=lambda *_: None)
    site.mount(app)
    with pytest.raises(ResponseBroken):
        ask(site.wsgi)
    with served(site.wsgi) as (server, _), contextlib.closing(_connection(server)) as client:
        client.request("GET", "/")
        with pytest.raises(http.client.IncompleteRead):
            client.getresponse().read()


def test_write_sends_at_once_and_in_order() -> None:
    """Old applications stream by write(); what they return comes after it."""
    seen: list[int] = []
    out: list[bytes] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        write = start_response("299 Unheard Of", PLAIN)
        write(b"one ")
        seen.append(len(out))
        write(b"two ")
        seen.append(len(out))
        return [b"three"]

    site = Site()
    site.mount(app)
    started: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        started.append(status)
        return out.append

    rest = list(site.wsgi(environ_of(), start_response))
    assert (started, seen, out, rest) == (
        ["299 Unheard Of"],
        [1, 2],
        [b"one ", b"two "],
        [b"three"],
    )


def test_a_stale_write_is_refused() -> None:
    """On a kept-alive connection it would land in somebody else's response."""
    kept: list[Any] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        kept.append((start_response, start_response("200 OK", PLAIN)))
        return [b"done"]

    site = Site()
    site.mount(app)
    assert ask(site.wsgi).body == b"done"
    start_response, write = kept[0]
    with pytest.raises(RuntimeError, match="complete"):
        write(b"late")
    with pytest.raises(RuntimeError, match="complete"):
        start_response("200 OK", PLAIN, (ValueError, ValueError(), None))


def test_a_client_that_left_is_not_the_applications_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody wants a traceback for every closed browser tab."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)(b"x")
        return []

    def broken(data: bytes) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    site = Site()
    site.mount(app)
    with pytest.raises(ResponseBroken):
        site.wsgi(environ_of(), lambda *_: broken)
    assert not caplog.records


def test_exc_info_replaces_what_was_said() -> None:
    """PEP 3333: an application may think better of it as long as nothing is out."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        try:
            raise ValueError
        except ValueError:
            start_response("503 Try Later", [("X-Second", "yes")], sys.exc_info())
        return [b"later"]

    site = Site()
    site.mount(app)
    answer = ask(site.wsgi)
    assert answer.status == "503 Try Later"
    assert answer.headers == {"X-Second": "yes"}


def test_a_server_that_refuses_the_headers_answers_by_itself() -> None:
    """It may have kept some of them, so that a 500 of ours would carry them too."""
    site = Site(on_error=lambda *_: None)
    site.mount(answering([b"x"], headers=[("Content-Length", "many")]), "/")
    site.mount(saying("well"), "/well")

    def refuse(*_: object) -> Any:
        raise UnicodeEncodeError("latin-1", "\u20ac", 0, 1, "no")

    with pytest.raises(ResponseRefused):
        site.wsgi(environ_of(), refuse)
    with served(site.wsgi) as (server, _):
        with contextlib.closing(_connection(server)) as client:
            client.request("GET", "/")
            assert client.getresponse().status == 500
        with contextlib.closing(_connection(server)) as client:
            client.request("GET", "/well")
            assert client.getresponse().status == 200


def test_head_has_no_body_whatever_the_application_sends() -> None:
    """Some servers would send it, and the client would take it for its next response."""
    site = Site()
    site.mount(answering([b"body"], headers=[("Content-Length", "4")]), "/list")
    site.mount(_stream(lambda: iter([b"", b"bo", b"dy"])), "/stream")
    for path in ("/list", "/stream"):
        answer = ask(site.wsgi, path, REQUEST_METHOD="HEAD")
        assert (answer.code, answer.body) == (200, b"")
        assert answer.headers["Content-Length"] == "4"
    site.mount(raising(ValueError), "/bad")
    answer = ask(site.wsgi, "/bad", REQUEST_METHOD="HEAD")
    assert (answer.code, answer.body) == (500, b"")
    with served(site.wsgi) as (server, _), contextlib.closing(_connection(server)) as client:
        for path in ("/list", "/stream", "/bad", "/list"):
            client.request("HEAD", path)
            assert client.getresponse().read() == b""


def test_a_body_that_may_not_be_is_not_sent() -> None:
    """After a 204 or a 304, and in a HEAD, the client takes it for its next response."""

    def writing(environ: Any, start_response: Any) -> Iterable[bytes]:
        write = start_response(environ["QUERY_STRING"].replace("+", " "), PLAIN)
        write(b"body")
        return [b"more"]

    body = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    site = Site()
    site.mount(writing, "/write")
    for status in ("204 No Content", "304 Not Modified"):
        site.mount(answering([body], status), f"/{status[:3]}/list")
        site.mount(answering(iter([b"", body]), status), f"/{status[:3]}/stream")
    site.mount(saying("well"), "/well")
    asked = [("GET", path) for path in ("/204/list", "/204/stream", "/304/list", "/304/stream")]
    asked += [("GET", "/write?204+No"), ("GET", "/write?304+Not"), ("HEAD", "/write?200+OK")]
    with served(site.wsgi) as (server, _), contextlib.closing(_connection(server)) as client:
        for method, path in asked:
            client.request(method, path)
            response = client.getresponse()
            assert (path, response.read()) == (path, b"")
            if response.will_close:
                continue  # nothing can follow
            client.request("GET", "/well")
            assert client.getresponse().read() == b"well '/well' ''", path


def test_what_cannot_be_iterated_is_closed() -> None:
    """A server closes what it was given, whatever comes of it: there may be a file in it."""
    site = Site(on_error=lambda *_: None)
    body = Unclosable()
    site.mount(answering(body), interface="wsgi")
    assert ask(site.wsgi).code == 500
    assert body.closed == 1


def test_a_header_that_is_refused_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    """The operator learns which one it is."""
    for headers, said in [
        ([("Content-Length", 3)], "a header is not a pair of str: ('Content-Length', 3)"),
        ([("a", "b", "c")], "a header is not a pair: ('a', 'b', 'c')"),
        ([("Location", "/x\r\nA: b")], "the header Location has a control character"),
        ([(["a"], "b")], "a header is not a pair of str: (['a'], 'b')"),
    ]:
        site = Site()
        site.mount(answering([b"x"], headers=headers), interface="wsgi")
        assert ask(site.wsgi).code == 500
        assert said in str(caplog.records[-1].exc_info)


def test_headers_that_are_as_they_should_be_pass() -> None:
    """Tabs and latin-1 may be in a value."""
    headers = [("X-Tab", "a\tb"), ("X-Latin", "caf\xe9"), ("x_odd!", ""), ("Content-Type", "a/b")]
    site = Site()
    site.mount(answering([b"x"], headers=headers), "/list", interface="wsgi")
    site.mount(streaming(b"x", headers=headers), "/stream", interface="wsgi")
    for path in ("/list", "/stream"):
        assert ask(site.wsgi, path).headers == dict(headers)


def _stream(make: Callable[[], Iterator[bytes]]) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
        return make()

    return app


def test_the_first_chunk_is_out_before_the_second_is_made() -> None:
    """Streams would otherwise be silent until they end."""
    made: list[int] = []

    def chunks() -> Iterator[bytes]:
        for number in range(3):
            made.append(number)
            yield b"x"

    site = Site()
    site.mount(_stream(chunks))
    response = iter(site.wsgi(environ_of(), nothing))
    next(response)
    assert made == [0]


def test_a_request_is_in_flight_until_its_body_is_closed() -> None:
    """A drain that ended earlier would cut a download."""
    site = Site()
    mount = site.mount(_stream(lambda: iter([b"a", b"b"])))
    response: Any = site.wsgi(environ_of(), nothing)
    assert mount.in_flight == 1
    assert not mount.drain(0)
    assert list(response) == [b"a", b"b"]
    assert mount.in_flight == 1
    response.close()
    response.close()
    assert mount.in_flight == 0
    assert mount.drain(0)


def test_a_body_that_nobody_closes_is_not_in_flight_for_ever() -> None:
    """Some servers drop what they iterate when the client leaves."""
    site = Site()
    mount = site.mount(_stream(lambda: iter([b"a"])))
    response: Any = site.wsgi(environ_of(), nothing)
    assert isinstance(response, Stream)
    del response
    assert mount.drain(5)


def test_requests_leave_nothing_for_the_collector() -> None:
    """Cycles would make it stop the process in the middle of other requests."""
    site = Site(on_error=lambda *_: None)
    site.mount(saying("x"), "/list")
    site.mount(_stream(lambda: iter([b"ab", b"cd"])), "/stream")
    site.mount(raising(ValueError()), "/bad")
    gc.collect()
    gc.disable()
    try:
        for path in ("/list", "/stream", "/bad", "/none"):
            for _ in range(100):
                ask(site.wsgi, path)
        assert gc.collect() < 100
    finally:
        gc.enable()


def test_the_servers_own_file_wrapper_is_left_alone() -> None:
    """It sends files by itself (PEP 3333), if it recognises them."""

    class Wrapper:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __iter__(self) -> Iterator[bytes]:
            return iter(self.file)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        return environ["wsgi.file_wrapper"]([b"x"])

    site = Site()
    mount = site.mount(app)
    environ = environ_of() | {"wsgi.file_wrapper": Wrapper}
    assert isinstance(site.wsgi(environ, nothing), Wrapper)
    assert mount.in_flight == 0


@pytest.mark.parametrize("path", ["/", "/app", "/app/x", "/none"])
def test_both_sides_keep_to_the_rules(path: str) -> None:
    """The validator of wsgiref stands before the site and before the application."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN, ("Content-Length", "2")])
        return [b"ok"]

    site = Site()
    site.mount(validator(app), "/app", interface="wsgi")
    response: Any = ask(validator(site.wsgi), path)
    assert response.code == (200 if path.startswith("/app") else 404)


def test_development_shows_the_traceback_and_production_never() -> None:
    """It helps the one and would tell the other's attackers too much."""
    site = Site(development=True, on_error=lambda *_: None)
    site.mount(raising(ValueError("<script>")), "/bad")
    answer = ask(site.wsgi, "/bad", HTTP_ACCEPT="text/html")
    assert "Traceback" in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "<script>" not in answer.text
    assert "Traceback" in ask(site.wsgi, "/bad").text
    site.configure(development=False)
    assert ask(site.wsgi, "/bad").text == "500 Internal Server Error\n"


def test_a_broken_error_hook_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The one who reports must not be the one who fails."""

    def hook(mount: Mount, environ: Any, error: BaseException) -> None:
        raise SystemExit("hook")

    site = Site(on_error=hook)
    site.mount(raising(ValueError("why")))
    assert ask(site.wsgi).code == 500
    assert "why" in capsys.readouterr().err


def test_drain_wakes_when_the_last_one_leaves() -> None:
    """It waits without polling, and does not miss who leaves just then."""
    inside, go = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        inside.set()
        go.wait(10)
        start_response("200 OK", PLAIN)
        return [b""]

    site = Site()
    mount = site.mount(app)
    request = threading.Thread(target=ask, args=(site.wsgi,))
    request.start()
    assert inside.wait(10)
    mount.unmount()
    assert not mount.drain(0.01)
    waited: list[bool] = []
    drain = threading.Thread(target=lambda: waited.append(mount.drain(10)))
    drain.start()
    go.set()
    drain.join(10)
    request.join(10)
    assert waited == [True]
    assert ask(site.wsgi).code == 404


@pytest.fixture
def memory() -> Iterator[None]:
    """Forget afterwards what was made up for one test."""
    remembered = (GOOD_NAMES, GOOD_VALUES, GOOD_STATUSES)
    before = [known.copy() for known in remembered]
    yield
    for known, old in zip(remembered, before, strict=True):
        known.intersection_update(old)


@pytest.mark.usefixtures("memory")
def test_what_is_remembered_of_headers_has_an_end_and_no_secrets() -> None:
    """Applications may make up as many as they like."""
    site = Site()
    site.mount(answering([b"x"], headers=[("Set-Cookie", "session=of somebody")]))
    assert ask(site.wsgi).code == 200
    assert "session=of somebody" not in GOOD_VALUES
    for number in range(5000):
        check_header((f"X-{number}", f"value {number}"))
        check_status(f"299 Made up {number}")
    assert max(len(GOOD_NAMES), len(GOOD_VALUES), len(GOOD_STATUSES)) <= 4000
    assert ask(site.wsgi).code == 200


def test_empty_chunks_come_after_the_status() -> None:
    """A server must have the status before anything of the body, be it nothing (PEP 3333)."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("302 Found", [("Location", "/x"), ("Content-Length", "0")])
        yield b""
        yield b""

    site = Site()
    site.mount(app)
    said: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        said.append(status)

    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    said += [f"chunk {chunk!r}" for chunk in site.wsgi(environ, start_response)]
    assert said == ["302 Found"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_a_client_does_fills_no_log(wrapped: bool) -> None:
    """Anybody can hang up in the middle of an upload, as often as they like."""
    recorded: list[BaseException] = []

    def reads(environ: Any, start_response: Any) -> list[bytes]:
        gone = ClientGone("all of its request was read")
        if wrapped:
            raise ValueError("unreadable") from gone
        raise gone

    site = Site(on_error=lambda mount, environ, error: recorded.append(error))
    site.mount(reads, "/")
    assert ask(site.wsgi, "/").code == 500
    assert recorded == []


def test_a_mistake_beside_it_is_told() -> None:
    recorded: list[BaseException] = []

    def mistaken(environ: Any, start_response: Any) -> list[bytes]:
        try:
            raise ClientGone("all of its request was read")
        except ClientGone:
            raise KeyError("a mistake of its own")  # noqa: B904 - not caused by it

    site = Site(on_error=lambda mount, environ, error: recorded.append(error))
    site.mount(mistaken, "/")
    assert ask(site.wsgi, "/").code == 500
    assert [type(error) for error in recorded] == [KeyError]
