"""A PasteDeploy file read as a configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from sitebus import assembly
from sitebus.config import Configuration, Override
from sitebus.errors import AmbiguousFile, BadPasteFile, ConfigErrors, MissingExtra
from sitebus.targets import examine

INI = """\
[DEFAULT]
debug = true

[app:main]
use = egg:not-installed
set title = 100 %%
price = $5

[server:main]
use = egg:not-installed-either#main
host = 127.0.0.1
port = %(http_port)s
threads = 4
expose_tracebacks = true

[alembic]
script_location = x:y
"""


def read(path: Path, text: str = INI, *settings: tuple[str, str], **variables: str) -> Any:
    """Answer the configuration of a file with this text, as the command line reads it."""
    path = path / "development.ini"
    path.write_text(text)
    given = [Override("paste", key, value, f"{key}={value}") for key, value in variables.items()]
    for place, value in settings:
        given.append(Override(*place.split("."), value, f"-o {place}"))  # type: ignore[call-arg]
    return assembly.read(path, overrides=given, environ={})


def binds(configuration: Configuration) -> str:
    return str(configuration.servers[0].value("bind").text)


def test_a_file_is_a_server_and_an_application(tmp_path: Path) -> None:
    """Neither egg is there: reading is not loading."""
    found = read(tmp_path, http_port="6543")
    assert binds(found) == "127.0.0.1:6543"
    assert found.servers[0]["threads"] == 4
    (mount,) = found.mounts
    assert str(mount.place) == "/"
    assert mount["app"] == "paste:development.ini#main"


def test_every_value_has_the_line_where_it_was_said(tmp_path: Path) -> None:
    """--print-config, and a mistake's message, lead there."""
    found = read(tmp_path, http_port="6543")
    assert [found.servers[0].value(key).origin.line for key in ("bind", "threads")] == [11, 13]
    assert found.mounts[0].origin.line == 4


def test_what_is_ignored_is_told_with_its_line(tmp_path: Path) -> None:
    """A line each, and nothing of what is no business of a server."""
    found = read(tmp_path, http_port="6543")
    (note,) = found.notes
    assert str(note) == (
        f"{tmp_path}/development.ini:14: [server:main] expose_tracebacks is ignored"
    )


def test_a_mistake_is_on_its_line(tmp_path: Path) -> None:
    """All of them at once, as in a site.ini."""
    text = INI.replace("threads = 4", "threads = many\nbacklog = -1")
    with pytest.raises(ConfigErrors) as caught:
        read(tmp_path, text, http_port="6543")
    lines = [str(each).removeprefix(f"{tmp_path}/") for each in caught.value.problems]
    assert [line.partition(" = ")[0] for line in lines] == [
        "development.ini:13: threads", "development.ini:14: backlog",
    ]  # fmt: skip


def test_the_command_line_beats_the_file(tmp_path: Path) -> None:
    """As in a site.ini, -w and --bind are settings."""
    found = read(
        tmp_path, INI, ("server.bind", "127.0.0.1:0"), ("workers.count", "2"), http_port="6543"
    )
    assert binds(found) == "127.0.0.1:0"
    assert found.one("workers")["count"] == 2


def test_a_value_that_is_missing_is_named(tmp_path: Path) -> None:
    """Pyramid's documentation gives it on the command line; here as well."""
    with pytest.raises(BadPasteFile, match="give it with the file, as http_port=VALUE"):
        read(tmp_path)


def test_values_are_for_files_of_paste(tmp_path: Path) -> None:
    """In a site.ini they would mean nothing, and nobody would know."""
    with pytest.raises(ConfigErrors, match="NAME=VALUE is for a PasteDeploy file"):
        read(tmp_path, "[mount /]\napp = x:y\n", http_port="6543")


def test_the_loggers_of_the_file_are_used(tmp_path: Path) -> None:
    """They are why many have such a file at all."""
    found = read(tmp_path, "[app:main]\nuse = egg:x\n[loggers]\nkeys = root\n")
    assert found.logging["config"] == tmp_path / "development.ini"
    assert read(tmp_path, "[app:main]\nuse = egg:x\n").logging["config"] is None


