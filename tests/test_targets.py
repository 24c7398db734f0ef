"""What may stand behind ``app =``, and what a folder of files and a redirect answer."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import sys
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

from sitebus.errors import (
    AppFileNotFound,
    AppImportError,
    BadReference,
    NotAnApplication,
    SitebusError,
)
from sitebus.interfaces import Interface
from sitebus.mounts import Site
from sitebus.targets import Redirect, StaticFiles, examine, open_target
from tests.wsgi_helpers import (
    Answer,
    as_nobody,
    ask,
    environ_of,
    nothing,
    served,
    shared_folder,
)

TEXT = "".join(f"line {number}\n" for number in range(1000))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / ".git").mkdir()
    (folder / ".well-known").mkdir()
    for name, text in {
        "a.txt": TEXT,
        "sub/index.html": "<p>index",
        "sub/ü b.css": "p {}",
        "zero.bin": "",
        "noext": "data",
        ".env": "secret",
        ".git/config": "secret",
        ".well-known/security.txt": "Contact: x",
    }.items():
        (folder / name).write_text(text)
    (folder / "pack.tar.gz").write_bytes(gzip.compress(b"x"))
    (tmp_path / "outside.txt").write_text("secret")
    (tmp_path / "files-too").mkdir()
    (tmp_path / "files-too" / "b.txt").write_text("secret")
    (folder / "out").symlink_to(tmp_path / "outside.txt")
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "in").symlink_to(folder / "a.txt")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
def files(folder: Path) -> StaticFiles:
    return StaticFiles(str(folder))


def test_a_file_comes_with_what_describes_it(folder: Path, files: StaticFiles) -> None:
    """So that browsers show it, caches keep it and downloads resume."""
    answer = ask(files, "/a.txt")
    assert answer.text == TEXT
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(TEXT))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Last-Modified"] == formatdate(
        int((folder / "a.txt").stat().st_mtime), usegmt=True
    )
    assert answer.headers["ETag"].startswith('"')
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/sub/ü b.css", "text/css; charset=utf-8"),
        ("/noext", "application/octet-stream"),
        ("/zero.bin", "application/octet-stream"),
        ("/pack.tar.gz", "application/gzip"),
        ("/sub/", "text/html; charset=utf-8"),
        ("/in", "text/plain; charset=utf-8"),
        ("/.well-known/security.txt", "text/plain; charset=utf-8"),
    ],
)
def test_types(files: StaticFiles, path: str, kind: str) -> None:
    """An archive is a file of its own: no browser may unpack it on the way."""
    answer = ask(files, path.encode().decode("latin-1"))
    assert answer.code == 200
    assert answer.headers["Content-Type"] == kind
    assert "Content-Encoding" not in answer.headers


def test_a_known_file_is_not_sent_again(files: StaticFiles) -> None:
    """By its tag, or by its date."""
    first = ask(files, "/a.txt")
    for header, value, code in [
        ("HTTP_IF_NONE_MATCH", first.headers["ETag"], 304),
        ("HTTP_IF_NONE_MATCH", f'"x", W/{first.headers["ETag"]}', 304),
        ("HTTP_IF_NONE_MATCH", "*", 304),
        ("HTTP_IF_NONE_MATCH", '"other"', 200),
        ("HTTP_IF_MODIFIED_SINCE", first.headers["Last-Modified"], 304),
        ("HTTP_IF_MODIFIED_SINCE", formatdate(0, usegmt=True), 200),
        ("HTTP_IF_MODIFIED_SINCE", "nonsense", 200),
    ]:
        answer = ask(files, "/a.txt", **{header: value})
        assert (header, value, answer.code) == (header, value, code)
        assert bool(answer.body) == (code == 200)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=-5", -5, None), ("bytes=50-", 50, None),
     ("bytes=8000-99999", 8000, None)],
)  # fmt: skip
def test_a_part_can_be_asked_for(
    files: StaticFiles, asked: str, start: int, stop: int | None
) -> None:
    """Downloads resume, films seek."""
    answer = ask(files, "/a.txt", HTTP_RANGE=asked)
    assert answer.code == 206
    assert answer.text == TEXT[start:stop]
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["Content-Range"].endswith(f"/{len(TEXT)}")


def test_a_part_that_cannot_be_had(files: StaticFiles) -> None:
    """Beyond the end is 416; of another version, or nonsense, the whole file."""
    answer = ask(files, "/a.txt", HTTP_RANGE="bytes=99999-")
    assert answer.code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(TEXT)}"
    for extra in (
        {"HTTP_RANGE": "bytes=0-1", "HTTP_IF_RANGE": '"other"'},
        {"HTTP_RANGE": "lines=0-1"},
        {"HTTP_RANGE": "bytes=x-y"},
        {"HTTP_RANGE": "bytes=0-1,5-6"},
    ):
        assert ask(files, "/a.txt", **extra).text == TEXT
    tag = ask(files, "/a.txt").headers["ETag"]
    assert ask(files, "/a.txt", HTTP_RANGE="bytes=0-1", HTTP_IF_RANGE=tag).code == 206


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        ("HTTP_RANGE", "bytes=0-" + "9" * 5000, 200),
        ("HTTP_RANGE", "bytes=" + "9" * 5000 + "-", 200),
        ("HTTP_RANGE", "bytes=-" + "9" * 5000, 200),
        ("HTTP_RANGE", "bytes=0-" + "9" * 100, 206),
        ("HTTP_RANGE", "bytes=-" + "9" * 100, 416),
        ("HTTP_RANGE", "bytes=" + "9" * 100 + "-", 416),
        ("HTTP_IF_MODIFIED_SINCE", "Mon, 01 Jan " + "9" * 5000 + " 00:00:00 GMT", 200),
        ("HTTP_IF_MODIFIED_SINCE", "Mon, 01 Jan 99999 00:00:00 GMT", 200),
        ("HTTP_IF_MODIFIED_SINCE", "Mon, 01 Jan 99999999999999 00:00:00 GMT", 200),
        ("HTTP_IF_UNMODIFIED_SINCE", "Mon, 01 Jan 99999 00:00:00 GMT", 200),
        ("HTTP_IF_RANGE", "Mon, 01 Jan 99999 00:00:00 GMT", 200),
        ("HTTP_IF_RANGE", "some day GMT", 200),
        ("HTTP_IF_RANGE", '"' + "x" * 5000 + '"', 200),
    ],
)
def test_numbers_that_are_too_long_are_no_reason_to_miss_a_file(
    files: StaticFiles, header: str, value: str, code: int
) -> None:
    """It is there, whatever somebody asks of it."""
    asked = {"HTTP_RANGE": "bytes=0-3", header: value} if header == "HTTP_IF_RANGE" else {}
    assert ask(files, "/a.txt", **(asked or {header: value})).code == code


@pytest.mark.parametrize(
    "path",
    [
        "/none", "/../outside.txt", "/sub/../../outside.txt", "/..", "/sub/..", "/./a.txt",
        "//a.txt", "/sub//index.html", "/a.txt/", "/a.txt/x", "/\0", "/a.txt\0.png", "/out",
        "/up/outside.txt", "/loop", "/pipe", "/.env", "/.git/config", "/empty/", "/..\\outside.txt",
        "/C:/x", "/" + "a" * 5000, "/" + "a/" * 5000, "/\xff\xfe", "/../files-too/b.txt", "*",
        "/%2e%2e/outside.txt",
    ],
)  # fmt: skip
def test_what_is_not_in_the_folder_is_not_found(files: StaticFiles, path: str) -> None:
    """Whatever the path is made of; and hidden files are not there either."""
    answer = ask(files, path)
    assert answer.code == 404
    assert b"secret" not in answer.body
    assert b"/files" not in answer.body


def test_a_folder_answers_with_its_slash(files: StaticFiles) -> None:
    """Relative links in its index would break; and the redirect leads to this host only."""
    answer = ask(files, "/sub?q=1", SCRIPT_NAME="/static")
    assert (answer.code, answer.headers["Location"]) == (308, "/static/sub/?q=1")
    assert ask(files, "/sub/").text == "<p>index"
    answer = ask(files, "", SCRIPT_NAME="/static")
    assert (answer.code, answer.headers["Location"]) == (308, "/static/")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_files_can_only_be_read(files: StaticFiles, method: str) -> None:
    """And the answer says how."""
    answer = ask(files, "/a.txt", REQUEST_METHOD=method)
    assert (answer.code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_file_that_may_not_be_read_is_forbidden() -> None:
    """As the file system has it."""
    with shared_folder() as folder:
        (folder / "a.txt").write_text(TEXT)
        told = as_nobody(
            f"""
            from sitebus.targets import StaticFiles
            from tests.wsgi_helpers import ask
            files = StaticFiles({str(folder)!r})
            print(ask(files, "/a.txt").code)
            os.chmod({str(folder / "a.txt")!r}, 0)
            become_nobody()
            print(ask(files, "/a.txt").code, ask(files, "/none").code)
            """
        )
    assert told.split() == ["200", "403", "404"]


def test_every_file_is_closed(files: StaticFiles) -> None:
    """Whatever became of the request."""
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    for extra in (
        {},
        {"REQUEST_METHOD": "HEAD"},
        {"HTTP_RANGE": "bytes=1-2"},
        {"HTTP_RANGE": "bytes=1-2", "REQUEST_METHOD": "HEAD"},
        {"HTTP_RANGE": "bytes=99999-"},
        {"HTTP_IF_NONE_MATCH": "*"},
    ):
        response: Any = files(environ_of("/a.txt", **extra), nothing)
        getattr(response, "close", lambda: None)()
        del response
    assert not before or set(os.listdir("/proc/self/fd")) == before


def test_a_growing_file_sends_what_it_announced(folder: Path, files: StaticFiles) -> None:
    """More would be read as the next response."""
    announced: list[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None, /) -> Any:
        announced.append(dict(headers)["Content-Length"])

    response = files(environ_of("/a.txt"), start_response)
    with (folder / "a.txt").open("a") as file:
        file.write("more")
    assert announced == [str(len(b"".join(response)))]


def test_head_and_the_rules(files: StaticFiles) -> None:
    """Behind the validator, as on a server."""
    for path in ("/a.txt", "/none", "/sub"):
        checked: Any = validator(files)
        whole, head = ask(checked, path), ask(checked, path, REQUEST_METHOD="HEAD")
        assert head.body == b""
        assert head.headers == whole.headers


def test_a_real_server_serves_files(files: StaticFiles) -> None:
    """Mounted, over a socket, on one kept-alive connection."""
    site = Site()
    site.mount(files, "/static")
    assert site.mounts[0].framework == "static files"
    with served(site.wsgi) as (server, _):
        client = http.client.HTTPConnection("127.0.0.1", server.bind_addr[1], timeout=10)
        with contextlib.closing(client):
            for headers, code, body in [
                ({}, 200, TEXT),
                ({"Range": "bytes=0-3"}, 206, "line"),
                ({"If-None-Match": "*"}, 304, ""),
            ]:
                client.request("GET", "/static/a.txt", headers=headers)
                response = client.getresponse()
                assert (response.status, response.read().decode()) == (code, body)
            client.request("HEAD", "/static/a.txt")
            assert client.getresponse().read() == b""


# Redirects.


@pytest.mark.parametrize(
    ("url", "asked", "location"),
    [
        ("https://new.example/docs", "/x/y?q=1", "https://new.example/docs/x/y?q=1"),
        ("https://new.example/docs/", "/x", "https://new.example/docs/x"),
        ("https://new.example/docs/", "", "https://new.example/docs/"),
        ("https://new.example", "", "https://new.example"),
        ("https://new.example", "/", "https://new.example/"),
        ("https://new.example?a=1", "/x?b=2", "https://new.example/x?a=1&b=2"),
        ("https://new.example/#top", "/x", "https://new.example/x#top"),
        ("/new", "/x?q", "/new/x?q"),
        ("/", "//evil.example/x", "/evil.example/x"),
        ("https://new.example", "@evil.example", "https://new.example/@evil.example"),
        ("https://new.example", "/a b\r\nX: y", "https://new.example/a%20b%0D%0AX:%20y"),
        ("https://new.example", "/\xc3\xbc", "https://new.example/%C3%BC"),
    ],
)
def test_a_redirect_keeps_the_rest(url: str, asked: str, location: str) -> None:
    """Old links go on working; and none leads to a host that was not meant."""
    answer = ask(Redirect(url), asked)
    assert (answer.code, answer.headers["Location"]) == (308, location)


@pytest.mark.parametrize(
    ("script", "path", "uri", "location"),
    [
        # As cheroot decodes, and as others do.
        ("/r", "/a%2Fb", "/r/a%2Fb", "/new/a%2Fb"),
        ("/r", "/a/b", "/r/a%2fb?q=1", "/new/a%2fb"),
        ("/r", "/a%2Fb c", "http://here/r/a%2Fb%20c", "/new/a%2Fb%20c"),
        ("", "/50%", "/50%25", "/new/50%25"),
        ("", "/a%2Fb", "/a%252Fb", "/new/a%252Fb"),
        ("/\xc3\xbc", "/\xc3\xbc", "/%C3%BC/%c3%bc", "/new/%c3%bc"),
        ("", "/a b\\", "/a b\\", "/new/a%20b%5C"),
        ("/r", "", "/r", "/new"),
        # Somebody changed the path on the way: only what is left counts.
        ("/r", "/other", "/r/a%2Fb", "/new/other"),
        ("/r/x", "/a%2Fb", "/a%2Fb", "/new/a%252Fb"),
        ("", "/x\r\nA: b", "/x\r\nA: b", "/new/x%0D%0AA:%20b"),
    ],
)
def test_a_redirect_keeps_the_rest_as_it_was_quoted(
    script: str, path: str, uri: str, location: str
) -> None:
    """A slash within a name is another name than two names."""
    answer = ask(Redirect("/new"), path, SCRIPT_NAME=script, REQUEST_URI=uri)
    assert answer.headers["Location"] == location


def test_a_real_servers_quoted_slash_stays_one() -> None:
    """Through the mount, the prefix and the server's own decoding."""
    site = Site(merge_slashes=True)
    site.mount(Redirect("/new"), "/r")
    with served(site.wsgi) as (server, _):
        client = http.client.HTTPConnection("127.0.0.1", server.bind_addr[1], timeout=10)
        with contextlib.closing(client):
            for asked, location in [
                ("/r/a%2Fb?q=%2F", "/new/a%2Fb?q=%2F"),
                ("/r//a%2Fb", "/r/a%2Fb"),
            ]:
                client.request("GET", asked)
                response = client.getresponse()
                response.read()
                assert response.headers["Location"] == location


