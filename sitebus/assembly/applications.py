"""The applications that a configuration names: imported, made, filtered, mounted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sitebus import references
from sitebus.config import Configuration, Settings, Value
from sitebus.interfaces import Interface, detect

if TYPE_CHECKING:
    from sitebus.mounts import Mount, Site
    from sitebus.targets import Target


_SAID: dict[str, Interface | None] = {"auto": None, "wsgi": "wsgi", "asgi": "asgi3"}


def mount(configuration: Configuration, settings: Settings, site: Site, target: Target) -> Mount:
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
        path_style=settings["path_style"],
        lifespan=settings["lifespan"],
        lifespan_timeout=settings["lifespan_timeout"],
    )


def open_application(configuration: Configuration, settings: Settings) -> Target:
    """Import or make what a ``[mount]`` names.

    Raises:
        SitebusError: there is no such thing, or it fails; the status tells whose fault it is.
    """
    from sitebus.targets import Target, examine

    text = settings["app"]
    said = _SAID[settings["interface"]]
    made_by = configuration.app_of(settings)
    if made_by is not None:
        app = made(made_by)
        return Target(text, app, detect(app, said, reference=text))
    return examine(
        text,
        directory=settings.value("app").directory,
        said=said,
        factory=settings["factory"],
        variables=configuration.variables,
    )


def made(settings: Settings, *given: object) -> Any:
    """Call what a section's ``use`` names with the section's other settings."""
    reference = reference_of(settings["use"], settings.value("use"))
    factory: Any = references.load(reference)
    # The settings of a stranger may have the names of any parameters of ours.
    return references.call(reference, partial(factory, *given, **settings.extras))


def reference_of(reference: str, said: Value) -> str:
    """Answer a name to import; a file is relative to where it was said."""
    place, attribute = references.split(reference)
    if not references.is_file(place, said.directory):
        return reference
    path = said.directory / Path(place).expanduser()
    return f"{path}:{attribute}" if attribute else str(path)


def _filter(configuration: Configuration, mount: Settings, name: str) -> Callable[[Any], Any]:
    settings = configuration.filters.get(name)
    if settings is not None:
        return partial(made, settings)
    reference = reference_of(name, mount.value("filters"))
    wrap: Any = references.load(reference)
    return lambda app: references.call(reference, wrap, app)
