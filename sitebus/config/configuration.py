"""What a configuration says, once it is read: values that know where they come from.

A `Configuration` is frozen and holds `Settings`, one for each heading; how it is made of files,
environment and command line is for `sitebus.config.reader`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from sitebus.config.options import Row, Section
from sitebus.config.texts import MASK, masked
from sitebus.mounts.routing import Place

#: A shorter text says nothing, and stands in many a message by chance.
_SHORTEST_SECRET = 4


class Origin(NamedTuple):
    """Where a value comes from.

    Attributes:
        source: a file as it was named, or ``default``, ``environment``, ``command line``.
        line: a file's line.
        detail: the variable, or the flag.
    """

    source: str
    line: int = 0
    detail: str = ""

    def __str__(self) -> str:
        if self.line:
            return f"{self.source}:{self.line}"
        # A target on the command line may be a URL with a password.
        return f"{self.source} {masked(self.detail)}" if self.detail else self.source


DEFAULT = Origin("default")


class Problem(NamedTuple):
    """One thing that is wrong with a configuration."""

    origin: Origin
    message: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.message}"


class Value(NamedTuple):
    """One setting's value.

    Attributes:
        value: what it is, of the type that its row's kind makes.
        origin: where it was said.
        directory: what a relative path in it is relative to.
        secret: it is not printed.
    """

    row: Row
    value: Any
    origin: Origin
    directory: Path
    secret: bool = False

    @property
    def text(self) -> str:
        """The value as the file could say it, secrets masked."""
        if self.value is None or self.value == "":
            return ""
        if self.secret:
            return MASK
        return masked(self.row.kind.format(self.value))

    @property
    def hidden(self) -> tuple[str, ...]:
        """What no message may repeat: nothing, unless the value is a secret."""
        if not self.secret or self.value is None:
            return ()
        parts = self.value if isinstance(self.value, tuple) else (self.value,)
        whole = [part if isinstance(part, str) else str(part) for part in parts]
        # Behind a scheme, as in static:FOLDER, the rest is told alone.
        return (*whole, *(text.partition(":")[2] for text in whole))


class Settings(Mapping[str, Any]):
    """The settings under one heading: a mapping of keys to values, defaults included.

    Attributes:
        section: the heading's place in the table.
        name: what follows the heading's first word.
        heading: what the name means; a `Place` for a mount.
        origin: where the heading stands.
    """

    __slots__ = ("_values", "heading", "name", "origin", "section")

    def __init__(
        self,
        section: Section,
        name: str,
        heading: object,
        origin: Origin,
        values: Mapping[str, Value],
    ) -> None:
        self.section = section
        self.name = name
        self.heading = heading
        self.origin = origin
        self._values = values

    @property
    def title(self) -> str:
        """The heading as the file writes it."""
        unsaid = self.section.single or self.name == self.section.default_name
        return f"[{self.section.kind}]" if unsaid else f"[{self.section.kind} {self.name}]"

    @property
    def place(self) -> Place:
        """The place that a mount's heading names."""
        if not isinstance(self.heading, Place):
            raise TypeError(f"{self.title} is not a mount")
        return self.heading

    @property
    def details(self) -> tuple[Value, ...]:
        """Each value with its origin, in the order of the table and then of the file."""
        return tuple(self._values.values())

    @property
    def extras(self) -> Mapping[str, str]:
        """The settings that the table does not know: a stranger's keyword arguments."""
        return MappingProxyType(
            {key: each.value for key, each in self._values.items() if not self.section.row(key)}
        )

    def value(self, key: str) -> Value:
        """Answer a value with its origin."""
        return self._values[key]

    def __getitem__(self, key: str) -> Any:
        return self._values[key].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<{self.title} {self.origin}>"

    def explain(self) -> str:
        """Answer heading and settings as a file would say them, each with its origin."""
        lines = [f"{self.title:<38}  # {self.origin}"]
        for key, value in self._values.items():
            said = f"{key} = {value.text}".rstrip().replace("\n", "\n    ")
            lines.append(f"{said:<38}  # {value.origin}")
        return "\n".join(lines)


