"""A site: who answers where, what applications see of it, and how it changes while it serves."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from sitebus.asgi import CONNECTION
from sitebus.errors import (
    BadMountOption,
    BadPrefix,
    DuplicateMount,
    InterfaceNotServed,
    NotAnApplication,
    UnclearInterface,
)
from sitebus.mounts import Mount, Site
from sitebus.servers.proxies import Connection
from tests.wsgi_helpers import ask, environ_of, nothing, saying, served


@pytest.fixture
def site() -> Site:
    site = Site()
    for prefix in ("/", "/app", "/app/admin", "/other"):
        site.mount(saying(prefix), prefix)
    return site


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/", "/ '' '/'"),
        ("/x", "/ '' '/x'"),
        ("/app", "/app '/app' ''"),
        ("/app/", "/app '/app' '/'"),
        ("/app/x/y", "/app '/app' '/x/y'"),
        ("/apple", "/ '' '/apple'"),
        ("/app/admin", "/app/admin '/app/admin' ''"),
        ("/app/admin/x", "/app/admin '/app/admin' '/x'"),
        ("/app/administrator", "/app '/app' '/administrator'"),
        ("//app/x", "/ '' '//app/x'"),
        ("/app//admin", "/app '/app' '//admin'"),
        ("/app/../other", "/app '/app' '/../other'"),
        ("/./app", "/ '' '/./app'"),
        ("/app\0", r"/ '' '/app\x00'"),
        ("/app%2Fadmin", "/ '' '/app%2Fadmin'"),
        ("*", "/ '' '*'"),
        ("/*", "/ '' '/*'"),
        ("", "/ '' ''"),
        ("app/x", "/ '' 'app/x'"),
        ("/App", "/ '' '/App'"),
    ],
)
def test_the_longest_prefix_of_whole_segments_wins(site: Site, path: str, said: str) -> None:
    """And nothing is normalised before: one party decides what a path means."""
    assert ask(site.wsgi, path).text == said


def test_flat_and_deep_tables_answer_alike(site: Site) -> None:
    """The short cut for flat sites must not be seen."""
    flat = Site()
    for mount in site.mounts:
        if mount.prefix != "/app/admin":
            flat.mount(mount.app, mount.prefix)
    for path in (
        "/",
        "/app",
        "/app/",
        "/app/x",
        "/apple",
        "//app",
        "",
        "*",
        "app/x",
        "/other/",
        "/x",
    ):
        assert ask(flat.wsgi, path).text == ask(site.wsgi, path).text


@pytest.mark.parametrize(
    "path",
    ["/" + "a/" * 32000, "/" * 64000, "/app/" + "x" * 64000, "/" + "app/" * 16000, "/app" * 16000],
)
def test_a_hostile_path_is_a_path_like_any_other(site: Site, path: str) -> None:
    """It arrives whole, and costs no more than a short one (see benchmarks/dispatch.py)."""
    seen: list[str] = []
    site.mount(_seeing(seen), "/app", replace=True)
    site.mount(_seeing(seen), "/", replace=True)
    ask(site.wsgi, path)
    assert seen == [path]


def _seeing(seen: list[str]) -> Any:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        seen.append(environ["SCRIPT_NAME"] + environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b""]

    return app


def test_hostile_requests_reach_a_server_and_harm_nothing(site: Site) -> None:
    """What the wire can carry, the site survives."""
    with served(site.wsgi) as (server, _):
        for target in (
            "*",
            "/%2e%2e/x",
            "/%00",
            "/app/%00",
            "/" + "a/" * 30000,
            "/app/%ff%fe",
            "/é",
        ):
            method = "OPTIONS" if target == "*" else "GET"
            request = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            with socket.create_connection(("127.0.0.1", server.bind_addr[1]), 10) as client:
                client.sendall(request.encode())
                with client.makefile("rb") as answer:
                    assert answer.readline()[:12] in (b"HTTP/1.1 200", b"HTTP/1.1 400")
    without_root = Site()
    without_root.mount(saying("app"), "/app")
    assert ask(without_root.wsgi, "*", REQUEST_METHOD="OPTIONS").code == 404


def test_an_outer_prefix_is_kept(site: Site) -> None:
    """A site may itself be mounted, by us or by Apache."""
    assert ask(site.wsgi, "/app/x", SCRIPT_NAME="/out/er").text == "/app '/out/er/app' '/x'"
    outer = Site()
    outer.mount(site.wsgi, "/outer")
    assert ask(outer.wsgi, "/outer/app/admin/x").text == "/app/admin '/outer/app/admin' '/x'"


def test_the_callers_environ_is_not_touched(site: Site) -> None:
    """The server logs from it, and an application may leave anything in it."""

    def leaking(environ: Any, start_response: Any) -> Iterable[bytes]:
        assert type(environ) is dict
        assert environ["sitebus.mount"] == "/leak"
        environ.clear()
        start_response("200 OK", [])
        return []

    site.mount(leaking, "/leak")
    environ = environ_of("/leak/x")
    before = dict(environ)
    site.wsgi(environ, nothing)
    assert environ == before


def test_empty_variables_may_be_missing(site: Site) -> None:
    """PEP 3333 lets a server leave them out."""
    environ = environ_of("/app")
    del environ["SCRIPT_NAME"], environ["QUERY_STRING"]
    assert list(site.wsgi(environ, nothing)) == [b"/app '/app' ''"]
    del environ["PATH_INFO"]
    assert list(site.wsgi(environ, nothing)) == [b"/ None None"]


def test_a_prefix_beyond_ascii_matches_its_utf8() -> None:
    """WSGI spells paths as bytes in disguise."""
    site = Site()
    mount = site.mount(saying("ä"), "/bücher")
    path = "/bücher/x".encode().decode("latin-1")
    assert ask(site.wsgi, path).code == 200
    assert mount.prefix == "/bücher"
    assert ask(site.wsgi, "/bücher/x").code == 404


# Hosts and ports.


@pytest.fixture
def hosts() -> Site:
    site = Site()
    for host, port in [
        (None, None), ("example.org", None), ("example.org:8443", None), ("*.example.org", None),
        ("*.api.example.org", None), ("[::1]", None), (None, 9000),
    ]:  # fmt: skip
        site.mount(saying(f"{host} {port}"), "/", host=host, port=port)
    return site


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("example.org", "80", "example.org None"),
        ("EXAMPLE.ORG.:80", "80", "example.org None"),
        ("example.org:8443", "8443", "example.org:8443 None"),
        ("www.example.org", "80", "*.example.org None"),
        ("a.b.example.org", "80", "*.example.org None"),
        ("v1.api.example.org", "80", "*.api.example.org None"),
        ("api.example.org", "80", "*.example.org None"),
        ("badexample.org", "80", "None None"),
        ("[::1]:8080", "8080", "[::1] None"),
        ("[0:0:0:0:0:0:0:1]", "80", "[::1] None"),
        ("other", "80", "None None"),
        ("other", "9000", "None 9000"),
        ("other:9000", "80", "None None"),
        ("", "80", "None None"),
        ("\0:x", "80", "None None"),
    ],
)
def test_the_most_specific_host_answers(hosts: Site, host: str, port: str, said: str) -> None:
    """host:port, host, *.suffix, default. A port is the socket's: a client cannot claim another."""
    answer = ask(hosts.wsgi, "/", host, SERVER_PORT=port, SERVER_NAME="")
    assert answer.text.startswith(said + " ''")