def test_a_redirect_can_have_another_status() -> None:
    """308 keeps the method; 301 is what old clients know."""
    app = open_target("redirect:301 https://new.example")
    assert ask(app).status == "301 Moved Permanently"
    assert ask(open_target("redirect:/x"), REQUEST_METHOD="POST").code == 308
    assert ask(open_target("redirect:/x"), REQUEST_METHOD="HEAD").body == b""


# References.


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before, path = set(sys.modules), list(sys.path)
    (tmp_path / "zmade.py").write_text(
        "def app(environ, start_response): ...\n"
        "def make(): return app\n"
        "def anything(*args): ...\n"
        "def bad(): return 1 / 0\n"
        "def none(): return None\n"
        "async def asgi(scope, receive, send): ...\n"
        "def interrupt(): raise KeyboardInterrupt\n"
        "def factories(): return make\n"
        "def make_anything(): return anything\n"
        "number = 1\n"
        "class Touchy:\n"
        "    def __getattribute__(self, name): raise SystemExit(7)\n"
        "    def __call__(self, environ, start_response): ...\n"
        "touchy = Touchy()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "interface", "certain"),
    [
        ("zmade", "wsgi", True),
        ("zmade:app", "wsgi", True),
        ("wsgi:zmade:anything", "wsgi", True),
        ("wsgi:zmade.py:anything", "wsgi", True),
        ("zmade.py", "wsgi", True),
        ("zmade.py:app", "wsgi", True),
        ("asgi:zmade:anything", "asgi3", True),
        ("zmade:asgi", "asgi3", True),
        ("factory:zmade:make", "wsgi", True),
        ("factory:zmade.py:make", "wsgi", True),
    ],
)
def test_a_reference_is_opened(modules: Path, text: str, interface: str, certain: bool) -> None:
    """What was said outright stands, the rest is looked at."""
    target = examine(text, directory=modules)
    assert (target.detected.interface, target.detected.certain) == (interface, certain)
    assert open_target(text, directory=modules) is target.app


