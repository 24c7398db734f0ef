"""By which programs, with which options, a host is reached: pure.

What mitogen takes for each method is told here, once; that ssh trusts no key that it does not know
is not for anybody to set.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from sitebus.fleet.inventory import HostEntry

#: Signs of life that may be missing in a row, before a host is lost.
_MISSED = 2


class Step(NamedTuple):
    """One step of the way to a host: mitogen's method, and what it is told."""

    method: str
    options: dict[str, Any]


def steps(
    entry: HostEntry,
    entries: Mapping[str, HostEntry],
    password: str | None = None,
    become_password: str | None = None,
) -> list[Step]:
    """Answer the steps to a host; those to whom it is reached through are not among them."""
    way = [_reach(entry, entries, password)]
    if entry.become is not None:
        options = {
            "username": entry.become,
            "password": become_password,
            "python_path": python(entry),
            "connect_timeout": entry.connect_timeout,
        }
        way.append(Step(entry.become_method, options))
    return way


def jumps(entry: HostEntry, entries: Mapping[str, HostEntry]) -> list[HostEntry]:
    """Answer the hosts that a connection is passed on through, the nearest to the host first."""
    if entry.via is None or goes_inside(entry):
        return []
    through = entries[entry.via]
    return [through, *jumps(through, entries)]


def goes_inside(entry: HostEntry) -> bool:
    """Tell whether the process that reaches a host runs on the one that it is reached through.

    An ssh does not: it runs here, with the keys that are here, and the other host only passes on
    what it cannot read.
    """
    return entry.via is not None and entry.method != "ssh"


def python(entry: HostEntry) -> list[str]:
    """Answer the command of a host's Python."""
    return shlex.split(entry.python or "python3")


def _reach(entry: HostEntry, entries: Mapping[str, HostEntry], password: str | None) -> Step:
    common = {"python_path": python(entry), "connect_timeout": entry.connect_timeout}
    if entry.method == "ssh":
        return Step("ssh", {**common, **_ssh(entry, entries, password)})
    if entry.method == "local":
        # Which Python runs this is known to work here.
        return Step("local", common if entry.python or entry.via else _without_python(common))
    if entry.method == "kubectl":
        return Step("kubectl", {**common, "pod": entry.pod or entry.address})
    return Step(entry.method, {**common, **_container(entry)})


def _without_python(common: dict[str, Any]) -> dict[str, Any]:
    import sys

    return {**common, "python_path": [sys.executable]}


def _container(entry: HostEntry) -> dict[str, Any]:
    if entry.method in ("docker", "buildah", "podman") and entry.user is not None:
        return {**_which(entry), "username": entry.user}
    return _which(entry)


def _which(entry: HostEntry) -> dict[str, Any]:
    if entry.method == "docker" and entry.image is not None:
        return {"image": entry.image}
    which = {"container": entry.container or entry.address}
    return {**which, "kind": entry.kind} if entry.method == "setns" else which


def _ssh(
    entry: HostEntry, entries: Mapping[str, HostEntry], password: str | None
) -> dict[str, Any]:
    args = [*trusted(entry), "-o", "ClearAllForwardings=yes"]
    args += ["-o", "RequestTTY=no", "-o", "RemoteCommand=none"]
    if entry.via is not None:
        args += ["-o", f"ProxyCommand={jump(entries[entry.via], entries)}"]
    return {
        "hostname": entry.address,
        "username": entry.user,
        "port": entry.port,
        "identity_file": None if entry.identity is None else str(entry.identity),
        "password": password,
        "check_host_keys": "enforce",
        "compression": entry.compression,
        "keepalive_enabled": True,
        "keepalive_count": _MISSED,
        "keepalive_interval": max(1, int(entry.keepalive / (_MISSED + 0.5))),
        "ssh_args": args,
    }


def trusted(entry: HostEntry) -> list[str]:
    """Answer the options of ssh that say which keys are known, and that no other will do."""
    args = ["-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no"]
    # What else the user's own configuration has ssh do is not for a connection like this.
    args += ["-o", "ControlPath=none", "-o", "ForwardAgent=no", "-o", "ForwardX11=no"]
    args += ["-o", "PermitLocalCommand=no"]
    if entry.known_hosts is not None:
        args += ["-o", f"UserKnownHostsFile={_quoted(str(entry.known_hosts))}"]
        args += ["-o", "GlobalKnownHostsFile=/dev/null"]
    return args


def _quoted(path: str) -> str:
    """Answer a path as ssh takes it in an option, where percent signs and spaces mean something."""
    text = path.replace("%", "%%")
    return f'"{text}"' if " " in text else text


def jump(entry: HostEntry, entries: Mapping[str, HostEntry]) -> str:
    """Answer the command that passes a connection on through a host."""
    words = ["ssh", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", *trusted(entry)]
    if entry.identity is not None:
        words += ["-o", "IdentitiesOnly=yes", "-i", str(entry.identity)]
    if entry.user is not None:
        words += ["-l", entry.user]
    if entry.port is not None:
        words += ["-p", str(entry.port)]
    if entry.via is not None:
        words += ["-o", f"ProxyCommand={jump(entries[entry.via], entries)}"]
    command = shlex.join([*words, entry.address]).replace("%", "%%")
    return f"{command} -W [%h]:%p"


def known_name(entry: HostEntry) -> str:
    """Answer the name that a file of known keys has for a host."""
    if entry.port in (None, 22):
        return entry.address
    return f"[{entry.address}]:{entry.port}"
