"""What each command of ``sitebus-ctl`` asks for, and what it shows of the answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from sitebus.cli import ctl_relay
from sitebus.cli import ctl_tables as tables
from sitebus.cli.console import Console
from sitebus.cli.ctl_arguments import Arguments
from sitebus.cli.ctl_client import Client, ConnectionEnded, quoted
from sitebus.cli.ctl_progress import Progress
from sitebus.cli.ctl_targets import by_file
from sitebus.errors import NotRunning, RequestRefused

OK, FAILED = 0, 1

#: The longest that one request waits; the site refuses more.
_LONGEST_WAIT = 60.0
#: How often a site is looked for that is not there yet: nobody tells when a socket appears.
_LOOK = 0.1

#: How long a site may take to have another socket than the one it was asked by to restart.
_MOVING = 5.0

Find = Callable[[], Client]


class Session(NamedTuple):
    """One call of the command."""

    find: Find
    arguments: Arguments
    out: Console
    progress: Progress

    @property
    def options(self) -> Any:
        """The arguments of the command."""
        return self.arguments.options

    def show(self, told: Any, lines: Iterable[str]) -> int:
        """Print an answer: as it came, or for people."""
        if self.arguments.json:
            print(json.dumps(told, indent=2), flush=True)
        else:
            print("\n".join(lines), flush=True)
        return OK


def run(session: Session) -> int:
    """Do what the command says; answer the exit status."""
    return _COMMANDS[session.arguments.command](session)


def _status(session: Session) -> int:
    told = session.find().get("/v1/status")
    return session.show(told, tables.status(session.out, told))


def _workers(session: Session) -> int:
    client = session.find()
    told = client.get("/v1/workers")
    if not told["workers"] and not session.arguments.json:
        site = client.get("/v1/status")
        one = site["workers"] is None
        none = f"no worker runs: the site is {site['state']}"
        print("this site is one process, without workers" if one else none)
        return OK
    return session.show(told, tables.workers(session.out, told["workers"]))


def _bus(session: Session) -> int:
    told = session.find().get("/v1/bus")
    return session.show(told, tables.bus(session.out, told))


def _config(session: Session) -> int:
    told = session.find().get("/v1/config")
    return session.show(told, tables.settings(told))


def _jobs(session: Session) -> int:
    told = session.find().get("/v1/jobs")
    lines = [tables.job(each) for each in told["jobs"]]
    return session.show(told, lines or ["nothing was asked for since the site began"])


def _threads(session: Session) -> int:
    told = session.find().get("/v1/threads")
    return session.show(told, (f"{each['name']}:\n{each['stack']}" for each in told["threads"]))


def _metrics(session: Session) -> int:
    told = session.find().get("/v1/metrics")
    return session.show(told, [told if isinstance(told, str) else json.dumps(told, indent=2)])


def _events(session: Session) -> int:
    wanted = quoted(",".join(session.options.channels))
    target = f"/v1/events?channel={wanted}"
    return _follow(session, target, lambda each: tables.event(each.name, each.said))


def _logs(session: Session) -> int:
    return _follow(session, "/v1/logs?", lambda each: tables.log_line(session.out, each.said))


def _follow(session: Session, target: str, shown: Callable[[Any], str]) -> int:
    """Print a stream to its end, and through restarts of the site if it is followed."""
    client, last = session.find(), ""
    follows = session.options.follow
    while True:
        for each in client.follow(f"{target}&follow={'yes' if follows else 'no'}", last):
            last = each.id or last
            line = {"id": each.id, "event": each.name, "data": each.said}
            print(json.dumps(line) if session.arguments.json else shown(each), flush=True)
        if not follows:
            return OK
        try:
            # A restart keeps the socket: whoever connects now is answered when it is over.
            client.get("/v1/version", _LONGEST_WAIT)
        except NotRunning:
            return OK


def _ready(session: Session) -> int:
    wanted = session.options.wanted == "on"
    told = session.find().post("/v1/ready", {"ready": wanted})
    state = "ready" if told["ready"] else "not ready"
    return session.show(told, [f"requests are {'wanted' if wanted else 'not wanted'}; {state}"])


def _publish(session: Session) -> int:
    said = {"channel": session.options.channel, "args": session.options.args}
    return _job(session, "/v1/publish", said, shown=tables.published)


def _graceful(session: Session) -> int:
    return _job(session, "/v1/graceful", wait=session.options.wait)


def _scale(session: Session) -> int:
    return _job(session, "/v1/scale", {"count": session.options.count}, wait=session.options.wait)


def _drain(session: Session) -> int:
    target = f"/v1/workers/{session.options.worker}/drain"
    return _job(session, target, wait=session.options.wait)


def _kill(session: Session) -> int:
    return _job(session, f"/v1/workers/{session.options.worker}/kill")


def _dump(session: Session) -> int:
    target = f"/v1/workers/{session.options.worker}/dump"
    return _job(session, target, shown=lambda job: str(job["result"]["stacks"]).rstrip())


def _simple(session: Session) -> int:
    return _job(session, f"/v1/{session.arguments.command}")


def _exit(session: Session) -> int:
    client = session.find()
    wait = min(session.options.timeout, _LONGEST_WAIT)
    job: Mapping[str, Any]
    job = {"id": "", "kind": "exit", "what": "", "state": "done", "reason": "", "seconds": 0.0}
    try:
        # In one request: the site may be gone before a second one.
        job = client.post(f"/v1/exit?wait={wait:.3f}", wait=wait)["job"]
        job = _wait_for(session, client, job)
        if job["state"] == "done":
            # Until its sockets are closed, nobody is refused: somebody may start it again then.
            client.get("/v1/version", _LONGEST_WAIT)
    except NotRunning as gone:
        if not isinstance(gone, ConnectionEnded) and job["id"] == "":
            raise
        job = {**job, "state": "done"}
    return _told(session, job)


def _job(
    session: Session,
    target: str,
    said: Mapping[str, Any] | None = None,
    *,
    wait: bool = True,
    shown: Callable[[Mapping[str, Any]], str] = tables.job,
) -> int:
    """Ask for a job, and wait for its end if that is wanted."""
    client = session.find()
    job = client.post(target, said)["job"]
    if wait:
        job = _wait_for(session, client, job)
    return _told(session, job, shown)


def _told(
    session: Session,
    job: Mapping[str, Any],
    shown: Callable[[Mapping[str, Any]], str] = tables.job,
) -> int:
    good = job["state"] in ("running", "done")
    # What went well in part has a result as well.
    lines = [shown(job)] if good or job.get("result") is not None else []
    session.show({"job": job}, lines if good else [*lines, tables.job(job)])
    return OK if good else FAILED


def _wait_for(session: Session, client: Client, job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Wait until a job has ended, and show how it comes on.

    Raises:
        RequestRefused: It has not ended in time.
    """
    end = time.monotonic() + getattr(session.options, "timeout", 600.0)
    with session.progress as progress:
        while job["state"] == "running":
            left = end - time.monotonic()
            if left <= 0:
                raise RequestRefused(504, f"{tables.job(job)}; it goes on")
            progress.show(client, job)
            wait = min(progress.pace or _LONGEST_WAIT, left, _LONGEST_WAIT)
            job = client.get(f"/v1/jobs/{quoted(job['id'])}?wait={wait:.3f}", wait)["job"]
    return job


