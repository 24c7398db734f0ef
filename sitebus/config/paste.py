"""A PasteDeploy file as a configuration: its server, its application, its loggers.

What it says becomes the settings that a site.ini would have, each on the line where it was said; so
the command line, the environment and every check have their say as ever. What cannot be a setting
is a note, which is logged when the site starts.
PasteDeploy reads the file (`sitebus.paste.files`); here it is told from a site.ini.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sitebus.config.configuration import Origin, Problem
from sitebus.config.tokens import Heading, Mistake, Setting, Token
from sitebus.errors import AmbiguousFile

if TYPE_CHECKING:
    from sitebus.paste import files

#: What headings begin with, up to the colon.
_PREFIXES = {
    "app", "application", "composite", "composit", "pipeline", "filter", "filter-app", "server",
}  # fmt: skip
_USES = ("egg:", "config:", "call:")
#: Headings that only a site.ini has.
_OURS = {"site", "mount", "plugin"}
#: Those that may have a name behind a space there, and never in the other.
_NAMED = {"app", "filter", "server"}


class Translated(NamedTuple):
    """What a PasteDeploy file says as a site.ini would say it.

    Attributes:
        tokens: Headings and settings, with the lines of the file.
        notes: What is ignored, and else to be told.
        others: More files that it is made of.
    """

    tokens: tuple[Token, ...]
    notes: tuple[Problem, ...]
    others: tuple[Path, ...]


def sign(tokens: Iterable[Token]) -> tuple[int, str] | None:
    """Answer line and heading of what makes a file PasteDeploy's; None if nothing does."""
    heading: Heading | None = None
    for token in tokens:
        if isinstance(token, Heading):
            word, colon, _ = token.kind.partition(":")
            if colon and word in _PREFIXES:
                return token.line, _spelled(token)
            # Without a name it may be that of a site.ini.
            heading = token if word in _PREFIXES and not token.argument else None
        elif heading is not None and isinstance(token, Setting) and _is_use(token):
            return heading.line, _spelled(heading)
    return None


def _is_use(setting: Setting) -> bool:
    return setting.key == "use" and setting.text.startswith(_USES)


def refuse_mixture(name: str, tokens: Iterable[Token]) -> None:
    """Let a file be one or the other.

    Raises:
        AmbiguousFile: it has headings of both.
    """
    tokens = tuple(tokens)
    found = sign(tokens)
    for token in tokens if found else ():
        if isinstance(token, Heading) and _is_ours(token):
            assert found is not None
            raise AmbiguousFile(name, *found, token.line, _spelled(token))


def _is_ours(heading: Heading) -> bool:
    return heading.kind in _OURS or (heading.kind in _NAMED and bool(heading.argument))


def _spelled(heading: Heading) -> str:
    return f"{heading.kind} {heading.argument}".strip()


def translate(
    path: Path, name: str, tokens: tuple[Token, ...], variables: Mapping[str, str]
) -> Translated:
    """Answer what a PasteDeploy file says as a site.ini would say it.

    Args:
        path: the file.
        name: how it is called in messages.
        tokens: its lines.
        variables: values for the ``%(NAME)s`` in it.

    Raises:
        MissingExtra: PasteDeploy is not installed.
        BadPasteFile: it makes no sense of the file.
    """
    from urllib.parse import quote

    from sitebus.paste import files

    said = files.read(path, variables)
    sheet = _Sheet(tokens)
    notes: list[Problem] = []
    if said.server is not None:
        notes += _tell_server(said.server, name, sheet)
    if said.main:
        sheet.say("mount /", "app", f"paste:{quote(path.name)}#main", sheet.line(said.main))
    else:
        example = f"--mount /=paste:{quote(path.name)}#NAME"
        message = f"nothing is mounted, for there is no [app:main]; name one, as {example}"
        notes.append(Problem(Origin(name), message))
    if said.has_loggers:
        sheet.say("logging", "config", path.name, sheet.line("loggers"))
    return Translated(tuple(sheet.tokens()), tuple(notes), tuple(_others(path, tokens)))


class _Sheet:
    """The settings so far, by heading; what is said first counts."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self._lines: dict[tuple[str, str], int] = {}
        self._said: dict[str, dict[str, Setting]] = {}
        section = ""
        for token in tokens:
            if isinstance(token, Heading):
                section = _spelled(token)
            key = token.key if isinstance(token, Setting) else ""
            if not isinstance(token, Mistake):
                self._lines.setdefault((section, key), token.line)

    def line(self, section: str, key: str = "") -> int:
        """Answer the line of a setting of the file, or of its heading."""
        section = " ".join(section.lower().split()[:1] + section.split()[1:])
        return self._lines.get((section, key)) or self._lines.get((section, ""), 1)

    def say(self, section: str, key: str, text: str, line: int) -> None:
        """Put down a setting; a dollar sign in the file is only that."""
        setting = Setting(line, key, text.replace("$", "$$"))
        self._said.setdefault(section, {}).setdefault(key, setting)

    def tokens(self) -> Iterator[Token]:
        """Answer what a site.ini would say."""
        for section, settings in self._said.items():
            kind, _, argument = section.partition(" ")
            yield Heading(next(iter(settings.values())).line, kind, argument)
            yield from settings.values()


def _tell_server(server: files.Server, name: str, sheet: _Sheet) -> Iterator[Problem]:
    from sitebus.paste import servers

    for each in servers.translate(server.use, server.options):
        line = sheet.line(server.section, each.option)
        if isinstance(each, servers.Said):
            sheet.say(each.section, each.key, each.text, line)
        else:
            yield Problem(Origin(name, line), f"[{server.section}] {each.message}")


def _others(path: Path, tokens: Iterable[Token]) -> Iterator[Path]:
    """Answer the files that are named behind ``config:``, if they are there."""
    from urllib.parse import unquote

    for token in tokens:
        if isinstance(token, Setting):
            for found in re.findall(r"\bconfig:([^#\s]+)", token.text):
                other = path.parent / unquote(found)
                if other.is_file():
                    yield other