@pytest.mark.parametrize(
    ("text", "said", "factory", "interface"),
    [
        ("zmade:app", "wsgi", False, "wsgi"),
        ("zmade:anything", "wsgi", False, "wsgi"),
        ("zmade:anything", "asgi3", False, "asgi3"),
        ("wsgi:zmade:anything", "wsgi", False, "wsgi"),
        ("asgi:zmade:anything", "asgi3", False, "asgi3"),
        ("zmade:make", None, True, "wsgi"),
        ("zmade:make", "factory", False, "wsgi"),
        ("factory:zmade:make", None, True, "wsgi"),
        ("factory:zmade:make", "factory", True, "wsgi"),
        ("factory:zmade:make_anything", "wsgi", False, "wsgi"),
        ("zmade:make_anything", "asgi3", True, "asgi3"),
        ("zmade.py:make_anything", "wsgi", True, "wsgi"),
        ("wsgi:zmade:make_anything", None, True, "wsgi"),
        ("wsgi:zmade:make_anything", "wsgi", True, "wsgi"),
        ("wsgi:zmade:make_anything", "factory", False, "wsgi"),
        ("static:.", "wsgi", False, "wsgi"),
        ("redirect:/x", "wsgi", False, "wsgi"),
    ],
)
def test_what_is_said_beside_the_text_counts_as_if_it_were_in_it(
    modules: Path, text: str, said: Interface | None, factory: bool, interface: str
) -> None:
    """A setting and a prefix are two ways to say one thing."""
    target = examine(text, directory=modules, said=said, factory=factory)
    assert target.detected.interface == interface
    assert target.app.__class__.__name__ in ("function", "StaticFiles", "Redirect")
    assert getattr(target.app, "__name__", "") not in ("make", "make_anything")


