"""What files, environment and command line say, gathered under headings and not yet read.

The latter two overlay the first, setting by setting; every mistake in a heading or a key is kept as
a `Problem`, and the gathering goes on.
What the texts mean is for `sitebus.config.reader`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sitebus.config.configuration import DEFAULT, Origin, Problem
from sitebus.config.options import Section, Table
from sitebus.config.texts import cut, short
from sitebus.errors import NoDirectory, SitebusError, nearest

if TYPE_CHECKING:
    from sitebus.config.sources import Source
    from sitebus.config.tokens import Token

#: A variable ``SITEBUS_SERVER__THREADS`` is ``threads`` of ``[server]``, and
#: ``SITEBUS_SERVER_ADMIN__THREADS`` that of ``[server admin]``; other variables mean nothing here.
PREFIX = "SITEBUS_"

#: What an override's section is that has a value for the ``%(NAME)s`` in a PasteDeploy file.
VARIABLES = "paste"
_NO_VARIABLES = (
    "NAME=VALUE is for a PasteDeploy file; an application's path has a slash, as /wiki=wiki:app"
)


class Override(NamedTuple):
    """A setting that beats what files and environment say.

    Attributes:
        section: a heading without its brackets: ``server``, ``server admin``, ``mount /wiki``.
        key: the setting's name.
        text: its value, as a file would say it.
        flag: how it was given, for messages.
        source: where.
    """

    section: str
    key: str
    text: str
    flag: str
    source: str = "command line"


class Entry(NamedTuple):
    """A setting as somebody said it, not yet read."""

    key: str
    text: str
    origin: Origin
    directory: Path
    more: int = 0


class Draft:
    """A heading and what was said under it, not yet read."""

    __slots__ = ("entries", "heading", "letters", "name", "origin", "section")

    def __init__(self, section: Section, name: str, heading: object, origin: Origin) -> None:
        self.section = section
        self.name = name
        self.heading = heading
        self.origin = origin
        self.entries: dict[str, Entry] = {}
        #: The same by what tells two keys apart.
        self.letters: dict[str, Entry] = {}

    @property
    def identity(self) -> tuple[str, str]:
        """What two headings may not have in common."""
        return self.section.kind, str(self.heading)


class Drafts:
    """The headings so far, and the problems so far."""

    def __init__(self, table: Table, environ: Mapping[str, str]) -> None:
        self.table = table
        self.environ = environ
        self.here = current_directory()
        self.directory = self.here
        self.problems: list[Problem] = []
        self.known: dict[tuple[str, str], Draft] = {}
        #: Headings that are wrong themselves: what stands below them is checked all the same.
        self.stray: list[Draft] = []
        self.files: list[str] = []
        #: What is to be told of the files, and no mistake.
        self.notes: list[Problem] = []

    def problem(self, origin: Origin, message: str) -> None:
        self.problems.append(Problem(origin, message))

    def gather(self, path: Path, variables: Mapping[str, str] = {}) -> bool:
        """Take what a file says; tell whether it is PasteDeploy's, and heeds *variables*."""
        # Reading files takes regexes and more, which a site without one need not wait for.
        from sitebus.config.sources import Sources

        sources = Sources(self.environ, variables)
        sources.read(path)
        self.problems += sources.problems
        self.notes += sources.notes
        self.directory = path.absolute().parent
        for source in sources.files:
            self.files.append(source.name)
            self._gather_one(source)
        return sources.is_paste

    def _gather_one(self, source: Source) -> None:
        from sitebus.config.tokens import Heading, Mistake

        draft: Draft | None = None
        headed = False
        if source.tokens and not any(map(_heads, source.tokens)):
            self._headless(source)
            return
        for token in source.tokens:
            origin = Origin(source.name, token.line)
            if isinstance(token, Heading):
                draft, headed = self._open(token.kind, token.argument, origin), True
            elif isinstance(token, Mistake):
                self.problem(origin, token.message)
                draft, headed = (None, True) if token.heading else (draft, headed)
            elif draft is not None:
                self._add(draft, Entry(token.key, token.text, origin, source.directory, token.more))
            elif not headed:
                self.problem(origin, f"{short(token.key)} stands before the first [section]")

    def _headless(self, source: Source) -> None:
        """Say once what every line of a file would say: it is something else altogether."""
        origin = Origin(source.name, source.tokens[0].line)
        first = next(iter(self.table.kinds))
        self.problem(origin, f"the file has no [section]; it begins with one, such as [{first}]")

    def _open(self, kind: str, name: str, origin: Origin) -> Draft | None:
        """Answer a draft for a heading; None when there is no such section to check it by."""
        section = self.table.find(kind)
        if section is None:
            near = nearest(kind[:60], self.table.kinds)
            hint = f" - did you mean [{near}]?" if near else f"; there are {self._kinds()}"
            self.problem(origin, f"there is no section [{cut(kind)}]{hint}")
            return None
        try:
            draft = open_draft(section, name, origin)
        except ValueError as error:
            self.problem(origin, str(error))
            return self._astray(Draft(section, name, name, origin))
        before = self.known.setdefault(draft.identity, draft)
        if before is not draft:
            self.problem(origin, _twice(draft, before))
            return self._astray(draft)
        return draft

    def _astray(self, draft: Draft) -> Draft:
        self.stray.append(draft)
        return draft

    def _kinds(self) -> str:
        return ", ".join(f"[{kind}]" for kind in self.table.kinds)

    def _add(self, draft: Draft, entry: Entry) -> None:
        """Take a setting, if nobody said it before in a file."""
        key = draft.section.key(entry.key)
        letters = key if draft.section.exact_keys else key.casefold()
        before = draft.letters.setdefault(letters, entry)
        if before is not entry:
            message = f"{short(entry.key)} is said twice in [{draft.section.kind}]"
            self.problem(entry.origin, f"{message}, first at {before.origin}")
            return
        draft.entries[key] = entry

    def overlay_environment(self) -> None:
        for variable in sorted(self.environ):
            if variable.startswith(PREFIX) and "__" in variable:
                section, _, key = variable.removeprefix(PREFIX).partition("__")
                self._overlay_variable(variable, section, key)

    def _overlay_variable(self, variable: str, section: str, key: str) -> None:
        origin = Origin("environment", detail=variable)
        kind, _, name = section.lower().partition("_")
        draft = self._wanted(kind, self._spelled(kind, name), origin)
        if draft is not None:
            # A shell's variables shout: find the key that is meant, if it is there.
            family, _, rest = key.lower().partition("__")
            if rest and family in draft.section.families:
                key = f"{family}.{rest}"
            same = (each for each in draft.entries if each.casefold() == key.casefold())
            spelled = key if draft.section.exact_keys else next(same, key.lower())
            self._lay(draft, Entry(spelled, self.environ[variable], origin, self.here))

    def _spelled(self, kind: str, name: str) -> str:
        """Answer the name of the section that a variable's capitals and underscores stand for."""
        for each, spelled in self.known:
            if each == kind and re.sub(r"\W", "_", spelled).casefold() == name:
                return spelled
        return name

    def overlay(self, overrides: Iterable[Override]) -> None:
        for override in overrides:
            origin = Origin(override.source, detail=override.flag)
            if override.section == VARIABLES:
                self.problem(origin, _NO_VARIABLES)
                continue
            kind, name, key = self._split(override)
            if override.section.strip().endswith("."):
                self.problem(origin, f"nothing follows the dot of {short(override.section)}")
                continue
            draft = self._wanted(kind, name, origin)
            if draft is not None:
                self._lay(draft, Entry(key, override.text, origin, self.here))

    def _split(self, override: Override) -> tuple[str, str, str]:
        """Answer kind, name and key: a key's own dot looks like that between name and key."""
        kind, name = split_heading(override.section)
        section = self.table.find(kind)
        rest, _, last = name.rpartition(".")
        if section is None or last not in section.families or (kind, name) in self.known:
            return kind, name, override.key
        return kind, rest, f"{last}.{override.key}"

    def _wanted(self, kind: str, name: str, origin: Origin) -> Draft | None:
        """Answer the draft that a heading names, a new one if need be."""
        section = self.table.find(kind)
        if section is None:
            return self._open(kind, name, origin)
        several = [draft for (each, _), draft in self.known.items() if each == kind]
        if not name and section.default_name and not section.single and several:
            return self._only(kind, section.default_name, several, origin)
        try:
            draft = open_draft(section, name, origin)
        except ValueError as error:
            self.problem(origin, str(error))
            return None
        return self.known.setdefault(draft.identity, draft)

    def _only(
        self, kind: str, default_name: str, drafts: list[Draft], origin: Origin
    ) -> Draft | None:
        """Answer the section that is meant by a kind alone."""
        unnamed = self.known.get((kind, default_name))
        if unnamed is not None or len(drafts) == 1:
            return unnamed or drafts[0]
        names = " and ".join(f"[{kind} {draft.name}]" for draft in drafts)
        self.problem(origin, f"which {kind} is meant? there are {names}")
        return None

    def _lay(self, draft: Draft, entry: Entry) -> None:
        key = draft.section.key(entry.key)
        if draft.section.kind == "site" and key == "include":
            self.problem(entry.origin, "include works in files only")
        else:
            draft.entries[key] = entry

    def complete(self) -> None:
        """Add the headings that nobody wrote and the rows they bring; drop what nobody knows."""
        for draft in list(self.known.values()):
            self._refuse_misspelled(draft)
        self._add_unwritten()
        for draft in (*self.known.values(), *self.stray):
            whole = self._bring(draft)
            for key, entry in list(draft.entries.items()):
                if draft.section.row_for(key) is not None:
                    continue
                # What cannot be had might have brought the row.
                if whole:
                    self.problem(entry.origin, _unknown_key(draft, entry.key, key, self.table))
                del draft.entries[key]

    def _refuse_misspelled(self, draft: Draft) -> None:
        """Refuse a section that only an override has, and that does not look like a new one."""
        kind, opening = draft.section.kind, draft.section.opened_by
        drafts = [each for each in self.known.values() if each.section.kind == kind]
        names = [each.name for each in drafts if each.origin.line]
        if draft.origin.line or not names or opening in ("", *draft.entries):
            return
        del self.known[draft.identity]
        near = nearest(draft.name[:60], names)
        hint = f" - did you mean [{kind} {near}]?" if near else f"; a new one needs {opening!r}"
        self.problem(draft.origin, f"the file has no section {title(draft)}{hint}")
        self._astray(draft)

    def _bring(self, draft: Draft) -> bool:
        """Add the rows that a value brings; tell whether all of them are known now."""
        row = draft.section.row(draft.section.brings_by)
        if row is None:
            return True
        entry = draft.entries.get(row.name)
        try:
            text = entry.text if entry else str(row.default)
            draft.section = draft.section.brings(draft.section, text)
        except SitebusError as error:
            self.problem(entry.origin if entry else draft.origin, f"{row.name}: {error}")
            return False
        return True

    def _add_unwritten(self) -> None:
        for section in self.table.sections:
            if section.default_name is None:
                continue
            if all(kind != section.kind for kind, _ in self.known):
                draft = Draft(section, section.default_name, section.default_name, DEFAULT)
                self.known[draft.identity] = draft


