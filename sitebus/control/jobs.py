"""What was asked for and takes time: each has an identifier, a result, and a thread while it runs.

Of one group, such as everything that replaces workers, only one runs at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from sitebus.control.crew import JobView
from sitebus.errors import ChannelFailures, RequestRefused, SitebusError
from sitebus.listeners import ERROR
from sitebus.process import Engine

#: Those that are remembered once they have ended.
_REMEMBERED = 200
#: Those that may run at the same time.
_MOST = 16

#: What a job does: it answers a result, or the crew's job that it has begun.
Work = Callable[[], Any]


class Job:
    """One thing that was asked for: ``running``, then ``done``, ``aborted`` or ``failed``.

    Attributes:
        result: What it has brought, as JSON can say it.
        reason: Why it did not end well.
    """

    def __init__(self, id: str, kind: str, group: str, what: str = "") -> None:
        self.id = id
        self.kind = kind
        self.group = group
        self.what = what
        self.state = "running"
        self.reason = ""
        self.result: Any = None
        self.began = time.monotonic()
        self.ended: float | None = None
        #: What of the crew's it stands for.
        self.view: JobView | None = None
        #: Who has to be asked whether it may be has said yes.
        self.accepted = True
        #: Why it was not to be; nobody knows of it then.
        self.refusal: SitebusError | None = None
        #: Called once, when it is accepted or refused, in whatever thread that is.
        self.waiting: list[Callable[[], object]] = []
        #: Called once, when it ends.
        self.heirs: list[Callable[[], object]] = []

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.state == "running"

    @property
    def is_ours(self) -> bool:
        """Whether it was asked for here, and not by a signal or by the crew itself."""
        return self.view is None or self.id != str(self.view.id)

    def told(self) -> dict[str, Any]:
        """Answer what is told of it."""
        now = time.monotonic()
        took = (now if self.ended is None else self.ended) - self.began
        return {
            "id": self.id,
            "kind": self.kind,
            "what": self.what,
            "state": self.state,
            "reason": self.reason,
            "result": self.result,
            "progress": progress_of(self.view),
            "began": round(time.time() - (now - self.began), 3),
            "seconds": round(took, 3),
        }


class Jobs:
    """The jobs of a site.

    Args:
        engine: Its bus.
        news: Is told of each job that begins or ends; any thread.
    """

    def __init__(self, engine: Engine, news: Callable[[Job], object]) -> None:
        self._engine = engine
        self._news = news
        self._jobs: dict[str, Job] = {}
        self._keys: dict[tuple[int, str], tuple[str, Job]] = {}
        self._last = 0
        self._looking = threading.BoundedSemaphore(_MOST)
        self._lock = threading.RLock()

    def find(self, id: str) -> Job | None:
        """Answer a job that is remembered."""
        return self._jobs.get(id)

    def all(self) -> tuple[Job, ...]:
        """Answer those that are remembered, the oldest first, each once."""
        with self._lock:
            jobs = tuple(self._jobs.values())
        # The crew may say that it has begun before who asked it to has its answer.
        asked_for = {str(job.view.id) for job in jobs if job.view is not None and job.is_ours}
        return tuple(job for job in jobs if job.is_ours or job.id not in asked_for)

    @property
    def running(self) -> tuple[Job, ...]:
        """Those that have not ended."""
        return tuple(job for job in self.all() if job.is_running)

    def known(self, key: tuple[int, str], asked: str) -> Job | None:
        """Answer the job that was begun under a key.

        Raises:
            RequestRefused: It was something else that was asked for.
        """
        if key not in self._keys:
            return None
        before, job = self._keys[key]
        if before != asked:
            raise RequestRefused(409, f"this Idempotency-Key was used for {before}, job {job.id}")
        return job

    def begin(
        self,
        kind: str,
        work: Work,
        *,
        group: str = "",
        what: str = "",
        key: tuple[int, str] | None = None,
        asked: str = "",
        refusals: tuple[type[SitebusError], ...] = (),
    ) -> Job:
        """Have *work* done in a thread of its own.

        Args:
            kind: What it is, in a word.
            work: What is to be done.
            group: Of those of one group, one runs at a time.
            what: What it is about, for people.
            key: Who asked, and their word for it; asked again, it is the same job.
            asked: What was asked for under the key.
            refusals: What work raises where somebody refuses it, who is asked first; then there
                was no such job. See `when_accepted`.

        Raises:
            RequestRefused: Another of the group runs, or too many altogether.
        """
        with self._lock:
            self._check(group)
            self._last += 1
            job = Job(f"c{self._last}", kind, group, what)
            self._jobs[job.id] = job
            job.accepted = not refusals
            if key is not None:
                self._keys[key] = asked, job
            self._forget()
        if job.accepted:
            self._news(job)
        threading.Thread(
            target=self._run,
            args=(job, work, refusals),
            name=f"sitebus control {kind}",
            daemon=True,
        ).start()
        return job

    def _check(self, group: str) -> None:
        running = self.running
        for job in running:
            if group and job.group == group:
                raise busy(job.kind, job.id, job.told())
        if len(running) >= _MOST:
            raise RequestRefused(503, f"{_MOST} jobs are running already; wait for one to end")

    def _forget(self) -> None:
        ended = [job for job in self._jobs.values() if not job.is_running]
        for job in ended[: max(0, len(ended) - _REMEMBERED)]:
            del self._jobs[job.id]
        self._keys = {k: each for k, each in self._keys.items() if each[1].id in self._jobs}

    def _run(self, job: Job, work: Work, refusals: tuple[type[SitebusError], ...]) -> None:
        try:
            result = work()
            if isinstance(result, Begun):
                job.view = result.view
                self._accept(job)
                self._follow(job, result.view)
            elif isinstance(result, Partly):
                self.settle(job, "failed", result.reason, result.result)
            else:
                self.settle(job, "done", result=result)
        except (SitebusError, ChannelFailures) as error:
            if isinstance(error, SitebusError) and isinstance(error, refusals):
                self._refuse(job, error)
            else:
                self.settle(job, "failed", " ".join(_sentence(error).split()))
        # The engine's listeners, and workers, are whoever's.
        except Exception as error:  # noqa: BLE001
            self._engine.log(f"the control job {job.kind} failed", ERROR, traceback=error)
            self.settle(job, "failed", f"{type(error).__name__}: {error}")
        except BaseException as leaving:  # noqa: BLE001 - a listener's SystemExit ends its job alone
            self.settle(job, "failed", repr(leaving))

    def follow(self, view: JobView) -> Job:
        """Answer a job of the crew's own as one of ours, under its own identifier."""
        with self._lock:
            known = self._jobs.get(str(view.id))
            if known is not None:
                return known
            job = Job(str(view.id), str(view.kind), "", "")
            job.began, job.view = view.began, view
            self._jobs[job.id] = job
            self._forget()
        name = f"sitebus control {job.id}"
        threading.Thread(target=self._follow, args=(job, view), name=name, daemon=True).start()
        return job

    def aside(self, look: Work, tell: Callable[[Any, str], object]) -> None:
        """Have *look* called in a thread of its own; *tell* gets what it answers, or why not.

        Raises:
            RequestRefused: Too many do so already.
        """

        def run() -> None:
            try:
                found, why_not = look(), ""
            except Exception as error:  # noqa: BLE001 - workers answer, who are anybody
                self._engine.log("looking for the control socket failed", ERROR, traceback=error)
                found, why_not = None, f"this failed, and was logged: {type(error).__name__}"
            finally:
                self._looking.release()
            tell(found, why_not)

        if not self._looking.acquire(blocking=False):
            raise RequestRefused(503, "too much is being looked at already; try again")
        threading.Thread(target=run, name="sitebus control look", daemon=True).start()

    def _accept(self, job: Job) -> None:
        with self._lock:
            job.accepted = True
            waiting, job.waiting = job.waiting, []
        self._news(job)
        for tell in waiting:
            tell()

    def _refuse(self, job: Job, refusal: SitebusError) -> None:
        with self._lock:
            self._jobs.pop(job.id, None)
            self._forget()
            job.refusal = refusal
            job.state = "refused"
            waiting, job.waiting = job.waiting, []
        for tell in waiting:
            tell()

    def when_accepted(self, job: Job, tell: Callable[[], object]) -> None:
        """Have *tell* called once *job* has been accepted or refused; at once if it has."""
        with self._lock:
            if not job.accepted and job.refusal is None and job.is_running:
                job.waiting.append(tell)
                return
        tell()

    def _follow(self, job: Job, view: JobView) -> None:
        view.wait(None)
        state = "done" if view.state == "done" else "aborted"
        self.settle(job, state, view.reason)

    def settle(self, job: Job, state: str, reason: str = "", result: Any = None) -> None:
        """Have a job ended; the first word on that counts."""
        with self._lock:
            if not job.is_running:
                return
            job.ended = time.monotonic()
            job.reason = reason
            job.result = result
            job.state = state
            job.accepted = True
            heirs, job.heirs, job.waiting = [*job.waiting, *job.heirs], [], []
        if job.is_ours:  # the crew tells of its own
            self._news(job)
        for tell in heirs:
            tell()

    def when_ended(self, job: Job, tell: Callable[[], object]) -> None:
        """Have *tell* called once *job* has ended, in whatever thread; at once if it has."""
        with self._lock:
            if job.is_running:
                job.heirs.append(tell)
                return
        tell()


