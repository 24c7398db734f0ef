"""The parts of a site but its applications: servers, plugins, logging, reloads."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from sitebus import plugins as shelf
from sitebus import references
from sitebus import servers as adapters
from sitebus.assembly import applications
from sitebus.config import DEFAULT, Configuration, Settings
from sitebus.errors import AppImportError, NotAPlugin, SitebusError
from sitebus.interfaces import describe
from sitebus.plugins import Plugin
from sitebus.process import Engine
from sitebus.servers.hosting import Faces, SiteServer

if TYPE_CHECKING:
    from sitebus.mounts import Site
    from sitebus.plugins.logs import LogBridge
    from sitebus.reload.face import Face
    from sitebus.servers import ServerAdapter


_NOT_THEIRS = {
    "adapter",
    "bind",
    "tls_cert",
    "tls_key",
    "tls_chain",
    "tls_client_ca",
    "tls_client",
}


def servers(
    configuration: Configuration, engine: Engine, application: Faces
) -> Iterator[ServerAdapter]:
    """Make each server that is to serve *application*."""
    for settings in configuration.servers:
        yield server(settings, engine, application)


def server(settings: Settings, engine: Engine, application: Faces) -> ServerAdapter:
    """Make the server of *settings*, which is to serve *application*."""
    adapter: Any = adapters.find(settings["adapter"])
    rows = {row.name for row in settings.section.rows} - _NOT_THEIRS
    own = {name: settings[name] for name in rows}
    own |= _native(settings, engine)
    ours = isinstance(adapter, type) and issubclass(adapter, SiteServer)
    made: ServerAdapter = adapter(
        engine,
        application if ours else application.wsgi,
        binds=settings["bind"],
        tls=_tls(settings),
        name=settings.name,
        **own,
    )
    return made


def _native(settings: Settings, engine: Engine) -> dict[str, Any]:
    """Answer the adapter's library's own options; those of others are told of, and left out."""
    found: dict[str, Any] = {}
    for key, value in settings.extras.items():
        library, _, name = key.partition(".")
        if library == settings["adapter"]:
            found[name] = value
        else:
            engine.log(f"{settings.title}: {key} is of no use with {settings['adapter']}", 30)
    return {"native": found} if found else {}


def _tls(settings: Settings) -> adapters.TLS | None:
    if settings["tls_cert"] is None:
        return None
    certificate, key, chain = (settings[name] for name in ("tls_cert", "tls_key", "tls_chain"))
    return adapters.TLS(certificate, key, chain, settings["tls_client_ca"], settings["tls_client"])


def urls(server: ServerAdapter, engine: Engine) -> Iterator[str]:
    """Answer where *server* answers."""
    scheme = "https" if getattr(server, "tls", None) else "http"
    for bind in getattr(server, "binds", ()):
        for listener in engine.sockets.listeners:
            if listener.asked == bind:
                tcp = listener.address.kind == "tcp"
                yield listener.address.url(scheme) if tcp else str(listener.address)


def built_in_plugins(
    configuration: Configuration, engine: Engine, among: Collection[str] = shelf.BUILT_IN
) -> Iterator[Any]:
    """Make the plugins of ours, *among* these, that are named, or usual and not turned off."""
    written = {settings.name for settings in configuration.plugins}
    if not engine.trying:
        usual = (name for name in _usual() if name in among and name not in written)
        yield from (_by_default(name, engine) for name in usual)
    for settings in configuration.plugins:
        if settings["enabled"] and settings.name in among:
            yield plugin(settings, engine)


def added_plugins(configuration: Configuration, engine: Engine) -> Iterator[Any]:
    """Make the plugins that are the user's own."""
    for settings in configuration.plugins:
        if settings["enabled"] and settings.name not in shelf.BUILT_IN:
            yield plugin(settings, engine)


def _usual() -> Iterator[str]:
    """Answer the built-in plugins that a site has without a word."""
    yield "threads"
    if os.environ.get("NOTIFY_SOCKET"):
        yield "systemd"


def _by_default(name: str, engine: Engine) -> Any:
    kind = shelf.find(name)
    assert kind is not None, name
    return _built_in(kind, engine, {row.name: row.default for row in kind.OPTIONS})


