"""From a configuration to a running site: the one room that knows all the parts.

The command line, ``quickstart``, embedding, workers and tests come here with a configuration, a bus
and a site, and get an `Assembly`, whose `run` starts it all and blocks.

What is put together happens in this order, so that a failure leaves nothing behind: environment,
import path and logging; plugins, which listen on the bus; and while the bus starts, the sockets,
then the applications, then the servers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus import config, references, servers
from sitebus.config import TABLE, Configuration, Override, Settings, Table, Value
from sitebus.config.options import Row
from sitebus.errors import (
    AppImportError,
    ChannelFailures,
    CommandCancelled,
    NotAPlugin,
    SitebusError,
    StartFailed,
)
from sitebus.interfaces import describe, detect
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority

if TYPE_CHECKING:
    from sitebus.mounts import Mount, Site
    from sitebus.servers import ServerAdapter
    from sitebus.targets import Target


def table() -> Table:
    """Answer the option table of every room: the core's, and what the named adapters bring."""
    section = TABLE.find("server")
    assert section is not None
    return TABLE.with_section(section._replace(brings_by="adapter", brings=_adapter_rows))


def _adapter_rows(name: str) -> Iterable[Row]:
    # A placeholder is known only later, and the adapter's defaults will do.
    return () if "$" in name else getattr(servers.find(name), "OPTIONS", ())


def read(
    path: str | os.PathLike[str] | None,
    *,
    overrides: Iterable[Override] = (),
    environ: Mapping[str, str] | None = None,
) -> Configuration:
    """Read a configuration by the whole table; see `sitebus.config.read`."""
    return config.read(path, table(), overrides=overrides, environ=environ)


class Assembly:
    """A site that was put together: its parts, and the way to run them.

    Attributes:
        failure: what kept it from starting.
    """

    def __init__(self, configuration: Configuration, engine: Engine, site: Site) -> None:
        self.configuration = configuration
        self.engine = engine
        self.site = site
        self.failure: Exception | None = None
        self.servers: tuple[ServerAdapter, ...] = ()
        self.plugins: tuple[Any, ...] = ()
        self._subscribed: list[Any] = []

    def subscribe(self) -> None:
        """Have every part listen on the bus.

        Raises:
            AppImportError: a stranger's part would not.
        """
        for part in (*self.plugins, *self.servers):
            try:
                _subscribe(part)
            except BaseException:
                # Half of it may listen; that it cannot undo the rest is no news.
                with suppress(Exception):
                    part.unsubscribe()
                raise
            self._subscribed.append(part)
        for server in self.servers:
            # `Startup.bind` calls it; a second time, it would read the certificate again.
            take = getattr(server, "bind", None)
            if callable(take):
                self.engine.unsubscribe(self.engine.machine.channel("start"), take)

    def unsubscribe(self) -> None:
        """Take every part that listens off the bus again."""
        while self._subscribed:
            part = self._subscribed.pop()
            try:
                part.unsubscribe()
            # A stranger's code: the other parts leave whatever it does.
            except Exception as error:  # noqa: BLE001
                self.engine.log(f"{describe(part)} failed to unsubscribe", 40, traceback=error)

    def run(self) -> int:
        """Start, block until the site has ended, and answer the exit status.

        Raises:
            SitebusError: it could not start; nothing is left of it.
        """
        try:
            self.start()
            return self.engine.block()
        finally:
            self.close()

    def start(self) -> None:
        """Start everything; return when the site serves.

        Raises:
            SitebusError: it could not start; nothing is left of it.
        """
        try:
            self.engine.start()
        except CommandCancelled:
            # The bus was told to leave: by a signal, or by our own start, which knows why.
            if self.failure is not None:
                raise _told(self.failure) from None
        except Exception as error:  # any listener's, strangers among them
            raise _told(error) from error

    def close(self) -> None:
        """Take every part off the bus, and give the log's file back."""
        from sitebus.plugins import logs

        self.unsubscribe()
        logs.unconfigure()

    def urls(self) -> tuple[str, ...]:
        """Answer where the site answers, real ports included."""
        return tuple(url for server in self.servers for url in _urls(server, self.engine))

    def mount_lines(self) -> list[tuple[str, str, str]]:
        """Answer place, target and framework of each mount."""
        targets = {mount.place: mount.value("app").text for mount in self.configuration.mounts}
        return [
            (
                str(mount.place),
                targets.get(mount.place) or describe(mount.app),
                mount.framework or mount.interface,
            )
            for mount in self.site.mounts
            if mount.enabled
        ]


def _told(error: Exception) -> Exception:
    """Answer the error that says in one sentence that the site did not start."""
    return error if isinstance(error, (SitebusError, ChannelFailures)) else StartFailed(error)


def assemble(configuration: Configuration, engine: Engine, site: Site) -> Assembly:
    """Put a site together on *engine*; `Assembly.run`, or ``engine.start()``, serves it.

    Raises:
        SitebusError: a part is missing or fails to be made; nothing listens on the bus then.
    """
    assembly = Assembly(configuration, engine, site)
    prepare(configuration)
    try:
        assembly.plugins = (
            *_logging(configuration, engine, site),
            Startup(engine, assembly),
            *_plugins(configuration, engine),
        )
        assembly.servers = tuple(_servers(configuration, engine, site))
        assembly.subscribe()
    except BaseException:
        assembly.close()
        raise
    return assembly