@pytest.mark.parametrize(
    ("text", "said", "factory", "part"),
    [
        ("asgi:zmade:anything", "wsgi", False, "asgi: .* wsgi was said"),
        ("wsgi:zmade:make", "asgi3", True, "wsgi: .* asgi3 was said"),
        ("static:.", "asgi3", False, "static: .* asgi3 was said"),
        ("redirect:/x", "asgi2", False, "redirect: .* asgi2 was said"),
        ("static:.", None, True, "no factory"),
        ("redirect:/x", "factory", False, "no factory"),
    ],
)
def test_what_is_said_against_the_text_is_refused(
    modules: Path, text: str, said: Interface | None, factory: bool, part: str
) -> None:
    """One of the two is a mistake, and only who wrote it knows which."""
    with pytest.raises(BadReference, match=part):
        examine(text, directory=modules, said=said, factory=factory)


def test_a_folder_may_be_at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it may in a shell."""
    monkeypatch.setenv("HOME", str(folder.parent))
    assert open_target("static:~/files").folder == str(folder)


def test_a_module_may_be_called_wsgi(modules: Path) -> None:
    """``wsgi:application`` is what half the world's deployments say."""
    (modules / "wsgi.py").write_text("def application(environ, start_response): ...\n")
    assert open_target("wsgi:application").__module__ == "wsgi"
    assert open_target("wsgi").__module__ == "wsgi"


