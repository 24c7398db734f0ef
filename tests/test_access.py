"""The access log: one truthful line for each request, that no client can forge."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sitebus.errors import CannotWriteLog
from sitebus.mounts import Site
from sitebus.mounts.access import AccessLog
from tests.helpers import wait_for
from tests.wsgi_helpers import ask, environ_of, nothing, saying, served

LINE = re.compile(
    r'(?P<address>\S+) - (?P<user>\S+) \[(?P<time>[^\]]+)\] "(?P<request>(?:[^"\\]|\\.)*)" '
    r'(?P<status>\d{3}) (?P<size>\d+) "(?P<referer>(?:[^"\\]|\\.)*)" '
    r'"(?P<agent>(?:[^"\\]|\\.)*)" "(?P<mount>(?:[^"\\]|\\.)*)" (?P<ms>\d+\.\d{3})'
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def streaming(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("206 Partial Content", [("Content-Type", "text/plain")])
    yield b"abc"
    yield b""
    yield b"defg"


def writing(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("201 Created", [])(b"12345")
    return [b"6"]


def failing(environ: Any, start_response: Any) -> Iterable[bytes]:
    raise SystemExit


def breaking(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"half"
    raise SystemExit


def site_with(log: AccessLog) -> Site:
    site = Site(access_log=log, on_error=lambda *_: None)
    site.mount(saying("x"), "/app")
    site.mount(saying("x"), "/deep/er", name="deep one")
    site.mount(streaming, "/stream")
    site.mount(writing, "/write")
    site.mount(failing, "/fail")
    site.mount(saying("x"), "/slash", slash="redirect")
    return site


def lines(path: Path) -> list[dict[str, str]]:
    found = [LINE.fullmatch(line) for line in path.read_text("ascii").splitlines()]
    return [match.groupdict() for match in found if match]


def test_a_line_for_each_request_under_its_mounts_name(path: Path) -> None:
    """Those that the site answers itself too; the label is never the client's path."""
    with AccessLog(path) as log:
        site = site_with(log)
        for asked in ("/app/x?q=1", "/deep/er", "/stream", "/write", "/fail", "/none", "/slash"):
            ask(site.wsgi, asked)
        ask(site.wsgi, "/app", REQUEST_METHOD="HEAD")
    found = [(line["request"], line["status"], line["size"], line["mount"]) for line in lines(path)]
    assert found == [
        ("GET /app/x?q=1 HTTP/1.1", "200", "13", "/app"),
        ("GET /deep/er HTTP/1.1", "200", "15", "deep one"),
        ("GET /stream HTTP/1.1", "206", "7", "/stream"),
        ("GET /write HTTP/1.1", "201", "6", "/write"),
        ("GET /fail HTTP/1.1", "500", "26", "/fail"),
        ("GET /none HTTP/1.1", "404", "14", "-"),
        ("GET /slash HTTP/1.1", "308", "23", "/slash"),
        ("HEAD /app HTTP/1.1", "200", "0", "/app"),
    ]


def test_a_line_says_who_when_and_how_long(path: Path) -> None:
    """In the form that every log tool reads, with two fields behind it."""
    with AccessLog(path) as log:
        site = site_with(log)
        ask(
            site.wsgi,
            "/app",
            REMOTE_USER="eve",
            HTTP_REFERER="http://r/",
            HTTP_USER_AGENT="curl/8",
            REQUEST_URI="/as%20asked?x",
        )
    [line] = lines(path)
    assert line["address"] == "127.0.0.1"
    assert line["user"] == "eve"
    assert (line["referer"], line["agent"]) == ("http://r/", "curl/8")
    assert line["request"] == "GET /as%20asked?x HTTP/1.1"
    assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}", line["time"])
    assert float(line["ms"]) < 1000


def test_a_response_that_breaks_off_is_logged_with_what_was_out(path: Path) -> None:
    """It is the one that is looked for."""
    with AccessLog(path) as log:
        site = Site(access_log=log, on_error=lambda *_: None)
        site.mount(breaking, "/break")
        response: Any = site.wsgi(environ_of("/break"), nothing)
        with contextlib.suppress(ConnectionResetError):
            list(response)
        response.close()
    [line] = lines(path)
    assert (line["status"], line["size"]) == ("200", "4")


def test_the_line_is_written_when_the_response_ends(path: Path) -> None:
    """The time it took is the client's, not only the application's."""
    with AccessLog(path) as log:
        site = site_with(log)
        for asked in ("/app", "/stream"):
            response: Any = site.wsgi(environ_of(asked), nothing)
            before = path.read_text()
            list(response)
            assert path.read_text() == before
            response.close()
            assert path.read_text() != before
            response.close()
    assert len(lines(path)) == 2


EVIL = [
    'a" 200 1 "-" "-"\n127.0.0.1 - - forged',
    "line\r\nbreak",
    "back\\slash",
    "null\0",
    "\x1b[31mred",
    "\x7f",
    "caf\xc3\xa9",
    "\x85\u2028",
    "\\",
    '"',
]


CLIENTS_OWN = (
    "REQUEST_URI", "HTTP_USER_AGENT", "HTTP_REFERER", "REMOTE_USER", "PATH_INFO", "REQUEST_METHOD",
)  # fmt: skip


