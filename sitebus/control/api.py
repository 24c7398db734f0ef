"""Which path answers what, to whom: the one table of the control socket.

What may take long, or runs what others wrote, is a job, which has a thread; everything else is
answered at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sitebus.control import publishing
from sitebus.control.crew import Crew, JobView, crew_of
from sitebus.control.jobs import Begun, Job, Jobs, Work, busy, told_of
from sitebus.control.later import Later
from sitebus.control.peers import Role
from sitebus.control.pictures import Pictures
from sitebus.control.readiness import Readiness
from sitebus.control.rings import Ring, plain
from sitebus.control.wire import Feed, Reply, Request, refusal
from sitebus.errors import (
    BadWorkerCount,
    RequestRefused,
    SitebusError,
    UnknownWorker,
    nearest,
)
from sitebus.listeners import Pattern
from sitebus.process import Engine

#: The longest that a request may wait for a job; seconds.
MOST_WAIT = 600.0
_MOST_WORKERS = 1024
#: How long a worker may take to tell its stacks; seconds.
_DUMP_PATIENCE = 5.0
#: How long workers may take to say how they are; seconds.
_PATIENCE = 10.0
#: How long the workers may take to say whether they take a job; seconds.
_DECISION = 10.0

Answer = Reply | Later | Feed


class Route(NamedTuple):
    """What answers a path; a ``*`` in it is one word of any kind."""

    method: str
    path: str
    answer: Callable[[Api, Request], Answer]

    @property
    def needs(self) -> Role:
        """Who may ask: everybody may look, and operators alone change anything."""
        return Role.VIEWER if self.method == "GET" else Role.OPERATOR

    def matches(self, parts: tuple[str, ...]) -> bool:
        """Tell whether these are the words of the path."""
        words = self.path.split("/")[1:]
        return len(words) == len(parts) and all(
            word in ("*", part) for word, part in zip(words, parts, strict=True)
        )


class Api:
    """Answer requests about one site.

    Args:
        engine: Its bus.
        pictures: What it tells of itself.
        jobs: What was asked for.
        events: What was published, and what became of jobs.
        logs: What was logged.
        publishable: The channels that may be published on.
        metrics: What is counted, as text or as JSON; what the pictures tell if left out.
        exported: The channels whose messages go to all processes of the site by themselves, or
            patterns of them.
    """

    def __init__(
        self,
        engine: Engine,
        pictures: Pictures,
        jobs: Jobs,
        events: Ring,
        logs: Ring,
        publishable: Iterable[str] = (),
        metrics: Work | None = None,
        exported: Iterable[str] = (),
    ) -> None:
        self.engine = engine
        self.pictures = pictures
        self.jobs = jobs
        self.events = events
        self.logs = logs
        self.publishable = frozenset(publishable)
        self._exported = tuple(map(Pattern, exported))
        self._metrics = metrics or pictures.metrics

    def respond(self, request: Request) -> Answer:
        """Answer a request; what it may not have is a sentence."""
        try:
            return self._route(request).answer(self, request)
        except RequestRefused as why:
            allow = (("Allow", str(why.more["allowed"])),) if why.code == 405 else ()
            return refusal(why.code, why.sentence, why.more)._replace(fields=allow)

    def _route(self, request: Request) -> Route:
        parts = request.parts
        found = [route for route in ROUTES if route.matches(parts)]
        if not found:
            near = nearest(request.head.path[:100], (route.path for route in ROUTES))
            hint = f"; did you mean {near}?" if near else ""
            raise RequestRefused(404, f"there is nothing here of that name{hint}")
        for route in found:
            if route.method == request.head.method:
                if request.role < route.needs:
                    sentence = f"user {request.peer.uid} may look, and change nothing"
                    raise RequestRefused(403, f"{sentence}; see [control] operators")
                return route
        allowed = ", ".join(route.method for route in found)
        raise RequestRefused(405, f"this takes {allowed}", {"allowed": allowed})

    # What can be looked at.

    def version(self, request: Request) -> Answer:
        return Reply(200, self.pictures.version())

    def status(self, request: Request) -> Answer:
        # First: what happens while the picture is taken is then news to who follows on from it.
        event = self.events.last
        return self._looked(lambda: self.pictures.status(self.jobs.running, event))

    def workers(self, request: Request) -> Answer:
        return self._looked(self.pictures.workers)

    def relay(self, request: Request) -> Answer:
        if self.engine.relay is None:
            raise RequestRefused(409, "this site is no node of a relay; see [relay] bind and peers")
        return Reply(200, self.pictures.relay())

    def config(self, request: Request) -> Answer:
        return Reply(200, self.pictures.settings())

    def bus(self, request: Request) -> Answer:
        return Reply(200, self.pictures.bus())

    def metrics(self, request: Request) -> Answer:
        return self._in_a_thread(self._metrics)

    def threads(self, request: Request) -> Answer:
        return self._in_a_thread(self.pictures.threads)

    def follow_events(self, request: Request) -> Answer:
        wanted = request.query.get("channel", "").replace(",", " ").split()
        return self._feed(request, self.events, tuple(wanted))

    def follow_logs(self, request: Request) -> Answer:
        return self._feed(request, self.logs, ())

    def _feed(self, request: Request, ring: Ring, wanted: tuple[str, ...]) -> Feed:
        follows = request.query.get("follow", "yes")
        if follows not in ("yes", "no"):
            raise RequestRefused(400, "follow should be yes or no")
        return Feed(ring, wanted, ring.place(request.field("LAST_EVENT_ID")), follows == "yes")

    def _looked(self, look: Work) -> Answer:
        """Answer at once, unless others have to be asked who may be slow."""
        return Reply(200, look()) if crew_of(self.engine) is None else self._in_a_thread(look)

    def _in_a_thread(self, look: Work) -> Answer:
        """Answer what may take a while: workers are asked, or files are read."""
        silent = f"there is no answer within {_PATIENCE:g} s"
        later = Later(_PATIENCE, lambda: refusal(500, silent))

        def tell(found: Any, why_not: str) -> None:
            later.settle(refusal(500, why_not) if why_not else Reply(200, found))

        self.jobs.aside(look, tell)
        return later

    # Jobs.

    def all_jobs(self, request: Request) -> Answer:
        return Reply(200, {"jobs": [job.told() for job in self.jobs.all()]})

    def one_job(self, request: Request) -> Answer:
        wait = request.seconds("wait", MOST_WAIT)
        name = request.parts[2]
        job = self.jobs.find(name) or self._of_crew(name)
        if job is None:
            raise RequestRefused(404, f"there is no job {name[:60]!r}, or it is forgotten")
        return self._when_ended(job, wait, 200)

    def _of_crew(self, id: str) -> Job | None:
        """Answer a job that nobody asked for here, as one of ours that follows it."""
        crew = crew_of(self.engine)
        view = None if crew is None else crew.job(id)
        return None if view is None else self.jobs.follow(view)

    def _when_ended(self, job: Job, wait: float, otherwise: int = 202) -> Answer:
        if not wait or not job.is_running:
            return self._told(job, otherwise if job.is_running else 200)
        later = Later(wait, lambda: self._told(job, 202))
        self.jobs.when_ended(job, lambda: later.settle(self._told(job, 200)))
        return later

    def _told(self, job: Job, status: int) -> Reply:
        return Reply(status, {"job": job.told()}, (("Location", f"/v1/jobs/{job.id}"),))

    def _begin(
        self,
        request: Request,
        kind: str,
        work: Work,
        group: str = "",
        what: str = "",
        refusals: tuple[type[SitebusError], ...] = (),
    ) -> Answer:
        """Begin a job, or answer the one that was begun by the same request before."""
        wait = request.seconds("wait", MOST_WAIT)
        word = request.field("IDEMPOTENCY_KEY")
        key = (request.peer.uid, word) if word else None
        asked = f"{request.head.path} {request.body.decode('utf-8', 'replace')}".strip()
        job = self.jobs.known(key, asked) if key else None
        if job is None:
            job = self.jobs.begin(
                kind, work, group=group, what=what, key=key, asked=asked, refusals=refusals
            )
        if job.accepted:
            return self._when_ended(job, wait)
        return self._when_accepted(job, wait)

    def _when_accepted(self, job: Job, wait: float) -> Answer:
        """Answer once the workers have taken it, or refused it, and then as `_when_ended` does."""
        later = Later(wait or _DECISION, lambda: self._told(job, 202))

        def decided() -> None:
            if job.refusal is not None:
                later.settle(_refused(job.refusal))
            elif not wait:
                later.settle(self._told(job, 202 if job.is_running else 200))
            else:
                self.jobs.when_ended(job, lambda: later.settle(self._told(job, 200)))

        self.jobs.when_accepted(job, decided)
        return later

    # What can be done.

    def graceful(self, request: Request) -> Answer:
        said = request.said("reason")
        crew = crew_of(self.engine)
        if crew is None or crew.inplace:
            return self._begin(request, "graceful", _quietly(self.engine.graceful), "graceful")
        reason = _text(said, "reason") or "an operator asked for it"
        return self._replace(request, "graceful", lambda: crew.roll(reason))

    def _replace(
        self, request: Request, kind: str, begin: Callable[[], JobView], what: str = ""
    ) -> Answer:
        """Begin what replaces workers: one of it at a time, whoever asks for it."""

        def work() -> Begun:
            return Begun(begin())

        return self._begin(request, kind, work, "workers", what, (SitebusError,))

    def reopen(self, request: Request) -> Answer:
        request.said()
        crew = crew_of(self.engine)
        # A graceful of the supervisor may replace them all.
        reopen = self.engine.graceful if crew is None else crew.reload_in_place
        return self._begin(request, "reopen", _quietly(reopen), "reopen")

    def restart(self, request: Request) -> Answer:
        force = _truth(request.said("force"), "force", False)
        return self._begin(request, "restart", lambda: self.engine.restart(force), "restart")

    def stop(self, request: Request) -> Answer:
        request.said()
        return self._begin(request, "stop", self.engine.stop, "stop")

    def start(self, request: Request) -> Answer:
        request.said()
        return self._begin(request, "start", lambda: self.engine.start(stay=True), "start")

    def exit(self, request: Request) -> Answer:
        request.said()
        return self._begin(request, "exit", self.engine.exit, "exit")

    def ready(self, request: Request) -> Answer:
        wanted = _truth(request.said("ready"), "ready", None)
        readiness = Readiness.of(self.engine)
        if readiness.wanted != wanted:
            readiness.wanted = wanted
            self.events.add("ready", {"args": [wanted]})
        return self._looked(
            lambda: {"ready_wanted": wanted, "ready": readiness.is_ready(self.engine)}
        )

    def publish(self, request: Request) -> Answer:
        said = request.said("channel", "args", "kwargs")
        channel = _text(said, "channel")
        args, kwargs = said.get("args", []), said.get("kwargs", {})
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise RequestRefused(400, "args should be a JSON array, and kwargs an object")
        if channel not in self.publishable:
            known = ", ".join(sorted(self.publishable)) or "none is"
            sentence = f"channel {channel[:60]!r} is not open to the control socket ({known})"
            raise RequestRefused(403, f"{sentence}; see [control] publish")

        crew = crew_of(self.engine)

        def work() -> Any:
            self.events.add(channel, {"args": args, **({"kwargs": kwargs} if kwargs else {})})
            if crew is None:
                return plain(self.engine.publish(channel, *args, **kwargs))
            return publishing.everywhere(
                self.engine, crew, channel, args, kwargs, exported=self._is_exported(channel)
            )

        return self._begin(request, "publish", work, what=channel)

    def _is_exported(self, channel: str) -> bool:
        return any(each.matches(channel) for each in self._exported)

    def scale(self, request: Request) -> Answer:
        count = request.said("count").get("count")
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST_WORKERS:
            raise RequestRefused(400, f"count should be a number from 1 to {_MOST_WORKERS}")
        crew = self._crew("scale")
        what = f"to {count} workers"
        return self._replace(request, "scale", lambda: crew.scale(count), what)

    def drain(self, request: Request) -> Answer:
        crew, slot = self._worker(request)
        return self._replace(request, "drain", lambda: crew.drain(slot), f"worker {slot}")

    def kill(self, request: Request) -> Answer:
        crew, slot = self._worker(request)
        return self._to_worker(request, slot, lambda: crew.kill(slot))

    def dump(self, request: Request) -> Answer:
        crew, slot = self._worker(request)
        return self._to_worker(request, slot, lambda: {"stacks": crew.dump(slot, _DUMP_PATIENCE)})

    def _to_worker(self, request: Request, slot: int, work: Work) -> Answer:
        kind = request.parts[3]
        return self._begin(request, kind, work, what=f"worker {slot}", refusals=(UnknownWorker,))

    def _crew(self, wish: str) -> Crew:
        crew = crew_of(self.engine)
        if crew is None:
            sentence = f"cannot {wish}: this site is one process; see [workers] count"
            raise RequestRefused(409, sentence)
        return crew

    def _worker(self, request: Request) -> tuple[Crew, int]:
        """Answer the workers, and the one that the path names."""
        request.said()
        number = request.parts[2]
        crew = self._crew(request.parts[3])
        if not (number.isascii() and number.isdigit() and len(number) < 6):
            raise RequestRefused(404, f"{number[:20]!r} is no number of a worker")
        return crew, int(number)


ROUTES = (
    Route("GET", "/v1/version", Api.version),
    Route("GET", "/v1/status", Api.status),
    Route("GET", "/v1/workers", Api.workers),
    Route("GET", "/v1/relay", Api.relay),
    Route("GET", "/v1/config", Api.config),
    Route("GET", "/v1/bus", Api.bus),
    Route("GET", "/v1/metrics", Api.metrics),
    Route("GET", "/v1/threads", Api.threads),
    Route("GET", "/v1/events", Api.follow_events),
    Route("GET", "/v1/logs", Api.follow_logs),
    Route("GET", "/v1/jobs", Api.all_jobs),
    Route("GET", "/v1/jobs/*", Api.one_job),
    Route("POST", "/v1/graceful", Api.graceful),
    Route("POST", "/v1/reopen", Api.reopen),
    Route("POST", "/v1/restart", Api.restart),
    Route("POST", "/v1/stop", Api.stop),
    Route("POST", "/v1/start", Api.start),
    Route("POST", "/v1/exit", Api.exit),
    Route("POST", "/v1/ready", Api.ready),
    Route("POST", "/v1/publish", Api.publish),
    Route("POST", "/v1/scale", Api.scale),
    Route("POST", "/v1/workers/*/drain", Api.drain),
    Route("POST", "/v1/workers/*/kill", Api.kill),
    Route("POST", "/v1/workers/*/dump", Api.dump),
)


def _quietly(command: Callable[[], object]) -> Work:
    """What listeners return is nobody's business."""

    def work() -> None:
        command()

    return work


def _refused(error: SitebusError) -> Reply:
    """Answer what the workers have refused."""
    view: JobView | None = getattr(error, "job", None)
    if isinstance(error, RequestRefused):
        return refusal(error.code, error.sentence, error.more)
    if view is not None:
        why = busy(str(view.kind), str(view.id), told_of(view))
        return refusal(why.code, why.sentence, why.more)
    code = {UnknownWorker: 404, BadWorkerCount: 400}.get(type(error), 409)
    return refusal(code, " ".join(str(error).split()))


def _text(said: dict[str, Any], key: str) -> str:
    text = said.get(key, "")
    if not isinstance(text, str):
        raise RequestRefused(400, f"{key} should be a text")
    return text


def _truth(said: dict[str, Any], key: str, default: bool | None) -> bool:
    wanted = said.get(key, default)
    if not isinstance(wanted, bool):
        raise RequestRefused(400, f"{key} should be true or false")
    return wanted
