"""Whether a site is alive, has come up, and wants requests: what load balancers ask.

*Alive* is a process that can say so; what it depends on has no part in that, or a database that is
away would have every process ended that waits for it. *Ready* is a site that runs, is wanted, has a
worker that is ready if it has workers, and whose checks are well: the listeners of the channel
``health``, here or in the workers. How all this is asked for and told is ``answers``'s; what looks
is imported for the first who asks.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sitebus.config.health import CHECK_TIMEOUT
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from sitebus.control.checks import Check, Checks


#: Where checks listen, which answer ``(name, ok, detail)``, or raise.
CHANNEL = "health"
#: What a worker answers for its supervisor: seconds to wait for its checks, names to leave out.
REPORT = "health.report"


class Wanted(Protocol):
    """What an operator has said about requests."""

    @property
    def wanted(self) -> bool: ...


class Report(NamedTuple):
    """What came of looking.

    Attributes:
        missing: names that were to be left out, and that no check has.
    """

    checks: tuple[Check, ...]
    missing: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.ok)


class Health(Plugin):
    """Knows how a site is, for as long as its engine lives; declares the channel ``health``.

    Args:
        bus: The engine.
        check_timeout: Seconds that a check may take.
        readiness: Whether requests are wanted; what the operator has said if left out.
    """

    def __init__(
        self,
        bus: Engine,
        check_timeout: float = CHECK_TIMEOUT,
        readiness: Wanted | None = None,
    ) -> None:
        super().__init__(bus)
        self.check_timeout = check_timeout
        self._readiness = readiness
        self._checks: Checks | None = None
        self._making = threading.Lock()
        self._came_up = False

    def subscribe(self) -> None:
        """Declare the channel, and be the one that `site` answers for."""
        self.bus.listeners.setdefault(CHANNEL, set())
        super().subscribe()
        _CURRENT[:] = [self]

    def unsubscribe(self) -> None:
        """Listen no more."""
        super().unsubscribe()
        if self in _CURRENT:
            _CURRENT.clear()

    @listens("started", priority=Priority.READY)
    def started(self) -> None:
        """Remember that the site has come up once."""
        self._came_up = True

    @property
    def checks(self) -> Checks:
        """What asks the listeners; asking for it makes it."""
        with self._making:
            if self._checks is None:
                from sitebus.control.checks import Checks

                self._checks = Checks(self.bus)
            return self._checks

    def live(self) -> Report:
        """Answer whether the process is alive: whoever reads the answer knows."""
        from sitebus.control.checks import Check

        return Report((Check("process", ok=True),))

    def startup(self) -> Report:
        """Answer whether the site has come up; what it has become since does not matter."""
        from sitebus.control.checks import Check

        if self._came_up or self._runs:
            return Report((Check("startup", ok=True),))
        return Report((Check("startup", ok=False, detail=self._state),))

    def ready(self, exclude: Collection[str] = ()) -> Report:
        """Answer whether requests should come; *exclude* names checks that are left out."""
        from sitebus.control import gathering
        from sitebus.control.crew import crew_of

        own = list(self._own())
        theirs = self.checks.run(self.check_timeout, exclude)
        crew = crew_of(self.bus)
        if crew is not None:
            theirs += gathering.ask(crew, self.check_timeout, tuple(exclude))
            missing: tuple[str, ...] = ()  # which checks workers have left out, only they know
        else:
            known = {check.name for check in own} | set(self._known_checks())
            missing = tuple(name for name in exclude if name not in known)
        kept = (check for check in (*own, *theirs) if check.name not in exclude)
        return Report(tuple(kept), missing)

    @listens(REPORT)
    def report(self, patience: float, exclude: Collection[str] = ()) -> list[list[object]]:
        """Answer a supervisor what the checks of this worker say."""
        return [list(check) for check in self.checks.run(patience, exclude)]

    def _known_checks(self) -> Iterator[str]:
        return map(self.checks.name_of, tuple(self.bus.listeners.get(CHANNEL, ())))

    def _own(self) -> Iterator[Check]:
        from sitebus.control.checks import Check
        from sitebus.control.crew import crew_of, is_ready
        from sitebus.control.readiness import Readiness

        yield Check("bus", self._runs, self._state)
        readiness = self._readiness if self._readiness is not None else Readiness.of(self.bus)
        yield Check("wanted", readiness.wanted, "" if readiness.wanted else "turned off")
        crew = crew_of(self.bus)
        if crew is not None:
            states = [(is_ready(worker), worker) for worker in crew.pictures()]
            ready = sum(each for each, _ in states)
            yield Check("workers", ready > 0, f"{ready} of {len(states)} ready")

    @property
    def _runs(self) -> bool:
        return bool(self.bus.state == self.bus.machine.running) and not self.bus.leaving

    @property
    def _state(self) -> str:
        from sitebus.control.crew import state_name

        leaving = ", leaving" if self.bus.leaving else ""
        return f"{state_name(self.bus.state)}{leaving}"


#: What `site` answers for: the plugin that was subscribed last in this process.
_CURRENT: list[Health] = []


def application(health: Health, *, details: bool = False) -> WSGIApplication:
    """Answer what tells of *health* by WSGI: mount it at ``/health``, or at ``/readyz`` itself.

    Strangers are told which checks failed, and with *details* what these say, too.
    """
    from sitebus.control.answers import wsgi

    return wsgi(lambda: health, details=details)


def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Tell of the health of this process's site: ``app = sitebus.control.health:site``."""
    from sitebus.control.answers import wsgi

    return wsgi(_current, details=False)(environ, start_response)


def _current() -> Health | None:
    return _CURRENT[0] if _CURRENT else None
