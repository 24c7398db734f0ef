"""What the system says when it refuses an address, in words that an operator can act on."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from sitebus.errors import BindError, BindNotPermitted, Holder
from sitebus.sockets import holders
from sitebus.sockets.addresses import Address

_PRIVILEGED = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


class _Words(NamedTuple):
    reason: str
    remedy: str


def refused(asked: Address, error: OSError, family: int = 0, host: str = "") -> BindError:
    """Answer the error to raise; *family* and *host* are the numeric address that was tried."""
    code = error.errno
    if code in (errno.EACCES, errno.EPERM):
        words = _no_permission(asked)
        return BindNotPermitted(str(asked), *words, errno=code)
    if code == errno.EADDRINUSE:
        holder = _holder(asked, family, host)
        return BindError(str(asked), *_in_use(asked, holder), errno=code, holder=holder)
    known = _unix(asked, code) if asked.kind == "unix" else _tcp(asked, code)
    reason = (error.strerror or str(error)).lower()
    words = known or _Words(reason, f"use another address, as in {_example(asked)}")
    return BindError(str(asked), *words, errno=code)


def unresolved(asked: Address) -> BindError:
    """Answer the error for a host name that nobody knows."""
    return BindError(
        str(asked),
        f"no address is known for the host {asked.host!r}",
        f"check the spelling and DNS, or use --bind 127.0.0.1:{asked.port}",
    )


def not_passed(asked: Address, names: list[str]) -> BindError:
    """Answer the error for a socket of systemd's that is not there, or is there several times."""
    what = f"named {asked.name!r} " if asked.name else ""
    count = sum(name == asked.name for name in names) if asked.name else len(names)
    said = f"{count} sockets {what}were passed" if count else f"no socket {what}was passed"
    known = ", ".join(sorted(set(names)))
    there = f"name one of {known}" if known else "start it by its socket unit"
    return BindError(str(asked), said, f"{there}, or use --bind 127.0.0.1:8080")


def not_shared(asked: Address) -> BindError:
    """Answer the error for a socket that a worker process wants and was not given."""
    return BindError(
        str(asked),
        "the supervisor binds for its workers, and has not bound this",
        "restart the site after a change of 'bind', as by sitebus-ctl restart",
    )


def no_listener(asked: Address, reason: str) -> BindError:
    """Answer the error for a descriptor that cannot be accepted from."""
    remedy = "pass the descriptor of a listening TCP or unix socket, or use --bind 127.0.0.1:8080"
    return BindError(str(asked), reason, remedy)


def _holder(asked: Address, family: int, host: str) -> Holder | None:
    if asked.kind == "unix":
        return holders.of_unix(asked.path)
    return holders.of_tcp(family, host, asked.port)


def _in_use(asked: Address, holder: Holder | None) -> _Words:
    reason = "address already in use"
    if asked.kind == "tcp":
        free = f"use --bind {Address('tcp', asked.host, 0)} for any free port"
    else:
        free = "use another path"
    if holder and holder.pid == os.getpid():
        return _Words(f"{reason} by this very process", f"name each address once, or {free}")
    who = f" ({holder})" if holder else ""
    return _Words(reason, f"stop the process that holds it{who}, or {free}")


def _no_permission(asked: Address) -> _Words:
    reason = "permission denied"
    if asked.kind == "unix":
        directory = os.path.dirname(asked.path)
        return _Words(reason, f"let user {os.getuid()} write in {directory}, or use another path")
    first = _first_free_port()
    if 0 < asked.port < first:
        other = Address("tcp", asked.host, max(8080, first))
        remedy = f"use --bind {other}, let systemd pass the socket, or start as root"
        return _Words(f"{reason} for ports below {first}", remedy)
    return _Words(reason, f"use another address, as in {_example(asked)}")


def _first_free_port() -> int:
    try:
        with open(_PRIVILEGED) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def _unix(asked: Address, code: int | None) -> _Words | None:
    directory = os.path.dirname(asked.path)
    if code in (errno.ENOENT, errno.ENOTDIR):
        return _Words(f"there is no directory {directory}", "make it, or use another path")
    if code == errno.EEXIST:
        return _Words("a file that is no socket is there", "remove it, or use another path")
    if code == errno.EWOULDBLOCK:
        reason = f"another process keeps {directory} locked"
        return _Words(reason, "stop that process, or use a path in a directory of your own")
    return None


def _tcp(asked: Address, code: int | None) -> _Words | None:
    if code == errno.EADDRNOTAVAIL:
        reason = "no interface of this host has that address"
    elif code == errno.EAFNOSUPPORT:
        reason = "this host has no such addresses (IPv6 switched off?)"
    else:
        return None
    own, every = f"127.0.0.1:{asked.port}", f"0.0.0.0:{asked.port}"
    return _Words(reason, f"use --bind {own} for this host alone or {every} for every interface")


def _example(asked: Address) -> str:
    return "unix:/run/site.sock" if asked.kind == "unix" else "127.0.0.1:8080"