def test_a_server_may_be_in_another_file(tmp_path: Path) -> None:
    """production.ini often takes its server, or its application, from development.ini."""
    (tmp_path / "base.ini").write_text(
        "[server:slow]\nuse = egg:waitress#main\nport = 1\nthreads = 2\n"
    )
    text = "[app:main]\nuse = config:base.ini#shop\n[server:main]\nuse = config:base.ini#slow\n"
    found = read(tmp_path, f"{text}port = 6543\n")
    assert binds(found) == "127.0.0.1:6543"
    assert found.servers[0]["threads"] == 2
    # A reload watches both.
    assert str(tmp_path / "base.ini") in found.files


@pytest.mark.parametrize(
    "text",
    [
        "[composite:main]\nuse = egg:Paste#urlmap\n",
        "[pipeline:main]\npipeline = a b\n",
        "[filter-app:main]\nuse = egg:x\nnext = y\n",
        "[application:main]\nuse = egg:x\n",
    ],
)
def test_every_kind_of_application_is_mounted(tmp_path: Path, text: str) -> None:
    """What it is made of is PasteDeploy's own business."""
    assert read(tmp_path, text).mounts[0]["app"] == "paste:development.ini#main"


@pytest.mark.parametrize(
    ("text", "line", "rival"),
    [
        ("[app:main]\nuse = egg:x\n[mount /a]\napp = x\n", 1, "[mount /a]"),
        ("[site]\nname = x\n[server:main]\nuse = egg:x\n", 3, "[site]"),
        ("[server main]\nbind = 1\n[app]\nuse = config:x\n", 3, "[server main]"),
    ],
)
def test_a_file_is_one_or_the_other(tmp_path: Path, text: str, line: int, rival: str) -> None:
    """Half of it would be ignored, whichever half."""
    with pytest.raises(AmbiguousFile) as caught:
        read(tmp_path, text)
    assert (caught.value.line, f"[{caught.value.rival}]") == (line, rival)
    assert caught.value.status == 78
    assert "\n" not in str(caught.value)


def test_another_application_than_main_is_a_setting(tmp_path: Path) -> None:
    """As -n is for pserve; the server stays that of the file."""
    target = "paste:development.ini#admin"
    path = tmp_path / "development.ini"
    path.write_text("[app:main]\nuse = egg:x\n[server:main]\nuse = egg:y\nport = 6543\n")
    found = assembly.read(
        path, overrides=[Override("mount /", "app", target, "--mount")], environ={}
    )
    assert [mount["app"] for mount in found.mounts] == [target]
    assert binds(found) == "127.0.0.1:6543"


def test_a_module_named_config_is_no_sign_of_paste(tmp_path: Path) -> None:
    """Many a project has one."""
    found = read(tmp_path, "[filter x]\nuse = config:make\n[mount /]\napp = a:b\nfilters = x\n")
    assert found.filters["x"]["use"] == "config:make"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[app:main]\nuse = egg:x\n[server:admin]\nuse = egg:y\n", "No section 'main'"),
        ("[app:main]\n[server:main]\nport = 1\n", "no 'use' in"),
        ("[server:main]\nuse = config:gone.ini\n", "gone.ini"),
        ("[server:main]\nuse = config:development.ini\n", "recursion"),
        ("[server:main]\nuse = egg:x\nuse = egg:y\n", "already exists"),
    ],
)
def test_what_paste_makes_no_sense_of_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    """It raises whatever comes to hand."""
    with pytest.raises(BadPasteFile) as caught:
        read(tmp_path, text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.status == 78


def test_without_pastedeploy_the_command_to_install_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an extra, which most sites have no use for."""
    monkeypatch.setitem(sys.modules, "paste.deploy.loadwsgi", None)
    monkeypatch.delitem(sys.modules, "sitebus.paste._reader", raising=False)
    monkeypatch.setitem(sys.modules, "paste.deploy", None)
    with pytest.raises(MissingExtra, match=r"pip install 'sitebus\[paste\]'"):
        read(tmp_path)
    with pytest.raises(MissingExtra, match=r"pip install 'sitebus\[paste\]'"):
        examine("paste:development.ini", directory=tmp_path)


def test_a_file_without_main_says_how_to_name_another(tmp_path: Path) -> None:
    """There is -n of pserve for that."""
    for heading in ("[app:shop]", "[app]"):
        found = read(tmp_path, f"{heading}\nuse = egg:x\n")
        assert found.mounts == ()
        assert "--mount /=paste:development.ini#NAME" in str(found.notes[0])
