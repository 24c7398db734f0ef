"""Do a roll: hosts are worked on at once, as many as may be, and every event is written down.

What was written down is enough for `replay` to know where a roll was when it was cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from sitebus.errors import (
    CallTimeout,
    CannotJournal,
    ConnectFailed,
    FleetError,
    HostLost,
    SitebusError,
)
from sitebus.fleet.crowd import Ended, together
from sitebus.fleet.operations import Order, Step, Target, steps_back
from sitebus.fleet.rolling import Cause, Result, Roll, State, Wave

Record = dict[str, Any]
Tell = Callable[[Record], None]

#: After these, nobody knows what became of what was asked for.
UNREACHED = (HostLost, CallTimeout, ConnectFailed)


def sentence_of(error: BaseException) -> str:
    """Answer what an error says, in one line and without the host that it is said of."""
    said = error.sentence if isinstance(error, FleetError) else str(error)
    kind = "" if isinstance(error, SitebusError) else f"{type(error).__name__}: "
    return kind + " ".join(said.split())


class Traces:
    """What is known of each host besides its state.

    Attributes:
        before: Which release was in place before the roll touched it.
        to: Which release it is to have.
        steps: What was begun with there.
        why: What went wrong, if something did.
    """

    def __init__(self) -> None:
        self.before: dict[str, str | None] = {}
        self.to: dict[str, str | None] = {}
        self.steps: dict[str, set[Step]] = {}
        self.why: dict[str, str] = {}
        self._causes: dict[str, str] = {}

    def fault(self, host: str, why: str, back: bool) -> None:
        """Note what went wrong on a host; on the way back, it is told besides what began it."""
        if not back:
            self._causes[host] = why
        cause = self._causes.get(host, "")
        self.why[host] = why if cause in ("", why) else f"{cause}; and on the way back: {why}"


def replay(roll: Roll, records: Iterable[Mapping[str, Any]]) -> Traces:
    """Bring a roll to where it was when the last of the *records* was written.

    Raises:
        ValueError: They contradict each other.
    """
    traces = Traces()
    for record in records:
        kind, host = record.get("is"), str(record.get("host", ""))
        if kind == "resume":
            roll.resume()
        elif kind in ("host", "step") and host not in roll.states:
            raise ValueError(f"{host!r} is no host of the roll")
        elif kind == "step" and not record.get("back"):
            traces.steps.setdefault(host, set()).add(Step(record["step"]))
        elif kind == "host":
            _replay_host(roll, traces, host, record)
    return traces


def _replay_host(roll: Roll, traces: Traces, host: str, record: Mapping[str, Any]) -> None:
    state = roll.apply(host, Cause(record["cause"]))
    if state is State.RUNNING:
        # What a first attempt found is what there is to go back to, not what it has left.
        traces.before.setdefault(host, record.get("before"))
        traces.to.setdefault(host, record.get("to"))
    if record.get("why"):
        traces.fault(host, str(record["why"]), bool(record.get("back")))


class Conductor:
    """Work on hosts until a roll is over.

    Args:
        roll: What comes next.
        order: What is done on each host.
        targets: The hosts, by name.
        traces: What is known of them already; the releases that are in place, above all.
        tell: Is handed every event; called by several threads, one after the other. If it raises
            `CannotJournal` when a host is to be begun with, that is not done.
    """

    def __init__(
        self,
        roll: Roll,
        order: Order,
        targets: Mapping[str, Target],
        traces: Traces,
        tell: Tell,
    ) -> None:
        self.roll = roll
        self.order = order
        self.targets = targets
        self.traces = traces
        self._tell = tell

    def run(self) -> Result:
        """Begin with hosts as the roll says, until it is over."""
        while (wave := self.roll.wave()) is not None:
            self._work(wave)
        return self.roll.result

    def _work(self, wave: Wave) -> None:
        begin = self._begin_back if wave.back else self._begin_there
        work = self._back if wave.back else self._there
        works = {host: partial(work, self.targets[host]) for host in wave.hosts if begin(host)}
        for ended in together(works, len(works)):
            self._note(ended, wave.back)

    def _begin_there(self, host: str) -> bool:
        """Say that a host is begun with; tell whether it may be."""
        known = {"before": self.traces.before.get(host), "to": self.traces.to.get(host)}
        record = {"is": "host", "host": host, "cause": Cause.BEGIN, "state": State.RUNNING}
        try:
            self._tell({**record, "back": False, **known})
        except CannotJournal:
            # Nobody could know later what there is to go back to.
            self.roll.stop()
            return False
        self.roll.apply(host, Cause.BEGIN)
        return True

    def _begin_back(self, host: str) -> bool:
        self._apply(host, Cause.BEGIN, back=True)
        return True

    def _note(self, ended: Ended[None], back: bool) -> None:
        cause, why = Cause.DONE, ""
        if ended.error is not None:
            cause = Cause.LOST if isinstance(ended.error, UNREACHED) else Cause.FAILED
            why = sentence_of(ended.error)
            self.traces.fault(ended.name, why, back)
        self._apply(ended.name, cause, back=back, why=why, seconds=round(ended.seconds, 3))

    def _apply(self, host: str, cause: Cause, **more: Any) -> None:
        state = self.roll.apply(host, cause)
        told = {name: value for name, value in more.items() if value != ""}
        self._tell({"is": "host", "host": host, "cause": cause, "state": state, **told})

    def _there(self, target: Target) -> None:
        try:
            for step in self.order.steps:
                self._begin(target, step, back=False)
                self._step(target, step, self.traces.to, self.order.checks, self.order.soak)
        except FleetError:
            if not self.order.changes_release:
                self._let_in(target)
            raise

    def _let_in(self, target: Target) -> None:
        """Undo the one thing that can be undone where no release has changed."""
        if Step.DRAIN in self.traces.steps.get(target.name, ()):
            self._begin(target, Step.UNDRAIN, back=True)
            # Why it failed before is what there is to be told.
            with suppress(FleetError):
                target.admit()

    def _back(self, target: Target) -> None:
        for step in steps_back(self.traces.steps.get(target.name, ())):
            self._begin(target, step, back=True)
            self._step(target, step, self.traces.before, 1, 0.0)

    def _step(
        self,
        target: Target,
        step: Step,
        releases: Mapping[str, str | None],
        checks: int,
        soak: float,
    ) -> None:
        if step is Step.ACTIVATE:
            target.activate(releases.get(target.name))
        elif step is Step.PROBE:
            target.probe(checks, soak)
        else:
            getattr(target, step)()

    def _begin(self, target: Target, step: Step, back: bool) -> None:
        if not back:
            self.traces.steps.setdefault(target.name, set()).add(step)
        self._tell({"is": "step", "host": target.name, "step": step, "back": back})
