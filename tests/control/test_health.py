"""What load balancers ask, of a site, of a supervisor, and by WSGI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sitebus.config import TABLE, read
from sitebus.config.health import HEALTH
from sitebus.config.options import Table
from sitebus.control.answers import Answer, Answers, Question
from sitebus.control.health import Health, application, site
from sitebus.control.watching import plugins
from sitebus.errors import ConfigErrors
from sitebus.interfaces import detect
from sitebus.mounts import Site
from sitebus.process import Engine
from sitebus.sockets import Address
from sitebus.targets import open_target


class Wish:
    """What an operator says."""

    wanted = True


class Worker:
    def __init__(self, state: str) -> None:
        self.state = state


class Workers:
    """As much of a crew as is looked at."""

    def __init__(self, *states: str) -> None:
        self.states = states

    def pictures(self) -> list[Worker]:
        return [Worker(state) for state in self.states]

    def call(self, *args: Any, timeout: float) -> dict[str, Any]:
        return {state: [[]] for state in self.states}


@pytest.fixture
def wish() -> Wish:
    return Wish()


@pytest.fixture
def health(engine: Engine, wish: Wish) -> Iterator[Health]:
    health = Health(engine, check_timeout=5, readiness=wish)
    health.subscribe()
    yield health
    health.unsubscribe()


def ask(health: Health | None, path: str, query: str = "", accept: str = "") -> Answer:
    return Answers(health).answer(Question("GET", path, query, accept))


def verbose(health: Health, query: str = "verbose") -> list[str]:
    return ask(health, "/readyz", query).body.decode().splitlines()


def test_a_site_is_ready_from_its_start_to_its_stop(engine: Engine, health: Health) -> None:
    """Requests that come earlier or later would wait, or be lost."""
    seen = {}

    def look(state: str) -> None:
        paths = ("/livez", "/startupz", "/readyz", "/healthz")
        seen[state] = [ask(health, path).status[:3] for path in paths]

    look("new")
    engine.subscribe("start", lambda: look("starting"), 90)
    engine.subscribe("stop", lambda: look("stopping"), 0)
    engine.start()
    look("started")
    engine.stop()
    look("stopped")
    engine.exit()
    look("exited")

    assert seen == {
        "new": ["200", "503", "503", "503"],
        "starting": ["200", "503", "503", "503"],
        "started": ["200", "200", "200", "200"],
        # It has come up once: what is restarted for not coming up need not be restarted now.
        "stopping": ["200", "200", "503", "503"],
        "stopped": ["200", "200", "503", "503"],
        "exited": ["200", "200", "503", "503"],
    }


def test_each_reason_is_told_when_asked_for(engine: Engine, health: Health, wish: Wish) -> None:
    """Somebody has to find out at night why no request comes."""
    assert ask(health, "/readyz").body == b"failed: bus\n"
    assert verbose(health) == ["bus: FAILED (STOPPED)", "wanted: ok", "failed"]
    engine.start()
    assert ask(health, "/readyz").body == b"ok\n"
    wish.wanted = False
    assert ask(health, "/readyz").body == b"failed: wanted\n"
    assert verbose(health)[1] == "wanted: FAILED (turned off)"
    wish.wanted = True
    engine.workers = Workers("BOOTING", "DRAINING")
    assert ask(health, "/readyz").body == b"failed: workers\n"
    engine.workers = Workers("BOOTING", "READY")
    assert verbose(health) == [
        "bus: ok (STARTED)", "wanted: ok", "workers: ok (1 of 2 ready)", "ok",
    ]  # fmt: skip


def test_checks_are_asked_and_can_be_left_out(engine: Engine, health: Health) -> None:
    """A database that is away is a reason for not being asked, and none for being ended."""

    def tables() -> tuple[str, bool, str]:
        return "database", False, "no\nroute"

    engine.subscribe("health", tables)
    engine.subscribe("health", lambda: ("cache", True, None))
    engine.start()

    assert ask(health, "/livez").status == "200 OK"
    assert ask(health, "/readyz").body == b"failed: database\n"
    assert verbose(health)[2:] == ["database: FAILED (no route)", "cache: ok", "failed"]
    assert ask(health, "/readyz", "exclude=database").body == b"ok\n"
    assert verbose(health, "verbose&exclude=cache,database&exclude=wanted") == [
        "bus: ok (STARTED)", "ok",
    ]  # fmt: skip
    assert verbose(health, "verbose&exclude=datbase")[-2:] == [
        "there is no check 'datbase' to leave out", "failed",
    ]  # fmt: skip


def test_programs_get_json(engine: Engine, health: Health) -> None:
    """A page of a monitor is made of it."""
    engine.subscribe("health", lambda: ("cache", True, "42 entries"))
    engine.start()
    answer = ask(health, "/readyz", accept="application/json")
    assert answer.content_type == "application/json"
    told = json.loads(answer.body)
    seconds = told["checks"][2].pop("seconds")
    assert 0 <= seconds < 5
    assert told["status"] == "ok"
    assert told["checks"][2] == {"name": "cache", "ok": True, "detail": "42 entries"}


# In a supervisor.


class Crew(Workers):
    """Workers that are engines of their own, asked through JSON as over a link."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(*("READY" for _ in answers))
        self.answers = answers
        self.asked: list[Any] = []

    def call(self, *args: Any, timeout: float) -> dict[str, Any]:
        self.asked.append(args[1:])
        return {
            f"worker {slot}": json.loads(json.dumps(each.publish(*args)))
            if isinstance(each, Engine)
            else each
            for slot, each in enumerate(self.answers, 1)
        }


