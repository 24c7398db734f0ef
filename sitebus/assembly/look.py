"""Look at what a configuration names before anything is served: load it, and tell what it is."""

from __future__ import annotations

from typing import NamedTuple

from sitebus import references
from sitebus.assembly import applications, parts
from sitebus.assembly.environment import prepare
from sitebus.config import Configuration, Settings
from sitebus.errors import AppImportError, SitebusError
from sitebus.interfaces import describe
from sitebus.mounts import Site
from sitebus.process import Engine
from sitebus.servers.hosting import Faces, SiteServer


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
        *filter(None, (_find_server(each, site) for each in configuration.servers)),
    ]


def _find(configuration: Configuration, settings: Settings, site: Site) -> Finding:
    place, text = str(settings.place), settings.value("app").text
    try:
        target = applications.open_application(configuration, settings)
        mount = applications.mount(configuration, settings, site, target)
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
        references.load(applications.reference_of(use.value, use))
    except SitebusError as error:
        return _failed(settings.title, use.text, error)
    return Finding(settings.title, use.text, f"{settings.section.kind}, not used")


def _find_plugin(settings: Settings) -> Finding:
    """Make a plugin and subscribe it, on a bus that nobody starts."""
    text = settings.value("use").text if "use" in settings else settings.name
    try:
        plugin = parts.plugin(settings, Engine())
        parts.subscribe(plugin)
        references.call(f"{describe(type(plugin))}.unsubscribe", plugin.unsubscribe)
    except SitebusError as error:
        return _failed(settings.title, text, error)
    return Finding(settings.title, text, "plugin")


def _find_server(settings: Settings, site: Site) -> Finding | None:
    """Make a server, which nobody starts, and read its certificate; tell only what is wrong."""
    faces = Faces(site.wsgi, lambda: site.asgi, lambda: "wsgi")
    try:
        server = parts.server(settings, Engine(), faces)
        if isinstance(server, SiteServer) and server.tls is not None:
            server.tls.context()
    except SitebusError as error:
        return _failed(settings.title, settings["adapter"], error)
    return None
