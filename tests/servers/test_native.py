"""A library's own options: read by its own signature, refused in one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from sitebus import assembly
from sitebus.assembly import parts
from sitebus.config import Override
from sitebus.errors import BadServerOption, ConfigErrors, UnknownNativeOption
from sitebus.process import Engine
from sitebus.servers import Faces, SiteServer
from sitebus.servers.native import Native, of_attributes, of_signature, read


class Settings:
    """What a library might be configured with."""

    def __init__(
        self,
        app: object,
        http: Literal["auto", "h11"] | type = "auto",
        limit: int | None = None,
        ratio: float = 1.0,
        strict: bool = False,
        names: list[str] | None = None,
        folder: Path = Path(),
        hook: Any = print,
        level: str | int = "info",
        untyped: Any = 5,
    ) -> None:
        pass


KNOWN = of_signature(Settings)
RESERVED = {"app": "mount it"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("http", "h11", "h11"),
        ("limit", "5", 5),
        ("limit", "none", None),
        ("ratio", "0.5", 0.5),
        ("strict", "yes", True),
        ("strict", "off", False),
        ("names", "a, b c", ["a", "b", "c"]),
        ("folder", "/tmp", Path("/tmp")),
        ("level", "debug", "debug"),
        ("level", "10", 10),
        ("untyped", "7", 7),
    ],
)
def test_a_text_becomes_what_the_library_takes(name: str, text: str, value: object) -> None:
    """Which its signature says."""
    got = read("lib", {name: text}, KNOWN, RESERVED)[name]
    assert got == value
    assert type(got) is type(value)


def test_what_is_no_text_is_taken_as_it_is() -> None:
    """Code can give what no file can."""
    assert read("lib", {"hook": print, "limit": None}, KNOWN, RESERVED) == {
        "hook": print, "limit": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "error", "sentence"),
    [
        ("htpp", "h11", UnknownNativeOption, "lib has no option 'htpp'; did you mean 'http'?"),
        ("app", "x", BadServerOption, "server option lib.app cannot be 'x': mount it"),
        ("limit", "many", BadServerOption,
         "server option lib.limit cannot be 'many': it takes a whole number or none"),
        ("http", "h12", BadServerOption, "cannot be 'h12': it takes auto or h11"),
        ("strict", "perhaps", BadServerOption, "it takes yes or no"),
    ],
)  # fmt: skip
def test_what_it_does_not_take_is_refused(
    name: str, text: str, error: type[Exception], sentence: str
) -> None:
    """With what it does."""
    with pytest.raises(error) as caught:
        read("lib", {name: text}, KNOWN, RESERVED)
    assert sentence in str(caught.value)


def test_a_library_without_options_says_so() -> None:
    """The default adapter is one."""
    with pytest.raises(UnknownNativeOption, match="cheroot has no option 'x'; the adapter"):
        read("cheroot", {"x": "1"}, {}, {})


def test_options_can_be_attributes() -> None:
    """Some libraries' are."""

    class Config:
        depth: int = 4
        words: Sequence[str] = ()
        plain = "x"
        _hidden = 1

        def method(self) -> None: ...

    known = of_attributes(Config)
    assert set(known) == {"depth", "words", "plain"}
    assert read("lib", {"depth": "2", "words": "a b"}, known, {}) == {
        "depth": 2, "words": ["a", "b"],
    }  # fmt: skip


def test_annotations_that_cannot_be_resolved_do_no_harm() -> None:
    """Libraries import some names for the type checker only; the default tells enough."""

    def configure(count: Missing = 3) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    known = of_signature(configure)
    assert known["count"].default == 3
    assert isinstance(known["count"], Native)
    assert inspect.signature(configure).parameters["count"].default == 3


def config(tmp_path: Path, text: str, *overrides: tuple[str, str, str], **environ: str) -> Any:
    path = tmp_path / "site.ini"
    path.write_text(f"{text}\n[mount /]\napp = x:y\n")
    laid = [Override(section, key, value, "-o") for section, key, value in overrides]
    return assembly.read(path, overrides=laid, environ=environ)


def test_the_file_the_command_line_and_the_environment_can_say_them(tmp_path: Path) -> None:
    """A key's own dot is not that of its section."""
    pytest.importorskip("uvicorn")
    text = "[server]\nadapter = uvicorn\nuvicorn.http = h11\n"
    (server,) = config(tmp_path, text).servers
    assert server.extras == {"uvicorn.http": "h11"}
    for section in ("server.uvicorn", "server.main.uvicorn"):
        (server,) = config(tmp_path, text, (section, "limit_concurrency", "9")).servers
        assert server.extras == {"uvicorn.http": "h11", "uvicorn.limit_concurrency": 9}
    said = {"SITEBUS_SERVER__UVICORN__LIMIT_CONCURRENCY": "7"}
    (server,) = config(tmp_path, text, **said).servers
    assert server.extras["uvicorn.limit_concurrency"] == 7


def test_a_server_may_be_named_like_its_library(tmp_path: Path) -> None:
    """Then the dot is its name's."""
    text = "[server uvicorn]\nbind = 127.0.0.1:0\nthreads = 3\n"
    (server,) = config(tmp_path, text, ("server.uvicorn", "threads", "5")).servers
    assert server["threads"] == 5


def test_options_of_another_adapter_are_told_of(tmp_path: Path) -> None:
    """One file may be tried with several."""
    pytest.importorskip("uvicorn")
    text = "[server]\nadapter = uvicorn\nuvicorn.http = h11\nbind = 127.0.0.1:0\n"
    configuration = config(tmp_path, text, ("server", "adapter", "wsgiref"))
    logged: list[str] = []
    engine = Engine()
    engine.subscribe("log", lambda msg, level: logged.append(msg))
    faces = Faces(print, lambda: print, lambda: "wsgi")
    (server,) = parts.servers(configuration, engine, faces)
    assert isinstance(server, SiteServer)
    assert server.native == {}
    assert any("uvicorn.http is of no use with wsgiref" in each for each in logged)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("uvicorn.htp = h11", "site.ini:3: uvicorn.htp = 'h11': uvicorn has no option 'htp'"),
        ("uvicorn.limit_concurrency = x", "site.ini:3: uvicorn.limit_concurrency = 'x': "),
        ("uvicorn.port = 80", "say it with 'bind'"),
        ("waitres.threads = 3", "site.ini:3: [server] has no setting 'waitres.threads'"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, line: str, sentence: str) -> None:
    """As with every other setting."""
    pytest.importorskip("uvicorn")
    with pytest.raises(ConfigErrors) as caught:
        config(tmp_path, f"[server]\nadapter = uvicorn\n{line}\n")
    assert sentence in str(caught.value)
