"""``--env-file``: ``NAME=value`` lines for the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sitebus.config import Origin, Problem
from sitebus.errors import CannotRead, ConfigErrors, MayNotRead

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*)", re.ASCII)


def read(path: Path) -> dict[str, str]:
    """Answer the variables of a file.

    Raises:
        CannotRead: the file is not there.
        ConfigErrors: these lines of it say something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except PermissionError as error:
        raise MayNotRead(path, "permission denied") from error
    except OSError as error:
        raise CannotRead(path, (error.strerror or "it cannot be read").lower()) from error
    except ValueError as error:
        raise CannotRead(path, "it is not UTF-8 text") from error
    found, problems = {}, []
    for number, line in _lines(text):
        match = _LINE.fullmatch(line)
        if match is None or "\0" in line:
            problems.append(Problem(Origin(str(path), number), "expected NAME=value"))
        else:
            found[match[1]] = _unquoted(match[2])
    if problems:
        raise ConfigErrors(problems)
    return found


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare and not bare.startswith("#"):
            yield number, bare


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text