@pytest.mark.parametrize("form", ["combined", "json"])
@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("where", CLIENTS_OWN)
def test_no_client_can_forge_a_line(path: Path, form: Any, evil: str, where: str) -> None:
    """A log that a client can write is no witness."""
    with AccessLog(path, form) as log:
        log.record({**environ_of("/"), where: evil}, "200 OK", 1, 0.1, 'mount "quoted"\n')
    raw = path.read_bytes()
    assert raw.count(b"\n") == 1
    assert raw.endswith(b"\n")
    assert all(32 <= byte < 127 for byte in raw[:-1])
    if form == "json":
        assert json.loads(raw)["mount"] == 'mount "quoted"\n'
    elif where != "REMOTE_USER":
        [line] = lines(path)
        assert line["status"] == "200"


def test_json_lines_carry_the_same(path: Path) -> None:
    """For tools that would rather not parse."""
    with AccessLog(path, "json") as log:
        ask(site_with(log).wsgi, "/app/é?q", HTTP_USER_AGENT='say "x"')
    [line] = map(json.loads, path.read_text().splitlines())
    assert line.pop("ms") < 1000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", line.pop("time"))
    assert line == {
        "address": "127.0.0.1", "user": "", "method": "GET", "uri": "/app/%E9?q",
        "protocol": "HTTP/1.1", "status": 200, "bytes": 14, "referer": "",
        "agent": 'say "x"', "mount": "/app",
    }  # fmt: skip


def test_reopening_follows_a_rotation(path: Path) -> None:
    """The rotation moves the file away and says so."""
    with AccessLog(path) as log:
        site = site_with(log)
        ask(site.wsgi, "/app")
        moved = path.rename(path.with_suffix(".1"))
        log.reopen()
        ask(site.wsgi, "/app")
    assert (len(lines(moved)), len(lines(path))) == (1, 1)


def test_a_rotation_is_noticed_within_a_second(path: Path) -> None:
    """Some move the file and tell nobody; nothing may be lost meanwhile."""
    asked = 0

    def ask_once_more() -> bool:
        nonlocal asked
        asked += 1
        ask(site.wsgi, "/app")
        return path.exists()

    with AccessLog(path) as log:
        site = site_with(log)
        assert ask_once_more()
        moved = path.rename(path.with_suffix(".1"))
        wait_for(ask_once_more)
    assert len(lines(moved)) + len(lines(path)) == asked


def test_the_directory_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon goes elsewhere, and the log stays."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with AccessLog("log") as log:
        monkeypatch.chdir(tmp_path / "elsewhere")
        log.reopen()
        ask(site_with(log).wsgi, "/app")
    assert len(lines(tmp_path / "log")) == 1


def test_nothing_is_lost_while_threads_write_and_files_rotate(path: Path) -> None:
    """Each line is one write to a descriptor that is never a closed one."""
    with AccessLog(path) as log:
        site = site_with(log)
        threads = [
            threading.Thread(target=lambda: [ask(site.wsgi, "/app") for _ in range(300)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        rotated = 0
        while any(thread.is_alive() for thread in threads) and rotated < 50:
            rotated += 1
            with contextlib.suppress(FileNotFoundError):
                path.rename(path.with_suffix(f".{rotated}"))
            log.reopen()
        for thread in threads:
            thread.join(30)
    files = list(path.parent.iterdir())
    assert sum(len(lines(file)) for file in files) == 1200
    assert log.lost == 0


def test_a_log_that_cannot_be_opened_is_said_so(tmp_path: Path) -> None:
    """Before anything is served; and a failing reopen leaves the log as it was."""
    with pytest.raises(CannotWriteLog, match="no such file or directory") as caught:
        AccessLog(tmp_path / "none" / "access.log").open()
    assert caught.value.status == 73
    folder = tmp_path / "logs"
    folder.mkdir()
    with AccessLog(folder / "access.log") as log:
        moved = folder.rename(tmp_path / "moved")
        with pytest.raises(CannotWriteLog):
            log.reopen()
        ask(site_with(log).wsgi, "/app")
    assert len(lines(moved / "access.log")) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_costs_lines_and_no_response(caplog: pytest.LogCaptureFixture) -> None:
    """And is said once, not for every request."""
    with AccessLog("/dev/full") as log:
        site = site_with(log)
        for _ in range(5):
            assert ask(site.wsgi, "/app").code == 200
    assert log.lost == 5
    [record] = [each for each in caplog.records if each.name == "sitebus.access"]
    assert record.levelno == logging.ERROR


def test_standard_output_is_a_target(capfd: pytest.CaptureFixture[str]) -> None:
    """As containers want it."""
    with AccessLog("-") as log:
        ask(site_with(log).wsgi, "/app")
        log.reopen()
    assert LINE.fullmatch(capfd.readouterr().out.rstrip("\n"))
    os.fstat(1)


def test_the_log_can_be_switched_on_and_off(path: Path) -> None:
    """What is not logged costs nothing."""
    site = Site()
    site.mount(saying("x"), "/app")
    with AccessLog(path) as log:
        site.configure(access_log=log)
        ask(site.wsgi, "/app")
        site.configure(access_log=False)
        ask(site.wsgi, "/app")
        site.configure(access_log=log)
        log.close()
        ask(site.wsgi, "/app")
    assert len(lines(path)) == 1


def test_a_real_server_ends_what_it_answers(path: Path) -> None:
    """The line is there once the client has its answer and the server is done."""
    with AccessLog(path) as log:
        with served(site_with(log).wsgi) as (server, _):
            client = http.client.HTTPConnection("127.0.0.1", server.bind_addr[1], timeout=10)
            with contextlib.closing(client):
                for asked in ("/app", "/stream", "/write", "/fail", "/none"):
                    client.request("GET", asked)
                    client.getresponse().read()
        assert [line["status"] for line in lines(path)] == ["200", "206", "201", "500", "404"]