class Begun:
    """What work answers that has begun a job of the crew."""

    def __init__(self, view: JobView) -> None:
        self.view = view


class Partly:
    """What work answers that has gone well in part."""

    def __init__(self, result: Any, reason: str) -> None:
        self.result = result
        self.reason = reason


def busy(kind: str, id: str, told: dict[str, Any]) -> RequestRefused:
    """Answer the refusal that names the job which has to end first."""
    sentence = f"{kind} (job {id}) is running; wait for it to end"
    return RequestRefused(409, sentence, {"job": told})


def told_of(view: JobView) -> dict[str, Any]:
    """Answer what is told of a job of the crew's own."""
    now = time.monotonic()
    return {
        "id": str(view.id),
        "kind": str(view.kind),
        "what": "",
        "state": str(view.state),
        "reason": str(view.reason),
        "result": None,
        "progress": progress_of(view),
        "began": round(time.time() - (now - view.began), 3),
        "seconds": round((now if view.ended is None else view.ended) - view.began, 3),
    }


def progress_of(view: JobView | None) -> list[int] | None:
    """Answer how many of how many steps a job of the crew's has done, if it counts them."""
    progress = getattr(view, "progress", None)
    return None if progress is None else list(progress)


def _sentence(error: SitebusError | ChannelFailures) -> str:
    if isinstance(error, ChannelFailures):
        return "; ".join(f"{type(each).__name__}: {each}" for each in error.exceptions)
    return str(error)
