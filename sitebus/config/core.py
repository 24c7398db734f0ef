"""The options that every site has, and what they may not say together.

These rows are the only declaration of the core's options; see `sitebus.config.options`.
An adapter, a plugin or a room adds its own where the site is put together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from sitebus.config import relay
from sitebus.config.channels import is_of_workers, is_own
from sitebus.config.configuration import DEFAULT, Configuration, Problem, Settings
from sitebus.config.control import CONTROL
from sitebus.config.headings import parse_place
from sitebus.config.health import HEALTH
from sitebus.config.kinds import (
    ADDRESSES,
    BOOLEAN,
    DESTINATION,
    DURATION,
    GLOBS,
    NAME,
    NAMES,
    PATHS,
    REFERENCE,
    SIZE,
    TEXT,
    BadValue,
    Choice,
    Context,
    Duration,
    FilePath,
    Integer,
)
from sitebus.config.options import Option, Section, Table
from sitebus.config.relay import RELAY
from sitebus.config.texts import MASK, cut
from sitebus.config.workers import WORKERS
from sitebus.errors import nearest
from sitebus.sockets.addresses import Address

ENVIRONMENTS = ("development", "production")

_FILE = FilePath("file")
_DIRECTORY = FilePath("directory")


def _name(text: str) -> str:
    """Read the name of a section."""
    try:
        return NAME.parse(text, Context(Path()))
    except BadValue as error:
        raise ValueError(f"{text[:60]!r} cannot name a section: {error}") from error


SITE = Section(
    "site",
    (
        Option("name", TEXT, "site", "The site's name, in the banner and in logs of JSON lines."),
        Option(
            "environment",
            Choice(*ENVIRONMENTS),
            "production",
            "What the site runs for; it sets the defaults of other options.",
        ),
        Option("include", GLOBS, (), "More files to read, relative to this one."),
        Option(
            "python_path",
            PATHS,
            (),
            "Directories to import applications from.",
            default_text="${here}",
        ),
        Option("working_dir", _DIRECTORY, None, "The directory to change to before importing."),
        Option(
            "strict_hosts",
            BOOLEAN,
            False,
            "Refuse requests for a host that no mount names, rather than use the mounts of any.",
        ),
        Option(
            "merge_slashes",
            BOOLEAN,
            False,
            "Redirect a request with several slashes in a row to the path with single ones.",
        ),
        Option(
            "development_pages",
            BOOLEAN,
            False,
            "List the mounts, and the nearest match, where no mount answers.",
            by_environment={"development": True},
        ),
    ),
    "The site as a whole.",
)

SERVER = Section(
    "server",
    (
        Option("adapter", NAME, "cheroot", "The server library that speaks HTTP."),
        Option(
            "bind",
            ADDRESSES,
            (Address.parse("127.0.0.1:8080"),),
            "Where to listen: HOST:PORT, [IPv6]:PORT, unix:PATH, fd:N or systemd, several of them.",
        ),
        Option("threads", Integer(1, 4096), 10, "Requests served at the same time."),
        Option("backlog", Integer(1, 65535), 1024, "Connections that may wait to be accepted."),
        Option("timeout", Duration(0.01), 10.0, "How long a silent connection is kept."),
        Option(
            "drain_timeout", DURATION, 30.0, "How long a stop waits for requests to be finished."
        ),
        Option("max_header", SIZE, 64 << 10, "The largest head of a request."),
        Option("max_body", SIZE, 0, "The largest body of a request; 0 is any."),
        Option("tls_cert", _FILE, None, "The certificate, in PEM; turns HTTPS on."),
        Option("tls_key", _FILE, None, "The certificate's private key, in PEM."),
        Option("tls_chain", _FILE, None, "The certificates between it and the root, in PEM."),
        Option("tls_client_ca", _FILE, None, "Who must have signed clients' certificates, in PEM."),
        Option(
            "tls_client",
            Choice("required", "optional"),
            "required",
            "Whether a client without a certificate is let in.",
        ),
    ),
    "A server; one with every default when there is none.",
    argument="NAME",
    default_name="main",
    heading=_name,
    opened_by="bind",
)

MOUNT = Section(
    "mount",
    (
        Option(
            "app",
            TEXT,
            None,
            "what answers: module:name, file.py:name, app:NAME, static:DIRECTORY, redirect:URL or "
            "paste:FILE.ini#NAME.",
            required=True,
        ),
        Option("name", NAME, None, "Its name in access logs; the prefix if unset."),
        Option("interface", Choice("auto", "wsgi", "asgi"), "auto", "How it is called."),
        Option(
            "factory", BOOLEAN, False, "Call what is imported; the application is what returns."
        ),
        Option("filters", NAMES, (), "Filters around the application, the outermost first."),
        Option(
            "slash",
            Choice("pass", "redirect", "strict"),
            "pass",
            "What a request for the bare prefix gets: the application, a redirect, or a 404.",
        ),
        Option(
            "cookie_path",
            Choice("keep", "prefix"),
            "keep",
            "Whether cookies set for the whole host are kept to the prefix.",
        ),
        Option(
            "path_style",
            Choice("auto", "spec", "stripped", "flat"),
            "auto",
            "How an ASGI application is told its path; auto is what its framework needs.",
        ),
        Option(
            "lifespan",
            Choice("auto", "on", "off"),
            "auto",
            "Whether an ASGI application's lifespan must work, may be missing, or is left alone.",
        ),
        Option(
            "lifespan_timeout", Duration(0.1), 30.0, "How long it may take to come up, or to end."
        ),
        Option("enabled", BOOLEAN, True, "Whether it is mounted at all."),
    ),
    "An application at a path, on one host or on all.",
    argument="PATH",
    default_name=None,
    heading=parse_place,
    opened_by="app",
)

_USE = Option("use", REFERENCE, None, "a callable to import, such as module:name.", required=True)

APP = Section(
    "app",
    (_USE,),
    "An application to be made by a callable; its other settings are keyword arguments.",
    argument="NAME",
    default_name=None,
    free=True,
    heading=_name,
    opened_by="use",
)

FILTER = Section(
    "filter",
    (_USE,),
    "A callable around applications; its other settings are keyword arguments.",
    argument="NAME",
    default_name=None,
    free=True,
    heading=_name,
    opened_by="use",
)

PLUGIN = Section(
    "plugin",
    (_USE, Option("enabled", BOOLEAN, True, "Whether it is subscribed at all.")),
    "A plugin of the bus; its other settings are keyword arguments.",
    argument="NAME",
    default_name=None,
    free=True,
    heading=_name,
    opened_by="use",
)

LOGGING = Section(
    "logging",
    (
        Option(
            "level",
            Choice("debug", "info", "warning", "error", "critical"),
            "info",
            "The least severe message that is written.",
        ),
        Option("format", Choice("text", "json"), "text", "How messages are written."),
        Option("error", DESTINATION, "-", "Where messages go; - is standard error."),
        Option(
            "access", DESTINATION, "-", "Where a line for each request goes; - is standard output."
        ),
        Option(
            "config",
            _FILE,
            None,
            "A file for the logging module: ini as in its fileConfig, or json.",
        ),
    ),
    "Messages, and a line for each request.",
)

RELOAD = Section(
    "reload",
    (
        Option("enabled", BOOLEAN, False, "Restart the site when its code changes."),
        Option("watch", GLOBS, (), "More files to watch, relative to this one."),
        Option("ignore", GLOBS, (), "Files whose changes mean nothing, relative to this one."),
        Option(
            "on_error",
            Choice("overlay", "page", "keep"),
            "keep",
            "What pages show while the new code cannot be served: the reason over the page, the "
            "reason alone, or nothing; every response has X-Sitebus-Reload: failed.",
            by_environment={"development": "overlay"},
        ),
        Option(
            "browser",
            BOOLEAN,
            False,
            "Have pages load themselves again when there is something new; in development only.",
        ),
        Option("force_polling", BOOLEAN, False, "Look at files at intervals, never be notified."),
        Option("interval", Duration(0.05), 1.0, "How often files are looked at, if they must be."),
        Option(
            "debounce", Duration(0.01, 5.0), 0.05, "How long files must be quiet before a restart."
        ),
        Option("try_timeout", Duration(0.1), 60.0, "How long the trial of new code may take."),
        Option(
            "supervised",
            BOOLEAN,
            True,
            "Replace worker processes, where there can be any; otherwise the one process runs "
            "itself again.",
        ),
        Option(
            "warm",
            BOOLEAN,
            False,
            "Keep what is imported from outside of the project, so that only that is imported "
            "again.",
        ),
    ),
    "Restart when code changes, if the new code works.",
)

ENV = Section(
    "env",
    (),
    "Environment variables, set before applications are imported where they are not set yet.",
    free=True,
    exact_keys=True,
)

TABLE = Table(
    (
        SITE,
        SERVER,
        MOUNT,
        APP,
        FILTER,
        PLUGIN,
        WORKERS,
        RELAY,
        CONTROL,
        HEALTH,
        RELOAD,
        LOGGING,
        ENV,
    )
)


def _known_apps(configuration: Configuration) -> Iterator[Problem]:
    """``app = app:NAME`` names an ``[app NAME]``, or else something of a module named ``app``.

    Many an application is ``app`` in ``app.py``. Where a section has nearly that name, it is meant.
    """
    for mount in configuration.mounts:
        kind, _, name = str(mount.get("app", "")).partition(":")
        if kind != "app" or configuration.app_of(mount) is not None:
            continue
        if nearest(name[:60], configuration.apps) or not _is_module(kind, configuration):
            yield from _named(mount, "app", name, configuration.apps)


def _is_module(name: str, configuration: Configuration) -> bool:
    """Tell whether a module could be imported, without importing it."""
    places = map(str, configuration.site.get("python_path", ()))
    return name in sys.modules or PathFinder.find_spec(name, [*places, *sys.path]) is not None


def _made_once(configuration: Configuration) -> Iterator[Problem]:
    """What an ``[app]`` makes is an application, and no factory of one."""
    for mount in configuration.mounts:
        app = configuration.app_of(mount)
        if app is not None and mount.get("factory"):
            message = f"factory: {app.title} is called already; leave it out"
            yield Problem(mount.value("factory").origin, message)


def _known_filters(configuration: Configuration) -> Iterator[Problem]:
    """``filters = NAME`` names a ``[filter NAME]``, unless it names something to import."""
    for mount in configuration.mounts:
        for name in mount.get("filters", ()):
            if ":" not in name:
                yield from _named(mount, "filters", name, configuration.filters)


def _named(mount: Settings, key: str, name: str, known: Iterable[str]) -> Iterator[Problem]:
    names = list(known)
    if name in names:
        return
    kind = key.removesuffix("s")
    near = nearest(name[:60], names)
    hint = f" - did you mean {near!r}?" if near else ""
    value = mount.value(key)
    shown = MASK if value.secret else cut(name)
    yield Problem(value.origin, f"{key}: there is no section [{kind} {shown}]{hint}")


def _whole_certificates(configuration: Configuration) -> Iterator[Problem]:
    """Half of TLS would serve plain HTTP, or anybody, and nobody would know."""
    for server in configuration.servers:
        for key in ("tls_key", "tls_chain", "tls_client_ca"):
            if server.get(key) is not None and server.get("tls_cert", "") is None:
                yield Problem(server.value(key).origin, f"{key} is of no use without tls_cert")
        # What is asked of clients is its default if nobody says so; said, it must not be in vain.
        asked = server.get("tls_client") and server.value("tls_client").origin
        if asked not in (None, DEFAULT) and server.get("tls_client_ca", "") is None:
            yield Problem(asked, "tls_client is of no use without tls_client_ca")


def _proxied_where_bound(configuration: Configuration) -> Iterator[Problem]:
    """A PROXY header that is expected somewhere else would be taken for a request."""
    for server in configuration.servers:
        chosen = server.get("proxy_protocol", ())
        for address in () if chosen == "all" else chosen:
            if address not in server.get("bind", ()):
                value = server.value("proxy_protocol")
                shown = MASK if value.secret else address
                yield Problem(value.origin, f"proxy_protocol: {shown} is not in bind")


def _one_server_each(configuration: Configuration) -> Iterator[Problem]:
    """No two servers listen on one address; nor on any free port, which both would find again."""
    holders: dict[Address, Settings] = {}
    for server in configuration.servers:
        for address in server.get("bind", ()):
            other = holders.setdefault(address, server)
            if other is server:
                continue
            value = server.value("bind")
            where = f"{other.title} at {other.value('bind').origin}"
            shown = MASK if value.secret else address
            yield Problem(value.origin, f"bind: {shown} is {where} already")


def _watched_by_its_terminal(configuration: Configuration) -> Iterator[Problem]:
    """A daemon has no terminal that would show why a reload failed."""
    if not configuration.one("reload").get("enabled"):
        return
    for plugin in configuration.plugins:
        if plugin.name == "daemon" and plugin.get("enabled"):
            message = "a daemon cannot reload; use [reload] in development, and a restart otherwise"
            yield Problem(configuration.one("reload").value("enabled").origin, message)


def _browsers_in_development(configuration: Configuration) -> Iterator[Problem]:
    """Strangers' browsers must not hold connections, nor load pages again, for our sake."""
    browser = configuration.one("reload")
    if browser.get("browser") and configuration.site.get("environment") != "development":
        message = "browser is for development; say environment = development, or leave it out"
        yield Problem(browser.value("browser").origin, message)