def _built_in(kind: Any, engine: Engine, values: dict[str, Any]) -> Any:
    return getattr(kind, "from_settings", kind)(engine, **values)


def plugin(settings: Settings, engine: Engine) -> Any:
    """Make what one ``[plugin]`` section names."""
    kind = shelf.find(settings.name)
    if kind is not None:
        return _built_in(kind, engine, {row.name: settings[row.name] for row in kind.OPTIONS})
    made = applications.made(settings, engine)
    if not all(callable(getattr(made, name, None)) for name in ("subscribe", "unsubscribe")):
        raise NotAPlugin(settings.title, settings.value("use").text, describe(made))
    return made


def subscribe(part: Any) -> None:
    """Have a part, a stranger's perhaps, listen on the bus.

    Raises:
        AppImportError: it would not.
    """
    try:
        references.call(f"{describe(type(part))}.subscribe", part.subscribe)
    except AppImportError as failure:
        if isinstance(failure.error, (SitebusError, KeyboardInterrupt)):
            raise failure.error from None
        raise


def log_handlers(configuration: Configuration) -> None:
    """Give what is logged a place to go: the user's own handlers, or ours.

    Raises:
        BadLogConfig: the user's own cannot be made.
    """
    from sitebus.plugins import logs

    file = configuration.logging["config"]
    if file is None:
        plain_log_handlers(configuration)
    else:
        logs.configure_by_file(file, configuration.variables)


def plain_log_handlers(configuration: Configuration) -> None:
    """Give what is logged a place to go that needs nothing of the user's own."""
    from sitebus.plugins import logs

    told = configuration.logging
    name = configuration.site["name"]
    logs.configure(told["level"], told["format"], told["error"], site=name)


def logging(configuration: Configuration, engine: Engine, site: Site) -> Iterator[Plugin]:
    """Set the site up with what concerns its access log; answer the plugins for that."""
    from sitebus.mounts.access import AccessLog
    from sitebus.plugins import logs

    told = configuration.logging
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


def bridge(configuration: Configuration, engine: Engine) -> LogBridge:
    """Make what logs the messages of the bus."""
    from sitebus.plugins.logs import LogBridge

    return LogBridge(engine, patient=configuration.logging["level"] != "debug")


def face(configuration: Configuration, engine: Engine, site: Site) -> Face | None:
    """Make what visitors see of reloads, if the site is reloaded."""
    told = configuration.one("reload")
    if not told["enabled"]:
        return None
    from sitebus.reload.face import Face

    threads = min(settings["threads"] for settings in configuration.servers)
    return Face(
        # Its event streams are no requests that take too long.
        engine.serving.watch(site.wsgi),
        lambda scope, receive, send: site.plain_asgi(scope, receive, send),
        on_error=told["on_error"],
        details=configuration.site["development_pages"],
        browser=told["browser"],
        boot=engine.id,
        most=threads // 2,
    )


def reloading(
    configuration: Configuration, engine: Engine, face: Face, *, watching: bool = True
) -> Iterator[Plugin]:
    """Make the plugins that reload the site, unless others watch it, and show how that goes."""
    from sitebus.plugins.showing import ReloadFace

    if watching:
        from sitebus.plugins.autoreload import Autoreloader

        yield Autoreloader(engine, **reloader_settings(configuration, engine))
    yield ReloadFace(engine, face)


def reloader_settings(configuration: Configuration, engine: Engine) -> dict[str, Any]:
    """Answer what a reloader is told, after having named the configuration's files to it."""
    from sitebus.reload.sources import started

    told = configuration.one("reload")
    engine.autoreload.files.update(configuration.files)
    if configuration.logging["config"] is not None:
        engine.autoreload.files.add(str(configuration.logging["config"]))
    return {
        "frequency": told["interval"],
        "watch": told["watch"],
        "ignore": told["ignore"],
        "force_polling": told["force_polling"],
        "debounce": told["debounce"],
        "since": started(),
    }


def actions(configuration: Configuration) -> dict[str, str]:
    """Answer what somebody said about signals."""
    told = configuration.one("signals")
    said = (value for value in told.details if value.origin != DEFAULT)
    return {value.row.name.upper(): value.value for value in said}
