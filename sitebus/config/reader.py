"""From files, environment and command line to one checked `Configuration`.

Command line beats environment beats file beats default, setting by setting, and each value keeps
its origin.
A mistake never stops the reading: all are gathered, and raised at once as `ConfigErrors`.
`sitebus.config.drafts` gathers what is said; here placeholders are expanded, each text is read by
its row, and the checks of `sitebus.config.core` compare what was read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sitebus.config import core
from sitebus.config.configuration import DEFAULT, Configuration, Problem, Settings, Value
from sitebus.config.drafts import (
    VARIABLES,
    Draft,
    Drafts,
    Entry,
    Override,
    open_draft,
    split_heading,
    title,
)
from sitebus.config.interpolation import CannotExpand, Expanded, Scope, expand
from sitebus.config.kinds import BadValue, Context
from sitebus.config.options import Row, Table, is_secret_name
from sitebus.config.texts import MASK, cut, masked, short
from sitebus.errors import ConfigErrors, nearest

_CHAIN = 50

#: Answers what is wrong with settings, each of which is right.
Check = Callable[[Configuration], Iterable[Problem]]

#: A setting's place: two headings may have the same name, by mistake, and are two drafts.
_Place = tuple[Draft, str]


class _AlreadyTold(ValueError):
    """A value depends on one that was found wrong, which is a problem of its own."""


def read(
    path: str | os.PathLike[str] | None,
    table: Table | None = None,
    *,
    overrides: Iterable[Override] = (),
    environ: Mapping[str, str] | None = None,
    checks: Iterable[Check] | None = None,
) -> Configuration:
    """Read and check a configuration.

    Args:
        path: the file, or None for a site that has none.
        table: what may be said; the core's own table if left out.
        overrides: what the command line says.
        environ: the environment variables; those of the process if left out.
        checks: what may not be said together; the core's own checks if left out.

    Raises:
        CannotRead: the file is not there.
        ForeignFile: it could be another program's, or is, and that makes no sense of it.
        ConfigErrors: it was read, and this is all that is wrong with it.
    """
    environ = os.environ if environ is None else environ
    drafts = Drafts(core.TABLE if table is None else table, environ)
    file = None if path is None else Path(path)
    given = tuple(overrides)
    variables = {each.key: each.text for each in given if each.section == VARIABLES}
    is_paste = file is not None and drafts.gather(file, variables)
    drafts.overlay_environment()
    drafts.overlay(each for each in given if each.section != VARIABLES or not is_paste)
    drafts.complete()
    return _Reader(drafts, variables).finish(file, core.CHECKS if checks is None else checks)


class _Reader:
    """One reading of what was gathered."""

    def __init__(self, drafts: Drafts, variables: Mapping[str, str]) -> None:
        self.drafts = drafts
        self.variables = variables
        self.problem = drafts.problem
        self._values: dict[_Place, Value | None] = {}
        #: None for what could not be expanded, which was told.
        self._expanded: dict[_Place, Expanded | None] = {}
        self._expanding: list[_Place] = []

    def finish(self, path: Path | None, checks: Iterable[Check]) -> Configuration:
        problems = self.drafts.problems
        environment = self._environment()
        settings = [self._settings(draft, environment) for draft in self.drafts.known.values()]
        for draft in self.drafts.stray:
            self._settings(draft, environment, complete=False)
        order = {kind: number for number, kind in enumerate(self.drafts.table.kinds)}
        settings.sort(key=lambda each: order[each.section.kind])
        files = [str(Path(name).absolute()) for name in self.drafts.files]
        configuration = Configuration(
            path, self.drafts.directory, settings, files, self.drafts.notes, self.variables
        )
        for check in checks:
            problems.extend(check(configuration))
        if problems:
            # Files are included before settings are read: both may find the same.
            told = sorted(dict.fromkeys(problems), key=self._place)
            raise ConfigErrors(told)
        return configuration

    def _place(self, problem: Problem) -> tuple[int, int]:
        source = problem.origin.source
        known = (
            self.drafts.files.index(source)
            if source in self.drafts.files
            else len(self.drafts.files)
        )
        return known, problem.origin.line

    def _environment(self) -> str:
        """Answer ``[site] environment``, which has a say in the defaults of all the others."""
        draft = self.drafts.known.get(("site", ""))
        section = self.drafts.table.find("site")
        row = section.row("environment") if section else None
        if draft is None or row is None:
            return ""
        value = self._value(draft, row, "environment", "")
        return str(value.value) if value else str(row.default)

    def _settings(self, draft: Draft, environment: str, complete: bool = True) -> Settings:
        values: dict[str, Value] = {}
        keys = [row.name for row in draft.section.rows] if complete else []
        for key in dict.fromkeys([*keys, *draft.entries]):
            row = draft.section.row_for(key)
            value = self._value(draft, row, key, environment) if row else None
            if value is not None:
                values[key] = value
        return Settings(draft.section, draft.name, draft.heading, draft.origin, values)

    def _value(self, draft: Draft, row: Row, key: str, environment: str) -> Value | None:
        entry = draft.entries.get(key)
        if entry is None:
            return self._default(draft, row, environment)
        place = draft, key
        if place not in self._values:
            self._values[place] = self._read(draft, row, key, entry)
        return self._values[place]

    def _read(self, draft: Draft, row: Row, key: str, entry: Entry) -> Value | None:
        try:
            expanded = self._expand(draft, key, entry)
        except _AlreadyTold:
            return None
        try:
            return self._parsed(row, entry, expanded)
        except ValueError as error:
            self.problem(entry.origin, _wrong(row, entry, expanded, error))
            return None

    def _parsed(self, row: Row, entry: Entry, expanded: Expanded) -> Value:
        if entry.more and not row.kind.multiline:
            raise ValueError(f"expected one line, and line {entry.more} goes on with it")
        value = row.kind.parse(expanded.text, Context(entry.directory))
        secret = expanded.secret or row.secret
        return Value(row, value, entry.origin, entry.directory, secret)

    def _default(self, draft: Draft, row: Row, environment: str) -> Value | None:
        if row.required:
            near = nearest(draft.name[:60], draft.section.members)
            hint = f" - did you mean [{draft.section.kind} {near}]?" if near else ""
            message = f"{title(draft)} needs {row.name!r}: {row.help}"
            self.problem(draft.origin, f"{message.rstrip('.')}{hint}" if hint else message)
            return None
        if row.follows and (found := self._followed(*row.follows, environment)) is not None:
            return found._replace(row=row, origin=DEFAULT)
        value = row.default_in(environment)
        if row.default_text:
            text = expand(row.default_text, self._scope(self.drafts.directory)).text
            value = row.kind.parse(text, Context(self.drafts.directory))
        return Value(row, value, DEFAULT, self.drafts.directory, row.secret)

    def _followed(self, kind: str, key: str, environment: str) -> Value | None:
        """Answer the largest value of a setting in all sections of a kind, if one says it."""
        drafts = [draft for (each, _), draft in self.drafts.known.items() if each == kind]
        if not any(key in draft.entries for draft in drafts):
            return None
        rows = ((draft, draft.section.row(key)) for draft in drafts)
        values = [self._value(draft, row, key, environment) for draft, row in rows if row]
        return max(filter(None, values), key=lambda each: each.value, default=None)

    def _scope(self, directory: Path) -> Scope:
        return Scope(directory, self._variable, self._lookup)

    def _variable(self, name: str) -> Expanded | None:
        """Answer what applications will find in the environment: ``[env]`` where it has none."""
        value = self.drafts.environ.get(name)
        if value is not None:
            return Expanded(value, is_secret_name(name))
        draft = self.drafts.known.get(("env", ""))
        if draft is None or name not in draft.entries:
            return None
        found = self._expand(draft, name, draft.entries[name])
        return Expanded(found.text, found.secret or is_secret_name(name))

    def _expand(self, draft: Draft, key: str, entry: Entry) -> Expanded:
        if "$" not in entry.text:
            return Expanded(entry.text)
        place = draft, key
        if place in self._expanding or len(self._expanding) > _CHAIN:
            raise CannotExpand(self._circle(place))
        if place not in self._expanded:
            self._expanded[place] = self._expand_or_tell(place, entry)
        found = self._expanded[place]
        if found is None:
            raise _AlreadyTold
        return found

    def _expand_or_tell(self, place: _Place, entry: Entry) -> Expanded | None:
        self._expanding.append(place)
        try:
            return expand(entry.text, self._scope(entry.directory))
        except _AlreadyTold:
            return None
        except CannotExpand as error:
            self.problem(entry.origin, f"{cut(entry.key)}: {error}")
            return None
        finally:
            self._expanding.pop()

    def _circle(self, place: _Place) -> str:
        """Say how the setting that is being expanded comes back to itself by way of *place*."""
        if place not in self._expanding:
            return f"it goes through more than {_CHAIN} other settings"
        path = [self._expanding[-1], *self._expanding[self._expanding.index(place) :]]
        names = " -> ".join(cut(_reference(*each)) for each in path[:8])
        return f"it refers to itself: {names}"

    def _lookup(self, heading: str, key: str) -> Expanded:
        kind, name = split_heading(heading)
        draft = self._referred(kind, name)
        if draft is None:
            raise CannotExpand(f"${{{cut(heading)}:{cut(key)}}} names no section of the file")
        key = draft.section.key(key)
        row = draft.section.row_for(key)
        entry = draft.entries.get(key)
        if row is None or (entry is None and draft.section.row(key) is None):
            raise CannotExpand(f"{title(draft)} has no setting {short(key)}")
        if entry is not None:
            found = self._expand(draft, key, entry)
            return Expanded(found.text, found.secret or row.secret)
        value = None if row.required else self._default(draft, row, self._environment())
        return Expanded("" if value is None or value.value is None else value.text)

    def _referred(self, kind: str, name: str) -> Draft | None:
        section = self.drafts.table.find(kind)
        if section is None:
            return None
        try:
            return self.drafts.known.get(open_draft(section, name, DEFAULT).identity)
        except ValueError:
            return None


def _wrong(row: Row, entry: Entry, expanded: Expanded, error: ValueError) -> str:
    """Say what is wrong with a value, without telling a secret."""
    secret = expanded.secret or row.secret
    shown = MASK if secret else masked(expanded.text)
    # What a kind says of a text may repeat it.
    hush = secret and isinstance(error, BadValue)
    expected = f"expected {row.kind.expected}" if hush else str(error)
    words = getattr(row.kind, "words", ())
    near = nearest(shown[:60].lower(), words)
    hint = f" - did you mean {near!r}?" if near else ""
    if re.search(r"\s[#;]", entry.text):
        hint += " (comments need their own line)"
    return f"{cut(entry.key)} = {short(shown)}: {expected}{hint}"


def _reference(draft: Draft, key: str) -> str:
    kind, name = draft.identity
    return f"{kind} {name}:{key}" if name else f"{kind}:{key}"
