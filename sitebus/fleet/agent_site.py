"""What the agent asks of the site on its host, by way of the control socket.

Which site is meant is told by *where*, a mapping: ``socket`` (a path, or the name of a site),
``ini`` (the file that it serves); by neither, it is the only one of this user that runs.
These are the rules of ``sitebus-ctl``, of which nothing is installed where this runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sitebus.fleet.agent_http import (
    Ended,
    NoSite,
    SiteError,
    SiteRefused,
    TimedOut,
    ask,
    events,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    Where = dict[str, Any]
    Job = dict[str, Any]
    Said = dict[str, Any]

#: The protocol that is spoken here.
API = 1
#: The longest that one request waits; the site refuses more.
LONGEST_WAIT = 60.0
#: How often a site is looked for that is not there yet: nobody tells when a socket appears.
LOOK = 0.1
#: How often it is seen to whether who starts a site is still there.
LOOK_AGAIN = 1.0
#: How long a site may take to have another socket than the one it was asked by to restart.
MOVING = 5.0


class VersionMismatch(SiteError):
    """The site speaks another protocol."""


class JobFailed(SiteError):
    """What the site was asked for ended badly."""


# Which site.


def folders() -> list[str]:
    """Answer the directories that sockets of this user's sites may be in."""
    mine = os.environ.get("XDG_RUNTIME_DIR", "")
    uid = os.geteuid()
    # Whoever comes by ssh or sudo has no such variable, and the site may have been given it.
    usual = [f"/run/user/{uid}", "/run", os.path.join(os.environ.get("TMPDIR") or "/tmp", "")]
    bases = [mine] if os.path.isabs(mine) and _owner(mine) == uid else []
    found = [os.path.join(base, "sitebus") for base in [*bases, *usual[:2]]]
    return list(dict.fromkeys([*found, os.path.join(usual[2], f"sitebus-{uid}", "sitebus")]))


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def sockets() -> Iterator[str]:
    """Answer the control sockets in these, except where others could have put them."""
    for folder in folders():
        try:
            found = os.lstat(folder)
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        mine = stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid())
        if mine and not found.st_mode & 0o022:
            yield from (os.path.join(folder, name) for name in names if name.endswith(".sock"))


def find(where: Where) -> tuple[str, Said]:
    """Answer the socket of the site that is meant, and what it says of itself.

    Raises:
        NoSite: There is none, or one of several.
        VersionMismatch: It is another protocol's.
    """
    said = where.get("socket")
    if said and "/" in said:
        return said, _met(said, _version(said))
    if said:
        return _one(lambda told: told.get("name") == said, f"no site named {said!r} is running")
    if where.get("ini"):
        return _by_file(where["ini"])
    return _one(lambda told: True, "no site of this user is running")


def _version(path: str) -> Said:
    told = ask(path, "GET", "/v1/version")
    return told if isinstance(told, dict) else {}


def _met(path: str, told: Said) -> Said:
    api = told.get("api")
    if api == API:
        return told
    theirs, remedy = f"protocol {api}", "use the sitebus-fleet of its release"
    if not isinstance(api, int):
        theirs, remedy = "no protocol of sitebus", "name its control socket in the file"
    elif api < API:
        remedy = "restart it with a newer sitebus"
    raise VersionMismatch(
        f"what answers on {path} speaks {theirs}, and this is protocol {API}; {remedy}",
        theirs=api,
        ours=API,
        sitebus=told.get("sitebus", ""),
    )


def _running() -> Iterator[tuple[str, Said]]:
    for path in sockets():
        with contextlib.suppress(SiteError):
            yield path, _version(path)


def _one(is_meant: Any, nobody: str) -> tuple[str, Said]:
    found = [(path, told) for path, told in _running() if is_meant(told)]
    if not found:
        raise NoSite(f"{nobody}; start it, or say its socket in [site]")
    if len(found) > 1:
        several = ", ".join(path for path, _ in found)
        raise NoSite(f"several sites are running; say one of {several} as socket in [site]")
    return found[0][0], _met(*found[0])