@pytest.fixture
def workers() -> Iterator[list[Engine]]:
    """Two engines with a watch over their health, and a check whose answer depends on which."""
    engines = [Engine(), Engine()]
    for each in engines:
        Health(each).subscribe()
    yield engines
    for each in engines:
        each.exit()


def test_a_supervisor_tells_what_its_workers_checks_say(
    engine: Engine, health: Health, workers: list[Engine]
) -> None:
    """They are the application's, which it has never seen."""
    well = {"database": [True, True]}

    def check_of(number: int) -> Any:
        return lambda: ("database", well["database"][number], f"{number}")

    for number, each in enumerate(workers):
        each.subscribe("health", check_of(number))
        each.subscribe("health", lambda: ("cache", True))
    engine.workers = crew = Crew(*workers)
    engine.start()

    assert verbose(health)[2:] == [
        "workers: ok (2 of 2 ready)", "database: ok (0)", "cache: ok", "ok",
    ]  # fmt: skip
    well["database"][1] = False
    assert verbose(health)[3] == "database: ok (1 of 2 workers: 1)"
    well["database"][0] = False
    assert verbose(health)[3:] == [
        "database: FAILED (2 of 2 workers: 0)", "cache: ok", "failed",
    ]  # fmt: skip
    assert verbose(health, "verbose&exclude=database")[3:] == ["cache: ok", "ok"]
    assert crew.asked[-1] == (health.check_timeout * 0.9, ["database"])


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        ([TimeoutError(), [[]]], "answers: ok (1 of 2 workers did not answer within 5 s)"),
        ([TimeoutError(), TimeoutError()], "answers: FAILED (2 of 2 workers did not answer"),
        (["nonsense", [[]]], "answers: ok (1 of 2 workers did not answer"),
        ([[[["a", 1, None]]], [[]]], "answers: ok (1 of 2 workers did not answer"),
        ([[[["a", False, "", 0]]], [[]]], "a: FAILED (1 of 1 workers)"),
        ([[], [[]]], "ok"),
    ],
)
def test_workers_that_do_not_answer_are_told_of(
    engine: Engine, health: Health, answers: list[Any], line: str
) -> None:
    """While all of them hang the site is not ready, whatever they said a second ago."""
    engine.workers = Crew(*answers)
    engine.start()
    assert verbose(health)[3].startswith(line)


def test_a_crew_that_cannot_be_asked_is_not_ready(engine: Engine, health: Health) -> None:
    """What is wrong with it is told, and costs the answer nothing else."""

    class Broken(Workers):
        def call(self, *args: Any, timeout: float) -> dict[str, Any]:
            raise OSError("link lost")

    engine.workers = Broken("READY")
    engine.start()
    assert verbose(health)[2:] == [
        "workers: ok (1 of 1 ready)", "answers: FAILED (OSError: link lost)", "failed",
    ]  # fmt: skip


