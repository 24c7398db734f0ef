"""What a program can import from CherryPy and magicbus, it can import from here."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import environment

#: Theirs, and ours.
CHERRYPY = {
    f"cherrypy.process.{name}": f"sitebus.compat.cherrypy.{name}"
    for name in ("wspbus", "plugins", "servers")
}
MAGICBUS = {
    f"magicbus{name}": f"sitebus.compat.magicbus{name}"
    for name in (
        "",
        ".base",
        ".process",
        ".plugins",
        ".plugins.lifecycle",
        ".plugins.loggers",
        ".plugins.opsys",
        ".plugins.servers",
        ".plugins.signalhandler",
        ".plugins.tasks",
    )
}

#: Offered by their classes and not by ours, each for its reason.
LEFT_OUT = {
    # Ours is made with all that went wrong, and does not change.
    "ChannelFailures.handle_exception",
    # Transitions are told on channels, the errors among them.
    "ProcessBus.START_ERROR",
    "ProcessBus.STOP_ERROR",
    "ProcessBus.EXIT_ERROR",
}


def offered(modules: dict[str, str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Answer each module of ours, each name that theirs has, and what that is."""
    report = subprocess.run(
        [sys.executable, Path(__file__).with_name("names_report.py"), *modules],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    for module, names in json.loads(report.stdout).items():
        for name, theirs in names.items():
            yield modules[module], name, theirs


def installed(library: str, modules: dict[str, str]) -> list[Any]:
    if find_spec(library) is None and "CI" not in os.environ:
        return [pytest.param("", "", {}, marks=pytest.mark.skip(f"needs {library}"))]
    return [pytest.param(*each, id=f"{library}-{each[1]}") for each in offered(modules)]


@pytest.mark.parametrize(
    ("module", "name", "theirs"),
    [*installed("cherrypy", CHERRYPY), *installed("magicbus", MAGICBUS)],
)
def test_the_name_is_here_and_is_called_the_same_way(
    module: str, name: str, theirs: dict[str, Any]
) -> None:
    """A program changes its import line, or not even that."""
    ours = getattr(importlib.import_module(module), name)

    missing = [each for each in theirs.get("methods", ()) if not hasattr(ours, each)]
    assert {f"{name}.{each}" for each in missing} <= LEFT_OUT
    if theirs.get("parameters"):
        assert_takes(ours, theirs["parameters"])


def assert_takes(ours: Any, wanted: list[tuple[str, str, bool]]) -> None:
    """Fail unless *ours* has all parameters wanted, in their order, and needs no other."""
    parameters = list(inspect.signature(ours).parameters.values())
    named = [name for name, kind, _ in wanted if not kind.startswith("VAR_")]
    assert [each.name for each in parameters][: len(named)] == named
    for each, (_, _, optional) in zip(parameters, wanted, strict=False):
        assert each.default is not each.empty or not optional or "VAR" in each.kind.name
    if len(named) == len(wanted):
        more = parameters[len(named) :]
        assert all(each.default is not each.empty or "VAR" in each.kind.name for each in more)


@pytest.mark.parametrize("module", [*CHERRYPY.values(), *MAGICBUS.values()])
def test_a_star_import_brings_what_is_public(module: str) -> None:
    """Nothing is offered that is not there."""
    here = importlib.import_module(module)

    for name in here.__all__:
        assert hasattr(here, name)


def test_the_private_names_that_programs_use_are_here() -> None:
    """Their own tests do."""
    from sitebus.compat.cherrypy import plugins, servers

    assert callable(servers._safe_wait)
    assert callable(plugins.Autoreloader._file_for_file_module)


def test_to_import_magicbus_names_changes_no_bus() -> None:
    """It is wspbus' names that give ``sitebus.engine`` the manners of wspbus."""
    imports = "".join(f"import {module}\n" for module in MAGICBUS.values())
    program = f"{imports}import sitebus\nassert type(sitebus.engine) is sitebus.Engine\n"
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True, timeout=30)