def current_directory() -> Path:
    """Answer where relative paths begin.

    Raises:
        NoDirectory: it is not there any more.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise NoDirectory from error


def split_heading(text: str) -> tuple[str, str]:
    """Answer the first word of a heading and the rest: ``server admin``, or ``server.admin``."""
    text = text.strip()
    kind = min(text.partition(" ")[0], text.partition(".")[0], key=len)
    return kind.lower(), text[len(kind) + 1 :].strip()


def open_draft(section: Section, name: str, origin: Origin) -> Draft:
    """Open a heading; ValueError when it cannot have that name."""
    if section.single and name:
        raise ValueError(f"[{section.kind}] takes no name, so {short(name)} means nothing")
    if not name:
        if section.default_name is None:
            raise ValueError(f"[{section.kind}] needs a name: {section.title}")
        name = section.default_name
    section = section.member(name) or section
    return Draft(section, name, section.heading(name) if not section.single else name, origin)


def _heads(token: Token) -> bool:
    from sitebus.config.tokens import Heading, Mistake

    return isinstance(token, Heading) or (isinstance(token, Mistake) and token.heading)


def title(draft: Draft) -> str:
    return f"[{draft.section.kind} {cut(draft.name)}]" if draft.name else f"[{draft.section.kind}]"


def _twice(draft: Draft, before: Draft) -> str:
    if draft.section.kind == "mount":
        return f"two mounts on {cut(str(draft.heading))}, the other at {before.origin}"
    return f"section {title(draft)} stands twice, first at {before.origin}"


def _unknown_key(draft: Draft, spelled: str, key: str, table: Table) -> str:
    section = draft.section
    known = section.member(draft.name) is not None
    said = f"{title(draft) if known else f'[{section.kind}]'} has no setting {short(spelled)}"
    homes = [f"[{home.kind}]" for home in table.homes(key) if not known]
    if homes:
        return f"{said} - it belongs in {' or '.join(dict.fromkeys(homes))}"
    near = nearest(key[:60], [row.name for row in section.rows])
    return f"{said} - did you mean {near!r}?" if near else said
