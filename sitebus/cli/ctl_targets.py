"""Which site is meant: a socket, a name, a site.ini, or the only one that runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sitebus.cli.ctl_client import Client
from sitebus.control import places
from sitebus.errors import NotAllowed, NotRunning, RequestRefused, UnclearSite

_FILES = (".ini", ".cfg", ".conf")
USUAL = "site.ini"


class Site(NamedTuple):
    """A site that answers, and what it says of itself."""

    client: Client
    version: dict[str, Any]

    @property
    def shown(self) -> str:
        """Its socket, to choose by, and what tells it from the others."""
        return f"{self.client.path} ({self.version['config'] or 'no file'})"


def find(target: str | None) -> Client:
    """Answer the client of the site that is meant.

    Raises:
        NotRunning: There is none.
        UnclearSite: There are several.
        SitebusError: The file that was named cannot be read.
    """
    if target is None:
        return by_file(USUAL) if os.path.isfile(USUAL) else _only()
    if target.endswith(_FILES):
        return by_file(target)
    if "/" in target or target.endswith(".sock"):
        return Client(target)
    return _by_name(target)


def _running() -> Iterator[Site]:
    for path in places.sockets():
        client = Client(path)
        try:
            yield Site(client, client.get("/v1/version"))
        except (NotRunning, NotAllowed, RequestRefused):
            continue  # one that was killed, or somebody else's


def _by_name(name: str) -> Client:
    return _one(lambda site: site.version["name"] == name, f"no site named {name!r} is running")


def _only() -> Client:
    return _one(lambda site: True, "no site of this user is running")


def _one(is_meant: Callable[[Site], bool], nobody: str) -> Client:
    found = [site for site in _running() if is_meant(site)]
    if not found:
        raise NotRunning(nobody)
    if len(found) > 1:
        raise UnclearSite("several sites are running", tuple(site.shown for site in found))
    return found[0].client


def by_file(path: str) -> Client:
    """Answer the site that serves a file, wherever its socket is."""
    real = os.path.realpath(path)
    found = [site for site in _running() if _is_file(site.version["config"], real)]
    if len(found) > 1:
        raise UnclearSite(f"{path} is served several times", tuple(s.client.path for s in found))
    if found:
        return found[0].client
    client = _said_in(path)
    if client is None:
        raise NotRunning(f"no site that serves {path} is running")
    served = client.get("/v1/version")["config"]
    if not _is_file(served, real):
        raise NotRunning(f"{client.path} is the socket of a site that serves {served or 'no file'}")
    return client


def _is_file(served: str, real: str) -> bool:
    """Tell whether the file that a site serves is *real*, by the name that it goes by."""
    return bool(served) and os.path.realpath(served) == real


def _said_in(path: str) -> Client | None:
    """Answer who is at the socket that a file names, which may be anywhere."""
    # Half of sitebus, to no use for a site that is found without.
    from sitebus import assembly

    told = assembly.read(path).one("control")
    if not told["enabled"]:
        raise NotRunning(f"{path} says [control] enabled = no", "leave that out, and restart it")
    return None if told["socket"] is None else Client(str(told["socket"]))
