"""The control socket of a site: made when it binds, served from then on, gone when it exits.

A restart in place hands it down, so that a client waits at most as long as that takes. While the
site is stopped it answers on, so that somebody can start it again.

What answers is made for the first client. News is kept from the start on, for clients that come
late and ask what has happened.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sitebus.control.door import Door
from sitebus.control.rings import Ring
from sitebus.control.server import Server
from sitebus.errors import NotOnThisPlatform, SitebusError
from sitebus.listeners import INFO, WARNING
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority
from sitebus.reexec import STARTED_IN

if TYPE_CHECKING:
    from sitebus.config import Configuration
    from sitebus.control.api import Answer, Api
    from sitebus.control.jobs import Job
    from sitebus.control.peers import Roles
    from sitebus.control.wire import Request

PRIVATE, GROUP, EVERYBODY = 0o600, 0o660, 0o666

#: Jobs that end with the process, or with this image of it.
_LEAVING = ("exit", "restart")
#: After all others: as long as anything happens, somebody may look.
_LAST = 100

#: What is told of workers, and of what replaces them; `sitebus.workers.plan` tells it.
WORKER_CHANNELS = tuple(
    f"worker.{name}"
    for name in ("spawned", "ready", "draining", "gone", "lost", "unfit", "stuck", "fatal")
)
BEGUN = "rolling.begin"
ROLLING_CHANNELS = tuple(f"rolling.{name}" for name in ("begin", "step", "done", "abort"))
#: What is told of other nodes.
RELAY_CHANNELS = tuple(f"relay.{name}" for name in ("peer", "gap", "drop", "bad", "synced"))


class ControlSocket(Plugin):
    """Answer on a unix socket how the site stands, and do what its operators ask for.

    Args:
        bus: The site's bus.
        path: Where the socket is; by the site's name in the user's runtime directory if left out.
        name: What the site is called.
        configuration: What it was put together from.
        mode: Of the socket's file; by default its owner's alone, its group's too if there is one,
            everybody's if *operators* or *viewers* are named: each is asked who they are.
        group: Of the socket's file, by name or number.
        operators: Who may change something, besides root and the site's own user: users by name or
            number, groups behind an ``@``.
        viewers: Who may look.
        publish: The channels that operators may publish on.
        events: Channels besides the usual ones whose messages may be followed; whoever publishes
            there gets one more answer, None.
        metrics: What ``/v1/metrics`` answers: a text, or what JSON can say; it may take its time.
        required: A socket that cannot be made keeps the site from starting; otherwise it is a
            warning, and the site has none.

    Attributes:
        boot: Another one after each restart of the process in place, whatever the bus is called.

    Raises:
        CannotControl: The start cannot make the socket that is required.
    """

    def __init__(
        self,
        bus: Engine,
        path: str | os.PathLike[str] | None = None,
        *,
        name: str = "site",
        configuration: Configuration | None = None,
        mode: int | None = None,
        group: str | None = None,
        operators: Iterable[str] = (),
        viewers: Iterable[str] = (),
        publish: Iterable[str] = (),
        events: Iterable[str] = (),
        metrics: Callable[[], Any] | None = None,
        required: bool = True,
    ) -> None:
        super().__init__(bus)
        self.operators, self.viewers = tuple(operators), tuple(viewers)
        self.required = required
        where = None if path is None else os.path.abspath(path)
        self.door = Door(where, name, self._usual_mode(group) if mode is None else mode, group)
        self.name = name
        self.configuration = configuration
        file = getattr(configuration, "path", None)
        self.file = "" if file is None else _named(file)
        self.publishable, self.metrics = tuple(publish), metrics
        self.began = time.monotonic()
        self.boot = f"{time.time_ns():x}"
        self.server = Server(self._respond, self._roles_now, self._log)
        self.events = Ring(self.boot, self.server.news)
        self.logs = Ring(self.boot, self.server.news)
        self._api: Api | None = None
        self._making = threading.RLock()
        self._roles: Roles | None = None
        self._wanted = (*WORKER_CHANNELS, *ROLLING_CHANNELS, *RELAY_CHANNELS, *events)
        self._heard: dict[str, Any] = {}

    @property
    def api(self) -> Api:
        """What answers; asking for it makes it."""
        with self._making:
            if self._api is None:
                self._api = self._made()
            return self._api

    def _made(self) -> Api:
        from sitebus.config import relay
        from sitebus.control.api import Api
        from sitebus.control.jobs import Jobs
        from sitebus.control.pictures import Pictures

        told = self.configuration
        pictures = Pictures(self.bus, self.name, self.file, told, self.boot, self.began)
        jobs = Jobs(self.bus, self._job_moved)
        exported = () if told is None else (*told.one("workers")["export"], *relay.shared(told))
        return Api(
            self.bus,
            pictures,
            jobs,
            self.events,
            self.logs,
            self.publishable,
            self.metrics,
            exported,
        )

    def _usual_mode(self, group: str | None) -> int:
        if group is not None:
            return GROUP
        return EVERYBODY if self.operators or self.viewers else PRIVATE

    def subscribe(self) -> None:
        """Listen for the start, and on every channel whose messages may be followed."""
        super().subscribe()
        machine = self.bus.machine
        named = (*machine.channels.values(), machine.closing, machine.channel("graceful"))
        for channel in dict.fromkeys((*filter(None, named), *self._wanted)):
            # First: it tells that something begins, and what it was told comes before what follows.
            self._heard[channel] = partial(self._hear, channel)
            self.bus.subscribe(channel, self._heard[channel], float("-inf"))

    def unsubscribe(self) -> None:
        """Listen no more, and serve no more."""
        super().unsubscribe()
        for channel, listener in self._heard.items():
            self.bus.unsubscribe(channel, listener)
        self._heard = {}
        self.server.close()
        self.door.close()

    def _hear(self, channel: str, *args: Any, **kwargs: Any) -> None:
        self.events.add(channel, {"args": args, **({"kwargs": kwargs} if kwargs else {})})
        if channel == BEGUN and args and isinstance(args[0], Mapping):
            self._follow(str(args[0].get("id")))

    def _follow(self, id: str) -> None:
        """Know a job of the workers, whoever asked for it: a signal, or nobody."""
        from sitebus.control.crew import crew_of

        crew = crew_of(self.bus)
        view = None if crew is None else crew.job(id)
        if view is not None:
            self.api.jobs.follow(view)

    @listens("log")
    def log(self, message: str, level: int = INFO) -> None:
        """Keep a line of the log for who follows it."""
        self.logs.add("log", {"level": level, "message": message})

    @listens("trial")
    def trial(self) -> None:
        """Refuse a restart that could not make the socket."""
        if self.required:
            self.door.check()

    @listens("start", priority=Priority.BIND)
    def make(self) -> None:
        """Make the socket, while that may still be permitted."""
        try:
            if not _knows_peers():
                raise NotOnThisPlatform("[control]", "Linux", "set enabled = no")
            self.door.open(self.bus)
        except SitebusError as error:
            if self.required:
                raise
            self.bus.log(f"{error} (the site has no control socket)", WARNING)

    # After a fork, which leaves threads behind, and as the user that the site runs as.
    @listens("start", priority=Priority.DROP_PRIVILEGES + 1)
    def serve(self) -> None:
        """Begin to answer."""
        if self.door.listener is not None and not self.server.is_open:
            self.door.settle()
            if self.operators or self.viewers:
                self._roles_now()  # who is not known should be told of now
            self.server.open(self.door.listener.dup())

    @listens("exit", priority=_LAST)
    def exit(self) -> None:
        """Tell who waits for the exit that it is done, and answer no more.

        If the process runs its command line again, clients that come now are answered then.
        """
        if self._api is not None:
            self._end_jobs(self._api)
        self.server.close()
        if not self.bus.execv:
            self.door.close()

    def _end_jobs(self, api: Api) -> None:
        for job in api.jobs.running:
            if job.kind in _LEAVING:
                api.jobs.settle(job, "done")

    @listens("execv")
    def execv(self) -> None:
        """Leave the socket to the next image."""
        self.door.leave(self.bus)

    # What the server asks.

    def _respond(self, request: Request) -> Answer:
        return self.api.respond(request)

    def _roles_now(self) -> Roles:
        if self._roles is None:
            from sitebus.control.peers import Roles

            self._roles = Roles(self.operators, self.viewers)
        return self._roles

    def _log(self, message: str, level: int, error: object) -> None:
        self.bus.log(message, level, traceback=error or False)

    def _job_moved(self, job: Job) -> None:
        self.events.add("job", job.told())


def _knows_peers() -> bool:
    """Tell whether this system says who connects to a unix socket."""
    return sys.platform == "linux"


def _named(file: str | os.PathLike[str]) -> str:
    """Answer a file by its name: ``current/site.ini`` may lead to another one by tomorrow."""
    here = os.getcwd()
    return os.path.join(STARTED_IN if os.path.realpath(STARTED_IN) == here else here, file)