# In a site.


def get(app: Any, path: str, script: str = "", method: str = "GET", query: str = "") -> Any:
    told: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        told[:] = [status, dict(headers)]

    environ = {
        "REQUEST_METHOD": method, "SCRIPT_NAME": script, "PATH_INFO": path, "QUERY_STRING": query,
    }  # fmt: skip
    body = b"".join(app(environ, start_response))
    return (*told, body)


def test_it_can_be_mounted_below_a_prefix_or_at_one_of_its_paths(
    engine: Engine, health: Health
) -> None:
    """Behind a proxy there may be no port but the site's own."""
    engine.start()
    one, several = Site(), Site()
    one.mount(open_target("sitebus.control.health:site"), "/readyz")
    several.mount(application(health), "/-/health")
    status, headers, body = get(one.wsgi, "/readyz")
    assert (status, body) == ("200 OK", b"ok\n")
    assert headers["Cache-Control"] == "no-store"
    assert get(several.wsgi, "/-/health/readyz")[0] == "200 OK"
    assert get(several.wsgi, "/-/health/livez")[2] == b"ok\n"
    assert get(several.wsgi, "/-/health")[0] == "404 Not Found"
    assert get(several.wsgi, "/-/health/metrics")[0] == "404 Not Found"
    assert get(several.wsgi, "/-/health/readyz", method="POST")[0] == "405 Method Not Allowed"
    assert get(several.wsgi, "/-/health/readyz", method="HEAD")[2] == b""


def test_strangers_are_not_told_what_checks_say(engine: Engine, health: Health) -> None:
    """The text of an error may hold a host's name, or a password."""
    engine.subscribe("health", lambda: ("database", False, "password of scott rejected"))
    engine.start()
    _, _, body = get(application(health), "/readyz", query="verbose&exclude=nonsense")
    assert body == b"bus: ok\nwanted: ok\ndatabase: FAILED\nfailed\n"
    _, _, body = get(application(health, details=True), "/readyz", query="verbose")
    assert b"scott" in body


def test_a_site_of_nobody_says_so() -> None:
    """An import is no site: the target can be looked at, and answers."""
    assert detect(site, None).interface == "wsgi"
    status, _, body = get(site, "/readyz")
    assert status == "503 Service Unavailable"
    assert body == b"nobody watches over this site's health\n"


# What a file may say.


def settings(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "site.ini"
    path.write_text(f"[mount /]\napp = static:.\n[health]\n{text}\n")
    table: Table = TABLE.with_section(HEALTH)
    return read(path, table).one("health")


def test_its_section_says_where_and_how_long(tmp_path: Path) -> None:
    """Without a word it is nowhere."""
    assert settings(tmp_path, "")["bind"] == ()
    told = settings(tmp_path, "bind = 127.0.0.1:9090, unix:health\ncheck_timeout = 200ms")
    assert told["bind"] == (
        Address.parse("127.0.0.1:9090"),
        Address.parse(f"unix:{tmp_path}/health"),
    )
    assert told["check_timeout"] == 0.2


def test_each_process_gets_what_it_needs(engine: Engine, tmp_path: Path) -> None:
    """A worker counts, and leaves the address to its supervisor."""

    def kinds(text: str, served: Site | None, *, worker: bool = False) -> list[str]:
        told = settings(tmp_path, text)
        return [type(each).__name__ for each in plugins(engine, told, served, worker=worker)]

    assert kinds("", Site()) == ["Health"]
    assert kinds("bind = 127.0.0.1:0", Site()) == ["Health", "Metrics", "AdminServer"]
    assert kinds("bind = 127.0.0.1:0", None) == ["Health", "Metrics", "AdminServer"]
    assert kinds("bind = 127.0.0.1:0", Site(), worker=True) == ["Health", "Metrics"]
    assert kinds("bind = 127.0.0.1:0\nmetrics = no", Site()) == ["Health", "AdminServer"]


@pytest.mark.parametrize("text", ["bind = nowhere", "check_timeout = 0", "metrics = perhaps"])
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    """At the start, and by its line."""
    with pytest.raises(ConfigErrors, match=r"site.ini:4.*" + text.partition(" ")[0]):
        settings(tmp_path, text)
