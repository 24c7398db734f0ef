"""The files a configuration is made of: the one that was named, and those it includes.

What the lines say is for `sitebus.config.tokens`, what they mean for `sitebus.config.reader`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from sitebus.config import paste
from sitebus.config.configuration import Origin, Problem
from sitebus.config.interpolation import CannotExpand, Expanded, Scope, expand
from sitebus.config.kinds import split
from sitebus.config.tokens import Heading, Setting, Token, tokenize
from sitebus.errors import CannotRead, ForeignFile, MayNotRead

#: More is not written by hand: a log, a core dump or ``/dev/zero`` named by mistake.
LIMIT = 16 << 20

_NO_FILE = "there is no such file"


class Source(NamedTuple):
    """One file: as it was named, where it is, and what its lines say."""

    name: str
    directory: Path
    tokens: tuple[Token, ...]


class Sources:
    """The files that were read, in order, and what was wrong with reading them.

    Attributes:
        is_paste: the file that was named is PasteDeploy's.
        notes: what is to be told of the files, and no mistake.
    """

    def __init__(self, environ: Mapping[str, str], variables: Mapping[str, str] = {}) -> None:
        self.environ = environ
        self.variables = variables
        self.is_paste = False
        self.notes: list[Problem] = []
        self.files: list[Source] = []
        self.problems: list[Problem] = []
        self._seen: dict[Path, Origin] = {}

    def read(self, path: Path) -> None:
        """Read *path* and what it includes.

        Raises:
            CannotRead: it is not there, or not a file that can be read.
            ForeignFile: it could be a file of another program's, or includes one, or is one that
                its program makes no sense of.
        """
        self._add(path, _bytes(path), Origin("command line"))

    def _add(self, path: Path, data: bytes, origin: Origin) -> None:
        self._seen[path.resolve()] = origin
        name = str(path)
        try:
            tokens = tuple(tokenize(data.decode("utf-8-sig")))
        except UnicodeDecodeError as error:
            self.problems.append(_not_text(name, data, error))
            return
        found = paste.sign(tokens)
        if found is not None:
            if origin.line:
                raise ForeignFile(name, *found)
            self._translate(path, name, tokens)
            return
        source = Source(name, path.absolute().parent, tokens)
        self.files.append(source)
        for setting in _includes(tokens):
            self._include(source, setting)

    def _translate(self, path: Path, name: str, tokens: tuple[Token, ...]) -> None:
        paste.refuse_mixture(name, tokens)
        said = paste.translate(path, name, tokens, self.variables)
        self.is_paste = True
        self.notes += said.notes
        directory = path.absolute().parent
        self.files.append(Source(name, directory, said.tokens))
        self.files += [Source(str(other), directory, ()) for other in said.others]

    def _include(self, source: Source, setting: Setting) -> None:
        origin = Origin(source.name, setting.line)
        try:
            scope = Scope(source.directory, self._variable, _no_section)
            text = expand(setting.text, scope).text
            for pattern in split(text):
                for path in _matches(pattern, Path(source.name).parent):
                    self._include_one(path, origin)
        except (CannotExpand, CannotRead) as error:
            self._problem(origin, str(error))

    def _include_one(self, path: Path, origin: Origin) -> None:
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise CannotRead(path, _NO_FILE) from error
        if real not in self._seen:
            self._add(path, _bytes(path), origin)
        elif self._seen[real].line:
            self._problem(origin, f"{path} is included already, by {self._seen[real]}")
        else:
            self._problem(origin, f"{path} would include itself; name the other files alone")

    def _variable(self, name: str) -> Expanded | None:
        value = self.environ.get(name)
        return None if value is None else Expanded(value)

    def _problem(self, origin: Origin, message: str) -> None:
        self.problems.append(Problem(origin, f"include: {message}"))


def _includes(tokens: tuple[Token, ...]) -> Iterator[Setting]:
    """Answer the include settings of ``[site]``, wherever it stands."""
    kind = ""
    for token in tokens:
        if isinstance(token, Heading):
            kind = token.kind
        elif isinstance(token, Setting) and (kind, token.key.lower()) == ("site", "include"):
            yield token


def _matches(pattern: str, directory: Path) -> list[Path]:
    """Answer the files of a pattern, sorted; a name without wildcards has to be there."""
    if not re.search(r"[*?\[]", pattern):
        return [directory / pattern]
    import glob

    found = glob.glob(str(directory / pattern), recursive=True)
    return [path for path in map(Path, sorted(found)) if path.is_file()]


def _no_section(section: str, key: str) -> Expanded:
    raise CannotExpand(f"${{{section}:{key}}} has no value yet where files are included")


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except PermissionError as error:
        raise MayNotRead(path, "permission denied") from error
    except OSError as error:
        raise CannotRead(path, _reason(error)) from error
    except ValueError as error:  # a NUL in the name
        raise CannotRead(path, _NO_FILE) from error
    if len(data) > LIMIT:
        raise CannotRead(path, "it is larger than 16MB, which no configuration is")
    return data


def _reason(error: OSError) -> str:
    known = {errno.ENOENT: _NO_FILE, errno.EISDIR: "it is a directory"}
    return known.get(error.errno or 0) or (error.strerror or "it cannot be read").lower()


def _not_text(name: str, data: bytes, error: UnicodeDecodeError) -> Problem:
    line = data.count(b"\n", 0, error.start) + 1
    byte = data[error.start] if error.start < len(data) else 0
    return Problem(
        Origin(name, line), f"the file is not UTF-8 text (byte 0x{byte:02x}); save it as UTF-8"
    )