@pytest.mark.parametrize("speech", ["wsgi", "asgi"])
def test_a_proxys_port_is_not_where_anybody_listens(speech: str) -> None:
    """Else a forwarded header would reach what is mounted on an inner port."""

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inner"})

    site = Site()
    app: Any = saying("inner") if speech == "wsgi" else inner
    site.mount(app, "/", port=9000)
    site.mount(saying("outer"), "/", port=8080)
    real = Connection(("127.0.0.1", 5), ("127.0.0.1", 8080), "http")
    claimed = ask(site.wsgi, "/", "host", SERVER_PORT="9000", **{CONNECTION: real})
    assert claimed.text.startswith("outer")
    inside = real._replace(server=("127.0.0.1", 9000))
    told = ask(site.wsgi, "/", "host", SERVER_PORT="443", **{CONNECTION: inside})
    assert told.text.startswith("inner")
    site.crossing.close()


def test_a_host_with_mounts_answers_for_itself() -> None:
    """What is mounted for any host must not appear where a host is set up by itself."""
    site = Site()
    site.mount(saying("any"), "/admin")
    site.mount(saying("own"), "/app", host="example.org")
    assert ask(site.wsgi, "/admin", "example.org").code == 404
    assert ask(site.wsgi, "/admin", "example.net").code == 200


