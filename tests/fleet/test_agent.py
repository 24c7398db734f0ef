"""What runs on hosts: on any Python from 3.8 on, with nothing but its standard library."""

from __future__ import annotations

import ast
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sitebus import fleet
from sitebus.errors import NoSite, SiteDenied, SiteRefused, VersionMismatch
from sitebus.fleet import agent_http, agent_site
from sitebus.fleet.sources import agent_sources
from tests.fleet import inis
from tests.helpers import PATIENCE, ROOT

MODULES = sorted((ROOT / "sitebus" / "fleet").glob("agent*.py"))
OLDEST = (3, 8)


def pythons() -> list[Path]:
    """Answer the other interpreters of this machine, from the oldest that is supported on."""
    found = []
    for path in sorted(Path.home().glob(".pyenv/versions/*/bin/python")):
        version = tuple(map(int, path.parent.parent.name.split(".")[:2]))
        if version >= OLDEST:
            found.append(path)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_syntax_is_that_of_the_oldest_python(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=OLDEST)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_is_imported_but_the_standard_library(path: Path) -> None:
    """But each other, in the form that is told to hosts by another name."""
    wrong = []
    siblings = {each.stem for each in MODULES}
    for node in ast.walk(ast.parse(path.read_text())):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            module = node.module or "."
            names += [] if module.removeprefix("sitebus.fleet.") in siblings else [module]
        wrong += [each for each in names if each.partition(".")[0] not in sys.stdlib_module_names]
    assert not wrong


@pytest.mark.parametrize("python", pythons(), ids=lambda path: path.parent.parent.name)
def test_it_runs_on_other_pythons(python: Path, tmp_path: Path) -> None:
    """Each call a fleet makes of it: on 3.8 as on the newest."""
    text = f"python = {python}\n[site]\nsocket = {tmp_path}/none.sock\n"
    with (
        inis.module(tmp_path, "older_ops") as ops,
        fleet.open(inis.write(tmp_path / "fleet.ini", text), allow=("older_ops",)) as one,
    ):
        host = one["web1"]
        assert host.facts()["python"] == python.parent.parent.name
        assert host.call(ops.add, 1, b=2) == 3
        assert list(host.stream(ops.count, 3)) == [0, 1, 2]
        assert host.exec(["cat"], input="x").out == "x"
        assert list(host.exec_stream(["echo", "y"])) == [("out", "y\n"), ("status", 0)]
        with host.duplex(ops.echo, "hi") as wire:
            assert next(iter(wire)) == b"hi"
        with pytest.raises(NoSite, match="no site answers on"):
            host.engine.status()
        (tmp_path / "served").mkdir()
        with answering(tmp_path / "served" / "x.sock", b'{"api": 1, "name": "x"}') as path:
            told = host.ask(agent_site.look, {"socket": str(path)}, "version")
            assert told == {"api": 1, "name": "x"}
        for path in MODULES:
            name = f"sitebus_agent.{path.stem}"
            assert host.call(ops.has_module, name) == name


# Who answers on a socket.


