"""``sitebus-serve``: one site from a file, or from applications named on the command line.

Reads the arguments and the configuration, then serves, or prints what was asked for instead.
Whatever goes wrong is one sentence on standard error and a status of ``sysexits.h``; only an
application's own failure shows a traceback, which is the application's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sitebus.cli import collector, streams
from sitebus.cli.arguments import Arguments, parse
from sitebus.cli.console import Console, table, wants_colour
from sitebus.cli.reports import PROGRAM, report
from sitebus.config import Configuration, Problem
from sitebus.config.workers import overruled
from sitebus.errors import (
    CannotPrint,
    CannotRead,
    ChannelFailures,
    ConfigErrors,
    SitebusError,
    UsageError,
)
from sitebus.listeners import WARNING

if TYPE_CHECKING:
    from sitebus.workers.launch import Launch

#: What a shell answers for a command that Ctrl-C ended.
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and answer its exit status."""
    streams.open_missing()
    try:
        return _run(parse(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return 0  # whoever read our output has seen enough
    except (SitebusError, ChannelFailures) as error:
        return report(error)
    finally:
        streams.settle()


def _run(arguments: Arguments) -> int:
    options = arguments.options
    if options.help or options.version or options.print_completion:
        return _about(arguments)
    from sitebus.assembly.environment import forget, set_defaults

    forget()
    if options.chdir:
        _change_directory(options.chdir)
    set_defaults(_env_file(arguments))
    configuration = _configuration(arguments, os.environ)
    try:
        return _act(arguments, configuration)
    except (SitebusError, ChannelFailures) as error:
        return report(error, configuration.hushed)


def _about(arguments: Arguments) -> int:
    """Answer what needs no configuration."""
    from sitebus.cli.flags import build_parser

    parser = build_parser()
    if arguments.options.help:
        _print(parser.format_help())
    elif arguments.options.version:
        _print(versions())
    else:
        from sitebus.cli.completion import script

        _print(script(parser, arguments.options.print_completion))
    return 0


def _print(text: str) -> None:
    """Write what was asked for to standard output.

    Raises:
        BrokenPipeError: nobody reads it any more.
        CannotPrint: it cannot be written.
    """
    try:
        print(text.removesuffix("\n"), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotPrint(error) from error


def versions() -> str:
    """Answer the versions that a bug report should name."""
    import platform
    from importlib.metadata import version

    import sitebus

    return (
        f"sitebus {sitebus.__version__} "
        f"({platform.python_implementation()} {platform.python_version()}, "
        f"cheroot {version('cheroot')}, {platform.system()} {platform.release()})"
    )


def _change_directory(directory: str) -> None:
    try:
        os.chdir(directory)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "there is no such directory"
        raise CannotRead(directory, reason.lower()) from error


def _configuration(arguments: Arguments, environ: Mapping[str, str]) -> Configuration:
    from sitebus import assembly

    return assembly.read(arguments.config, overrides=arguments.overrides, environ=environ)


def _act(arguments: Arguments, configuration: Configuration) -> int:
    for flag, action in _ACTIONS.items():
        if getattr(arguments.options, flag):
            return action(arguments, configuration)
    return _serve(arguments, configuration)


def _print_config(arguments: Arguments, configuration: Configuration) -> int:
    _print(configuration.explain())
    return 0


def _list_mounts(arguments: Arguments, configuration: Configuration) -> int:
    rows = [
        (str(mount.place), mount.value("app").text, "" if mount["enabled"] else "(not enabled)")
        for mount in configuration.mounts
    ]
    _print("\n".join(table(rows, indent="")))
    return 0


def _check(arguments: Arguments, configuration: Configuration) -> int:
    _require_mounts(configuration)
    for note in _notes(configuration):
        _print(str(note))
    name = str(configuration.path or "the command line")
    if arguments.options.check != "import":
        _print(f"{name}: no mistakes")
        return 0
    from sitebus.assembly.look import check

    status = 0
    rows = []
    for finding in check(configuration):
        if finding.error is not None:
            status = max(status, report(finding.error, configuration.hushed))
        rows.append((finding.place, finding.target, finding.summary))
    _print("\n".join(table(rows, indent="")))
    return status


_ACTIONS: Mapping[str, Callable[[Arguments, Configuration], int]] = {
    "print_config": _print_config,
    "list_mounts": _list_mounts,
    "check": _check,
}


def _require_mounts(configuration: Configuration) -> None:
    if any(mount["enabled"] for mount in configuration.mounts):
        return
    if configuration.path is None:
        raise UsageError(
            "nothing to serve: name a site.ini, or an application such as module:app; "
            f"see {PROGRAM} --help"
        )
    nothing = f"{configuration.path}: nothing is mounted; add a [mount /] with an app"
    raise ConfigErrors([nothing] if configuration.mounts else configuration.notes or [nothing])


def _serve(arguments: Arguments, configuration: Configuration) -> int:
    _require_mounts(configuration)
    from sitebus import engine, site
    from sitebus.cli.run import run

    options = arguments.options
    console = Console(sys.stderr, wants_colour(sys.stderr, options.color))
    shown = None if options.quiet else console
    others = configuration.one("workers")["count"] or configuration.one("reload")["enabled"]
    launch = _launch(arguments) if others else None
    notes = _notes(configuration)
    tell = partial(_tell, notes, engine.log)
    if notes:
        engine.subscribe("start", tell)
    try:
        with collector.at_rest(engine):
            return run(PROGRAM, configuration, engine, site, shown, launch)
    finally:
        engine.unsubscribe("start", tell)


def _notes(configuration: Configuration) -> tuple[Problem, ...]:
    """Answer what to tell of a configuration without a mistake."""
    return (*configuration.notes, *overruled(configuration))


def _tell(notes: Iterable[Problem], log: Callable[[str, int], object]) -> None:
    """Log what of the configuration is ignored."""
    for note in notes:
        log(str(note), WARNING)


def _launch(arguments: Arguments) -> Launch:
    from sitebus.workers.launch import Launch

    named = arguments.options.env_file
    path = Path(named).absolute() if named else None
    return Launch(arguments.config, arguments.overrides, _env_file(arguments), path)


def _env_file(arguments: Arguments) -> Mapping[str, str]:
    if not arguments.options.env_file:
        return {}
    from sitebus.cli import envfile

    return envfile.read(Path(arguments.options.env_file))
