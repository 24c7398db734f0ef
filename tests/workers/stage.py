"""A stage for stories about a pool: events are told, actions are looked at."""

from __future__ import annotations

from typing import Any, TypeVar

from sitebus.workers.pool import (
    Action,
    Beat,
    Dump,
    Job,
    Kill,
    Policy,
    Pool,
    Say,
    Settle,
    Spawn,
    Tell,
)

A = TypeVar("A")


class Stage:
    """Tells a pool what happens, as time goes by, and keeps what it answered last."""

    def __init__(self, count: int = 2, **policy: Any) -> None:
        self.pool = Pool(Policy(count)._replace(**policy), lambda: 0.0)
        self.now = 100.0
        self.actions: list[Action] = []
        self.all: list[Action] = []

    def hear(self, actions: list[Action]) -> list[Action]:
        """Keep what was answered; answer what is to be done, without what is only said."""
        self.actions = actions
        self.all += actions
        return [action for action in actions if not isinstance(action, (Tell, Say))]

    def spawned(self) -> list[int]:
        """Answer the serials that were spawned last."""
        return [action.serial for action in self.last(Spawn)]

    def last(self, kind: type[A]) -> list[A]:
        return [action for action in self.actions if isinstance(action, kind)]

    def all_jobs(self) -> list[Job]:
        """Answer the jobs that were ever settled."""
        return [action.job for action in self.all if isinstance(action, Settle)]

    def told(self, channel: str) -> list[dict[str, object]]:
        """Answer what was ever told on *channel*."""
        tells = [action for action in self.all if isinstance(action, Tell)]
        return [action.args[0] for action in tells if action.channel == channel]

    def lines(self, level: int) -> list[str]:
        return [each.text for each in self.all if isinstance(each, Say) and each.level == level]

    def start(self) -> None:
        """Bring all workers up: serials 1 and so on, in slots of the same numbers."""
        self.hear(self.pool.start(self.now))
        for serial in self.spawned():
            self.boot(serial)

    def boot(self, serial: int) -> list[Action]:
        """Let a process be spawned and be READY at once."""
        self.hear(self.pool.spawned(serial, 1000 + serial, self.now))
        return self.ready(serial)

    def ready(self, serial: int) -> list[Action]:
        return self.hear(self.pool.ready(serial, self.now))

    def unfit(self, serial: int, reason: str = "No module named 'shop'") -> list[Action]:
        return self.hear(self.pool.unfit(serial, reason, self.now, 78))

    def end(self, serial: int, status: int = 0) -> list[Action]:
        return self.hear(self.pool.ended(serial, status, self.now))

    def beat(self, serial: int, **beat: Any) -> list[Action]:
        told = Beat(next=5.0)._replace(**beat)
        return self.hear(self.pool.beat(serial, told, self.now))

    def pass_time(self, seconds: float, beating: tuple[int, ...] = ()) -> list[Action]:
        """Let time go by, with the ticks that are due; *beating* workers beat each second."""
        end, done = self.now + seconds, []
        while self.now < end:
            due = self.pool.deadline()
            self.now = min(end, self.now + 1.0, end if due is None else due)
            for serial in beating:
                done += self.beat(serial)
            done += self.hear(self.pool.tick(self.now))
        return done

    def tick(self) -> list[Action]:
        return self.hear(self.pool.tick(self.now))

    @property
    def states(self) -> dict[int, str]:
        """The states of whom there is, by serial."""
        return {each.serial: str(each.state) for each in self.pool.snapshot() if each.serial}


def signals(actions: list[Action]) -> list[tuple[int, int]]:
    return [(each.serial, each.signal) for each in actions if isinstance(each, Kill)]


def dumps(actions: list[Action]) -> list[int]:
    return [each.serial for each in actions if isinstance(each, Dump)]


def begun(stage: Stage, job: Job) -> list[Action]:
    """Answer what a job that was just asked for begins with."""
    assert stage.pool.job is job
    assert stage.pool.deadline() == stage.now, "what there is to do is due now"
    return stage.tick()


def crash_loop(fatal_after: int) -> Stage:
    """Answer a stage whose first slot fails until it is FATAL, while the second serves."""
    stage = Stage(2, fatal_after=fatal_after)
    stage.start()
    done = stage.end(1, 3)
    while not stage.pool.snapshot()[0].fatal:
        done = done or stage.pass_time(5.0, beating=(2,))
        (serial,) = [each.serial for each in done if isinstance(each, Spawn)]
        stage.boot(serial)
        done = stage.end(serial, 3)
    return stage