@contextmanager
def answering(
    path: Path, body: bytes, status: str = "200 OK", kind: str = "application/json"
) -> Iterator[Path]:
    """Answer the same to everybody on a unix socket."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    sock, _ = listening.accept()
                except OSError:
                    return
                with sock:
                    sock.recv(1 << 16)
                    sock.sendall(head.encode() + body)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
    path.unlink()


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory of this user's, where control sockets may be."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "sitebus"
    folder.mkdir(mode=0o700)
    return folder


def version(name: str, api: object = 1, config: str = "") -> bytes:
    return json.dumps({"api": api, "name": name, "config": config, "sitebus": "9.0"}).encode()


@pytest.mark.parametrize(
    ("api", "told"),
    [
        (2, "speaks protocol 2, and this is protocol 1; use the sitebus-fleet of its release"),
        (0, "speaks protocol 0, and this is protocol 1; restart it with a newer sitebus"),
        (None, "speaks no protocol of sitebus, and this is protocol 1; name its control socket"),
    ],
)
def test_a_site_of_another_protocol_is_told_in_one_sentence(
    tmp_path: Path, api: object, told: str
) -> None:
    text = f"[site]\nsocket = {tmp_path}/x.sock\n"
    with (
        answering(tmp_path / "x.sock", version("x", api)) as path,
        fleet.open(inis.write(tmp_path / "fleet.ini", text)) as one,
        pytest.raises(VersionMismatch) as caught,
    ):
        one["web1"].engine.graceful()
    assert str(caught.value).startswith(f"web1: what answers on {path} {told}")
    assert caught.value.fields["sitebus"] == "9.0"


@pytest.mark.parametrize(
    ("status", "body", "error", "told"),
    [
        ("500 Oops", b'"oops"', agent_http.SiteRefused, "the site answers with status 500"),
        ("403 Forbidden", b'{"error": "user 7 may look"}', agent_http.SiteDenied, "user 7 may"),
        ("200 OK", b"{", agent_http.Ended, "has ended"),
        ("200 OK", b"[]", agent_site.VersionMismatch, "no protocol of sitebus"),
        ("oops", b"", agent_http.Ended, "has ended"),
        ("200 OK\r\nContent-Length: many", b"{}", agent_site.VersionMismatch, "no protocol of"),
    ],
)
def test_what_makes_no_sense_is_told(
    tmp_path: Path, status: str, body: bytes, error: type[Exception], told: str
) -> None:
    with (
        answering(tmp_path / "x.sock", body, status) as path,
        pytest.raises(error, match=told),
    ):
        agent_site.find({"socket": str(path)})


def test_errors_of_the_site_are_errors_here(tmp_path: Path) -> None:
    text = f"[site]\nsocket = {tmp_path}/x.sock\n"
    with fleet.open(inis.write(tmp_path / "fleet.ini", text)) as one:
        with (
            answering(tmp_path / "x.sock", b'{"error": "no"}', "403 Forbidden"),
            pytest.raises(SiteDenied, match=r"^web1: no$"),
        ):
            one["web1"].engine.status()
        with (
            answering(tmp_path / "x.sock", b'{"error": "busy", "job": {}}', "409 Conflict"),
            pytest.raises(SiteRefused, match=r"^web1: busy$") as caught,
        ):
            one["web1"].engine.status()
        assert caught.value.fields["more"] == {"job": {}}


def test_a_site_is_found_by_its_name(runtime: Path) -> None:
    with answering(runtime / "a.sock", version("a")), answering(runtime / "b.sock", version("b")):
        assert agent_site.find({"socket": "b"})[0] == str(runtime / "b.sock")
        with pytest.raises(agent_http.NoSite, match="no site named 'c' is running"):
            agent_site.find({"socket": "c"})


def test_the_only_site_needs_no_name(runtime: Path) -> None:
    (runtime / "stale.sock").touch()
    with answering(runtime / "a.sock", version("a")):
        assert agent_site.find({})[1]["name"] == "a"
        with (
            answering(runtime / "b.sock", version("b")),
            pytest.raises(agent_http.NoSite, match=r"several sites are running; say one of"),
        ):
            agent_site.find({})


def test_a_site_is_found_by_its_file_wherever_a_link_leads(runtime: Path, tmp_path: Path) -> None:
    for name in ("r1", "r2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "site.ini").touch()
    current = tmp_path / "current"
    current.symlink_to("r1")
    file = str(current / "site.ini")
    with answering(runtime / "a.sock", version("a", config=file)):
        assert agent_site.find({"ini": file})[1]["name"] == "a"
        current.unlink()
        current.symlink_to("r2")
        assert agent_site.find({"ini": file})[1]["name"] == "a"


def test_a_site_is_found_by_the_socket_that_its_file_says(runtime: Path, tmp_path: Path) -> None:
    path = tmp_path / "site.ini"
    path.write_text("[site]\nsocket = wrong\n[control]\n# a remark\nsocket = ${here}/c.sock\n")
    with pytest.raises(agent_http.NoSite, match="no site answers on"):
        agent_site.find({"ini": str(path)})
    with answering(tmp_path / "c.sock", version("c", config=str(path))):
        assert agent_site.find({"ini": str(path)})[1]["name"] == "c"
    path.write_text("[site]\n")
    with pytest.raises(agent_http.NoSite, match="no site that serves"):
        agent_site.find({"ini": str(path)})


def test_a_folder_that_others_may_write_in_is_not_believed(runtime: Path) -> None:
    with answering(runtime / "a.sock", version("a")):
        runtime.chmod(0o777)
        with pytest.raises(agent_http.NoSite, match="no site of this user is running"):
            agent_site.find({})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")
def test_a_socket_that_this_user_may_not_use_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from sitebus_agent import agent_site\n"
        "try: agent_site.find({'socket': sys.argv[2]})\n"
        "except agent_site.SiteError as error: print(error)"
    )
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    with answering(folder / "a.sock", version("a")) as path:
        for name, (_, source) in agent_sources().items():
            copied = tmp_path / (name.replace(".", "/") + ".py" * ("." in name))
            copied = copied if "." in name else copied / "__init__.py"
            copied.parent.mkdir(exist_ok=True)
            copied.write_bytes(source)
        for parent in [tmp_path, *tmp_path.parents[:2]]:
            parent.chmod(0o755)
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-c", program, str(tmp_path), str(path)],
            user=65534,
            capture_output=True,
            text=True,
            check=False,
        )
    assert "may not use the control socket" in done.stdout, done.stderr
