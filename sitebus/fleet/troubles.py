"""Why there is no way to a host, told in one sentence, from what ssh, sudo and others have said."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable

from sitebus.errors import (
    AccessDenied,
    ConnectFailed,
    FleetError,
    HostKeyChanged,
    HostKeyUnknown,
    NoPython,
)
from sitebus.fleet import ways
from sitebus.fleet.inventory import HostEntry

_FAREWELL = "EOF on stream; last 100 lines received:"
_NO_PYTHON = re.compile(r"(?:command )?not found|No such file or directory|unknown command", re.I)


def connect_error(
    entry: HostEntry, said: str, step: str, jumps: Iterable[HostEntry] = ()
) -> FleetError:
    """Answer the error for what was said at a step of the way to a host."""
    text = said.replace(_FAREWELL, "").strip()
    if step in ("sudo", "su", "doas"):
        return _not_become(entry, text)
    if "Host key" in text or "host key" in text:
        # The one whose key is not known is told, where it may be either.
        return _host_key(entry, next((each for each in jumps if not _is_known(each)), entry))
    if "SSH authentication is incorrect" in text or "SSH password" in text:
        return AccessDenied(entry.name, _not_let_in(entry, text), wants="ssh")
    if "Connection timed out" in text:
        return ConnectFailed(
            entry.name,
            f"no answer from {entry.address} within {entry.connect_timeout:g} s; see whether it "
            "is up, or allow more by connect_timeout",
        )
    last = _last(text)
    python = " ".join(ways.python(entry))
    if _NO_PYTHON.search(last) and python.split()[0] in last:
        return _no_python(entry, python, last)
    return ConnectFailed(entry.name, f"cannot reach {entry.address}: {last}; {_remedy(entry)}")


def _remedy(entry: HostEntry) -> str:
    if entry.method == "ssh":
        return f"try {ssh_command(entry)}"
    return f"see whether {entry.method} knows it"


def ssh_command(entry: HostEntry) -> str:
    """Answer what a person would type to get there."""
    port = f"-p {entry.port} " if entry.port else ""
    user = f"{entry.user}@" if entry.user else ""
    return f"ssh {port}{user}{entry.address}"


def last(error: BaseException) -> str:
    """Answer the last of what was said before something failed."""
    return _last(str(error))


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "the connection was closed"
    last = re.sub(r"^(?:ssh: |kex_exchange_identification: )", "", last).rstrip(".")
    return last[:300]


def _no_python(entry: HostEntry, python: str, last: str) -> NoPython:
    sentence = f"there is no {python} on it ({last}); say python = PATH in the file"
    return NoPython(entry.name, sentence)


def _not_let_in(entry: HostEntry, text: str) -> str:
    who = f"user {entry.user}" if entry.user else "this user"
    if "password is incorrect" in text:
        return f"it does not let {who} in: the password is wrong; give the right one"
    key = f"the key {entry.identity}" if entry.identity else "any key there is"
    return f"it does not let {who} in by {key}; put a key into its authorized_keys, or say another"


def _not_become(entry: HostEntry, text: str) -> FleetError:
    method, who = entry.become_method, entry.become
    if "password is required" in text:
        sentence = f"{method} wants a password for {who}; say become_password_file in the file"
        return AccessDenied(entry.name, sentence, wants="become")
    if "password is incorrect" in text or "incorrect" in text.lower():
        sentence = f"{method} does not take the password for {who}; give the right one"
        return AccessDenied(entry.name, sentence, wants="become")
    last = _last(text)
    python = " ".join(ways.python(entry))
    if _NO_PYTHON.search(last) and python.split()[0] in last:
        return _no_python(entry, python, last)
    if _NO_PYTHON.search(last):
        return ConnectFailed(entry.name, f"cannot become {who}: {last}; install {method} there")
    return AccessDenied(
        entry.name, f"{method} does not make {who} of this user: {last}; see its configuration"
    )


def _host_key(entry: HostEntry, asked: HostEntry) -> FleetError:
    """Answer the error for *entry*, on the way to which *asked* has shown its key."""
    who = asked.address if asked is entry else f"{asked.name} on the way, {asked.address},"
    if _is_known(asked):
        file = "" if asked.known_hosts is None else f" -f {asked.known_hosts}"
        return HostKeyChanged(
            entry.name,
            f"{who} has another host key than the one in {_file(asked)}; if that is as it should "
            f"be, remove the old one: ssh-keygen -R '{ways.known_name(asked)}'{file}",
        )
    port = f"-p {asked.port} " if asked.port else ""
    return HostKeyUnknown(
        entry.name,
        f"the host key of {who} is not in {_file(asked)}; compare what ssh-keyscan "
        f"{port}{asked.address} says with the host's own, and add it there",
    )


def _file(entry: HostEntry) -> str:
    return "~/.ssh/known_hosts" if entry.known_hosts is None else str(entry.known_hosts)


def _is_known(entry: HostEntry) -> bool:
    """Ask ssh's own tool, which knows hashed names and patterns."""
    command = ["ssh-keygen", "-F", ways.known_name(entry)]
    if entry.known_hosts is not None:
        command += ["-f", str(entry.known_hosts)]
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