class Configuration:
    """Everything that files, environment and command line say, in the order of the file.

    Attributes:
        path: the file that was read, or None.
        directory: where it is, or the current directory.
        all: the settings of every heading.
        files: every file that was read.
        notes: what is to be told of them, and no mistake.
        variables: values for the ``%(NAME)s`` in a PasteDeploy file.
    """

    __slots__ = ("_by_kind", "all", "directory", "files", "notes", "path", "variables")

    path: Path | None
    directory: Path
    all: tuple[Settings, ...]
    files: tuple[str, ...]
    notes: tuple[Problem, ...]
    variables: Mapping[str, str]
    _by_kind: dict[str, list[Settings]]

    def __init__(
        self,
        path: Path | None,
        directory: Path,
        settings: Iterable[Settings],
        files: Iterable[str] = (),
        notes: Iterable[Problem] = (),
        variables: Mapping[str, str] = {},
    ) -> None:
        by_kind: dict[str, list[Settings]] = {}
        for each in settings:
            by_kind.setdefault(each.section.kind, []).append(each)
        put = object.__setattr__
        put(self, "path", path)
        put(self, "directory", directory)
        put(self, "all", tuple(each for group in by_kind.values() for each in group))
        put(self, "files", tuple(files))
        put(self, "notes", tuple(notes))
        put(self, "variables", MappingProxyType(dict(variables)))
        put(self, "_by_kind", by_kind)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a configuration is frozen: cannot set {name!r}")

    def one(self, kind: str) -> Settings:
        """Answer the settings of a section that is there once, such as ``site``."""
        return self._by_kind[kind][0]

    def several(self, kind: str) -> tuple[Settings, ...]:
        """Answer the settings of each heading of a kind, such as ``server``."""
        return tuple(self._by_kind.get(kind, ()))

    @property
    def site(self) -> Settings:
        """``[site]``."""
        return self.one("site")

    @property
    def logging(self) -> Settings:
        """``[logging]``."""
        return self.one("logging")

    @property
    def env(self) -> Mapping[str, str]:
        """``[env]``: variables to set where they are not set."""
        return self.one("env").extras

    @property
    def servers(self) -> tuple[Settings, ...]:
        """Each ``[server]``; one with the defaults when the file has none."""
        return self.several("server")

    @property
    def mounts(self) -> tuple[Settings, ...]:
        """Each ``[mount]``; its `Settings.place` is where."""
        return self.several("mount")

    @property
    def apps(self) -> Mapping[str, Settings]:
        """Each ``[app]`` by its name."""
        return {each.name: each for each in self.several("app")}

    def app_of(self, mount: Settings) -> Settings | None:
        """Answer the ``[app]`` that a mount names; None where it names something else."""
        kind, _, name = str(mount.get("app", "")).partition(":")
        return self.apps.get(name) if kind == "app" else None

    @property
    def filters(self) -> Mapping[str, Settings]:
        """Each ``[filter]`` by its name."""
        return {each.name: each for each in self.several("filter")}

    @property
    def plugins(self) -> tuple[Settings, ...]:
        """Each ``[plugin]``."""
        return self.several("plugin")

    def hushed(self, message: str) -> str:
        """Answer *message* without what this configuration keeps secret."""
        hidden = {
            text
            for settings in self.all
            for value in settings.details
            if settings.section.row(value.row.name) is not None
            for text in value.hidden
            if len(text) >= _SHORTEST_SECRET
        }
        for text in sorted(hidden, key=len, reverse=True):
            message = message.replace(text, MASK)
        return masked(message)

    def explain(self) -> str:
        """Answer the whole configuration as a file would say it, each value with its origin."""
        return "\n\n".join(each.explain() for each in self.all) + "\n"
