"""Django: which settings a project has, and what they say of its application."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from sitebus.cli.starters import modules
from sitebus.cli.starters.found import Found, Source, reference_to

_VARIABLE = "DJANGO_SETTINGS_MODULE"


def projects(folder: Path, sources: tuple[Source, ...]) -> Iterator[Found]:
    """Answer the applications of each ``manage.py``, that of the topmost first."""
    for directory in _directories(folder, sources):
        settings = _settings_module(folder / directory / "manage.py")
        if settings:
            inside = [each for each in sources if each.file.is_relative_to(directory)]
            yield from _project(folder, directory, settings, inside)


def _directories(folder: Path, sources: tuple[Source, ...]) -> list[Path]:
    known = {parent for each in sources for parent in each.file.parents}
    found = [each for each in known if os.path.isfile(folder / each / "manage.py")]
    return sorted(found, key=lambda each: (len(each.parts), each))


def _settings_module(manage: Path) -> str:
    """Answer what ``manage.py`` sets the variable to."""
    with suppress(OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.walk(modules.read(manage.read_bytes()).tree):
            if isinstance(node, ast.Call):
                given = [each.value for each in node.args if isinstance(each, ast.Constant)]
                if len(given) == 2 and given[0] == _VARIABLE and isinstance(given[1], str):
                    return given[1]
    return ""


def _project(
    folder: Path, directory: Path, settings: str, sources: list[Source]
) -> Iterator[Found]:
    said = dict(_said(settings, directory, sources))
    package = settings.partition(".")[0]
    static = tuple(_static(folder, directory, said))
    env = ((_VARIABLE, settings),)
    for interface in _interfaces(said):
        named = said.get(f"{interface.upper()}_APPLICATION")
        module, _, name = (
            named.value.rpartition(".")
            if isinstance(named, ast.Constant) and isinstance(named.value, str)
            else (f"{package}.{interface}", "", "application")
        )
        source = next((each for each in sources if _name_in(each, directory) == module), None)
        if source is not None:
            placed = source._replace(root=directory, name=module)
            reference = reference_to(placed, name, interface)
            yield Found(reference, interface, "Django", source.file, directory, env, static)


def _interfaces(said: dict[str, ast.expr]) -> tuple[str, ...]:
    # Django itself writes the other alone: who names this one needs what only ASGI can do.
    return ("asgi", "wsgi") if "ASGI_APPLICATION" in said else ("wsgi", "asgi")


def _name_in(source: Source, directory: Path) -> str:
    """Answer a module's name from the directory of ``manage.py``, which is on the path."""
    name = ".".join(source.file.relative_to(directory).with_suffix("").parts)
    return name.removesuffix(".__init__")


def _said(
    settings: str, directory: Path, sources: Iterable[Source]
) -> Iterator[tuple[str, ast.expr]]:
    """Answer what the settings assign; those of a package are often in several files."""
    package = settings.rpartition(".")[0]
    family = f"{package if package.endswith('settings') else settings}."
    named = [(_name_in(each, directory), each) for each in sources]
    parts = [each for each in named if each[0] == settings or each[0].startswith(family)]
    # The last word is that of the module itself.
    for _, source in sorted(parts, key=lambda each: each[0] == settings):
        for each in modules.statements(source.content.tree.body):
            for target in each.targets if isinstance(each, ast.Assign) else ():
                if isinstance(target, ast.Name) and isinstance(each, ast.Assign):
                    yield target.id, each.value


def _static(folder: Path, directory: Path, said: dict[str, ast.expr]) -> Iterator[tuple[str, Path]]:
    """Answer where collected files are, and their path, if both can be told."""
    url, root = said.get("STATIC_URL"), said.get("STATIC_ROOT")
    if not isinstance(url, ast.Constant) or not isinstance(url.value, str) or root is None:
        return
    path = "/" + url.value.strip("/")
    try:
        parts = list(_parts(root))
    except RecursionError:
        return
    if "://" in url.value or path == "/" or not parts:
        return
    place = directory.joinpath(*parts)
    if not os.path.isabs(place) and ".." not in place.parts and os.path.isdir(folder / place):
        yield path, place


def _parts(root: ast.expr) -> Iterator[str]:
    """Answer the names in ``BASE_DIR / "static"`` and ``os.path.join(BASE_DIR, "static")``."""
    if isinstance(root, ast.Constant) and isinstance(root.value, str):
        yield root.value
    elif isinstance(root, ast.BinOp) and isinstance(root.op, ast.Div):
        yield from _parts(root.left)
        yield from _parts(root.right)
    elif isinstance(root, ast.Call) and len(root.args) > 1:
        for each in root.args:
            yield from _parts(each)
    elif isinstance(root, ast.Call) and len(root.args) == 1:
        yield from _parts(root.args[0])
