"""The bus of the site on a host, as its operator has it: by way of its control socket there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus.errors import NoSite, RemoteError
from sitebus.fleet import agent_run, agent_site
from sitebus.fleet.calls import Stream

if TYPE_CHECKING:
    from sitebus.fleet.host import Host

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
    return Event(*item)


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

    def _look(self, target: str) -> Any:
        where = self.host.entry.where
        return self.host.ask(agent_site.look, where, target, timeout=_MARGIN)

    def _job(self, target: str, said: dict[str, Any] | None, wait: float) -> dict[str, Any]:
        where = self.host.entry.where
        patience = wait + _MARGIN
        return dict(self.host.ask(agent_site.job, where, target, said, wait, timeout=patience))

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
        return dict(self._look("version"))

    def status(self) -> dict[str, Any]:
        """Answer how it stands: state, readiness, addresses, requests, workers, running jobs."""
        return dict(self._look("status"))

    def workers(self) -> list[dict[str, Any]]:
        """Answer each worker process."""
        return list(self._look("workers")["workers"])

    def jobs(self) -> list[dict[str, Any]]:
        """Answer what was asked for, and what became of it."""
        return list(self._look("jobs")["jobs"])

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
        if not running:
            self._launch()
        return self.wait_ready(wait) if wait else {}

    def _launch(self) -> None:
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
            self.host.ask(agent_run.launch, command, entry.root, None, log)
        else:
            raise NoSite(
                self.host.name,
                "no site runs, and the file does not say how to start it; say unit = NAME or "
                "start = COMMAND in [site]",
            )

    def stop(self, wait: float = 60.0) -> dict[str, Any]:
        """Have it serve no more; process and sockets stay."""
        return self._job("stop", None, wait)

    def exit(self, wait: float = 60.0) -> dict[str, Any]:
        """End the site; answer when its sockets are closed."""
        where = self.host.entry.where
        return dict(self.host.ask(agent_site.leave, where, wait, timeout=wait + _MARGIN))

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
        where = self.host.entry.where
        # The trial, the stop and the start may each take as long.
        patience = wait + _MARGIN
        return dict(self.host.ask(agent_site.restart, where, force, wait, timeout=patience))

    def scale(self, count: int, wait: float = 60.0) -> dict[str, Any]:
        """Have so many workers."""
        return self._job("scale", {"count": count}, wait)

    def drain_worker(self, worker: int, wait: float = 60.0) -> dict[str, Any]:
        """Replace one worker."""
        return self._job(f"workers/{worker}/drain", None, wait)

    def ready(self, wanted: bool) -> dict[str, Any]:
        """Say whether it wants requests, which ``/readyz`` tells load balancers."""
        where = self.host.entry.where
        return dict(self.host.ask(agent_site.ready, where, wanted, timeout=_MARGIN))

    def wait_ready(self, timeout: float = 60.0) -> dict[str, Any]:
        """Answer its status as soon as it is there, and ready."""
        where = self.host.entry.where
        patience = timeout + _MARGIN
        return dict(self.host.ask(agent_site.wait_ready, where, timeout, timeout=patience))

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
