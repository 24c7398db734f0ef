"""A folder: the applications in it, the best first, and what else can be served.

Which of several is meant is a guess by kind, depth and name; the others are kept, for who knows
better.
"""

from __future__ import annotations

import keyword
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sitebus.cli.starters import modules
from sitebus.errors import CannotRead, MayNotRead

#: More is no project of one's own, but a disk.
MOST_FILES = 2000
DEEPEST = 5
LARGEST = 1 << 20

#: What is no part of a site, or not yet, or was made from it.
_SKIPPED = {
    "build", "dist", "doc", "docs", "migrations", "node_modules", "site-packages", "test", "tests",
}  # fmt: skip
_SCRIPTS = {"manage.py", "setup.py", "noxfile.py", "fabfile.py", "conftest.py", "tasks.py"}

#: Who has a choice puts the application there, under that name.
_FILES = ("wsgi", "asgi", "app", "application", "main", "server", "web", "api", "__init__")
_NAMES = ("application", "app", "api", "server", "create_app", "make_app")

#: Words that mean something else before a colon.
_SCHEMES = {"app", "asgi", "asgi2", "asgi3", "factory", "paste", "redirect", "static", "wsgi"}

_PAGES = ("public", "www", "htdocs", "html", "static", "site", "_site", "dist", "build", "out")
_STATIC = ("static", "media", "assets", "public")


class Found(NamedTuple):
    """An application.

    Attributes:
        reference: It, as a site.ini names it.
        interface: ``wsgi`` or ``asgi``.
        framework: Who made it; empty for plain Python.
        file: Where it is, in the folder.
        root: The directory that it is imported from, in the folder.
        env: What it needs in the environment.
        static: Folders of files that a server had better serve: the path, and where they are.
    """

    reference: str
    interface: str
    framework: str
    file: Path
    root: Path = Path()
    env: tuple[tuple[str, str], ...] = ()
    static: tuple[tuple[str, Path], ...] = ()

    @property
    def title(self) -> str:
        """What it is, and where."""
        kind = self.framework or f"plain {self.interface.upper()}"
        return f"{kind}, in {self.file}"


class Folder(NamedTuple):
    """What was found.

    Attributes:
        applications: The best first.
        static: Folders of files beside them.
        pages: A folder that is a site of files; None if there is none.
        paste: Files of PasteDeploy's.
        notes: What could not be read.
    """

    path: Path
    applications: tuple[Found, ...]
    static: tuple[Path, ...]
    pages: Path | None
    paste: tuple[Path, ...]
    notes: tuple[str, ...]


class Source(NamedTuple):
    """A module of the folder."""

    file: Path
    root: Path
    name: str
    content: modules.Module


def look(folder: Path) -> Folder:
    """Look for what can be served in *folder*, and import nothing.

    Raises:
        CannotRead: There is no such directory, or none that can be read.
    """
    _require(folder)
    from sitebus.cli.starters import django

    notes: list[str] = []
    sources = tuple(_sources(folder, notes))
    known = {(source.root, source.name): source for source in sources}
    unique: dict[tuple[str, Path], Found] = {}
    for each in (*django.projects(folder, sources), *sorted(_all(sources, known), key=_rank)):
        unique.setdefault((each.reference, each.file), each)
    return Folder(
        folder,
        tuple(unique.values()),
        tuple(Path(name) for name in _STATIC if os.path.isdir(folder / name)),
        _pages(folder),
        tuple(sorted(_paste(folder), key=lambda file: (file.name != "development.ini", file))),
        tuple(notes),
    )


def _require(folder: Path) -> None:
    try:
        os.scandir(folder).close()
    except FileNotFoundError as error:
        raise CannotRead(folder, "there is no such directory") from error
    except NotADirectoryError as error:
        raise CannotRead(folder, "it is not a directory") from error
    except PermissionError as error:
        raise MayNotRead(folder, "permission denied") from error
    except OSError as error:
        raise CannotRead(folder, (error.strerror or str(error)).lower()) from error


def _sources(folder: Path, notes: list[str]) -> Iterator[Source]:
    for file in _files(folder):
        root, name = _module(folder, file)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        try:
            content = modules.read((folder / file).read_bytes(), package)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            notes.append(f"{file}{line} is not read: {type(error).__name__}")
        except OSError as error:
            notes.append(f"{file} is not read: {(error.strerror or str(error)).lower()}")
        else:
            yield Source(file, root, name, content)


