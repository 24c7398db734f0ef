"""Whose socket it is, where it is, and when it is gone."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sitebus.config import DEFAULT, TABLE, Override, read
from sitebus.control import from_configuration, places
from sitebus.control.socketplugin import ControlSocket
from sitebus.errors import (
    CannotControl,
    ConfigErrors,
    ControlSocketInUse,
    MayNotControl,
)
from sitebus.machine import State
from sitebus.process import Engine
from sitebus.sockets import Sockets
from tests.control.clients import NOBODY, as_nobody, ask
from tests.control.conftest import Make
from tests.helpers import nothing_left

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this user a runtime directory."""
    folder = tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    """Answer what to do at the end of the test."""
    with ExitStack() as stack:
        yield stack


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({}, 0o600),
        ({"mode": 0o640}, 0o640),
        ({"group": str(os.getegid())}, 0o660),
        ({"viewers": ("root",)}, 0o666),
        ({"operators": ("root",), "mode": 0o600}, 0o600),
    ],
)
def test_the_file_is_as_private_as_it_may_be(
    make: Make, settings: dict[str, Any], mode: int
) -> None:
    """Nobody else reaches it unless the configuration says so."""
    assert mode_of(make(**settings)) == mode


def test_a_stale_file_is_replaced(make: Make, tmp_path: Path) -> None:
    """The one before was killed."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "control.sock"))
    assert ask(make(), "GET", "/v1/version").status == 200


def test_it_is_gone_after_the_exit(make: Make, engine: Engine) -> None:
    """So are its thread and its descriptors, as the engine's fixture sees to."""
    with nothing_left():
        path = make()
        engine.exit()
        assert not path.exists()


def test_an_engine_can_be_renewed(make: Make, engine: Engine) -> None:
    """A host that serves one site after another."""
    path = make()
    engine.exit()
    engine.renew()
    engine.start()
    assert ask(path, "GET", "/v1/version").status == 200


def test_somebody_elses_socket_is_left_alone(make: Make, tmp_path: Path, engine: Engine) -> None:
    """The start is refused, in one sentence that says who has it."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ControlSocketInUse) as refused:
            make()
        assert engine.state is State.EXITING
        assert path.exists()
    assert refused.value.status == 69
    assert str(refused.value).startswith(
        f"cannot make the control socket {path}: address already in use"
    )
    assert str(refused.value).endswith("or set another path with [control] socket")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_socket_is_left_alone(make: Make, tmp_path: Path) -> None:
    """It may be somebody's letters."""
    path = tmp_path / "control.sock"
    path.write_text("letters")
    with pytest.raises(ControlSocketInUse, match="a file that is no socket is there"):
        make()
    assert path.read_text() == "letters"


def test_a_folder_that_is_not_there_is_said_so(make: Make, tmp_path: Path) -> None:
    """Making it would need to know for whom."""
    path = tmp_path / "away" / "control.sock"
    with pytest.raises(CannotControl) as refused:
        make(path=path)
    assert refused.value.status == 73
    assert f"there is no directory {path.parent}" in str(refused.value)


def test_a_path_that_is_too_long_is_said_so(make: Make, tmp_path: Path) -> None:
    """The system has room for a hundred characters."""
    with pytest.raises(CannotControl) as refused:
        make(path=tmp_path / ("x" * 120))
    assert refused.value.status == 73


@needs_root
def test_a_folder_of_somebody_elses_is_said_so(tmp_path: Path) -> None:
    """And nothing is left of the start."""
    for folder in tmp_path.parents:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)
    tmp_path.chmod(0o755)

    def start() -> list[Any]:
        engine = Engine()
        ControlSocket(engine, tmp_path / "control.sock").subscribe()
        try:
            engine.start()
        except MayNotControl as error:
            return [error.status, str(error)]
        return [0, "it started"]

    status, sentence = as_nobody(start)
    assert status == 77
    assert f"let user {NOBODY} write in {tmp_path}" in sentence


def configured(engine: Engine, tmp_path: Path, text: str = "") -> list[ControlSocket]:
    path = tmp_path / "site.ini"
    path.write_text(f"[site]\nname = shop\n{text}")
    found = list(from_configuration(read(path), engine))
    assert all(isinstance(each, ControlSocket) for each in found)
    return found  # type: ignore[return-value]


def test_by_default_it_is_in_the_runtime_directory(
    engine: Engine, tmp_path: Path, runtime: Path
) -> None:
    """Where sitebus-ctl looks for it."""
    (plugin,) = configured(engine, tmp_path)
    plugin.subscribe()
    engine.start()
    path = runtime / "sitebus" / "shop.sock"
    assert ask(path, "GET", "/v1/version").said["config"] == str(tmp_path / "site.ini")
    assert mode_of(path.parent) == 0o700


