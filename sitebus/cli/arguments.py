"""The arguments of ``sitebus-serve``, and the settings of a site.ini that they stand for.

Every flag that sets something is an `Override` of a row in the option table: the checks, the origin
and the messages are those of the file. The flags themselves are in `sitebus.cli.flags`, which is
left alone by a command line without any: who starts a site waits for everything that is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus.config import VARIABLES, Override, parse_place
from sitebus.errors import UsageError
from sitebus.mounts.routing import Place

if TYPE_CHECKING:
    from argparse import Namespace

_CONFIG = (".ini", ".cfg", ".conf")
#: A value for a ``%(NAME)s`` in a PasteDeploy file, such as ``http_port=8080``.
_VARIABLE = re.compile(r"[A-Za-z_][\w.-]*=")
#: A file that is served when nothing is named.
USUAL = "site.ini"

#: What the flags are that nobody gives.
UNSAID: Mapping[str, Any] = {
    **dict.fromkeys(
        (
            *("access_log", "app_dir", "chdir", "check", "config", "env_file", "environment"),
            *("group", "interface", "log_format", "log_level", "pid", "print_completion"),
            *("threads", "umask", "user", "workers"),
        )
    ),
    **dict.fromkeys(
        (
            *("daemon", "factory", "help", "list_mounts", "print_config", "quiet", "reload"),
            *("verbose", "version"),
        ),
        False,
    ),
    **dict.fromkeys(("bind", "mount", "settings"), ()),
    "color": "auto",
}


class Arguments(NamedTuple):
    """What the command line asks for."""

    options: Namespace | SimpleNamespace
    config: Path | None
    overrides: tuple[Override, ...]


def parse(argv: Sequence[str]) -> Arguments:
    """Read the command line.

    Raises:
        UsageError: it makes no sense.
    """
    options = _flags(argv)
    _split_variables(options)
    configs = [Path(each) for each in options.targets if _is_config(each)]
    if options.config:
        configs.insert(0, Path(options.config))
    if len(configs) > 1:
        raise UsageError(f"one site.ini at a time, not {' and '.join(map(str, configs))}")
    overrides = tuple(_overrides(options))
    if not configs and not any(each.section.startswith("mount ") for each in overrides):
        configs += [Path(USUAL)] if Path(options.chdir or ".", USUAL).is_file() else []
    return Arguments(options, configs[0] if configs else None, overrides)


def _split_variables(options: Namespace | SimpleNamespace) -> None:
    """Tell values for a PasteDeploy file from applications, where a file is named at all."""
    options.variables = []
    if options.config or any(map(_is_config, options.targets)):
        options.variables = [each for each in options.targets if _VARIABLE.match(each)]
        options.targets = [each for each in options.targets if not _VARIABLE.match(each)]


def _flags(argv: Sequence[str]) -> Namespace | SimpleNamespace:
    if not any(each.startswith("-") for each in argv):
        return SimpleNamespace(**UNSAID, targets=[*argv])
    from sitebus.cli.flags import build_parser

    # Argparse would take the target after a bare --check for its value.
    spelled = ["--check=values" if each == "--check" else each for each in argv]
    return build_parser().parse_intermixed_args(spelled)


def _is_config(target: str) -> bool:
    name = target.lower()
    return "=" not in target and name.endswith(_CONFIG) and name not in _CONFIG


def _overrides(options: Namespace | SimpleNamespace) -> Iterator[Override]:
    for variable in options.variables:
        name, _, value = variable.partition("=")
        yield Override(VARIABLES, name, value, variable)
    yield from _mounts(options)
    if options.bind:
        yield Override("server", "bind", ", ".join(options.bind), "--bind")
    for flag, section, key in (
        ("threads", "server", "threads"),
        ("workers", "workers", "count"),
        ("app_dir", "site", "python_path"),
        ("environment", "site", "environment"),
        ("pid", "plugin pidfile", "path"),
        ("user", "plugin drop_privileges", "user"),
        ("group", "plugin drop_privileges", "group"),
        ("umask", "plugin drop_privileges", "umask"),
        ("access_log", "logging", "access"),
        ("log_level", "logging", "level"),
        ("log_format", "logging", "format"),
    ):
        value = getattr(options, flag)
        if value is not None:
            yield Override(section, key, _literal(value), f"--{flag.replace('_', '-')}")
    if options.reload:
        yield Override("reload", "enabled", "yes", "--reload")
        if options.environment is None:
            yield Override("site", "environment", "development", "--reload")
    if options.daemon:
        yield Override("plugin daemon", "enabled", "yes", "--daemon")
    if options.quiet or options.verbose:
        level = "warning" if options.quiet else "debug"
        yield Override("logging", "level", level, "-q" if options.quiet else "-v")
    yield from map(_setting, options.settings)


def _literal(value: Any) -> str:
    """Answer a flag's text so that it stands for itself: a shell has expanded it already."""
    return str(value).replace("$", "$$")


def _mounts(options: Namespace | SimpleNamespace) -> Iterator[Override]:
    """Answer the settings of each application that is named."""
    seen: dict[Place, str] = {}
    for target, flag in _named(options):
        place, reference = _placed(target)
        point = _point(place, target)
        if point in seen:
            raise UsageError(f"two mounts on {point}: {seen[point]} and {target}")
        seen[point] = target
        heading = f"mount {point}"
        yield Override(heading, "app", _literal(reference), flag)
        if options.interface:
            yield Override(heading, "interface", options.interface, "--interface")
        if options.factory:
            yield Override(heading, "factory", "yes", "--factory")
    if not seen and (options.interface or options.factory):
        raise UsageError("--interface and --factory are for an application on the command line")


def _named(options: Namespace | SimpleNamespace) -> Iterator[tuple[str, str]]:
    for target in options.targets:
        if not _is_config(target):
            yield target, target
    for target in options.mount:
        if "=" not in target:
            raise UsageError(f"--mount {target}: expected PATH=APPLICATION, as /wiki=wiki:app")
        yield target, f"--mount {target}"


def _placed(target: str) -> tuple[str, str]:
    """Answer where a target is mounted, and what."""
    place, equals, reference = target.partition("=")
    # A query in a redirect's URL has an equals sign as well.
    if equals and "/" in place and "://" not in place:
        return place, reference
    return "/", target


def _point(place: str, target: str) -> Place:
    try:
        return parse_place(place)
    except ValueError as error:
        raise UsageError(f"{target}: {error}") from error


def _setting(text: str) -> Override:
    path, equals, value = text.partition("=")
    section, dot, key = path.rpartition(".")
    if not equals or not dot or not section.strip() or not key.strip():
        raise UsageError(f"-o {text}: expected SECTION.KEY=VALUE, as server.threads=20")
    return Override(section, key.strip(), value, f"-o {path}")
