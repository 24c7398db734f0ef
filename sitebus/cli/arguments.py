"""The arguments of ``sitebus-serve``, and the settings of a site.ini that they stand for.

Every flag that sets something is an `Override` of a row in the option table: the checks, the origin
and the messages are those of the file.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from sitebus.cli.reports import PROGRAM
from sitebus.config import TABLE, Override, parse_place
from sitebus.errors import UsageError, nearest
from sitebus.mounts.routing import Place

_CONFIG = (".ini", ".cfg", ".conf")
#: A file that is served when nothing is named.
USUAL = "site.ini"

DESCRIPTION = """\
Serve Python web applications as one site.

  sitebus-serve site.ini                     what the file says
  sitebus-serve module:app                   one application, at /
  sitebus-serve app.py                       the application in a file
  sitebus-serve /=shop:app /wiki=wiki:app    several, each at its path
"""
EPILOG = """\
Exit status: 0 asked to stop; 64 wrong usage; 66 a file is missing; 69 an address is in use; 70 an
application failed; 73 cannot write a file; 77 not permitted; 78 wrong configuration.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are errors like all others: one sentence, one status."""

    def error(self, message: str) -> NoReturn:
        """Raise what the caller is to print.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message}{self._meant(message)}; see {self.prog} --help")

    def format_help(self) -> str:
        """Answer the help, which shows how an optional value is given: argparse has no such way."""
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_help().replace("--check [import]", "--check[=import]")

    def _meant(self, message: str) -> str:
        flags = [flag for action in self._actions for flag in action.option_strings]
        wrong = re.search(r"unrecognized arguments: (--[^ =]+)", message)
        near = nearest(wrong[1][:40], flags) if wrong else None
        return f" - did you mean {near}?" if near else ""


class Arguments(NamedTuple):
    """What the command line asks for."""

    options: argparse.Namespace
    config: Path | None
    overrides: tuple[Override, ...]


def build_parser() -> Parser:
    """Make the parser: the help, the completion scripts and the docs are made from it."""
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [OPTIONS] [TARGET ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        # Each argument makes one, which would ask for the terminal's width, by a large import.
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=80),
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help=f"FILE.ini, MODULE:NAME, FILE.py[:NAME] or PATH=APPLICATION; {USUAL} if left out",
    )
    for add in (_add_site, _add_server, _add_process, _add_logging, _add_other):
        add(parser)
    return parser


def _row(section: str, name: str) -> str:
    """Answer the help of an option of the table, as that of a flag that sets it."""
    found = TABLE.find(section)
    row = found.row(name) if found else None
    assert row is not None, (section, name)
    return (row.help[0].lower() + row.help[1:]).rstrip(".")


def _add_site(parser: Parser) -> None:
    group = parser.add_argument_group("the site")
    group.add_argument("-c", "--config", metavar="FILE", help="the site.ini to read")
    group.add_argument(
        "-o",
        dest="settings",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="set anything that a site.ini can say, as -o server.timeout=5s",
    )
    group.add_argument(
        "--mount",
        metavar="PATH=APPLICATION",
        action="append",
        default=[],
        help="mount one more application, as --mount /wiki=wiki:app",
    )
    group.add_argument(
        "--interface", choices=_words("mount", "interface"), help=_row("mount", "interface")
    )
    group.add_argument("--factory", action="store_true", help=_row("mount", "factory"))
    group.add_argument(
        "-e",
        "--environment",
        choices=_words("site", "environment"),
        help="what the site runs for; it sets the defaults of other options",
    )
    group.add_argument("--app-dir", metavar="DIR", help="the directory to import from")
    group.add_argument("--chdir", metavar="DIR", help="change to this directory before all else")
    group.add_argument(
        "--env-file", metavar="FILE", help="NAME=value lines for the environment, where not set yet"
    )


def _words(section: str, name: str) -> tuple[str, ...]:
    found = TABLE.find(section)
    row = found.row(name) if found else None
    return tuple(getattr(row.kind, "words", ())) if row else ()


