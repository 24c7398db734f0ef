"""Imports point down: a room knows the rooms below it, and nothing knows what is above it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers import ROOT, environment

#: From the top down. The package itself (``__init__``, ``__main__``) stands above them all.
ROWS = (
    ("cli", "compat", "testing"),
    ("workers", "fleet", "embedding"),
    ("assembly",),
    ("control", "relay", "servers"),
    ("plugins",),
    ("process", "mainloop", "restarts", "mounts", "targets", "config", "reload", "paste"),
    ("bus", "channels", "walk", "sockets", "interfaces", "references", "reexec", "trial"),
    ("bridges",),
    # What only plugins use, and would be no part of one.
    ("accounts", "background", "logfile", "signalnames", "wakeup"),
    # What the bus is made of.
    ("listeners", "mailbox", "loop", "deadline", "serving", "frames"),
    ("machine", "errors", "asgi", "legacy", "closing"),
)
ROW = {room: number for number, row in enumerate(ROWS) for room in row}
PACKAGE = ROOT / "sitebus"

#: Importing these costs a program that may never need them.
HEAVY = {"asyncio", "email", "http", "logging", "multiprocessing", "ssl", "subprocess", "tempfile"}


class Import(NamedTuple):
    """One import statement's worth."""

    file: Path
    line: int
    module: str
    #: It runs when the file is imported.
    at_import: bool
    #: It runs never: the type checker alone sees it.
    for_types: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"

    @property
    def importer(self) -> str:
        """The room the file is in; empty for the package's own files."""
        first = self.file.relative_to(PACKAGE).parts[0]
        return "" if first in ("__init__.py", "__main__.py") else first.removesuffix(".py")

    @property
    def imported(self) -> str | None:
        """The room of ours it names; empty for the package itself, None for a stranger's module."""
        package, _, rest = self.module.partition(".")
        return rest.partition(".")[0] if package == "sitebus" else None

    @property
    def stranger(self) -> bool:
        """It names neither a module of ours nor one of the standard library."""
        return self.module.partition(".")[0] not in {*sys.stdlib_module_names, "sitebus"}


class Finder(ast.NodeVisitor):
    """Collect the imports of one file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: list[Import] = []
        self._nested = False
        self._for_types = False

    def visit_Import(self, node: ast.Import) -> None:
        self._add(node.lineno, *(alias.name for alias in node.names))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if module == "sitebus":
            self._add(node.lineno, *(f"sitebus.{alias.name}" for alias in node.names))
        else:
            self._add(node.lineno, module)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_nested(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_nested(node)

    def visit_If(self, node: ast.If) -> None:
        outside = self._for_types
        self._for_types = outside or "TYPE_CHECKING" in ast.unparse(node.test)
        self.generic_visit(node)
        self._for_types = outside

    def _visit_nested(self, node: ast.AST) -> None:
        outside, self._nested = self._nested, True
        self.generic_visit(node)
        self._nested = outside

    def _add(self, line: int, *modules: str) -> None:
        at_import = not (self._nested or self._for_types)
        self.found += [
            Import(self.file, line, each, at_import, self._for_types) for each in modules
        ]


def imports() -> Iterator[Import]:
    """Answer every import in the package."""
    for file in sorted(PACKAGE.rglob("*.py")):
        finder = Finder(file)
        finder.visit(ast.parse(file.read_text(), str(file)))
        yield from finder.found


ALL = tuple(imports())


def listed(wrong: list[Import]) -> str:
    return "\n" + "\n".join(map(str, wrong))


def test_every_room_has_a_row() -> None:
    """A room outside the rows would be free to import anything."""
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - set(ROW) <= {"__init__", "__main__", "__pycache__"}


def test_no_import_points_up() -> None:
    """What is below must be usable, and testable, without what is above."""
    wrong = [
        each
        for each in ALL
        if each.importer in ROW and each.imported in ROW and ROW[each.imported] < ROW[each.importer]
    ]
    assert not wrong, listed(wrong)


def test_no_room_reaches_for_the_package() -> None:
    """The global engine and site are the caller's: a room is handed its bus."""
    # What `python -m` runs is the caller, wherever it is.
    rooms = [each for each in ALL if each.file.name != "__main__.py"]
    below = [each for each in rooms if ROW.get(each.importer, 0) > 0]
    wrong = [each for each in below if each.imported is not None and each.imported not in ROW]
    assert not wrong, listed(wrong)