def test_two_of_the_same_name_have_one_each(engine: Engine, tmp_path: Path, runtime: Path) -> None:
    """Many a site has no name; that must not keep the second from starting."""
    (plugin,) = configured(engine, tmp_path)
    other = Engine()
    namesake = ControlSocket(other, name="shop")
    for each, bus in ((plugin, engine), (namesake, other)):
        each.subscribe()
        bus.start()
    sockets = sorted((runtime / "sitebus").iterdir())
    other.exit()
    assert [path.name for path in sockets] == [f"shop.{os.getpid()}.sock", "shop.sock"]
    assert [path.name for path in (runtime / "sitebus").iterdir()] == ["shop.sock"]


def test_a_restart_as_another_user_keeps_the_socket(
    engine: Engine,
    tmp_path: Path,
    runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
    undo: ExitStack,
) -> None:
    """Who dropped privileges has another directory, and must not lose the clients of this one."""
    (plugin,) = configured(engine, tmp_path)
    plugin.subscribe()
    engine.start()
    path = runtime / "sitebus" / "shop.sock"
    plugin.server.close()
    plugin.execv()
    # The exec would close it here.
    undo.callback(os.close, engine.legacies["control"])
    with engine.sockets.hand_down(engine.legacies) as legacy:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(elsewhere))
        successor = Engine()
        # As after an exec: they are open there, and nobody else knows of them.
        kept = [os.dup(fd) for fd in legacy.fds]
        told = legacy.environ["SITEBUS_HANDED_DOWN"]
        for old, new in zip(legacy.fds, kept, strict=True):
            told = told.replace(f":{old}.", f":{new}.")
        successor._sockets = Sockets({"SITEBUS_HANDED_DOWN": told})
        again = ControlSocket(successor, name="shop")
        again.subscribe()
        successor.start()
        assert ask(path, "GET", "/v1/version").said["boot"] == again.boot
        assert not (elsewhere / "sitebus").exists()
        successor.exit()
        assert not path.exists()


@pytest.mark.parametrize(
    ("name", "file"), [("My Shop/€", "My_Shop__"), ("..", "site"), ("x" * 99, "x" * 60)]
)
def test_any_name_makes_a_file(name: str, file: str) -> None:
    """A site's name is any text."""
    assert os.path.basename(places.paths(name)[0]) == f"{file}.sock"


def test_a_directory_that_others_may_write_in_is_not_used(
    engine: Engine, tmp_path: Path, runtime: Path
) -> None:
    """What is asked for is refused; what nobody asked for is a warning, and the site starts."""
    (runtime / "sitebus").mkdir()
    (runtime / "sitebus").chmod(0o777)
    logged: list[str] = []
    engine.subscribe("log", lambda message, level=20: logged.append(message))
    (plugin,) = configured(engine, tmp_path)
    plugin.subscribe()
    engine.start()
    expected = f"others may write in {runtime / 'sitebus'}"
    assert any(expected in each and "has no control socket" in each for each in logged)
    assert not plugin.server.is_open
    engine.exit()

    engine.renew()
    plugin.unsubscribe()
    (asked,) = configured(engine, tmp_path, "[control]\nenabled = yes\n")
    asked.subscribe()
    with pytest.raises(MayNotControl, match=expected):
        engine.start()
    asked.unsubscribe()


def test_a_runtime_directory_of_somebody_elses_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who becomes another user keeps the variable."""
    assert places.folder({"XDG_RUNTIME_DIR": str(tmp_path)}) == str(tmp_path / "sitebus")
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    expected = f"/tmp/t/sitebus-{NOBODY}/sitebus"
    assert places.folder({"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": "/tmp/t"}) == expected
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert places.folder({}) == "/run/sitebus"


def test_it_can_be_turned_off(engine: Engine, tmp_path: Path) -> None:
    """Then there is no plugin at all."""
    assert configured(engine, tmp_path, "[control]\nenabled = no\n") == []


def test_without_a_file_it_is_there_only_if_asked_for(engine: Engine, tmp_path: Path) -> None:
    """A script that serves one application is no site that somebody runs."""
    assert list(from_configuration(read(None), engine)) == []
    path = str(tmp_path / "x.sock")
    override = Override("control", "socket", path, "-o")
    assert len(list(from_configuration(read(None, TABLE, overrides=[override]), engine))) == 1


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("mode = rw", "expected the permissions of a file in octal, such as 600 or 660"),
        ("group = rooot", "expected a group of this system, by name or number"),
        ("operators = @rooot", "expected a group of this system, by name or number"),
        ("operators = nobdy", "did you mean 'nobody'?"),
        ("viewers = 99999999999", "expected a user of this system"),
        ("enabled = perhaps", "expected yes or no"),
    ],
)
def test_a_wrong_setting_is_told_with_its_line(
    engine: Engine, tmp_path: Path, line: str, sentence: str
) -> None:
    """Like every other setting."""
    with pytest.raises(ConfigErrors) as refused:
        configured(engine, tmp_path, f"[control]\n{line}\n")
    assert "site.ini:4" in str(refused.value)
    assert sentence in str(refused.value)


def test_the_defaults_say_nothing() -> None:
    """So that it is known whether somebody asked for it."""
    told = read(None).one("control")
    assert all(value.origin == DEFAULT for value in told.details)
