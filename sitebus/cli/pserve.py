"""``use = egg:sitebus#main``: the server of ``pserve``, ``gearbox serve`` and Zope's ``runwsgi``.

These programs load the application and call the server that their PasteDeploy file names; from
there on it is a site of one application. The options are those of ``[server]``, or ``SECTION.KEY``;
``host``, ``port`` and ``listen`` mean what they mean everywhere in such files.
They take a SystemExit for a good end: what keeps the site from starting is raised as it is.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sitebus.cli import streams
from sitebus.errors import ConfigErrors
from sitebus.listeners import WARNING

if TYPE_CHECKING:
    from sitebus.config import Configuration, Override
    from sitebus.paste.servers import Note, Said
    from sitebus.process import Engine

USE = "egg:sitebus#main"
#: Before anything else that listens.
FIRST = 0


def server_factory(
    global_conf: Mapping[str, str] | None = None, **local_conf: str
) -> Callable[[Any], None]:
    """Check the options of a ``[server:main]``, and answer what serves an application with them.

    Raises:
        ConfigErrors: They make no sense.
    """
    from sitebus import assembly
    from sitebus.assembly.environment import forget
    from sitebus.paste.servers import Note, translate

    streams.open_missing()
    forget()
    file = (global_conf or {}).get("__file__", "")
    shown = os.path.relpath(file) if file else "PasteDeploy"
    said = tuple(translate(USE, local_conf))
    try:
        configuration = assembly.read(None, overrides=_overrides(shown, said))
    except ConfigErrors as errors:
        raise errors.with_traceback(None) from None  # the launcher shows all of it
    notes = [f"{shown}: {each.message}" for each in said if isinstance(each, Note)]
    return partial(_serve, configuration, notes, file)


def server_runner(
    app: Any, global_conf: Mapping[str, str] | None = None, **local_conf: str
) -> None:
    """Serve *app* until the process is told to end.

    Raises:
        SitebusError: It could not start.
        SystemExit: It did not end well.
    """
    server_factory(global_conf, **local_conf)(app)


def _overrides(file: str, options: Iterable[Said | Note]) -> Iterator[Override]:
    from sitebus.config import Override
    from sitebus.paste.servers import Said

    for each in options:
        if isinstance(each, Said):
            text = each.text.replace("$", "$$")
            yield Override(each.section, each.key, text, "", f"{file}: {each.option}")


def _has_loggers(file: str) -> bool:
    """Tell whether the file says where log lines go: the program has seen to it."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        return bool(parser.read(file)) and parser.has_section("loggers")
    except (configparser.Error, UnicodeDecodeError):
        return False


def _tell(engine: Engine, notes: Iterable[str]) -> None:
    for note in notes:
        engine.log(note, WARNING)


def _serve(configuration: Configuration, notes: Iterable[str], file: str, app: Any) -> None:
    from sitebus import engine, site
    from sitebus.cli.console import Console, wants_colour
    from sitebus.cli.run import run
    from sitebus.plugins import logs

    program = os.path.basename(sys.argv[0]) or "PasteDeploy"
    mounted = site.mount(app, "/", interface="wsgi")
    if file:
        engine.autoreload.files.add(file)
    if _has_loggers(file):
        engine.subscribe("start", logs.unconfigure, FIRST)
    tell = partial(_tell, engine, notes)
    if notes:
        engine.subscribe("start", tell)
    try:
        console = Console(sys.stderr, wants_colour(sys.stderr, "auto"))
        status = run(program, configuration, engine, site, console)
    finally:
        engine.unsubscribe("start", logs.unconfigure)
        engine.unsubscribe("start", tell)
        mounted.unmount()
    if status:
        raise SystemExit(status)