def _add_server(parser: Parser) -> None:
    group = parser.add_argument_group("the server")
    group.add_argument(
        "-b",
        "--bind",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="where to listen: HOST:PORT, [IPv6]:PORT, unix:PATH, fd:N; may be repeated",
    )
    group.add_argument("-t", "--threads", metavar="N", help=_row("server", "threads"))


def _add_process(parser: Parser) -> None:
    group = parser.add_argument_group("the process")
    group.add_argument("-w", "--workers", metavar="N|auto", help=_row("workers", "count"))
    group.add_argument(
        "--reload",
        action="store_true",
        help="restart when code changes; -e development, unless said otherwise",
    )
    group.add_argument(
        "-D", "--daemon", action="store_true", help="go on in the background once the site serves"
    )
    group.add_argument("-p", "--pid", metavar="FILE", help="write the process id to this file")
    group.add_argument(
        "-u", "--user", metavar="USER", help="run as this user once the sockets are bound"
    )
    group.add_argument("-g", "--group", metavar="GROUP", help="run as this group, too")
    group.add_argument(
        "--umask",
        metavar="OCTAL",
        help="the mask for the modes of new files, logs and pid file among them",
    )


def _add_logging(parser: Parser) -> None:
    group = parser.add_argument_group("what it writes")
    group.add_argument("--access-log", metavar="FILE|-|off", help=_row("logging", "access"))
    group.add_argument("--log-level", metavar="LEVEL", help=_row("logging", "level"))
    group.add_argument("--log-format", metavar="text|json", help=_row("logging", "format"))
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument(
        "-q", "--quiet", action="store_true", help="warnings and worse only, and no banner"
    )
    loudness.add_argument("-v", "--verbose", action="store_true", help="debug messages too")
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="whether to use colours; auto heeds NO_COLOR and FORCE_COLOR",
    )


def _add_other(parser: Parser) -> None:
    group = parser.add_argument_group("instead of serving")
    group.add_argument(
        "--check",
        metavar="[import]",
        choices=("values", "import"),
        help="check the configuration; --check=import loads the applications too",
    )
    group.add_argument(
        "--print-config", action="store_true", help="print each value and where it comes from"
    )
    group.add_argument("--list-mounts", action="store_true", help="print what is mounted where")
    group.add_argument(
        "--print-completion",
        metavar="bash|zsh|fish",
        choices=("bash", "zsh", "fish"),
        help="print a completion script for a shell",
    )
    group.add_argument("--version", action="store_true", help="print the versions in use")
    group.add_argument("-h", "--help", action="store_true", help="print this")


def parse(argv: Sequence[str]) -> Arguments:
    """Read the command line.

    Raises:
        UsageError: it makes no sense.
    """
    # Argparse would take the target after a bare --check for its value.
    spelled = ["--check=values" if each == "--check" else each for each in argv]
    options = build_parser().parse_intermixed_args(spelled)
    configs = [Path(each) for each in options.targets if _is_config(each)]
    if options.config:
        configs.insert(0, Path(options.config))
    if len(configs) > 1:
        raise UsageError(f"one site.ini at a time, not {' and '.join(map(str, configs))}")
    overrides = tuple(_overrides(options))
    if not configs and not any(each.section.startswith("mount ") for each in overrides):
        configs += [Path(USUAL)] if Path(options.chdir or ".", USUAL).is_file() else []
    return Arguments(options, configs[0] if configs else None, overrides)


def _is_config(target: str) -> bool:
    name = target.lower()
    return "=" not in target and name.endswith(_CONFIG) and name not in _CONFIG


def _overrides(options: argparse.Namespace) -> Iterator[Override]:
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


def _mounts(options: argparse.Namespace) -> Iterator[Override]:
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


def _named(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
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


def actions(parser: argparse.ArgumentParser) -> Iterable[argparse.Action]:
    """Answer the flags of a parser, for scripts and docs made from it."""
    return [action for action in parser._actions if action.option_strings]