def prepare(configuration: Configuration) -> None:
    """Set what applications find when they are imported: environment, import path, directory."""
    for name, value in configuration.env.items():
        os.environ.setdefault(name, value)
    for directory in reversed(configuration.site["python_path"]):
        if str(directory) not in sys.path:
            sys.path.insert(0, str(directory))
    if configuration.site["working_dir"] is not None:
        os.chdir(configuration.site["working_dir"])


class Startup(Plugin):
    """What a start does before servers serve: sockets first, while it is permitted; then imports.

    A failure here is the operator's business and not the log's: the start is called off, and who
    asked for it is told the reason.
    """

    def __init__(self, bus: Engine, assembly: Assembly) -> None:
        super().__init__(bus)
        self.assembly = assembly
        self._mounted: list[Mount] = []

    @listens("start", priority=Priority.BIND - 1)
    def bind(self) -> None:
        """Take the sockets and the access log's file, while that may still be permitted."""
        self.assembly.failure = None
        with _Attempt(self):
            if self.assembly.site.access_log is not None:
                self.assembly.site.access_log.open()
            for server in self.assembly.servers:
                take = getattr(server, "bind", None)
                if callable(take):
                    take()

    @listens("start", priority=Priority.IMPORT)
    def mount(self) -> None:
        """Import the applications and mount them, once: a stop keeps them."""
        if self._mounted:
            return
        with _Attempt(self):
            configuration, site = self.assembly.configuration, self.assembly.site
            for settings in configuration.mounts:
                if settings["enabled"]:
                    target = open_application(configuration, settings)
                    self._mounted.append(_mount(configuration, settings, site, target))

    @listens("started")
    def started(self) -> None:
        """Close the sockets that were passed to this process and that no server asked for."""
        for passed in self.bus.sockets.close_unclaimed():
            self.bus.log(f"closed {passed}, which was passed to this process and nobody binds", 30)

    @listens("exit")
    def exit(self) -> None:
        """Take the mounts out of the site again."""
        while self._mounted:
            self._mounted.pop().unmount()


class _Attempt:
    """Call the start off, and remember why, when the block fails."""

    def __init__(self, startup: Startup) -> None:
        self.startup = startup

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self.startup.assembly.failure = error
        self.startup.bus.exit()
        return True


# Applications.


def _mount(configuration: Configuration, settings: Settings, site: Site, target: Target) -> Mount:
    place = settings.place
    return site.mount(
        target.app,
        place.prefix or "/",
        host=place.host or None,
        port=place.port,
        name=settings["name"],
        slash=settings["slash"],
        cookie_path=settings["cookie_path"],
        filters=[_filter(configuration, settings, name) for name in settings["filters"]],
        interface=target.detected.interface,
    )


def open_application(configuration: Configuration, settings: Settings) -> Target:
    """Import or make what a ``[mount]`` names.

    Raises:
        SitebusError: there is no such thing, or it fails; the status tells whose fault it is.
    """
    from sitebus.targets import Target, examine

    text = settings["app"]
    said = None if settings["interface"] == "auto" else settings["interface"]
    made_by = configuration.app_of(settings)
    if made_by is not None:
        app = _made(made_by)
        return Target(text, app, detect(app, said, reference=text))
    return examine(
        text,
        directory=settings.value("app").directory,
        said=said,
        factory=settings["factory"],
    )


def _made(settings: Settings, *given: object) -> Any:
    """Call what a section's ``use`` names with the section's other settings."""
    reference = _reference(settings["use"], settings.value("use"))
    factory: Any = references.load(reference)
    # The settings of a stranger may have the names of any parameters of ours.
    return references.call(reference, partial(factory, *given, **settings.extras))


def _reference(reference: str, said: Value) -> str:
    """Answer a name to import; a file is relative to where it was said."""
    place, attribute = references.split(reference)
    if not references.is_file(place):
        return reference
    path = said.directory / Path(place).expanduser()
    return f"{path}:{attribute}" if attribute else str(path)


def _filter(configuration: Configuration, mount: Settings, name: str) -> Callable[[Any], Any]:
    settings = configuration.filters.get(name)
    if settings is not None:
        return partial(_made, settings)
    reference = _reference(name, mount.value("filters"))
    made: Any = references.load(reference)
    return lambda app: references.call(reference, made, app)


# Servers, plugins and logging.

_NOT_THEIRS = {"adapter", "bind", "tls_cert", "tls_key", "tls_chain"}


def _servers(configuration: Configuration, engine: Engine, site: Site) -> Iterator[ServerAdapter]:
    for settings in configuration.servers:
        adapter: Any = servers.find(settings["adapter"])
        rows = {row.name for row in settings.section.rows} - _NOT_THEIRS
        yield adapter(
            engine,
            site.wsgi,
            binds=settings["bind"],
            tls=_tls(settings),
            name=settings.name,
            **{name: settings[name] for name in rows},
        )