def test_plugins_do_not_know_each_other() -> None:
    """Any of them can be left out."""
    wrong = [
        each
        for each in ALL
        if each.importer == "plugins"
        and each.file.name != "__init__.py"
        and each.module.startswith("sitebus.plugins.")
        # What several share lives there.
        and each.module not in ("sitebus.plugins.tasks", "sitebus.plugins.reloader")
    ]
    assert not wrong, listed(wrong)


def test_rooms_of_one_row_do_not_know_each_other_both_ways() -> None:
    """Two that need each other are one."""
    known = [each for each in ALL if each.importer and each.imported and not each.for_types]
    pairs = {(each.importer, each.imported) for each in known}
    circles = {(a, b) for a, b in pairs if a != b and (b, a) in pairs}
    assert not circles


def private(path: str) -> bool:
    """The half of an adapter that subclasses its library; its public half imports it when used."""
    return path.startswith("_") and not path.startswith("__")


def test_no_strangers_module_is_imported_before_it_is_needed() -> None:
    """A server library that is not installed must hurt only who asks for it."""
    wrong = [
        each for each in ALL if each.at_import and each.stranger and not private(each.file.name)
    ]
    assert not wrong, listed(wrong)


def test_no_private_half_is_imported_before_it_is_needed() -> None:
    """Else its library would be imported with it."""
    wrong = [
        each
        for each in ALL
        if each.at_import
        and private(each.module.rpartition(".")[2])
        and each.module.startswith("sitebus.")
        and not private(each.file.name)
    ]
    assert not wrong, listed(wrong)


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """What `import sitebus` brings into a fresh interpreter that had nothing to do."""
    program = Path(__file__).with_name("import_report.py")
    answer = subprocess.run(
        [sys.executable, "-I", program, ROOT],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    report: dict[str, list[str]] = json.loads(answer.stdout)
    return report


def test_importing_brings_nothing_heavy(imported: dict[str, list[str]]) -> None:
    """A tool that only wants the names must not wait for an event loop's worth of modules."""
    assert not HEAVY & set(imported["modules"])


def test_importing_brings_no_strangers_module(imported: dict[str, list[str]]) -> None:
    """The bus works where nothing is installed."""
    known = {*sys.stdlib_module_names, "sitebus"}
    assert not {name.partition(".")[0] for name in imported["modules"]} - known


@pytest.mark.parametrize("trace", ["threads", "descriptors", "exit functions", "signals"])
def test_importing_starts_nothing(imported: dict[str, list[str]], trace: str) -> None:
    """An import must not change the process that does it."""
    assert imported[trace] == []


def test_no_pattern_relies_on_possessive_quantifiers() -> None:
    """CPython before 3.11.5 lets through what they should not match (issues 101955, 106052)."""
    sets = re.compile(rb"\[(?:\\.|[^\]\\])+\]")
    greedy = re.compile(rb"(?:(?<!\()\)|[\]}.])[*+?]\+|\}\+|\(\?>")
    found = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            value = node.value if isinstance(node, ast.Constant) else None
            text = value.encode() if isinstance(value, str) else value
            is_pattern = isinstance(text, bytes) and b" " not in text.replace(b"[ \\t]", b"")
            if isinstance(text, bytes) and is_pattern and greedy.search(sets.sub(b"[]", text)):
                found.append(f"{file.name}:{node.lineno} {value!r}")  # type: ignore[attr-defined]
    assert not found
