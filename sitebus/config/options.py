"""The one table of options: what a site's configuration may say.

An `Option` is a row: a key, its kind, its default and a sentence of help.
A `Section` is a kind of heading with its rows, a `Table` all of them.
The reader checks files against the table, the command line turns ``-o`` and its flags into entries
of it, and ``--print-config`` and the docs are written from it; nothing is declared twice.
Which rows the core has is told in `sitebus.config.core`; an adapter or a room brings its own with
`Section.with_rows` and `Table.with_section`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from sitebus.config.kinds import FREE_TEXT, Kind

T = TypeVar("T")

#: What a key's name says about its value: it is not for other people's eyes.
_SECRET = ("pass", "secret", "token", "key")


class Option(Generic[T]):
    """One setting of a section.

    Attributes:
        name: its key, with underscores.
        kind: what its text may say.
        default: the value when nobody says one; None for a setting that is not set.
        help: one sentence for the docs and the command line.
        default_text: a default to read as if the file said it, such as ``${here}``.
        by_environment: defaults that differ in one ``[site] environment``.
        follows: kind of section and key of another setting, whose largest value is the default
            where somebody says one.
        required: there is no default; somebody has to say it.
        secret: printed as asterisks.
    """

    __slots__ = (
        "by_environment",
        "default",
        "default_text",
        "follows",
        "help",
        "kind",
        "name",
        "required",
        "secret",
    )

    def __init__(
        self,
        name: str,
        kind: Kind[T],
        default: T | None,
        help: str,
        *,
        default_text: str = "",
        by_environment: Mapping[str, T] | None = None,
        follows: tuple[str, str] | None = None,
        required: bool = False,
        secret: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.help = help
        self.default_text = default_text
        self.by_environment = dict(by_environment or {})
        self.follows = follows
        self.required = required
        self.secret = secret

    def __repr__(self) -> str:
        return f"Option({self.name!r})"

    def default_in(self, environment: str) -> T | None:
        """Answer the default in an environment such as ``development``."""
        return self.by_environment.get(environment, self.default)


#: An option whatever its type, for tables of several.
Row = Option[Any]


def stranger(key: str) -> Row:
    """Answer the row of a key that a section takes without knowing it."""
    return Option(key, FREE_TEXT, "", "Handed on as it is.", secret=is_secret_name(key))


def is_secret_name(name: str) -> bool:
    """Tell whether a name, of a variable for instance, promises something to hide."""
    folded = name.casefold()
    return any(word in folded for word in _SECRET)


def _as_it_is(section: Section, text: str) -> Section:
    return section


def _nobody(name: str) -> Section | None:
    return None


def _no_row(key: str) -> Row | None:
    return None


class Section(NamedTuple):
    """One kind of heading, such as ``[server]`` or ``[mount PATH]``.

    Attributes:
        kind: the heading's first word.
        rows: the settings it knows.
        help: one sentence for the docs.
        argument: what follows the first word, for the docs; empty when nothing may.
        default_name: the name of a heading that has none; None when it must have one.
        free: keys it does not know are taken as text, and handed on.
        exact_keys: keys are told apart by case and hyphens, as environment variables are.
        heading: reads the argument into what the heading means; raises ValueError.
        opened_by: what an override has to say for a section that the file does not have.
        brings_by: a setting whose text decides on more rows, as ``adapter`` does.
        brings: answers the section with these rows, for that text; raises SitebusError.
        families: what keys with a dot may begin with, such as a library's name.
        others: answers the row of a key that need not be listed, if it is one that can be said.
        member: answers the section that a heading of that name is, where its settings are known.
        members: the names of those, for hints.
    """

    kind: str
    rows: tuple[Row, ...]
    help: str
    argument: str = ""
    default_name: str | None = ""
    free: bool = False
    exact_keys: bool = False
    heading: Callable[[str], object] = str
    opened_by: str = ""
    brings_by: str = ""
    brings: Callable[[Section, str], Section] = _as_it_is
    families: tuple[str, ...] = ()
    others: Callable[[str], Row | None] = _no_row
    member: Callable[[str], Section | None] = _nobody
    members: tuple[str, ...] = ()

    @property
    def single(self) -> bool:
        """True when there is one such section at most."""
        return not self.argument

    @property
    def title(self) -> str:
        """The heading as the docs write it."""
        return f"[{self.kind} {self.argument}]" if self.argument else f"[{self.kind}]"

    def with_rows(self, rows: Iterable[Row]) -> Section:
        """Answer a section that has *rows* too.

        A row that is there already, under the same name, is replaced: an adapter may have a better
        default or a narrower kind for a setting that every adapter knows.
        """
        merged = {row.name: row for row in self.rows} | {row.name: row for row in rows}
        return self._replace(rows=tuple(merged.values()))

    def key(self, text: str) -> str:
        """Answer the spelling under which a key is stored."""
        if self.exact_keys:
            return text
        folded = text.replace("-", "_")
        return folded if self.free and self.row(folded.lower()) is None else folded.lower()

    def row(self, key: str) -> Row | None:
        """Answer the row of a key that the section knows."""
        for row in self.rows:
            if row.name == key:
                return row
        return None

    def row_for(self, key: str) -> Row | None:
        """Answer the row to read a key's text with; None when the section does not take it."""
        return self.row(key) or self.others(key) or (stranger(key) if self.free else None)


class Table:
    """Every section there is; frozen, so that a room adds its rows by making another."""

    __slots__ = ("_sections",)

    def __init__(self, sections: Iterable[Section]) -> None:
        self._sections = {section.kind: section for section in sections}

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sections, in the order in which they are printed."""
        return tuple(self._sections.values())

    @property
    def kinds(self) -> tuple[str, ...]:
        """The first words of headings."""
        return tuple(self._sections)

    def find(self, kind: str) -> Section | None:
        """Answer the section whose headings begin with *kind*."""
        return self._sections.get(kind)

    def with_section(self, section: Section) -> Table:
        """Answer a table that has *section* as well, or instead of the one with its heading."""
        return Table((self._sections | {section.kind: section}).values())

    def homes(self, key: str) -> list[Section]:
        """Answer the sections that know *key*: where a setting in the wrong place belongs."""
        return [section for section in self.sections if section.row(key)]
