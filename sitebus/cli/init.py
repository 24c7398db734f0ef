"""``python -m sitebus init``: a ``site.ini`` to begin with, for what a folder has.

The folder is looked at, and nothing of it is imported. What is written passes ``--check``; what may
be wanted as well is there as a comment. A file that is there already stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from sitebus.cli import streams
from sitebus.cli.flags import Parser
from sitebus.cli.starters import Folder, Found, look
from sitebus.errors import (
    CannotPrint,
    CannotWriteFile,
    FileIsThere,
    NothingFound,
    SitebusError,
    status_of,
)

if TYPE_CHECKING:
    import argparse

PROGRAM = "python -m sitebus init"
NAME = "site.ini"

#: How many applications are listed beside the one that is served.
_MOST = 20

HEAD = """\
# The site of this folder, as `{program}` found it. In this file, a comment takes a whole line.
#
#   sitebus-serve --check=import {name}   finds mistakes, and loads the applications
#   sitebus-serve --reload {name}         serves, and follows what you change
#   sitebus-serve {name}                  serves
"""

SERVER = """\
[server]
# This machine alone. Everybody: 0.0.0.0:8080; a proxy on this machine: unix:/run/{name}.sock
bind = 127.0.0.1:8080
# How many requests are served at the same time.
threads = 10
"""

TAIL = """\
# One process for each processor, all serving on the same address.
# [workers]
# count = auto

# A line for each request goes to standard output, messages to standard error; or to files:
# [logging]
# access = access.log
# error = error.log
"""


def main(argv: Sequence[str]) -> int:
    """Run the command and answer its exit status."""
    streams.open_missing()
    try:
        return _run(_parser().parse_args(argv))
    except SitebusError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return status_of(error)
    except BrokenPipeError:
        return 0  # whoever read our output has seen enough
    finally:
        streams.settle()


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description=f"Write a {NAME} for what can be served of a folder. Nothing is imported, and "
        "no file is overwritten.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", nargs="?", metavar="FOLDER", default=".", help="this one, if not")
    parser.add_argument(
        "--print", action="store_true", help=f"write to standard output, and not to {NAME}"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    path = Path(options.folder)
    found = look(path)
    if not found.applications and found.pages is None:
        return _without(found)
    text = "\n".join(_text(found))
    if options.print:
        _print(text)
    else:
        _write(path / NAME, text)
        _print("".join(f"{line}\n" for line in _summary(found)))
    return 0


def _without(found: Folder) -> int:
    """Answer a folder without an application of its own."""
    if not found.paste:
        raise NothingFound(found.path, found.notes)
    path = found.path / found.paste[0]
    print(
        f"{path} is a PasteDeploy file, and can be served as it is: sitebus-serve {path}",
        file=sys.stderr,
    )
    return 0


def _print(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotPrint(error) from error


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file, ExitStack() as undo:
            # Half of it would be taken for somebody's own.
            undo.callback(path.unlink)
            file.write(text)
            file.flush()
            undo.pop_all()
    except FileExistsError as error:
        raise FileIsThere(path) from error
    except OSError as error:
        raise CannotWriteFile(path, error) from error


def _summary(found: Folder) -> Iterator[str]:
    path = found.path / NAME
    titles = [each.title for each in found.applications] or [f"files, in {found.pages}"]
    yield f"{path} is written, and serves: {titles[0]}"
    for title in titles[1 : _MOST + 1]:
        yield f"  found as well, and there as a comment: {title}"
    for paste in found.paste:
        yield f"  {paste} can be served as it is: sitebus-serve {found.path / paste}"
    for note in found.notes:
        yield f"  {note}"
    yield f"try it: sitebus-serve --check=import {path}"


def _text(found: Folder) -> Iterator[str]:
    """Answer the file, block by block."""
    chosen = found.applications[0] if found.applications else None
    yield HEAD.format(program=PROGRAM, name=NAME)
    yield "\n".join(_site(found, chosen)) + "\n"
    yield "\n".join(_server(found, chosen))
    if chosen is None:
        yield from _files_alone(found)
    else:
        if chosen.env:
            yield "[env]\n" + "".join(f"{name} = {value}\n" for name, value in chosen.env)
        yield f"# {_line(chosen.title)}\n[mount /]\napp = {chosen.reference}\n"
        yield from _static(found, chosen)
        yield from _others(found.applications[1 : _MOST + 1], chosen)
    yield TAIL


def _site(found: Folder, chosen: Found | None) -> Iterator[str]:
    yield "[site]"
    yield f"name = {_name(found)}"
    if chosen is not None and chosen.root != Path():
        yield "# Where applications are imported from."
        yield f"python_path = {_place(chosen.root)}"


def _server(found: Folder, chosen: Found | None) -> Iterator[str]:
    yield SERVER.format(name=_name(found)).removesuffix("\n")
    if chosen is not None and chosen.interface == "asgi":
        from importlib.util import find_spec

        yield "# It speaks ASGI itself, WebSockets among it: pip install 'sitebus[asgi]'"
        yield f"{'' if find_spec('uvicorn') else '# '}adapter = uvicorn"
    yield ""


def _files_alone(found: Folder) -> Iterator[str]:
    assert found.pages is not None
    if found.pages == Path():
        yield (
            "# Everything in this folder but hidden files, this one among it; better, give the\n"
            "# pages a folder of their own."
        )
    else:
        yield "# Files, with index.html for a folder."
    yield f"[mount /]\napp = static:{_place(found.pages)}\n"


def _static(found: Folder, chosen: Found) -> Iterator[str]:
    for path, place in chosen.static:
        yield f"# What collectstatic collects.\n[mount {path}]\napp = static:{_place(place)}\n"
    if chosen.framework == "Django" and not chosen.static:
        yield (
            "# What collectstatic collects, once STATIC_ROOT says where:\n"
            "# [mount /static]\n# app = static:${here}/collected\n"
        )
    for place in () if chosen.framework == "Django" else found.static:
        yield (
            "# The files of a folder, without asking the application:\n"
            f"# [mount /{place}]\n# app = static:{_place(place)}\n"
        )


def _others(others: Sequence[Found], chosen: Found) -> Iterator[str]:
    taken = {"/", "/static", "/media", "/assets", "/public"}
    for each in others:
        path = base = f"/{_word(each)}"
        number = 2
        while path in taken:
            path, number = f"{base}-{number}", number + 1
        taken.add(path)
        lines = [f"# Found as well, to serve below a path, or instead: {_line(each.title)}"]
        if each.root != chosen.root:
            lines.append(
                f"# It is imported from {_place(each.root)}, which python_path needs then."
            )
        lines += [f"# [mount {path}]", f"# app = {each.reference}", ""]
        yield "\n".join(lines)


def _word(found: Found) -> str:
    stem = found.file.stem
    if stem in ("__init__", "app", "application", "main", "wsgi", "asgi", "server"):
        stem = found.file.parent.name or stem
    plain = "".join(char for char in stem if char.isascii() and (char.isalnum() or char in "-_"))
    return plain or "other"


def _name(found: Folder) -> str:
    name = found.path.resolve().name
    return "".join(char for char in name if char.isalnum() or char in "-_.") or "site"


def _place(place: Path) -> str:
    """Answer a folder of the folder, as a setting says it."""
    inside = place.as_posix().replace("$", "$$")
    return "${here}" if place == Path() else f"${{here}}/{inside}"


def _line(text: str) -> str:
    """A file's name may have a line's end in it."""
    return "".join(char if char.isprintable() else "?" for char in text)
