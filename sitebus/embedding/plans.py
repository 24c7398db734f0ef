"""What somebody wants embedded, read and checked: a file, an application, or a site.

What belongs to a process of our own, and means nothing in somebody else's, is told apart here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus import assembly
from sitebus.config import DEFAULT, Configuration, Override, Settings
from sitebus.config.drafts import current_directory
from sitebus.embedding import faces
from sitebus.errors import CannotRead, ConfigErrors
from sitebus.interfaces import detect
from sitebus.mounts import Site

if TYPE_CHECKING:
    from sitebus.mounts import Application

#: What the names of files end in that say what to serve.
CONFIGURATIONS = (".ini", ".cfg", ".conf")

#: Plugins of ours that change what only the owner of a process may.
NOT_OURS = frozenset({"daemon", "drop_privileges", "pidfile", "systemd"})

#: Why there is no access log, though there was to be one on standard output.
_STDOUT = "standard output is the host's"

#: Arguments of ``embed``, and the options that they say.
ARGUMENTS = {
    "environment": ("site", "environment"),
    "access_log": ("logging", "access"),
    "log_level": ("logging", "level"),
    "reload": ("reload", "enabled"),
}


class Plan(NamedTuple):
    """One site to be embedded.

    Attributes:
        key: Equal for plans that mean the same.
        name: What it is called in messages.
        site: Where it is mounted.
        app: An application that is given, and not named by the configuration.
    """

    key: tuple[object, ...]
    name: str
    configuration: Configuration
    site: Site
    app: Application | None = None

    @property
    def development(self) -> bool:
        return bool(self.configuration.site["development_pages"])

    def unused(self) -> tuple[str, ...]:
        """Answer the headings of what the configuration says in vain."""
        return tuple(_unused(self.configuration))


def draw_up(target: Any, site: Site, beside: str | None, said: Mapping[str, Any]) -> Plan:
    """Read what *target* means.

    Args:
        target: The path of a ``site.ini``, a reference such as ``module:app``, an application, or
            a `Site`.
        site: Where everything but a `Site` is mounted.
        beside: The file in which it is said, whose folder relative paths are relative to.
        said: The arguments of ``embed``; None leaves what the file says.

    Raises:
        SitebusError: It cannot be read, or is nothing that can be served.
    """
    given = {name: value for name, value in said.items() if value is not None}
    rest = tuple(sorted(given.items()))
    if isinstance(target, Site):
        return Plan((target, rest), "a Site", _read(None, given), target)
    if not isinstance(target, (str, os.PathLike)):
        faces.refuse(target, _name_of(target))
        detect(target)
        return Plan((target, rest), _name_of(target), _read(None, given), site, target)
    text = os.fspath(target)
    if not text:
        raise ConfigErrors(["embed(): nothing is named; name a site.ini, or module:app"])
    if not text.lower().endswith(CONFIGURATIONS):
        return Plan((text, rest), text, _read(None, given, text), site)
    path = _found(Path(text).expanduser(), beside)
    configuration = _read(path, given)
    if not any(mount["enabled"] for mount in configuration.mounts):
        nothing = f"{path}: nothing is mounted; add a [mount /] with an app"
        raise ConfigErrors([nothing] if configuration.mounts else configuration.notes or [nothing])
    return Plan((str(path.resolve()), rest), str(path), configuration, site)


def _name_of(app: object) -> str:
    kind = app if isinstance(app, type) or hasattr(app, "__qualname__") else type(app)
    return f"{kind.__module__}.{kind.__qualname__}"


def _found(path: Path, beside: str | None) -> Path:
    """A host's working directory is anything, and often ``/``."""
    if path.is_absolute():
        return path
    near = [Path(beside).absolute().parent] if beside else []
    folders = dict.fromkeys((*near, current_directory()))
    for folder in near:
        if (folder / path).exists():
            return folder / path
    if not path.exists():
        places = " or ".join(map(str, folders))
        raise CannotRead(path, f"there is no such file in {places}")
    return path


def _read(path: Path | None, given: Mapping[str, Any], reference: str = "") -> Configuration:
    overrides = [
        Override(*ARGUMENTS[name], _spelt(value), "", f"embed({name}=)")
        for name, value in given.items()
    ]
    if reference:
        text = reference.replace("$", "$$")
        overrides.append(Override("mount /", "app", text, "", "embed()"))
    configuration = assembly.read(path, overrides=overrides)
    said = configuration.logging.value("access").origin != DEFAULT
    if said and configuration.logging["access"] != "-":
        return configuration
    # The host has an access log; and standard output is not ours.
    overrides.append(Override("logging", "access", "off", _STDOUT if said else "", "embed()"))
    return assembly.read(path, overrides=overrides)


def _spelt(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace("$", "$$")


def _unused(configuration: Configuration) -> Iterator[str]:
    """What speaks for itself is asked for its words; what is on by itself, whether it was said."""
    for kind in ("server", "signals", "control", "relay"):
        yield from (each.title for each in configuration.several(kind) if _is_said(each))
    if configuration.one("workers")["count"] != 0:
        yield "[workers]"
    if configuration.one("health")["bind"]:
        yield "[health] bind"
    if configuration.logging.value("access").origin.detail == _STDOUT:
        yield "[logging] access = -"
    for plugin in configuration.plugins:
        if plugin["enabled"] and plugin.name in NOT_OURS:
            yield plugin.title


def _is_said(settings: Settings) -> bool:
    return any(value.origin != DEFAULT for value in settings.details)
