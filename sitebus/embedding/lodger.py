"""The site as the lodger of another program's process: one, from its first request to its end.

The host runs the application's script, perhaps again and again, and may fork. So the lodger is kept
for the process, not for the script; it begins in the process that serves, which is told by its id;
and it ends when that process does, once, whoever says so and however often.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from sitebus import references
from sitebus.embedding import furnishing
from sitebus.embedding.furnishing import Furnisher, Gate, explaining, saying
from sitebus.embedding.stays import Stays
from sitebus.errors import CannotEmbed, ChannelFailures, SitebusError
from sitebus.listeners import ERROR, INFO, WARNING
from sitebus.mounts import pages

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from sitebus.assembly import Assembly
    from sitebus.embedding.furnishing import Page
    from sitebus.embedding.hostloop import HostLoop
    from sitebus.embedding.hosts import Host
    from sitebus.embedding.plans import Plan
    from sitebus.process import Engine


def unavailable(environ: Mapping[str, Any]) -> pages.Answer:
    """Answer while the site does not run."""
    return pages.plain("503 Service Unavailable", ("Retry-After", "1"))


class Lodger:
    """What is embedded in this process.

    Attributes:
        host: Whose process it is.
        pid: The process in which it has begun; 0 before.
        page: What the site says instead of its applications; None while they answer.
        answer: What requests go to, where the host speaks WSGI.
        failure: Why the bus has not started.
        loop: The host's event loop, if it has one.
    """

    def __init__(self, engine: Engine, host: Host, speaks: Literal["wsgi", "asgi"]) -> None:
        if engine.state != engine.machine.initial:
            raise CannotEmbed(engine.state)
        self.engine = engine
        self.host = host
        self.speaks = speaks
        self.pid = 0
        self.loop: HostLoop | None = None
        self.page: Page | None
        self.answer: WSGIApplication
        self._say(unavailable)
        self.failure: Exception | None = None
        self._plan: Plan | None = None
        self._assembled: Assembly | None = None
        self._told_end = 0
        #: The process in which the bus may be on its way: a fork copies its state, and no thread.
        self._tried = 0
        #: What was refused while the bus started: the site as a whole cannot be served.
        self._refused: Exception | None = None
        self._locks: dict[int, threading.RLock] = {}
        #: The threads that were there after a start of the bus, and not before.
        self._made: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        engine.lodge(Stays(engine, host))
        # It cannot be longer than the host waits.
        self.engine.stop_timeout = min(self.engine.stop_timeout, self.host.patience)

    @property
    def _changing(self) -> threading.RLock:
        """The lock of this process: its parent's may be held by a thread that is not here."""
        return self._locks.setdefault(os.getpid(), threading.RLock())

    @property
    def plan(self) -> Plan | None:
        """What is embedded at present."""
        return self._plan

    def take(self, plan: Plan) -> None:
        """Embed *plan*, in the place of another one if there is one.

        Raises:
            SitebusError: It cannot be. What there was before is gone, unless an application was to
                take the place of another.
        """
        with self._changing:
            self._mind_fork()
            before = self._plan
            if before is not None and before.key == plan.key and not self._is_flawed:
                return
            exchanged = before is not None and self._exchange(before, plan)
            if before is not None and before.key != plan.key:
                self.engine.log(f"{plan.name} is embedded now, instead of {before.name}", WARNING)
            self._plan = plan
            if exchanged:
                return
            served = self.pid == os.getpid()
            self.pid = 0  # from now on, requests wait for what comes
            self._leave()
            try:
                self._assemble()
                self._settle_in(served)
            except BaseException:
                self._plan = None
                raise

    def vacate(self, speaks: Literal["wsgi", "asgi"]) -> None:
        """Embed nothing, until somebody says what, for a host that *speaks* that."""
        with self._changing:
            self._mind_fork()
            self._leave()
            self._plan, self.loop, self.speaks, self.pid = None, None, speaks, 0

    def _settle_in(self, served: bool) -> None:
        """Begin, or have that wait for the process that is to serve."""
        assert self._assembled is not None
        if self.speaks == "wsgi" and (served or not self.host.forks_later):
            self.begin()
            if self.failure is not None:
                raise self.failure
        else:
            self._assembled.preload()
            # After the applications: some replace what their host calls then.
            if self.speaks == "wsgi":
                self.host.when_forked(self.begin)

    @property
    def _furnisher(self) -> Furnisher | None:
        parts = self._assembled.plugins if self._assembled is not None else ()
        return next((part for part in parts if isinstance(part, Furnisher)), None)

    @property
    def _is_flawed(self) -> bool:
        """Whether another try could go better."""
        furnisher = self._furnisher
        return self.failure is not None or furnisher is None or furnisher.flawed

    def _exchange(self, before: Plan, plan: Plan) -> bool:
        """Put one application in the place of another, without a moment between them."""
        furnisher, serves = self._furnisher, self.engine.state == self.engine.machine.running
        alike = before.site is plan.site and before.key[1:] == plan.key[1:]
        if before.app is None or plan.app is None or not (alike and serves and furnisher):
            return False
        furnisher.exchange(plan.app)
        return True

    def _leave(self) -> None:
        """Have what was embedded end, and nothing of it be left."""
        if self._assembled is None:
            return
        self._exit()
        self._assembled = None

    def _assemble(self) -> None:
        plan, engine = self._plan, self.engine
        assert plan is not None
        if engine.state in engine.machine.final:
            engine.renew()
        self._say(unavailable)
        gate = Gate(engine, plan.site, self._open, self._close, self.host.patience / 2)
        self._assembled = furnishing.furnish(plan, engine, self.host, gate, self._refuse)

    # From the first request to the last.

    def begin(self, again: bool = False) -> None:
        """Start the bus, unless this process has; a failure is logged, and answered with 500.

        Args:
            again: Do so even if it has ended here before.
        """
        with self._changing:
            here = self.pid == os.getpid()
            if self._plan is None or (here and not (again and self._assembled is None)):
                return
            self._mind_fork()
            self._tried = os.getpid()
            self.failure = self._refused = None
            before = set(threading.enumerate())
            try:
                self._start()
            # Whatever it is, strangers' code among it: it must be known, here and to visitors.
            except Exception as error:  # noqa: BLE001
                self.failure = error
            if self.failure is not None:
                # Not while it is handled: the log would think that somebody else tells it.
                self._fail(self.failure)
            self._made.update(set(threading.enumerate()) - before)
            self.pid = os.getpid()
            if self._told_end != self.pid:
                self._told_end = self.pid
                self.host.at_end(self.end, self._made)

    def _start(self) -> None:
        if self._assembled is None:
            self._assemble()
        assert self._assembled is not None
        assert self._plan is not None
        self.engine.lodge(Stays(self.engine, self.host), self.loop)
        self._assembled.start()
        for note in self._plan.configuration.notes:
            self.engine.log(str(note), WARNING)
        for warning in self.host.warnings():
            self.engine.log(warning, WARNING)
        if unused := self._plan.unused():
            are = "are" if len(unused) > 1 else "is"
            self.engine.log(
                f"{', '.join(unused)} {are} not used here: {self.host.name} runs this process", INFO
            )
        if self._plan.configuration.one("reload")["enabled"] and not self.host.recycles:
            self.engine.log(f"[reload] is off here: {self.host.reloads_by}", INFO)

    def _refuse(self, error: Exception) -> None:
        """Take note, while the bus starts, that the applications cannot come up."""
        self._refused = error
        if self.speaks == "asgi":
            # Its host has asked, and is told.
            assert self._assembled is not None
            self._assembled.call_off(error)
        else:
            text = getattr(error, "traceback_text", "")
            self.engine.log(f"the site answers 500: {error}\n{text}".rstrip(), ERROR)

    def _fail(self, error: Exception) -> None:
        plan, assembled = self._plan, self._assembled
        assert plan is not None
        self._say(explaining(plan.site, plan.name, error))
        if assembled is not None:
            said = str(error) if isinstance(error, SitebusError) else references.traceback_of(error)
            self.engine.log(f"the site cannot start: {said}", ERROR)
            assembled.close()
            self._assembled = None

    def _open(self) -> None:
        plan, engine = self._plan, self.engine
        assert plan is not None
        site, serving = plan.site, engine.serving
        if self._refused is not None:
            self._say(explaining(site, plan.name, self._refused))
            return

        def locate(environ: object) -> str:
            mount = site.find(dict(environ))  # type: ignore[call-overload]
            return mount.name if mount is not None else ""

        serving.locate = locate
        watched = self._acquiring(serving.watch(site.wsgi))
        crossing = site.crossing
        crossing.watched = watched
        crossing.loop = lambda: engine.loop
        crossing.threads = max(each["threads"] for each in plan.configuration.servers)
        self.answer, self.page = watched, None

    def _acquiring(self, app: WSGIApplication) -> WSGIApplication:
        """Answer *app* for threads that do not say when they begin, if anybody wants to know."""
        engine = self.engine
        if not engine.listeners.get("start_thread"):
            return app

        def acquiring(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            engine.publish("acquire_thread")
            return app(environ, start_response)

        return acquiring

    def _close(self) -> None:
        self._say(unavailable)

    def _say(self, page: Page) -> None:
        self.page, self.answer = page, saying(page)

    def end(self) -> None:
        """Exit the bus, if this process has started it; a second time does nothing."""
        if self.pid != os.getpid():
            return  # a child that serves nothing has our memory, and none of our threads
        with self._changing:
            self._exit()
            self._assembled = None

    def _exit(self) -> None:
        assembled = self._assembled
        if assembled is None:
            return
        with suppress(ChannelFailures, SitebusError):  # logged already
            self.engine.exit()
        assembled.close()

    def _mind_fork(self) -> None:
        """Be as if nothing had begun: a host that is not known has forked the one that served."""
        if self._tried in (0, os.getpid()):
            return
        plan, furnisher = self._plan, self._furnisher
        self._tried = self.pid = 0
        self.engine.disown()
        if self._assembled is not None:
            self._assembled.close()
            self._assembled = None
        if plan is not None:
            plan.site.disown()
        if furnisher is not None:
            furnisher.forget()


#: The lodger of this process, whatever script asked for it.
_lodgers: list[Lodger] = []
#: A host may run two scripts in two threads.
_moving_in = threading.Lock()


def present(engine: Engine, find: Callable[[], Host], speaks: Literal["wsgi", "asgi"]) -> Lodger:
    """Answer the lodger of this process; the first who asks makes it.

    Raises:
        CannotEmbed: The bus of this process runs, and has not been embedded.
    """
    with _moving_in:
        if not _lodgers:
            _lodgers.append(Lodger(engine, find(), speaks))
        lodger = _lodgers[0]
        if lodger.speaks != speaks:
            lodger.vacate(speaks)
    return lodger