def _by_file(path: str) -> tuple[str, Said]:
    real = os.path.realpath(path)
    found = [(each, told) for each, told in _running() if _is_file(told.get("config"), real)]
    if len(found) > 1:
        several = ", ".join(each for each, _ in found)
        raise NoSite(f"{path} is served several times; say one of {several} as socket in [site]")
    if found:
        return found[0][0], _met(*found[0])
    said = _socket_in(path)
    if said is None:
        raise NoSite(f"no site that serves {path} is running; start it, or say its socket")
    return said, _met(said, _version(said))


def _is_file(served: Any, real: str) -> bool:
    # By the name that it goes by: ``current/site.ini`` leads to another one by tomorrow.
    return isinstance(served, str) and bool(served) and os.path.realpath(served) == real


def _socket_in(path: str) -> str | None:
    """Answer the socket that a file says in [control], if that is plain."""
    heading, said = "", None
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read(1 << 20).splitlines()
    except (OSError, ValueError):
        return None
    for line in lines:
        headed = re.match(r"\[\s*(\w+)", line)
        heading = headed[1].lower() if headed else heading
        told = re.match(r"socket\s*[=:]\s*(\S.*?)\s*$", line, re.I)
        said = told[1] if told and heading == "control" else said
    if said is None:
        return None
    here = os.path.dirname(os.path.abspath(path))
    return os.path.join(here, os.path.expanduser(said.replace("${here}", here)))


def look(where: Where, target: str) -> Any:
    """Answer what a site says at ``/v1/`` *target*."""
    path, told = find(where)
    return told if target == "version" else ask(path, "GET", f"/v1/{target}")


def ready(where: Where, wanted: bool) -> Any:
    """Say whether a site wants requests."""
    path, _ = find(where)
    return ask(path, "POST", "/v1/ready", {"ready": wanted})


# Jobs.


def job(where: Where, target: str, said: Said | None, wait: float) -> Job:
    """Ask for a job, and answer it: once it has ended well, or at once if *wait* is 0.

    Raises:
        JobFailed: It has ended badly.
        TimedOut: It has not ended in time; it goes on.
    """
    path, _ = find(where)
    begun: Job = ask(path, "POST", f"/v1/{target}", said)["job"]
    return _ended(path, begun, wait) if wait else begun


def _ended(path: str, begun: Job, wait: float) -> Job:
    end = time.monotonic() + wait
    while begun["state"] == "running":
        left = min(end - time.monotonic(), LONGEST_WAIT)
        if left <= 0:
            sentence = f"{_titled(begun)} has not ended within {wait:g} s, and goes on"
            raise TimedOut(f"{sentence}; wait longer, or look at its jobs", job=begun)
        target = f"/v1/jobs/{quote(str(begun['id']))}?wait={left:.3f}"
        begun = ask(path, "GET", target, wait=left)["job"]
    if begun["state"] != "done":
        reason = " ".join(str(begun["reason"] or "it does not say why").split())
        raise JobFailed(f"{_titled(begun)} {begun['state']}: {reason}", job=begun)
    return begun


def _titled(begun: Job) -> str:
    return f"{begun['kind']} {begun['what']}".strip()


def leave(where: Where, wait: float) -> Job:
    """Have a site exit, and answer when its sockets are closed; at once if *wait* is 0."""
    path, _ = find(where)
    if not wait:
        begun: Job = ask(path, "POST", "/v1/exit")["job"]
        return begun
    gone: Job = {
        "id": "",
        "kind": "exit",
        "what": "",
        "state": "done",
        "reason": "",
        "result": None,
    }
    end = time.monotonic() + wait
    try:
        # In one request: the site may be gone before a second one.
        left = min(wait, LONGEST_WAIT)
        begun = ask(path, "POST", f"/v1/exit?wait={left:.3f}", wait=left)["job"]
        begun = _ended(path, begun, max(0.001, end - time.monotonic()))
        # Until its sockets are closed, nobody is refused: somebody may start it again then.
        while True:
            ask(path, "GET", "/v1/version", wait=max(0.0, end - time.monotonic()))
            if time.monotonic() >= end:
                raise TimedOut(f"exit has not ended within {wait:g} s, and goes on", job=begun)
    except NoSite:
        return gone


