"""Drive the sites of many machines from one place, over ssh.

`open` reads a ``fleet.ini`` and answers a `Fleet`::

    with fleet.open("fleet.ini") as shop:
        shop["web1"].engine.graceful(wait=60)

Hosts need Python and sshd; the operator's own ssh decides who may do what.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from sitebus.config import Override
from sitebus.fleet.calls import Duplex, Pending, Stream
from sitebus.fleet.engine import Event, HostEngine
from sitebus.fleet.fleets import Fleet
from sitebus.fleet.host import CheckReport, Completed, Fetched, Host
from sitebus.fleet.inventory import HostEntry, Inventory
from sitebus.fleet.inventory import read as read_inventory
from sitebus.fleet.passwords import Passwords
from sitebus.fleet.selects import Select

__all__ = [
    "CheckReport",
    "Completed",
    "Duplex",
    "Event",
    "Fetched",
    "Fleet",
    "Host",
    "HostEngine",
    "HostEntry",
    "Inventory",
    "Pending",
    "Select",
    "Stream",
    "open",
    "read_inventory",
]


def open(  # noqa: A001 - used as `fleet.open`
    path: str | os.PathLike[str],
    *,
    password: str | None = None,
    become_password: str | None = None,
    allow: Sequence[str] = (),
    overrides: Iterable[Override] = (),
    environ: Mapping[str, str] | None = None,
    debug: bool = False,
    profile: bool = False,
    log: str | os.PathLike[str] | None = None,
) -> Fleet:
    """Answer the fleet that a file describes; nothing is connected yet.

    Args:
        path: The ``fleet.ini``.
        password: For ssh, on hosts without a ``password_file``.
        become_password: For ``become``, on hosts without a ``become_password_file``.
        allow: The modules whose functions may be sent to hosts, with all that is in them.
        overrides: What the command line says instead of the file.
        environ: The environment variables; those of the process if left out.
        debug: Whether hosts tell mitogen's own log all they do.
        profile: Whether mitogen writes profiles of its threads into ``/tmp``.
        log: The file for mitogen's own log.

    Raises:
        CannotRead: The file is not there.
        ConfigErrors: This is all that is wrong with it.
    """
    found = os.environ if environ is None else environ
    inventory = read_inventory(path, overrides=overrides, environ=environ)
    secrets = Passwords.given(password, become_password, found)
    return Fleet(inventory, secrets=secrets, allow=allow, debug=debug, profile=profile, log=log)