def _restart(session: Session) -> int:
    client = session.find()
    before = client.get("/v1/status")
    end = time.monotonic() + session.options.timeout
    try:
        job = client.post("/v1/restart", {"force": session.options.force})["job"]
        job = _wait_for(session, client, job)
    except (ConnectionEnded, RequestRefused) as error:
        # The next image knows nothing of the job, which was to bring it.
        if isinstance(error, RequestRefused) and error.code != 404:
            raise
    else:
        if job["state"] != "done":
            return _told(session, job)
    with suppress(NotRunning):
        # Answered by the next image, or not at all if that has another socket.
        client.get("/v1/version", max(0.0, end - time.monotonic()))
    again = partial(_find_again, client, before["config"])
    find = _patient(again, min(end, time.monotonic() + _MOVING))
    told = _wait_ready(find, end, lambda told: told["boot"] != before["boot"])
    return session.show(told, [f"{told['name']} serves again, as process {told['pid']}"])


def _find_again(client: Client, config: str) -> Client:
    """Answer a site that was restarted, which may have another socket now."""
    try:
        client.get("/v1/version")
    except NotRunning:
        if not config:
            raise
        return by_file(config)
    return client


def _wait(session: Session) -> int:
    end = time.monotonic() + session.options.timeout
    told = _wait_ready(_patient(session.find, end), end, lambda told: True)
    return session.show(told, tables.status(session.out, told))


def _patient(find: Find, end: float) -> Find:
    """Answer what finds a site as soon as there is one."""

    def wait() -> Client:
        while True:
            try:
                client = find()
                client.get("/v1/version")
                return client
            except NotRunning:
                if time.monotonic() >= end:
                    raise
            time.sleep(_LOOK)

    return wait


def _wait_ready(
    find: Find, end: float, is_meant: Callable[[Mapping[str, Any]], bool]
) -> Mapping[str, Any]:
    """Answer the status of a site that is ready, and meant, as soon as there is one.

    Raises:
        NotRunning: There is no site any more.
        RequestRefused: It was not ready in time.
    """
    while True:
        client = find()
        told = client.get("/v1/status", max(0.0, end - time.monotonic()))
        if told["ready"] and is_meant(told):
            return dict(told)
        left = end - time.monotonic()
        if left <= 0:
            raise RequestRefused(504, f"not ready in time: {told['why_not_ready']}")
        _wait_for_news(client, told["event"], min(left, _LONGEST_WAIT))


def _wait_for_news(client: Client, last: str, seconds: float) -> None:
    """Return when something has happened, the site has ended its answer, or time is over."""
    try:
        next(iter(client.follow("/v1/events", last, seconds)), None)
    except TimeoutError:
        return


def _relay(session: Session) -> int:
    if session.options.what == "keygen":
        return ctl_relay.keygen(session.options, session.arguments.json)
    told = session.find().get("/v1/relay")
    return session.show(told, ctl_relay.peers(session.out, told))


_COMMANDS: Mapping[str, Callable[[Session], int]] = {
    "status": _status,
    "workers": _workers,
    "graceful": _graceful,
    "restart": _restart,
    "stop": _simple,
    "start": _simple,
    "exit": _exit,
    "reopen": _simple,
    "scale": _scale,
    "drain": _drain,
    "kill": _kill,
    "dump": _dump,
    "threads": _threads,
    "jobs": _jobs,
    "events": _events,
    "logs": _logs,
    "publish": _publish,
    "bus": _bus,
    "config": _config,
    "ready": _ready,
    "metrics": _metrics,
    "wait": _wait,
    "relay": _relay,
}
