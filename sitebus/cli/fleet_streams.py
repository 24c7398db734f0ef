"""What hosts tell ``sitebus-fleet`` bit by bit: the output of commands, events, lines of logs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

from sitebus.cli import ctl_tables
from sitebus.cli import fleet_tables as tables
from sitebus.cli.fleet_session import FAILED, OK, Session, status_of, told
from sitebus.errors import CallTimeout, FleetError
from sitebus.fleet import Host, Stream


def execute(session: Session) -> int:
    """Run a command on the hosts, and print what it writes as it does."""
    argv, hosts = list(session.arguments.rest), session.hosts()
    width = max(len(host.name) for host in hosts)
    found: dict[str, Any] = {}
    for ended in session.each(hosts, partial(_executed, session, argv, width)):
        found[ended.name] = ended.error or ended.value
        if session.is_json:
            result = told(ended.error) if ended.error else {"status": ended.value}
            session.print({"host": ended.name, **result})
        if ended.error is not None:
            session.complain(ended.error)
        elif ended.value:
            ending = f"{shlex.join(argv)} has ended with status {ended.value}"
            session.err.write(tables.event(ended.name, ending, width))
    return status_of(found) or (FAILED if any(found.values()) else OK)


def _executed(session: Session, argv: list[str], width: int, host: Host) -> int:
    """Run a command on a host; answer its status."""
    # What is no whole line yet.
    rest = {"out": "", "err": ""}
    for kind, data in _output(host, argv, session.options.cwd, session.options.timeout):
        if kind == "status":
            for name, text in rest.items():
                if text:
                    _written(session, host, name, text, width)
            return int(data)
        *lines, rest[kind] = (rest[kind] + data).split("\n")
        for line in lines:
            _written(session, host, kind, line, width)
    raise FleetError(host.name, f"{argv[0]} has ended, and did not say how")


def _output(
    host: Host, argv: list[str], cwd: str | None, timeout: float
) -> Iterator[tuple[str, Any]]:
    end = time.monotonic() + timeout
    with host.exec_stream(argv, cwd=cwd) as stream:
        while True:
            try:
                item = stream.next(max(0.0, end - time.monotonic()))
            except StopIteration:
                return
            except TimeoutError:
                sentence = f"{argv[0]} has not ended within {timeout:g} s, and was killed"
                raise CallTimeout(host.name, f"{sentence}; allow more by --timeout") from None
            yield item


def _written(session: Session, host: Host, kind: str, line: str, width: int) -> None:
    if session.is_json:
        session.print({"host": host.name, kind: line})
    else:
        write = session.write if kind == "out" else session.err.write
        write(tables.event(host.name, line, width))


def events(session: Session) -> int:
    """Print what happens on the buses of the sites."""
    wanted = [name for each in session.options.channel for name in each.split(",") if name]

    def follow(host: Host) -> Stream:
        return host.engine.events(*wanted, follow=session.options.follow)

    return _stream(session, follow, lambda each: ctl_tables.event(each.name, each.said))


def logs(session: Session) -> int:
    """Print what the sites log."""

    def follow(host: Host) -> Stream:
        return host.engine.logs(follow=session.options.follow)

    return _stream(session, follow, lambda each: ctl_tables.log_line(session.out, each.said))


#: A host's name, what it tells or has come to, and whether that is the last of it.
_Came = SimpleQueue[tuple[str, Any, bool]]


def _stream(session: Session, follow: Callable[[Host], Stream], shown: Callable[[Any], str]) -> int:
    """Print what several hosts tell, each line as it comes."""
    hosts = session.hosts()
    width = max(len(host.name) for host in hosts)
    found: dict[str, Any] = {}
    came: _Came = SimpleQueue()
    for host in hosts:
        Thread(target=_listen, args=(host, follow, came), name=host.name, daemon=True).start()
    while len(found) < len(hosts):
        name, item, is_over = came.get()
        if is_over:
            found[name] = item
            if isinstance(item, Exception):
                session.complain(item)
        elif session.is_json:
            said = {"id": item.id, "event": item.name, "data": item.said}
            session.print({"host": name, **said})
        else:
            session.write(tables.event(name, shown(item), width))
    return status_of(found)


def _listen(host: Host, follow: Callable[[Host], Stream], came: _Came) -> None:
    try:
        with follow(host) as stream:
            for item in stream:
                came.put((host.name, item, False))
    # Also a bug of ours: who waits for all hosts would wait for this one for ever.
    except Exception as error:  # noqa: BLE001
        came.put((host.name, error, True))
    else:
        came.put((host.name, None, True))
