"""Run HTTP servers with the bus, and find the adapter of one by name.

`ServerAdapter` runs anything that has ``start``, ``stop`` and ``ready``.
The adapters on it are found through the entry-point group ``sitebus.servers``; sitebus's own are
known without looking, so that they work from a directory where nothing is installed.
"""

from __future__ import annotations

from collections.abc import Mapping

from sitebus.errors import ServerNotInstalled, UnknownServer
from sitebus.servers.base import Server, ServerAdapter
from sitebus.servers.hosting import Abilities, Faces, SiteServer
from sitebus.servers.tls import TLS

__all__ = ["BUILT_IN", "TLS", "Abilities", "Faces", "Server", "ServerAdapter", "SiteServer", "find"]

GROUP = "sitebus.servers"
BUILT_IN: Mapping[str, str] = {
    "cheroot": "sitebus.servers.cheroot:CherootServer",
    "hypercorn": "sitebus.servers.hypercorn:HypercornServer",
    "granian": "sitebus.servers.granian:GranianServer",
    "waitress": "sitebus.servers.waitress:WaitressServer",
    "wsgiref": "sitebus.servers.wsgiref:WsgirefServer",
    "uvicorn": "sitebus.servers.uvicorn:UvicornServer",
}


def find(name: str) -> type[ServerAdapter]:
    """Answer the adapter class called *name*.

    Raises:
        UnknownServer: No adapter has that name.
        ServerNotInstalled: The library it needs is not there.
    """
    from importlib.util import find_spec

    adapter = _load(name, BUILT_IN.get(name) or _target(name))
    if adapter.requires and find_spec(adapter.requires) is None:
        raise ServerNotInstalled(name, adapter.requires)
    return adapter


def _target(name: str) -> str:
    from importlib.metadata import entry_points

    points = {point.name: point.value for point in entry_points(group=GROUP)}
    if name not in points:
        raise UnknownServer(name, sorted(points.keys() | BUILT_IN.keys()))
    return points[name]


def _load(name: str, target: str) -> type[ServerAdapter]:
    from importlib import import_module

    module, _, attribute = target.partition(":")
    try:
        found: type[ServerAdapter] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ServerNotInstalled(name, error.name or target) from error
    return found