def test_an_unknown_host_is_misdirected_if_hosts_are_strict(hosts: Site) -> None:
    """A forged Host must not reach an application that builds links from it."""
    hosts.configure(strict_hosts=True)
    assert hosts.strict_hosts
    assert ask(hosts.wsgi, "/", "other").code == 421
    assert ask(hosts.wsgi, "/", "example.org").code == 200
    hosts.configure(strict_hosts=False)
    assert ask(hosts.wsgi, "/", "other").code == 200


# Handles.


def test_a_handle_knows_its_place() -> None:
    """It is what consoles and metrics show."""
    site = Site()
    app = saying("x")
    mount = site.mount(app, "/blog/", host="Example.org:81")
    assert (mount.prefix, mount.host, mount.port, mount.name) == (
        "/blog", "example.org", 81, "example.org:81/blog",
    )  # fmt: skip
    assert (mount.app, mount.in_flight, mount.interface) == (app, 0, "wsgi")
    assert site.mount(app, "/a").name == "/a"
    assert site.mount(app).name == "/"
    assert site.mount(app, "/b", name="bee").name == "bee"
    assert [each.name for each in site.mounts] == ["example.org:81/blog", "/a", "/", "bee"]


def test_one_place_has_one_mount(site: Site) -> None:
    """Which of two would answer is not to be guessed."""
    before = site.mounts
    with pytest.raises(DuplicateMount) as caught:
        site.mount(saying("new"), "/app/", name="new")
    assert "new" in str(caught.value)
    assert "/app" in str(caught.value)
    assert caught.value.status == 78
    assert site.mounts == before


def test_replacing_swaps_without_a_gap(site: Site) -> None:
    """The old one is out at once, and can be drained."""
    old = site.mounts[1]
    new = site.mount(saying("new"), "/app", replace=True)
    assert ask(site.wsgi, "/app").text == "new '/app' ''"
    assert old.retired
    assert new in site.mounts
    assert old not in site.mounts
    old.unmount()
    assert ask(site.wsgi, "/app").text == "new '/app' ''"


def test_unmounting_uncovers_what_was_below(site: Site) -> None:
    """And does so once; a second time is nothing."""
    admin = site.mounts[2]
    admin.unmount()
    admin.unmount()
    assert ask(site.wsgi, "/app/admin/x").text == "/app '/app' '/admin/x'"
    for mount in site.mounts:
        mount.unmount()
    assert site.mounts == ()
    assert ask(site.wsgi, "/app").code == 404


def test_a_disabled_mount_keeps_its_place_and_serves_nothing(site: Site) -> None:
    """An operator can switch one off without anybody taking its place."""
    mount = site.mount(saying("off"), "/off", enabled=False)
    assert ask(site.wsgi, "/off/x").text == "/ '' '/off/x'"
    with pytest.raises(DuplicateMount):
        site.mount(saying("on"), "/off")
    mount.unmount()
    site.mount(saying("on"), "/off", enabled=True)
    site.mount(saying("off"), "/off", enabled=False, replace=True)
    assert ask(site.wsgi, "/off/x").text == "/ '' '/off/x'"