@pytest.mark.parametrize(
    ("text", "error", "part"),
    [
        ("zmade:make", NotAnApplication, "factory:zmade:make"),
        ("factory:zmade:none", NotAnApplication, "answered None"),
        ("factory:zmade:bad", AppImportError, "ZeroDivisionError"),
        ("zmade:anything", SitebusError, "wsgi:"),
        ("statik:/srv", BadReference, "did you mean static:?"),
        ("pasta:zmade:app", BadReference, "no kind of target 'pasta'"),
        ("static:no/such", AppFileNotFound, "no such folder"),
        ("static:zmade.py", AppFileNotFound, "not a folder"),
        ("redirect:nowhere", BadReference, "http://"),
        ("redirect://evil.example", BadReference, "http://"),
        ("redirect:", BadReference, "http://"),
        ("redirect:javascript:x", BadReference, "http://"),
        ("redirect:999 /x", BadReference, "'999'"),
        ("redirect:https://x/a\tb", BadReference, "control"),
        ("redirect:https://x/\u20ac", BadReference, "ASCII"),
        ("static:", BadReference, "name a folder"),
        ("static: ", BadReference, "name a folder"),
        ("static:~nobody-of-that-name/x", AppFileNotFound, "no such folder"),
        ("factory:zmade:interrupt", AppImportError, "KeyboardInterrupt"),
        ("factory:zmade:factories", NotAnApplication, "a factory again"),
        ("zmade:touchy", AppImportError, "SystemExit: 7"),
        ("wsgi:zmade:touchy", AppImportError, "SystemExit: 7"),
        ("wsgi:zmade:number", NotAnApplication, "of type int"),
        ("", BadReference, "module:attribute"),
    ],
)
def test_what_cannot_be_opened_is_said_in_a_sentence(
    modules: Path, text: str, error: type[SitebusError], part: str
) -> None:
    """With what would work."""
    with pytest.raises(error) as caught:
        open_target(text, directory=modules)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_relative_to_the_file_that_names_it(folder: Path) -> None:
    """Not to wherever the command was given."""
    answer: Answer = ask(open_target("static:files", directory=folder.parent), "/a.txt")
    assert answer.text == TEXT


def test_a_factorys_own_traceback_is_kept(modules: Path) -> None:
    """It is the application that failed."""
    with pytest.raises(AppImportError) as caught:
        open_target("factory:zmade:bad")
    assert "zmade.py" in caught.value.traceback_text.splitlines()[1]


@pytest.mark.parametrize("scheme", ["", "wsgi:"])
def test_a_module_named_wsgi_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """It is what Django makes for every project."""
    package = tmp_path / "zproject"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "wsgi.py").write_text("def application(environ, start_response): return []")
    monkeypatch.syspath_prepend(tmp_path)
    target = examine(f"{scheme}zproject.wsgi:application", directory=tmp_path)
    assert target.app.__module__ == "zproject.wsgi"

    script = tmp_path / "zscript.wsgi"
    script.write_text("def application(environ, start_response): return []")
    assert callable(examine(f"{scheme}zscript.wsgi:application", directory=tmp_path).app)
    assert callable(examine(f"{script}", directory="/").app)