def _tls(settings: Settings) -> servers.TLS | None:
    if settings["tls_cert"] is None:
        return None
    return servers.TLS(settings["tls_cert"], settings["tls_key"], settings["tls_chain"])


def _urls(server: ServerAdapter, engine: Engine) -> Iterator[str]:
    scheme = "https" if getattr(server, "tls", None) else "http"
    for bind in getattr(server, "binds", ()):
        for listener in engine.sockets.listeners:
            if listener.asked == bind:
                tcp = listener.address.kind == "tcp"
                yield listener.address.url(scheme) if tcp else str(listener.address)


def _plugins(configuration: Configuration, engine: Engine) -> Iterator[Any]:
    for settings in configuration.plugins:
        if settings["enabled"]:
            yield _plugin(settings, engine)


def _plugin(settings: Settings, engine: Engine) -> Any:
    plugin = _made(settings, engine)
    if not all(callable(getattr(plugin, name, None)) for name in ("subscribe", "unsubscribe")):
        raise NotAPlugin(settings.title, settings.value("use").text, describe(plugin))
    return plugin


def _subscribe(part: Any) -> None:
    try:
        references.call(f"{describe(type(part))}.subscribe", part.subscribe)
    except AppImportError as failure:
        if isinstance(failure.error, (SitebusError, KeyboardInterrupt)):
            raise failure.error from None
        raise


def _logging(configuration: Configuration, engine: Engine, site: Site) -> Iterator[Plugin]:
    from sitebus.mounts.access import AccessLog
    from sitebus.plugins import logs

    told = configuration.logging
    if told["config"] is not None:
        logs.configure_by_file(told["config"])
    else:
        name = configuration.site["name"]
        logs.configure(told["level"], told["format"], told["error"], site=name)
    access = None
    if told["access"] != "off":
        access = AccessLog(told["access"], "json" if told["format"] == "json" else "combined")
        yield logs.AccessLogKeeper(engine, access)
    site.configure(
        name=configuration.site["name"],
        development=configuration.site["development_pages"],
        strict_hosts=configuration.site["strict_hosts"],
        merge_slashes=configuration.site["merge_slashes"],
        access_log=access or False,
    )
    yield logs.LogBridge(engine, patient=told["level"] != "debug")


# Looking before serving.


class Finding(NamedTuple):
    """What loading one mount's application showed."""

    place: str
    target: str
    interface: str = ""
    framework: str = ""
    certain: bool | None = None
    error: SitebusError | None = None

    @property
    def summary(self) -> str:
        """What it is, and how sure that is."""
        if self.error is not None:
            return "FAILED"
        what = f"{self.framework} ({self.interface})" if self.framework else self.interface
        if self.certain is None:
            return what
        return f"{what} {'CERTAIN' if self.certain else 'GUESSED'}"


def check(configuration: Configuration) -> list[Finding]:
    """Load every application and mount it on a site that nobody serves; tell what each is."""
    from sitebus.mounts import Site

    prepare(configuration)
    site = Site()
    mounts = [each for each in configuration.mounts if each["enabled"]]
    used = [configuration.app_of(mount) for mount in mounts]
    filters = {name for mount in mounts for name in mount["filters"]}
    return [
        *(_find(configuration, each, site) for each in mounts),
        *(_find_use(each) for each in configuration.apps.values() if each not in used),
        *(_find_use(each) for name, each in configuration.filters.items() if name not in filters),
        *(_find_plugin(each) for each in configuration.plugins if each["enabled"]),
    ]


def _find(configuration: Configuration, settings: Settings, site: Site) -> Finding:
    place, text = str(settings.place), settings.value("app").text
    try:
        target = open_application(configuration, settings)
        mount = _mount(configuration, settings, site, target)
    except SitebusError as error:
        return _failed(place, text, error)
    framework = mount.framework or target.detected.framework
    return Finding(place, text, mount.interface, framework, target.detected.certain)


def _failed(place: str, text: str, error: SitebusError) -> Finding:
    if isinstance(error, AppImportError) and isinstance(error.error, KeyboardInterrupt):
        # No bus answers signals here: the operator has waited long enough for an import.
        raise error.error from None
    return Finding(place, text, error=error)


def _find_use(settings: Settings) -> Finding:
    """Import what no mount uses; it is made for a mount only."""
    use = settings.value("use")
    try:
        references.load(_reference(use.value, use))
    except SitebusError as error:
        return _failed(settings.title, use.text, error)
    return Finding(settings.title, use.text, f"{settings.section.kind}, not used")


def _find_plugin(settings: Settings) -> Finding:
    """Make a plugin and subscribe it, on a bus that nobody starts."""
    text = settings.value("use").text
    try:
        plugin = _plugin(settings, Engine())
        _subscribe(plugin)
        references.call(f"{describe(type(plugin))}.unsubscribe", plugin.unsubscribe)
    except SitebusError as error:
        return _failed(settings.title, text, error)
    return Finding(settings.title, text, "plugin")
