"""Replace the workers when what they are made of changes; the supervisor imports none of it.

The watching, and what is decided about a change, is that of `sitebus.plugins.reloader`, on what
workers tell of themselves. What differs is that nobody waits: a reload is a job of the supervisor,
and the next change replaces who boots for it. The first change is acted on at once; while somebody
boots a burst is awaited, so that a checkout of many files costs one boot too many at most.

All that is decided is decided in the one thread that watches; what others have to say, that a job
is over, waits until that comes to it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sitebus import assembly, trial
from sitebus.assembly.environment import original
from sitebus.config import Configuration, Settings
from sitebus.errors import (
    CannotRestart,
    MessageTooLarge,
    NotServing,
    NoWorkerAnswer,
    RollRunning,
    SitebusError,
    TrialFailed,
)
from sitebus.plugins import OF_SUPERVISOR, listens
from sitebus.plugins.reloader import Reloader
from sitebus.process import Engine
from sitebus.reload.opened import now
from sitebus.reload.watcher import Changes, Watcher
from sitebus.workers.hand import Hand
from sitebus.workers.inside import MOST_REASON, MOST_TEXT
from sitebus.workers.launch import Launch
from sitebus.workers.sighting import Sightings
from sitebus.workers.supervisor import JobTicket, Supervisor

#: How long the workers may take to say whether they have dealt with a change; seconds.
PATIENCE = 2.0

#: How long before a supervisor that is busy is asked again; seconds.
BUSY = 0.2

#: What of a server is the supervisor's business: the rest workers read for themselves.
_OF_SERVER = ("bind", "backlog", "tls_cert")
#: What is read by workers alone.
_OF_WORKERS = ("mount", "app", "filter", "env")


class Attempt(NamedTuple):
    """One reload: its job, and when it was wished for."""

    ticket: JobTicket
    began: int


class WorkersReloader(Reloader):
    """Watch what the workers are made of, and replace them when it changes.

    Args:
        bus: The supervisor's bus.
        supervisor: Who replaces the workers.
        configuration: What the supervisor goes by.
        launch: How that was read, and is read again.
        settings: What `Reloader` takes.
    """

    # What changes meanwhile is seen afterwards; before, nobody can be replaced.
    longest_start = None

    def __init__(
        self,
        bus: Engine,
        supervisor: Supervisor,
        configuration: Configuration,
        launch: Launch,
        **settings: Any,
    ) -> None:
        self._seen = Sightings()
        super().__init__(bus, sight=self._seen, **settings)
        self._supervisor = supervisor
        self._configuration = configuration
        self._launch = launch
        #: The one whose outcome counts; None if nothing is being tried.
        self._attempt: Attempt | None = None
        self._settled: deque[Attempt] = deque()
        #: Whether it is known what the code that runs was loaded from.
        self._is_certain = True
        self._releases = 1
        #: Whether files may be known that only those had who are gone.
        self._is_to_forget = False

    @property
    def release(self) -> str:
        """Which code a worker has that starts now: that of no other supervisor, nor another."""
        return f"{self.bus.id}-{self._releases}"

    def subscribe(self) -> None:
        """Listen to the bus, and to what workers tell."""
        super().subscribe()
        if (path := self._launch.env_path) is not None:
            self.bus.autoreload.files.add(str(path))
        self._supervisor.hear("seen", self._hear_seen)
        self._supervisor.on_gone(self._hear_gone)

    # In the poller's thread.

    def _hear_seen(self, hand: Hand, message: Mapping[str, Any]) -> None:
        self._seen.take(hand.serial, message)

    def _hear_gone(self, serial: int) -> None:
        self._seen.gone(serial)
        # What was told by a candidate that failed shows where to mend it.
        if self._attempt is None and self.failure is None:
            self._seen.forget()
            self._is_to_forget = True
            if (watcher := self._watcher) is not None:
                watcher.call()

    def _hear_settled(self, attempt: Attempt) -> None:
        self._settled.append(attempt)
        if (watcher := self._watcher) is not None:
            watcher.call()

    # The life.

    def started(self) -> None:
        """Watch from here on; workers of the image before this one tell once more what they are."""
        super().started()
        self._supervisor.tell("sight")

    @listens("stop")
    def stop(self) -> None:
        """End the thread; what was being tried is of no interest any more."""
        super().stop()
        self._attempt = None

    def _new_watcher(self) -> Watcher:
        watcher = super()._new_watcher()
        watcher.eager = lambda: self._attempt is None
        return watcher

    # What is done about a change.

    def _is_soon(self) -> bool:
        return self._attempt is not None or super()._is_soon()

    def _is_as_it_was(self) -> bool:
        # Whoever boots has read what was changed.
        return self._attempt is None and self._is_certain and super()._is_as_it_was()

    def _renew(self, name: str, changes: Changes) -> None:
        # That of before as well: it may have been refused for another file's sake.
        if self._concerns_supervisor(self._running):
            self.bus.log(f"Restarting because {name} changed.")
            self._restart()
            return
        began = now()
        self.bus.log(f"Reloading because {name} changed.")
        ticket = self._begin(f"{name} changed")
        if ticket is not None:
            attempt = self._attempt = Attempt(ticket, began)
            ticket.when_settled(lambda: self._hear_settled(attempt))

    def _begin(self, reason: str) -> JobTicket | None:
        """Begin to replace the workers as soon as that can be; None if nobody watches any more."""
        self._releases += 1
        while (watcher := self._watcher) is not None and not watcher.stopped:
            try:
                return self._supervisor.reload(reason)
            except (RollRunning, NotServing):
                watcher.rest(BUSY)
        return None

    def _refuse(self, error: TrialFailed, began: int) -> None:
        # Whoever boots still has older code than what was refused.
        self._attempt = None
        super()._refuse(error, began)

    def _attend(self) -> None:
        """Hear how reloads have ended, and that workers are gone."""
        while self._settled:
            self._judge(self._settled.popleft())
        watcher = self._watcher
        if self._is_to_forget and self._attempt is None and self.failure is None and watcher:
            self._is_to_forget = False
            watcher.forget()

    def _judge(self, attempt: Attempt) -> None:
        ticket, done = attempt.ticket, attempt.ticket.state == "done"
        if attempt is not self._attempt:
            # It came up all the same, with whatever was there just then.
            self._is_certain = self._is_certain and not done
        elif done:
            self._is_certain = True
            self._up_since = time.monotonic()
            self._forget_failure()
            self._attempt = None
            self._seen.forget()
        elif self.bus.state == self.bus.machine.running:
            self._refuse(_failure(ticket), attempt.began)

    def _concerns_supervisor(self, paths: Collection[str]) -> bool:
        """Tell whether this process goes by what has changed."""
        if str(self._launch.env_path) in paths:
            return True
        if not set(paths) & set(self._configuration.files):
            return False
        try:
            found = assembly.read(
                self._launch.config,
                overrides=self._launch.overrides,
                environ={**self._launch.env_file, **original()},
            )
        except (SitebusError, OSError):
            return False  # the worker that reads it will say what is wrong
        return _of_supervisor(found) != _of_supervisor(self._configuration)

    def _said(self, error: TrialFailed | CannotRestart) -> str:
        return str(error) if getattr(error, "logged", False) else super()._said(error)

    # What visitors see is told where it is served.

    def _publish(self, channel: str, *values: object) -> list[Any]:
        answers = super()._publish(channel, *values)
        if channel == "files_changed":
            answers.append(self._is_dealt_with_by_all(*values))
        elif channel in ("reload_mended", "files_refreshed"):
            self._tell(channel, values=list(values))
        return answers

    def _tell(self, channel: str, **told: Any) -> None:
        try:
            self._supervisor.tell("reload", channel=channel, **told)
        except MessageTooLarge:
            # So many paths that nobody goes through them: that there are some is what matters.
            self._supervisor.tell("reload", channel=channel, values=[[]])

    def _is_dealt_with_by_all(self, paths: object) -> bool:
        assert isinstance(paths, tuple)
        try:
            answers = self._supervisor.call("files_changed", list(paths), timeout=PATIENCE)
        except (SitebusError, TypeError):
            return False
        return bool(answers) and all(_says_yes(each) for each in answers.values())

    @listens("restart_refused")
    def restart_refused(self, error: TrialFailed | CannotRestart) -> None:
        """Show it to visitors, whoever asked for the restart."""
        super().restart_refused(error)
        self._tell_refused(error)

    @listens("worker.ready")
    def worker_ready(self, facts: object = None) -> None:
        """Have one that came for another that died say as well why the last change was refused."""
        failure = self.failure
        if failure is not None and self._attempt is None:
            self._tell_refused(failure)

    def _tell_refused(self, error: TrialFailed | CannotRestart) -> None:
        told: dict[str, Any] = {"reason": str(error), "text": "", "file": "", "line": 0}
        if isinstance(error, TrialFailed):
            told = {"reason": error.reason[-MOST_REASON:], "text": error.text[-MOST_TEXT:]}
            told |= {"file": error.file, "line": error.line}
        self._tell("restart_refused", error=told)


def _says_yes(answer: object) -> bool:
    if isinstance(answer, NoWorkerAnswer) or not isinstance(answer, list):
        return False
    return any(each is True for each in answer)


def _failure(ticket: JobTicket) -> TrialFailed:
    """Answer why a reload was refused, as the trial of a restart would say it."""
    fault = ticket.fault or {"reason": ticket.reason, "text": ""}
    error = trial.failure(str(fault["reason"]), str(fault["text"]), fault.get("missing", ()))
    error.logged = bool(fault.get("logged"))
    return error


def _of_supervisor(configuration: Configuration) -> list[tuple[str, str, object]]:
    """Answer what of a configuration the supervisor itself goes by."""
    return [
        (settings.title, value.row.name, value.value)
        for settings in configuration.all
        if settings.section.kind not in _OF_WORKERS
        for value in settings.details
        if _is_of_supervisor(settings, value.row.name)
    ]


def _is_of_supervisor(settings: Settings, key: str) -> bool:
    if settings.section.kind == "server":
        return key in _OF_SERVER
    return settings.section.kind != "plugin" or settings.name in OF_SUPERVISOR
