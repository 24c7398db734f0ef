"""What each command of ``sitebus-fleet`` asks of the hosts, and what it shows of the answers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from sitebus import references
from sitebus.cli import fleet_rolls, fleet_streams
from sitebus.cli import fleet_tables as tables
from sitebus.cli.ctl_tables import duration
from sitebus.cli.fleet_progress import Progress
from sitebus.cli.fleet_session import FAILED, OK, Session, status_of, told
from sitebus.cli.fleet_tables import Line, Mood
from sitebus.errors import AppImportError, NoSite, NotATree, UsageError
from sitebus.fleet import Host, journal


def run(session: Session) -> int:
    """Do what the command says; answer the exit status."""
    return _COMMANDS[session.arguments.command](session)


# What can be looked at.


def _status(session: Session) -> int:
    verbose = session.options.verbose

    def look(host: Host) -> dict[str, Any]:
        found = {"status": host.engine.status(), "version": host.engine.version()["sitebus"]}
        releases = [] if host.entry.root is None else host.releases.list()
        current = [each.id for each in releases if each.is_current]
        found |= {"release": current[0] if current else None}
        if verbose:
            found |= {"releases": [each.id for each in releases], "reached": _way(host)}
            found |= {"facts": host.facts(), "context": host.lineage}
        return found

    found = session.gather(session.hosts(), look)

    def lines() -> Iterator[str]:
        yield from tables.status(session.out, found)
        if verbose:
            for name, each in found.items():
                if not isinstance(each, Exception):
                    yield from ("", *tables.details(session.out, name, each))

    session.show({"hosts": _all_told(found)}, lines)
    for each in found.values():
        if isinstance(each, Exception):
            session.trace(each)
    return status_of(found)


def _way(host: Host) -> str:
    entry = host.entry
    become = f", as {entry.become} by {entry.become_method}" if entry.become else ""
    via = f", by way of {entry.via}" if entry.via else ""
    return f"{entry.address} by {entry.method}{via}{become}"


def _all_told(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: told(e) if isinstance(e, Exception) else e for name, e in found.items()}


def _check(session: Session) -> int:
    def check(host: Host) -> Any:
        host.connect()
        return host.check()

    found = session.gather(session.hosts(), check)
    shown = {name: e if isinstance(e, Exception) else e._asdict() for name, e in found.items()}
    session.show({"hosts": _all_told(shown)}, lambda: tables.checks(session.out, found))
    well = all(each.ok for each in found.values() if not isinstance(each, Exception))
    return status_of(found) or (OK if well else FAILED)


def _rolls(session: Session) -> int:
    if session.options.id:
        past = journal.find(session.journals, session.options.id)
        records = journal.read(past.path)
        for record in records:
            session.write(
                json.dumps(record) if session.is_json else tables.story(session.out, record)
            )
        return OK
    rolls = journal.rolls(session.journals)
    if session.is_json:
        for each in rolls:
            session.print(each.told())
    elif rolls:
        session.write("\n".join(tables.past(session.out, rolls)))
    else:
        session.write(f"no roll is known; they are written down in {session.journals}")
    return OK


# Commands to the sites.


class Simple(NamedTuple):
    """A command that all hosts get at once.

    Attributes:
        doing: What a host is doing meanwhile.
        done: What it has done then.
        work: Does it, in so many seconds.
    """

    doing: str
    done: str
    work: Callable[[Host, float], object]


def _exit_site(host: Host, timeout: float) -> object:
    try:
        return host.engine.exit(wait=timeout)
    except NoSite:
        return None  # that is what was wanted


_SIMPLE = {
    "start": Simple("starting", "serves", lambda host, wait: host.engine.start(wait=wait)),
    "stop": Simple("stopping", "has stopped", lambda host, wait: host.engine.stop(wait=wait)),
    "exit": Simple("ending", "has ended", _exit_site),
    "drain": Simple("draining", "is drained", lambda host, wait: host.engine.ready(False)),
    "undrain": Simple("undraining", "takes requests", lambda host, wait: host.engine.ready(True)),
}
#: These take a site from those who use it.
_GRAVE = ("stop", "exit")


def _simple(session: Session) -> int:
    command, timeout = session.arguments.command, session.options.timeout
    simple, hosts = _SIMPLE[command], session.hosts()
    if command in _GRAVE and not _is_meant(session, command, len(hosts)):
        session.err.write("nothing was done")
        return FAILED
    return _on_each(session, hosts, simple.doing, simple.done, partial(_do, simple, timeout))


def _do(simple: Simple, timeout: float, host: Host) -> None:
    simple.work(host, timeout)


def _is_meant(session: Session, command: str, count: int) -> bool:
    """Ask, where all hosts are meant and there is somebody to be asked."""
    if session.options.yes or session.arguments.names or not sys.stdin.isatty():
        return True
    what = "End the site" if command == "exit" else "Stop the site"
    answer = input(f"{what} of all {tables.hosts(count)}? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def _on_each(
    session: Session,
    hosts: tuple[Host, ...],
    doing: str,
    done: str,
    work: Callable[[Host], Mapping[str, Any] | None],
) -> int:
    """Do something on each host, and show how that comes on."""
    found: dict[str, Any] = {}
    with _progress(session, hosts) as progress:
        for host in hosts:
            if progress is not None:
                progress.show(Line(host.name, doing))
        for ended in session.each(hosts, work):
            name, error = ended.name, ended.error
            found[name] = error or ended.value
            if progress is None:
                failed = {"ok": error is None, **(told(error) if error else ended.value or {})}
                session.print({"host": name, "seconds": round(ended.seconds, 3), **failed})
            elif error is None:
                progress.show(Line(name, done, f"in {duration(ended.seconds)}", Mood.GOOD))
            else:
                progress.show(Line(name, "failed", tables.sentence(error), Mood.BAD))
    for each in found.values():
        if isinstance(each, Exception):
            session.complain(each)
    return status_of(found)


class _Silence:
    """Nothing is shown to people where JSON is wanted."""

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return


def _progress(session: Session, hosts: tuple[Host, ...]) -> Progress | _Silence:
    if session.is_json:
        return _Silence()
    return Progress.on(session.out, [host.name for host in hosts])


def _push(session: Session) -> int:
    path, dest = session.options.path, session.options.dest
    if not os.path.exists(path):
        raise NotATree(path, "there is no such file or directory")

    def push(host: Host) -> Mapping[str, Any]:
        return dict(host.push(path, dest)._asdict())

    return _on_each(session, session.hosts(), f"getting {dest}", f"has {dest}", push)


def _run(session: Session) -> int:
    module, name = session.options.function
    # As `python -m` would find it.
    sys.path.insert(0, os.getcwd())
    reference = f"{module}:{name}"
    try:
        function: Any = references.load(reference, check=False)
    except AppImportError as failure:
        if isinstance(failure.error, KeyboardInterrupt):
            raise failure.error from None
        raise
    if not callable(function):
        raise UsageError(f"{reference!r} is no function but of type {type(function).__name__}")
    # What the library has, every host has already.
    if module.partition(".")[0] not in sys.stdlib_module_names:
        session.let(module)
    args, timeout = session.options.args, session.options.timeout
    found = session.gather(
        session.hosts(), lambda host: host.call(function, *args, timeout=timeout)
    )
    for host, each in found.items():
        if isinstance(each, Exception):
            if session.is_json:
                session.print({"host": host, **told(each)})
            session.complain(each)
        elif session.is_json:
            session.print({"host": host, "result": each})
        else:
            session.write(f"{host}: {json.dumps(each)}")
    return status_of(found)


_COMMANDS: Mapping[str, Callable[[Session], int]] = {
    "status": _status,
    "check": _check,
    "deploy": fleet_rolls.deploy,
    "rollback": fleet_rolls.rollback,
    "graceful": fleet_rolls.reload,
    "restart": fleet_rolls.reload,
    "start": _simple,
    "stop": _simple,
    "exit": _simple,
    "drain": _simple,
    "undrain": _simple,
    "run": _run,
    "exec": fleet_streams.execute,
    "push": _push,
    "logs": fleet_streams.logs,
    "events": fleet_streams.events,
    "rolls": _rolls,
}