def _reloaded_alone(configuration: Configuration) -> Iterator[Problem]:
    """A process that runs itself again has no workers, nor anything that outlives its code."""
    reload, workers = configuration.one("reload"), configuration.one("workers")
    if not reload.get("enabled"):
        return
    if workers.get("preload"):
        message = (
            "preload: with [reload] each worker imports; leave it out, or say warm = yes there"
        )
        yield Problem(workers.value("preload").origin, message)
    if reload.get("supervised"):
        return
    if workers.get("count"):
        message = "count: with supervised = no in [reload] there is one process; leave one out"
        yield Problem(workers.value("count").origin, message)
    if reload.get("warm"):
        message = "warm: with supervised = no all is imported again; leave one of them out"
        yield Problem(reload.value("warm").origin, message)


def _not_preloaded_by_root(configuration: Configuration) -> Iterator[Problem]:
    """Applications are never imported with more privileges than they will run with."""
    workers = configuration.one("workers")
    if not (workers.get("preload") and workers.get("count")):
        return
    for plugin in configuration.plugins:
        if plugin.name == "drop_privileges" and plugin.get("enabled"):
            message = (
                "preload: it imports before [plugin drop_privileges] drops them; leave it out, or "
                "start the site as its own user"
            )
            yield Problem(workers.value("preload").origin, message)


def _exported_by_users(configuration: Configuration) -> Iterator[Problem]:
    """The channels of a bus's own life are each process's own; news of workers may be told them."""
    export = configuration.one("workers").get("export", ())
    for name in export:
        if is_own(name) and not is_of_workers(name):
            message = f"export: {name} is each process's own; name channels of the application"
            yield Problem(configuration.one("workers").value("export").origin, message)


CHECKS: tuple[Callable[[Configuration], Iterable[Problem]], ...] = (
    _known_apps,
    _made_once,
    _known_filters,
    _whole_certificates,
    _proxied_where_bound,
    _one_server_each,
    _watched_by_its_terminal,
    _browsers_in_development,
    _reloaded_alone,
    _not_preloaded_by_root,
    _exported_by_users,
    *relay.CHECKS,
)
