"""A world of fake processes for a pool: it does what the pool says, and sometimes misbehaves.

Time is a number here, and chance a seed. After each event the promises that hold always are
checked, so that whoever runs a world need only look at how it ends.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from sitebus.errors import RollRunning, UnknownWorker
from sitebus.workers.actions import KILL
from sitebus.workers.pool import (
    Action,
    Beat,
    Drain,
    Dump,
    Fail,
    Job,
    Kill,
    Policy,
    Pool,
    Say,
    Settle,
    Spawn,
    Tell,
    WorkerState,
)
from sitebus.workers.states import WORKER_EDGES


class Temper(NamedTuple):
    """How likely it is that something goes wrong; from 0 to 1."""

    spawn_fails: float = 0.0
    unfit: float = 0.0
    boot_dies: float = 0.0
    boot_hangs: float = 0.0
    dies: float = 0.0
    freezes: float = 0.0
    request_hangs: float = 0.0
    drain_hangs: float = 0.0
    ignores_term: float = 0.0
    lets_go: float = 0.0
    drains_itself: float = 0.0

    @classmethod
    def all_at(cls, chance: float) -> Temper:
        return cls(*(chance for _ in cls._fields))


CALM = Temper()


class Process:
    """A worker as it really is."""

    def __init__(self, serial: int, slot: int) -> None:
        self.serial = serial
        self.slot = slot
        self.pid = 0
        self.alive = True
        self.leaving = False
        self.frozen = False
        self.hangs = False
        self.requests = 0


def _ways() -> dict[WorkerState, set[WorkerState]]:
    """Where each state may lead, in any number of steps."""
    ways: dict[WorkerState, set[WorkerState]] = {state: {state} for state in WorkerState}
    for _ in WorkerState:
        for edge in WORKER_EDGES:
            for reached in ways.values():
                if edge.source in reached:
                    reached.add(edge.target)
    return ways


WAYS = _ways()


class World:
    """Runs a pool against processes that do as they like."""

    def __init__(self, policy: Policy, seed: int, temper: Temper = CALM) -> None:
        self.random = random.Random(seed)
        self.temper = temper
        self.now = 1000.0
        self.pool = Pool(policy, self.random.random)
        self.processes: dict[int, Process] = {}
        self.said: list[Action] = []
        self.open: set[str] = set()
        self.settled: list[Job] = []
        self.faults = 0
        self.most_late = 0.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._turn = itertools.count()
        self._pids = itertools.count(100)
        self._states: dict[int, WorkerState] = {}
        self._drained: set[int] = set()

    # Time.

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._turn), what))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time go by; answer whether *until* became true."""
        end = self.now + seconds
        while not until():
            due = self.pool.deadline()
            tick = end if due is None else max(self.now, due + self._lateness())
            event = self._events[0][0] if self._events else end
            if min(tick, event) >= end:
                self.now = end
                return until()
            self.now = max(self.now, min(tick, event))
            if event <= tick:
                heapq.heappop(self._events)[2]()
            else:
                self.tick()
        return True

    def _lateness(self) -> float:
        return self.random.random() * self.most_late

    def tick(self) -> None:
        self.do(self.pool.tick(self.now))
        due = self.pool.deadline()
        assert due is None or due > self.now, "it must not be due for ever"

    def freeze(self, seconds: float) -> None:
        """Stop the supervisor alone: what happens meanwhile, it hears of afterwards, at once."""
        waiting = self._events
        self._events = []
        self.now += seconds
        for when, turn, what in waiting:
            heapq.heappush(self._events, (max(when, self.now), turn, what))

    # What the pool says.

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            self.said.append(action)
            self._do(action)
        self._check()

    def _do(self, action: Action) -> None:
        match action:
            case Spawn(serial, slot):
                self._spawn(serial, slot)
            case Drain(serial):
                self._drained.add(serial)
                self._drain(self._target(serial))
            case Kill(serial, signal):
                self._drained.add(serial)
                assert self._target(serial).pid, "a signal needs a process"
                self._kill(self._target(serial), signal)
            case Dump(serial):
                self._target(serial)
            case Settle(job):
                assert job.state in ("done", "aborted")
                assert job.ended is not None
                self.open.discard(job.id)
                self.settled.append(job)
            case Tell("rolling.begin", (facts,)):
                assert not self.open, "one job at a time"
                self.open.add(facts["id"])
            case Tell(_, args):
                json.dumps(args)
            case Say(text):
                assert text
            case Fail(error):
                assert str(error)

    def _target(self, serial: int) -> Process:
        assert serial in self.processes, "who is gone is left alone"
        return self.processes[serial]

    def _spawn(self, serial: int, slot: int) -> None:
        assert serial not in self._states, "no serial is used twice"
        self._states[serial] = WorkerState.BOOTING
        process = self.processes[serial] = Process(serial, slot)
        if self._happens(self.temper.spawn_fails):
            self.after(self.random.random() / 10, lambda: self._not_spawned(process))
        else:
            self.after(self.random.random() / 10, lambda: self._spawned(process))

    def _not_spawned(self, process: Process) -> None:
        self.faults += 1
        del self.processes[process.serial]
        self.do(self.pool.spawn_failed(process.serial, OSError(11, "try again"), self.now))

    def _spawned(self, process: Process) -> None:
        process.pid = next(self._pids)
        boot = 0.1 + 2 * self.random.random()
        if self._happens(self.temper.unfit):
            self.after(boot, lambda: self._unfit(process))
        elif self._happens(self.temper.boot_dies):
            self.after(boot, lambda: self._die(process, 3))
        elif not self._happens(self.temper.boot_hangs):
            self.after(boot, lambda: self._ready(process))
        else:
            self.faults += 1
        self.do(self.pool.spawned(process.serial, process.pid, self.now))

    def _happens(self, chance: float) -> bool:
        return self.random.random() < chance

    # What processes do.

    def _unfit(self, process: Process) -> None:
        self.faults += 1
        if process.alive:
            self.do(self.pool.unfit(process.serial, "No module named 'shop'", self.now, 78))
            if not self._happens(self.temper.ignores_term):
                self.after(self.random.random(), lambda: self._die(process, 78))

    def _ready(self, process: Process) -> None:
        if not process.alive:
            return
        # Though it was told to end meanwhile: the message was on its way.
        self.do(self.pool.ready(process.serial, self.now))
        self._live(process)

    def _live(self, process: Process) -> None:
        """One second of a worker's life."""
        temper = self.temper
        if not process.alive or process.frozen:
            return
        process.requests += self.random.randrange(20)
        process.hangs = process.hangs or self._fault(temper.request_hangs / 10)
        oldest = 100.0 if process.hangs else self.random.random()
        beat = Beat(process.requests, 1, oldest, 0.0, 10**6, 1.0)
        self.do(self.pool.beat(process.serial, beat, self.now))
        if self._fault(temper.dies / 10):
            self._die(process, self.random.choice((-9, -11, 0, 1)))
        elif self._fault(temper.freezes / 10):
            process.frozen = True
        elif self._fault(temper.lets_go / 10):
            self.do(self.pool.link_ended(process.serial, self.now))
            return
        elif not process.leaving and self._fault(temper.drains_itself / 10):
            self._drained.add(process.serial)
            self.do(self.pool.draining(process.serial, self.now))
            self._drain(process)
        self.after(1.0, lambda: self._live(process))

    def _fault(self, chance: float) -> bool:
        happens = self._happens(chance)
        self.faults += happens
        return happens

    def _drain(self, process: Process) -> None:
        process.leaving = True
        if not process.frozen and not process.hangs and not self._fault(self.temper.drain_hangs):
            self.after(5 * self.random.random(), lambda: self._die(process, 0))

    def _kill(self, process: Process, signal: int) -> None:
        if signal == KILL or not (process.frozen or self._happens(self.temper.ignores_term)):
            self.after(self.random.random() / 50, lambda: self._die(process, -signal))

    def _die(self, process: Process, status: int) -> None:
        if not process.alive:
            return
        process.alive = False
        if not process.leaving:
            self.faults += 1
        ends = [lambda: self._ended(process, status)]
        ends.append(lambda: self.do(self.pool.link_ended(process.serial, self.now)))
        self.random.shuffle(ends)
        ends[0]()
        self.after(self.random.random() / 20, ends[1])

    def _ended(self, process: Process, status: int) -> None:
        del self.processes[process.serial]
        self.do(self.pool.ended(process.serial, status, self.now))

    def calm_down(self) -> None:
        """Let everybody be well from now on."""
        self.temper = CALM
        for process in self.processes.values():
            process.hangs = False

    # What people do.

    def wish(self) -> Job | None:
        """Ask for something, whatever is going on; answer what came of it, if anything did."""
        with suppress(RollRunning, UnknownWorker):
            return self._wish(self.random.choice("rrsdl"))
        return None

    def _wish(self, what: str) -> Job:
        if what == "r":
            return self.pool.roll("new code", self.now)
        if what == "l":
            return self.pool.reload("new code", self.now)
        if what == "s":
            return self.pool.scale(self.random.randint(1, 6), self.now)
        return self.pool.drain_worker(self.random.randint(1, 6), self.now)

    def replace_supervisor(self) -> bool:
        """Go on as the program that the supervisor became, if no process is just being made."""
        if not all(process.pid for process in self.processes.values()):
            return False
        data = json.loads(json.dumps(self.pool.to_json(self.now)))
        assert self.states == {each["serial"]: each["state"] for each in data["members"]}
        self.pool = Pool.from_json(data, self.now, random=self.random.random)
        self.open.clear()
        return True

    # What must be so at any time.

    @property
    def states(self) -> dict[int, WorkerState]:
        """Who is there, by serial."""
        return {each.serial: each.state for each in self.pool.snapshot() if each.serial}

    @property
    def ready(self) -> int:
        return sum(state is WorkerState.READY for state in self.states.values())

    @property
    def at_rest(self) -> bool:
        """Nothing is going on, and everybody who should be there is."""
        pictures = self.pool.snapshot()
        return (
            self.pool.job is self.pool.queued is None
            and [each.slot for each in pictures] == [*range(1, self.pool.policy.count + 1)]
            and all(each.state is WorkerState.READY for each in pictures)
        )

    def _check(self) -> None:
        states, policy = self.states, self.pool.policy
        assert states.keys() == self.processes.keys(), "it knows who is there"
        live = [serial for serial, state in states.items() if state in ("BOOTING", "READY")]
        assert len(live) <= policy.count + policy.extra, "never more than there is room for"
        assert not self._drained & set(live), "nobody comes back"
        for serial, state in states.items():
            assert state in WAYS[self._states[serial]], "only rows of the table are taken"
        self._states |= states
        job = self.pool.job
        if not self.faults and job is not None and job.kind == "roll":
            assert self.ready >= policy.count - policy.max_unavailable, "enough serve"
