"""What a running site tells of itself, as JSON can say it."""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sitebus.config import Configuration
from sitebus.control.crew import WorkerPicture, crew_of, is_ready, state_name
from sitebus.control.jobs import Job
from sitebus.control.readiness import Readiness
from sitebus.control.rings import plain
from sitebus.listeners import ListenerDescription
from sitebus.process import Engine

#: Of what is answered; only what is added to it leaves it as it is.
API = 1


class Pictures:
    """Take pictures of one site.

    Args:
        engine: Its bus.
        name: What it is called.
        config: The file it was read from, if any.
        configuration: What it was put together from, if that is known.
        boot: Another one after each restart of the process in place.
        began: When it was put together; `time.monotonic` seconds.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        config: str,
        configuration: Configuration | None,
        boot: str,
        began: float,
    ) -> None:
        self.engine = engine
        self.name = name
        self.config = config
        self.configuration = configuration
        self.boot = boot
        self.began = began

    def version(self) -> dict[str, Any]:
        """Answer who this is."""
        return {
            "api": API,
            # Asking what is installed costs twenty milliseconds, and may answer another one.
            "sitebus": getattr(sys.modules["sitebus"], "__version__", ""),
            "python": platform.python_version(),
            "boot": self.boot,
            "pid": os.getpid(),
            "name": self.name,
            "config": self.config,
        }

    def status(self, jobs: Iterable[Job], event: str) -> dict[str, Any]:
        """Answer how it stands, after the *event* of that identifier."""
        engine = self.engine
        readiness = Readiness.of(engine)
        crew = crew_of(engine)
        workers = None if crew is None else tuple(crew.pictures())
        return {
            "name": self.name,
            "config": self.config,
            "pid": os.getpid(),
            "boot": self.boot,
            "state": state_name(engine.state),
            "seconds": round(time.monotonic() - self.began, 3),
            "ready": readiness.is_ready(engine),
            "ready_wanted": readiness.wanted,
            "why_not_ready": readiness.why_not(engine),
            "addresses": [str(address) for address in engine.addresses],
            "requests": self._requests(workers or ()),
            "workers": None if workers is None else _counts(workers),
            "jobs": [job.told() for job in jobs],
            "event": event,
        }

    def _requests(self, workers: Iterable[WorkerPicture]) -> dict[str, Any]:
        """Answer what is being served: here, and as each worker last said."""
        ages = [each.age for each in self.engine.serving.serving()]
        beats = [each.beat for each in workers if each.beat is not None]
        oldest = max((*ages, *(beat.oldest for beat in beats)), default=0.0)
        in_flight = len(ages) + sum(beat.in_flight for beat in beats)
        return {"in_flight": in_flight, "oldest": round(oldest, 3)}

    def workers(self) -> dict[str, Any]:
        """Answer each worker process; none where the site is one process."""
        crew = crew_of(self.engine)
        now = time.monotonic()
        pictures = () if crew is None else crew.pictures()
        return {"workers": [_worker(each, now) for each in pictures]}

    def bus(self) -> dict[str, Any]:
        """Answer the channels, and who listens on each."""
        found = self.engine.describe()
        return {
            "id": found.id,
            "state": state_name(found.state),
            "states": sorted(map(state_name, found.states)),
            "running": found.running,
            "channels": _who(found.channels),
            "overhearing": _who(found.overhearing),
        }

    def relay(self) -> dict[str, Any]:
        """Answer what the relay is like, and every other node."""
        picture = self.engine.relay.picture()
        return {
            "node": picture.node,
            "epoch": picture.epoch,
            "addresses": list(picture.addresses),
            "peers": [{**each._asdict(), "wants": list(each.wants)} for each in picture.peers],
            "counts": dict(picture.counts),
        }

    def settings(self) -> dict[str, Any]:
        """Answer each setting with where it comes from, secrets masked."""
        if self.configuration is None:
            return {"sections": []}
        return {
            "sections": [
                {
                    "title": each.title,
                    "origin": str(each.origin),
                    "settings": [
                        {"key": key, "value": value.text, "origin": str(value.origin)}
                        for key in each
                        for value in (each.value(key),)
                    ],
                }
                for each in self.configuration.all
            ]
        }

    def threads(self) -> dict[str, Any]:
        """Answer every thread of this process, with its stack."""
        return {
            "threads": [
                {
                    "name": each.name,
                    "ident": each.ident,
                    "daemon": each.daemon,
                    "request": None if each.request is None else str(each.request),
                    "seconds": round(each.age, 3),
                    "stack": each.stack,
                }
                for each in self.engine.threads()
            ]
        }

    def metrics(self) -> dict[str, Any]:
        """Answer what is counted: here, and in each worker."""
        crew = crew_of(self.engine)
        return {
            "seconds": round(time.monotonic() - self.began, 3),
            "in_flight": len(self.engine.serving.serving()),
            "workers": [] if crew is None else [plain(each, 9) for each in crew.metrics()],
        }


def _who(listening: Mapping[str, tuple[ListenerDescription, ...]]) -> dict[str, Any]:
    return {
        name: [{**each._asdict(), "priority": _priority(each.priority)} for each in listeners]
        for name, listeners in sorted(listening.items())
    }


def _priority(number: float) -> float | str:
    """JSON has no infinity."""
    return number if math.isfinite(number) else "first" if number < 0 else "last"


def _counts(workers: Collection[WorkerPicture]) -> dict[str, int]:
    return {
        "alive": sum(bool(each.pid) for each in workers),
        "ready": sum(map(is_ready, workers)),
        "fatal": len({each.slot for each in workers if each.fatal}),
    }


def _worker(picture: WorkerPicture, now: float) -> dict[str, Any]:
    beat = picture.beat
    return {
        "worker": picture.slot,
        "serial": picture.serial,
        "pid": picture.pid,
        "state": state_name(picture.state),
        "seconds": round(now - picture.since, 3),
        "restarts": picture.restarts,
        "fatal": picture.fatal,
        "reason": picture.reason,
        "beat": None
        if beat is None
        else {
            "requests": beat.requests,
            "in_flight": beat.in_flight,
            "oldest": round(beat.oldest, 3),
            "lag": round(beat.lag, 4),
            "rss": beat.rss,
        },
    }