def restart(where: Where, force: bool, wait: float) -> Said:
    """Have a site run its command line again; answer its status once it serves.

    Raises:
        JobFailed: The new one would not start; the old one serves on.
        TimedOut: It is not ready in time.
    """
    path, _ = find(where)
    if not wait:
        begun: Said = ask(path, "POST", "/v1/restart", {"force": force})["job"]
        return begun
    before = ask(path, "GET", "/v1/status")
    end = time.monotonic() + wait
    try:
        _ended(path, ask(path, "POST", "/v1/restart", {"force": force})["job"], wait)
    except Ended:
        pass  # the next image knows nothing of the job, which was to bring it
    except SiteRefused as error:
        if error.fields.get("code") != 404:
            raise
    with contextlib.suppress(NoSite):
        # Answered by the next image, or not at all if that has another socket.
        ask(path, "GET", "/v1/version", wait=max(0.0, end - time.monotonic()))
    moved = {"ini": before.get("config")} if before.get("config") else where
    places = [{"socket": path}, where, moved]
    return _ready(places, end, min(end, time.monotonic() + MOVING), before["boot"])


def wait_ready(where: Where, wait: float, pid: int = 0) -> Said:
    """Answer the status of a site as soon as there is one, and it is ready.

    Args:
        where: The site.
        wait: For so many seconds at most.
        pid: Who starts it, if that is known; once this process has gone, a site is there, or will
            not come.

    Raises:
        NoSite: There is none in time.
        TimedOut: It is not ready in time.
    """
    end = time.monotonic() + wait
    while pid and _is_there(pid) and (left := end - time.monotonic()) > 0:
        with contextlib.suppress(NoSite, TimedOut):
            soon = time.monotonic() + min(left, LOOK_AGAIN)
            return _ready([where], soon, soon, "")
    appears = end if not pid or _is_there(pid) else min(end, time.monotonic() + LOOK_AGAIN)
    return _ready([where], end, appears, "")


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _ready(places: list[Where], end: float, appears: float, not_boot: str) -> Said:
    while True:
        path = _find_patiently(places, appears)
        told: Said = ask(path, "GET", "/v1/status", wait=max(0.0, end - time.monotonic()))
        if told["ready"] and told["boot"] != not_boot:
            return told
        left = end - time.monotonic()
        if left <= 0:
            why = told["why_not_ready"] or "it runs what it ran before"
            raise TimedOut(f"the site is not ready in time: {why}; see its log", status=told)
        _wait_for_news(path, str(told["event"]), min(left, LONGEST_WAIT))


def _find_patiently(places: list[Where], appears: float) -> str:
    while True:
        for where in places:
            try:
                return find(where)[0]
            except NoSite:
                if where is places[-1] and time.monotonic() >= appears:
                    raise
        _pause(LOOK)


def _pause(seconds: float) -> None:
    stopping = getattr(threading.current_thread(), "stopping", None)
    if stopping is None:
        time.sleep(seconds)
    elif stopping.wait(seconds):
        raise NoSite("nobody waits for it any more; ask again")


def _wait_for_news(path: str, last: str, seconds: float) -> None:
    """Return when something has happened, the site has ended its answer, or time is over."""
    with contextlib.suppress(socket.timeout, OSError):
        for _ in events(path, "/v1/events", last, seconds):
            return


# Streams.


def follow(where: Where, target: str, channels: str, last: str, on: bool) -> Iterator[list[Any]]:
    """Yield the events of a stream: identifier, name and data; through restarts if it goes *on*."""
    path, _ = find(where)
    query = f"/v1/{target}?channel={quote(channels)}&follow={'yes' if on else 'no'}"
    while True:
        with contextlib.suppress(ConnectionError):  # as abrupt an end as any
            for each in events(path, query, last, None):
                last = each[0] or last
                yield each
        if not on:
            return
        try:
            # A restart keeps the socket: whoever connects now is answered when it is over.
            ask(path, "GET", "/v1/version", wait=LONGEST_WAIT)
        except NoSite:
            return
