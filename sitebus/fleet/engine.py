"""The bus of the site on a host, as its operator has it: by way of its control socket there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sitebus.errors import NoSite, RemoteError
from sitebus.fleet import agent_run, agent_site
from sitebus.fleet.calls import Stream

if TYPE_CHECKING:
    from sitebus.fleet.host import Host

T = TypeVar("T")

#: How much longer than the site the host may take to say so; seconds.
_MARGIN = 20.0
#: How long `systemctl start` may take; seconds.
_UNIT = 120.0


class Event(NamedTuple):
    """One event of a site, or one line of its log.

    Attributes:
        id: Where to go on from.
        said: For an event ``at`` and ``args``, for a line what the logger told.
    """

    id: str
    name: str
    said: Any


def _event(item: Sequence[Any]) -> Event:
    number, name, said = item
    return Event(str(number), str(name), said)


def _plain(said: Mapping[str, Any]) -> dict[str, Any]:
    return dict(said)


def _job(said: Mapping[str, Any]) -> dict[str, Any]:
    return {**said, "state": str(said["state"])}


def _status(said: Mapping[str, Any]) -> dict[str, Any]:
    addresses = [str(each) for each in said["addresses"]]
    return {**said, "state": str(said["state"]), "addresses": addresses}


class HostEngine:
    """The bus of the site on one host.

    Commands wait for their end for *wait* seconds, and answer the ended job; with 0 they answer at
    once, and the job goes on. Each raises:

    * `NoSite`, if nothing answers;
    * `SiteRefused`, if the site says no, and `SiteDenied`, if it says so to this user;
    * `JobFailed`, if it has ended badly, with the reason of the site;
    * `CallTimeout`, if it has not ended in time;
    * `VersionMismatch`, if the site speaks another protocol;
    * `ConnectFailed` and `HostLost`, if there is no way to the host.
    """

    def __init__(self, host: Host) -> None:
        self.host = host

    def _look(self, target: str, shape: Callable[[Any], T]) -> T:
        return self._ask(agent_site.look, target, shape=shape)

    def _job(self, target: str, said: dict[str, Any] | None, wait: float) -> dict[str, Any]:
        return self._ask(agent_site.job, target, said, wait, wait=wait, shape=_job)

    def _ask(
        self,
        function: Callable[..., Any],
        *args: Any,
        wait: float = 0.0,
        shape: Callable[[Any], T],
    ) -> T:
        given = self.host.entry.where, *args
        found: T = self.host.ask(function, *given, timeout=wait + _MARGIN, shape=shape)
        return found

    # How it stands.

    @property
    def state(self) -> str | None:
        """The state of its bus, such as ``STARTED``; None if no site answers."""
        try:
            return str(self.status()["state"])
        except NoSite:
            return None

    def version(self) -> dict[str, Any]:
        """Answer who it is: releases, process, name, file."""
        return self._look("version", _plain)

    def status(self) -> dict[str, Any]:
        """Answer how it stands: state, readiness, addresses, requests, workers, running jobs."""
        return self._look("status", _status)

    def workers(self) -> list[dict[str, Any]]:
        """Answer each worker process."""
        return self._look("workers", lambda said: list(said["workers"]))

    def jobs(self) -> list[dict[str, Any]]:
        """Answer what was asked for, and what became of it."""
        return self._look("jobs", lambda said: list(said["jobs"]))

    # Commands.

    def start(self, wait: float = 60.0) -> dict[str, Any]:
        """Have it serve: by its bus if it runs, else by its unit or its command; answer its status.

        Raises:
            NoSite: It does not run, and the file does not say how to start it.
        """
        try:
            running = True
            self._job("start", None, wait)
        except NoSite:
            running = False
        pid = 0 if running else self._launch()
        if not wait:
            return {}
        try:
            return self._ask(agent_site.wait_ready, wait, pid, wait=wait, shape=_plain)
        except NoSite:
            # What it wrote last says more than that it is not there.
            if pid:
                self.host.ask(agent_run.outcome, pid, "the command that starts the site")
            raise

    def _launch(self) -> int:
        """Have it started; answer the process that was told to, if there is one."""
        entry = self.host.entry
        if entry.unit is not None:
            done = self.host.exec(["systemctl", "start", entry.unit], timeout=_UNIT)
            if done.status:
                reason = " ".join(done.err.split())[:300] or f"status {done.status}"
                sentence = f"systemctl cannot start {entry.unit}: {reason}; see journalctl there"
                raise RemoteError(self.host.name, sentence, kind="LaunchFailed")
        elif entry.start is not None:
            log = None if entry.root is None else f"{entry.root}/start.log"
            command = ["/bin/sh", "-c", f"exec {entry.start}"]
            return int(self.host.ask(agent_run.launch, command, entry.root, None, log))
        else:
            raise NoSite(
                self.host.name,
                "no site runs, and the file does not say how to start it; say unit = NAME or "
                "start = COMMAND in [site]",
            )
        return 0

    def stop(self, wait: float = 60.0) -> dict[str, Any]:
        """Have it serve no more; process and sockets stay."""
        return self._job("stop", None, wait)

    def exit(self, wait: float = 60.0) -> dict[str, Any]:
        """End the site; answer when its sockets are closed."""
        return self._ask(agent_site.leave, wait, wait=wait, shape=_job)

    def graceful(self, wait: float = 60.0) -> dict[str, Any]:
        """Replace its workers one by one; without workers, reload in place."""
        return self._job("graceful", None, wait)

    def reopen(self, wait: float = 60.0) -> dict[str, Any]:
        """Reload in place: log files, certificates."""
        return self._job("reopen", None, wait)

    def restart(self, wait: float = 60.0, *, force: bool = False) -> dict[str, Any]:
        """Run its command line again in the same process; answer its status once it is ready.

        With *force*, that is done without a trial of the new one.
        """
        return self._ask(agent_site.restart, force, wait, wait=wait, shape=_plain)

    def scale(self, count: int, wait: float = 60.0) -> dict[str, Any]:
        """Have so many workers."""
        return self._job("scale", {"count": count}, wait)

    def drain_worker(self, worker: int, wait: float = 60.0) -> dict[str, Any]:
        """Replace one worker."""
        return self._job(f"workers/{worker}/drain", None, wait)

    def ready(self, wanted: bool) -> dict[str, Any]:
        """Say whether it wants requests, which ``/readyz`` tells load balancers."""
        return self._ask(agent_site.ready, wanted, shape=_plain)

    def wait_ready(self, timeout: float = 60.0) -> dict[str, Any]:
        """Answer its status as soon as it is there, and ready."""
        return self._ask(agent_site.wait_ready, timeout, wait=timeout, shape=_plain)

    def publish(self, channel: str, *args: Any, wait: float = 10.0, **kwargs: Any) -> Any:
        """Publish on a channel in every process of the site; answer what the listeners did.

        Channels that may be published on are those that ``[control] publish`` names there.
        """
        said = {"channel": channel, "args": list(args), "kwargs": kwargs}
        job = self._job("publish", said, wait)
        return job.get("result") if wait else job

    # What happens.

    def subscribe(self, *patterns: str, last: str = "") -> Stream:
        """Answer an iterator of what happens from now on, through restarts, until it is closed.

        Args:
            patterns: Names of channels, or beginnings of names before a ``*``; all if left out.
            last: The `Event.id` to go on from, rather than from now.
        """
        return self._events("events", patterns, last or str(self.status()["event"]), True)

    def events(self, *patterns: str, follow: bool = False) -> Stream:
        """Answer the events that the site remembers; with *follow*, also what happens then."""
        return self._events("events", patterns, "", follow)

    def logs(self, *, follow: bool = False, last: str = "") -> Stream:
        """Answer the lines of its log that the site remembers, and with *follow* the next ones."""
        return self._events("logs", (), last, follow)

    def _events(self, target: str, patterns: Sequence[str], last: str, follow: bool) -> Stream:
        where, wanted = self.host.entry.where, ",".join(patterns)
        given = where, target, wanted, last, follow
        return self.host.stream(agent_site.follow, *given, shape=_event)