@pytest.mark.parametrize(
    ("app", "options", "error"),
    [
        (saying("x"), {"slash": "redirct"}, BadMountOption),
        (saying("x"), {"cookie_path": "own"}, BadMountOption),
        (saying("x"), {"lifespan": "on"}, BadMountOption),
        (saying("x"), {"path": "nope"}, BadPrefix),
        (None, {}, NotAnApplication),
        ("module:app", {}, NotAnApplication),
        (lambda *args: None, {}, UnclearInterface),
        (lambda: None, {}, InterfaceNotServed),
        (None, {"interface": "wsgi"}, NotAnApplication),
        (saying("x"), {"filters": [lambda app: None]}, NotAnApplication),
    ],
)
def test_what_cannot_be_mounted_is_refused_at_once(
    site: Site, app: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    """Not at the first request."""
    before = site.mounts
    with pytest.raises(error) as caught:
        site.mount(app, **{"path": "/new", **options})
    assert getattr(caught.value, "status", 0) == 78
    assert len(str(caught.value).splitlines()) == 1
    assert site.mounts == before


# Slashes, filters, cookies.


def test_a_bare_prefix_can_be_redirected() -> None:
    """Relative links break without the slash."""
    site = Site()
    site.mount(saying("x"), "/bü cher", slash="redirect")
    path = "/bü cher".encode().decode("latin-1")
    answer = ask(site.wsgi, f"{path}?q=1&r=%20", SCRIPT_NAME="/out", REQUEST_METHOD="POST")
    assert answer.code == 308
    assert answer.headers["Location"] == "/out/b%C3%BC%20cher/?q=1&r=%20"
    assert ask(site.wsgi, path + "/").code == 200
    answer = ask(site.wsgi, path, QUERY_STRING="a\r\nSet-Cookie: x=y")
    assert "\r" not in answer.headers["Location"]


def test_a_bare_prefix_can_be_no_place() -> None:
    """For applications that must never see an empty path."""
    site = Site()
    site.mount(saying("x"), "/x", slash="strict")
    assert ask(site.wsgi, "/x").code == 404
    assert ask(site.wsgi, "/x/").code == 200


def test_slashes_are_merged_only_if_asked() -> None:
    """By a redirect, so that the application and the client agree on the path."""
    site = Site(merge_slashes=True)
    site.mount(saying("x"), "/x")
    answer = ask(site.wsgi, "//x///y?q=//")
    assert (answer.code, answer.headers["Location"]) == (308, "/x/y?q=//")
    assert ask(site.wsgi, "/x/y").code == 200
    assert ask(site.wsgi, "//evil.example").headers["Location"] == "/evil.example"


def test_filters_wrap_once_the_first_outermost() -> None:
    """As they are read in a file: from the outside in."""
    made: list[str] = []

    def marking(mark: str) -> Any:
        def wrap(app: Any) -> Any:
            made.append(mark)

            def filtered(environ: Any, start_response: Any) -> Iterable[bytes]:
                environ["PATH_INFO"] += mark
                body: Iterable[bytes] = app(environ, start_response)
                return body

            return filtered

        return wrap

    site = Site()
    mount = site.mount(saying("x"), "/x", filters=[marking("1"), marking("2")])
    for _ in range(3):
        assert ask(site.wsgi, "/x/").text == "x '/x' '/12'"
    assert made == ["2", "1"]
    assert len(mount.filters) == 2


def test_a_mounts_cookies_can_be_its_own() -> None:
    """Two Flasks at two prefixes would log each other's users out."""
    cookies = [
        "session=1; HttpOnly; Path=/",
        "session=2;path=/ ; Secure",
        "kept=3; Path=/mine",
        "kept=4",
        "__Host-kept=5; Path=/; Secure",
    ]

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Set-Cookie", value) for value in cookies])
        return [b""]

    site = Site()
    seen: list[tuple[str, str]] = []

    def start_response(status: str, headers: Any, exc_info: Any = None, /) -> Any:
        seen.extend(headers)

    for prefix, cookie_path in (("/x", "prefix"), ("/y", "keep")):
        site.mount(app, prefix, cookie_path=cookie_path)  # type: ignore[arg-type]
    site.wsgi(environ_of("/x"), start_response)
    assert [value for _, value in seen] == [
        "session=1; HttpOnly; Path=/x", "session=2; Path=/x; Secure", *cookies[2:],
    ]  # fmt: skip
    seen.clear()
    site.wsgi(environ_of("/y"), start_response)
    assert [value for _, value in seen] == cookies


# Where nothing is mounted.


def test_production_says_nothing_about_the_site() -> None:
    """What exists is nobody's business."""
    site = Site()
    site.mount(saying("x"), "/secret")
    answer = ask(site.wsgi, "/secrte", HTTP_ACCEPT="text/html")
    assert (answer.status, answer.text) == ("404 Not Found", "404 Not Found\n")
    assert ask(site.wsgi, "/x", REQUEST_METHOD="HEAD").body == b""


def test_development_lists_the_mounts_and_the_nearest() -> None:
    """The commonest mistake is a typing mistake."""
    site = Site(development=True)
    site.mount(saying("x"), "/blog", name="<b>")
    site.mount(saying("x"), "/wiki", host="example.org")
    site.mount(saying("x"), "/off", enabled=False)
    page = ask(site.wsgi, "/blgo/<script>", HTTP_ACCEPT="text/html", SCRIPT_NAME="/out")
    assert page.code == 404
    assert "&lt;b&gt;" in page.text
    assert "<script>" not in page.text
    assert "/off" not in page.text
    assert 'href="/out/blog/"' in page.text
    text = ask(site.wsgi, "/blog2").text
    assert "The nearest is /blog" in text
    assert "example.org/wiki" in text
    assert ask(site.wsgi, "/" + "x" * 64000).code == 404
    assert ask(site.wsgi, "/\xff\ud800").code == 404


# Changing while serving.


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("deep", [False, True])
def test_no_request_sees_a_hole_while_mounts_change(deep: bool) -> None:
    """Half a table would be a 404, or another application's page, for somebody."""
    site = Site()
    site.mount(saying("root"), "/")
    site.mount(saying("fixed"), "/fixed/deep" if deep else "/fixed")
    site.mount(saying("swap"), "/swap")
    wrong: list[str] = []
    end = time.monotonic() + 1.0

    def requesting() -> None:
        path = "/fixed/deep/x" if deep else "/fixed/x"
        while time.monotonic() < end:
            for asked, said in ((path, "fixed"), ("/swap/x", "swap"), ("/come/x", "come root")):
                text = ask(site.wsgi, asked).text
                if text.split()[0] not in said:
                    wrong.append(f"{asked}: {text}")

    def swapping() -> None:
        while time.monotonic() < end:
            site.mount(saying("swap"), "/swap", replace=True)

    def coming() -> None:
        while time.monotonic() < end:
            site.mount(saying("come"), "/come").unmount()

    threads = [threading.Thread(target=t) for t in (requesting, requesting, swapping, coming)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong


@pytest.mark.usefixtures("hasty")
def test_a_drained_mount_is_never_entered_again() -> None:
    """Who drained it may close what it needs; a late request must find the next mount."""
    site = Site()
    late: list[str] = []
    end = time.monotonic() + 1.0

    def replace() -> None:
        while time.monotonic() < end:
            mount = site.mounts[0]
            closed = mount.app
            site.mount(_Closable(late), "/x", replace=True)
            assert mount.drain(10)
            closed.closed = True  # type: ignore[attr-defined]

    def request() -> None:
        while time.monotonic() < end:
            assert ask(site.wsgi, "/x/y").code == 200

    site.mount(_Closable(late), "/x")
    threads = [threading.Thread(target=t) for t in (replace, request, request, request)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not late
    assert site.mounts[0].in_flight == 0


class _Closable:
    def __init__(self, late: list[str]) -> None:
        self.closed = False
        self.late = late

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        if self.closed:
            self.late.append("entered after it was drained")
        start_response("200 OK", [])
        return [b"x"]


def test_the_face_is_one_object_for_life(site: Site) -> None:
    """Servers are given it once."""
    face = site.wsgi
    site.mount(saying("x"), "/new")
    site.configure(development=True)
    assert site.wsgi is face


def test_ten_thousand_mounts_take_no_age() -> None:
    """Each change makes a new table; that must not be felt."""
    site = Site()
    begun = time.process_time()
    handles: list[Mount] = [site.mount(saying("x"), f"/m{number}") for number in range(3000)]
    assert time.process_time() - begun < 5
    assert ask(site.wsgi, "/m2999/x").code == 200
    assert len(handles) == len(site.mounts)


def test_a_site_tells_which_mount_a_request_goes_to() -> None:
    """For who shows what is going on, without taking part in it."""
    site = Site()
    blog = site.mount(saying("x"), "/blog")
    assert site.find(environ_of("/blog/1")) is blog
    assert site.find(environ_of("/wiki")) is None
    other = site.mount(saying("y"), "/", host="a.example")
    assert site.find(environ_of("/blog", host="a.example")) is other
    site.configure(strict_hosts=True)
    assert site.find(environ_of("/blog", host="b.example")) is None