def _files(folder: Path) -> Iterator[Path]:
    count = 0
    for here, folders, names in os.walk(folder):
        place = Path(here).relative_to(folder)
        deep = len(place.parts) >= DEEPEST
        folders[:] = [] if deep else sorted(filter(lambda it: _is_ours(Path(here, it)), folders))
        for name in sorted(names):
            if _is_module(name) and _is_small(Path(here, name)):
                yield place / name
                count += 1
        if count > MOST_FILES:
            return


def _is_ours(folder: Path) -> bool:
    name = folder.name
    if name.startswith((".", "__")) or name in _SKIPPED or not name.isprintable():
        return False
    # What may not be looked into raises in pathlib.
    return not os.path.exists(folder / "pyvenv.cfg")


def _is_module(name: str) -> bool:
    stem, extension = os.path.splitext(name)
    if extension != ".py" or name in _SCRIPTS or not name.isprintable():
        return False
    return not (stem.startswith(("test_", ".")) or stem.endswith("_test"))


def _is_small(path: Path) -> bool:
    with suppress(OSError):
        # A pipe would be read for ever.
        return path.is_file() and path.stat().st_size <= LARGEST
    return False


def _module(folder: Path, file: Path) -> tuple[Path, str]:
    """Answer the directory that a file is imported from, and its name as a module."""
    root = file.parent
    while root != Path() and os.path.exists(folder / root / "__init__.py"):
        root = root.parent
    parts = file.relative_to(root).with_suffix("").parts
    return root, ".".join(parts[:-1] if parts[-1] == "__init__" and parts[:-1] else parts)


def _all(sources: tuple[Source, ...], known: dict[tuple[Path, str], Source]) -> Iterator[Found]:
    for source in sources:
        made = {each.name: each for each in source.content.made}
        for later in source.content.later:
            found = _follow(source, later, known)
            if found is not None and later.name not in made:
                made[later.name] = found
        yield from (_found(source, each) for each in made.values())


def _follow(
    source: Source, later: modules.Later, known: dict[tuple[Path, str], Source]
) -> modules.Made | None:
    """Answer what another module of the folder has, under the name that it has here."""
    place, _, name = later.origin.rpartition(".")
    other = known.get((source.root, place))
    if other is None:
        return None
    # An import alone is no second application, except where servers look for it.
    if not later.called and source.file.stem not in ("wsgi", "asgi"):
        return None
    for each in other.content.made:
        if each.name == name and each.factory == later.called:
            return each._replace(name=later.name, factory=False)
    return None


def _found(source: Source, made: modules.Made) -> Found:
    reference = reference_to(source, made.name, made.interface)
    # A file is found from where the site.ini is.
    root = Path() if reference.startswith(f"{_file(source)}:") else source.root
    if made.factory:
        reference = f"factory:{reference.removeprefix(f'{made.interface}:')}"
    return Found(reference, made.interface, made.framework, source.file, root)


def reference_to(source: Source, name: str, interface: str) -> str:
    """Answer what a site.ini says for *name* in a module."""
    parts = source.name.split(".")
    if len(parts) == 1 and source.file.name != "__init__.py" and not _is_plain(parts[0]):
        # From the directory of the site.ini; it can be imported under no name.
        return f"{_file(source)}:{name}"
    prefix = f"{interface}:" if source.name in _SCHEMES else ""
    return f"{prefix}{source.name}:{name}"


def _file(source: Source) -> str:
    return source.file.as_posix().replace("$", "$$")


def _is_plain(name: str) -> bool:
    if not name.isidentifier() or keyword.iskeyword(name):
        return False
    return name not in _SCHEMES and name not in sys.stdlib_module_names


def _rank(found: Found) -> tuple[object, ...]:
    """Sort what is most likely meant first."""
    name = found.reference.rpartition(":")[2]
    return (
        not found.framework,
        # Parts of a plain application look like one.
        not found.framework and name not in _NAMES,
        found.reference.startswith("factory:"),
        len(found.file.parts),
        _place(found.file.stem, _FILES),
        _place(name, _NAMES),
        str(found.file),
    )


def _place(name: str, among: tuple[str, ...]) -> int:
    return among.index(name) if name in among else len(among)


def _pages(folder: Path) -> Path | None:
    """Answer the folder that has a first page, this one last of all."""
    names = [name for name in (*_PAGES, "") if os.path.isfile(folder / name / "index.html")]
    return Path(names[0]) if names else None


def _paste(folder: Path) -> Iterator[Path]:
    from sitebus.config import paste
    from sitebus.config.tokens import tokenize

    for path in sorted(folder.glob("*.ini")):
        if path.name.isprintable() and _is_small(path):
            with suppress(OSError, UnicodeDecodeError):
                if paste.sign(tuple(tokenize(path.read_text("utf-8-sig")))) is not None:
                    yield path.relative_to(folder)
