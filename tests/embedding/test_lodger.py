"""The life of a lodger, in a process that plays the host: begin, serve, swap, fail, end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from sitebus.embedding import faces, hosts
from sitebus.embedding.lodger import Lodger
from sitebus.embedding.plans import draw_up
from sitebus.errors import (
    CannotEmbed,
    CannotRestart,
    ConfigErrors,
    NotAnApplication,
    StartFailed,
    Unreachable,
)
from sitebus.machine import State
from sitebus.mounts import Site
from sitebus.process import Engine
from tests.helpers import wait_for
from tests.wsgi_helpers import Answer, ask


class House(hosts.Host):
    """A host that tells when it ends."""

    name = "the house"

    def __init__(self, *, forks: bool = False, recycles: bool = False) -> None:
        self.forks_later = forks
        self.recycles = recycles
        self.ends: list[Callable[[], object]] = []
        self.recycled = 0

    def at_end(self, end: hosts.Call, made: Collection[threading.Thread]) -> None:
        self.ends.append(end)

    def recycle(self) -> None:
        self.recycled += 1


class Stay:
    """A lodger in a house of its own."""

    def __init__(self, engine: Engine, house: House) -> None:
        self.engine = engine
        self.house = house
        self.site = Site()
        self.lodger = Lodger(engine, house, "wsgi")
        self.app = faces.Embedded(self.lodger)
        self.said: list[str] = []
        self.channels: list[str] = []
        engine.subscribe("log", lambda message, level: self.said.append(message))
        for channel in ("start", "exit"):
            engine.subscribe(channel, lambda name=channel: self.channels.append(name))

    def take(self, target: Any, **said: Any) -> None:
        self.lodger.take(draw_up(target, self.site, None, said))

    def get(self, path: str = "/") -> Answer:
        return ask(self.app, path)

    def leave(self) -> None:
        for end in self.house.ends:
            end()


@pytest.fixture
def stay(engine: Engine) -> Iterator[Stay]:
    stay = Stay(engine, House())
    yield stay
    stay.lodger.end()


def saying(text: str) -> Any:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [text.encode()]

    return application


ONE, TWO = saying("one"), saying("two")


def test_the_bus_starts_at_once_and_ends_once(stay: Stay) -> None:
    """What runs in the background waits for no visitor; and hosts may say goodbye twice."""
    stay.take(ONE)
    assert stay.engine.state == State.STARTED
    assert stay.get().text == "one"

    stay.leave()
    stay.leave()

    assert stay.channels == ["start", "exit"]
    assert stay.get().code == 503


def test_a_host_that_forks_later_has_it_start_with_the_first_request(engine: Engine) -> None:
    """In the process that forks, nothing may run."""
    stay = Stay(engine, House(forks=True))
    stay.take(ONE)
    assert engine.state == State.STOPPED

    assert stay.get().text == "one"

    assert stay.channels == ["start"]
    stay.lodger.end()


def test_the_same_target_changes_nothing(stay: Stay) -> None:
    """A script that is run again in place must not start the bus twice."""
    stay.take(ONE)
    stay.take(ONE)

    assert stay.channels == ["start"]


def test_another_application_takes_the_place_without_a_stop(stay: Stay) -> None:
    """A script that makes its application has another one each time it is run."""
    stay.take(ONE)
    stay.take(TWO)

    assert stay.get().text == "two"
    assert stay.channels == ["start"]
    assert any("is embedded now, instead of" in line for line in stay.said)


def test_another_file_takes_the_place_with_all_it_says(stay: Stay, tmp_path: Path) -> None:
    """Its plugins as well: the bus ends and starts, and the application stays the same object."""
    stay.take(ONE)
    (tmp_path / "two_app.py").write_text("from tests.embedding.test_lodger import TWO as app\n")
    (tmp_path / "site.ini").write_text("[mount /two]\napp = two_app:app\n")
    stay.take(tmp_path / "site.ini")

    assert stay.get("/two").text == "two"
    assert stay.get("/").code == 404
    assert stay.channels == ["start", "exit", "start"]


def test_what_is_no_application_is_refused_at_once(stay: Stay, tmp_path: Path) -> None:
    """The host's log shows it, where the operator looks."""
    empty = tmp_path / "site.ini"
    empty.write_text("")
    with pytest.raises(NotAnApplication):
        stay.take(7)
    with pytest.raises(ConfigErrors, match="nothing is mounted"):
        stay.take(empty)


@pytest.mark.parametrize("environment", ["development", "production"])
def test_an_application_that_cannot_be_imported_answers_500(
    stay: Stay, tmp_path: Path, environment: str
) -> None:
    """The host goes on, and so do the other applications; the reason is the developer's alone."""
    (tmp_path / f"broken_{environment}.py").write_text("import no_such_library\n")
    (tmp_path / f"fine_{environment}.py").write_text(
        "from tests.embedding.test_lodger import ONE as app\n"
    )
    ini = tmp_path / "site.ini"
    ini.write_text(
        f"[mount /]\napp = fine_{environment}:app\n"
        f"[mount /broken]\napp = broken_{environment}:app\n"
    )
    stay.take(ini, environment=environment)

    assert stay.get("/").text == "one"
    answer = stay.get("/broken/")
    assert answer.code == 500
    assert ("no_such_library" in answer.text) == (environment == "development")
    assert "importlib" not in answer.text
    assert any("/broken answers 500" in line for line in stay.said)


def test_what_could_not_be_imported_is_tried_again(stay: Stay, tmp_path: Path) -> None:
    """Its author mends it and touches the script."""
    module = tmp_path / "mended_app.py"
    module.write_text("import no_such_library\n")
    (tmp_path / "site.ini").write_text("[mount /]\napp = mended_app:app\n")
    stay.take(tmp_path / "site.ini")
    assert stay.get().code == 500

    module.write_text("from tests.embedding.test_lodger import TWO as app  # mended\n")
    stay.take(tmp_path / "site.ini")

    assert stay.get().text == "two"


def test_a_start_that_fails_is_raised_and_can_be_tried_again(stay: Stay) -> None:
    """The first is the host's to show; and it may well run the script again."""
    failing = [True]

    def listener() -> None:
        if failing:
            raise OSError("no database")

    stay.engine.subscribe("start", listener)
    with pytest.raises(StartFailed, match="no database"):
        stay.take(ONE)
    assert stay.get().code == 500

    failing.clear()
    stay.take(ONE)
    assert stay.get().text == "one"


def test_a_lifespan_that_fails_answers_500(stay: Stay) -> None:
    """A WSGI host asks nothing that could be answered with a failure."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    stay.take(application, environment="development")

    answer = stay.get()
    assert answer.code == 500
    assert "no database" in answer.text


def test_while_the_bus_is_stopped_it_answers_503(stay: Stay) -> None:
    """Nobody else keeps the visitors waiting: the sockets are the host's."""
    stay.take(ONE)
    stay.engine.stop()
    assert stay.get().code == 503
    stay.engine.start()
    assert stay.get().text == "one"


def test_a_restart_is_the_hosts_business(stay: Stay) -> None:
    """To run its command line again would be to run the host again."""
    stay.take(ONE)

    with pytest.raises(CannotRestart, match="the house runs this process"):
        stay.engine.restart()

    assert stay.get().text == "one"


def test_a_host_that_can_replaces_the_process(engine: Engine) -> None:
    """It lets requests end, and makes a new process."""
    stay = Stay(engine, House(recycles=True))
    stay.take(ONE)

    with pytest.raises(Unreachable):
        engine.restart()

    assert stay.house.recycled == 1
    stay.lodger.end()


def test_what_is_not_used_here_is_told_in_one_line(stay: Stay, tmp_path: Path) -> None:
    """The same file may be served by sitebus-serve elsewhere; here somebody may wonder."""
    (tmp_path / "ini_app.py").write_text("from tests.embedding.test_lodger import ONE as app\n")
    (tmp_path / "site.ini").write_text(
        "[server]\nbind = 127.0.0.1:1\n[signals]\nsigusr2 = restart\n[health]\nbind = 127.0.0.1:2\n"
        f"[control]\nsocket = {tmp_path}/control\n[plugin pidfile]\npath = {tmp_path}/pid\n"
        f"[relay]\nbind = unix:{tmp_path}/relay.sock\n[relay command]\nchannels = exit\nfrom = a\n"
        "[workers]\ncount = 2\n[mount /]\napp = ini_app:app\n"
    )
    stay.take(tmp_path / "site.ini")

    told = [line for line in stay.said if "not used here" in line]
    assert told == [
        "[server], [signals], [control], [relay], [relay command], [workers], [health] bind, "
        "[plugin pidfile] are not used here: the house runs this process"
    ]
    assert {path.suffix for path in tmp_path.iterdir()} <= {".py", ".ini", ""}
    assert not (tmp_path / "pid").exists()
    assert not (tmp_path / "control").exists()
    assert not (tmp_path / "relay.sock").exists()


def test_reload_is_off_where_the_host_cannot_and_says_so_once(stay: Stay, tmp_path: Path) -> None:
    """A thread that watches files for nothing would be a lie."""
    (tmp_path / "re_app.py").write_text("from tests.embedding.test_lodger import ONE as app\n")
    (tmp_path / "site.ini").write_text("[reload]\nenabled = yes\n[mount /]\napp = re_app:app\n")
    stay.take(tmp_path / "site.ini")

    assert len([line for line in stay.said if line.startswith("[reload] is off here")]) == 1


def test_threads_of_the_host_are_told_of(stay: Stay) -> None:
    """What opens a connection for each thread listens on start_thread, whoever made the thread."""
    numbers: list[int] = []
    stay.engine.subscribe("start_thread", numbers.append)
    stay.take(ONE)
    stay.get()
    stay.get()

    assert numbers == [1]


def test_after_a_fork_a_start_that_fails_is_logged_and_answered(engine: Engine) -> None:
    """There is nobody left to raise it to."""
    stay = Stay(engine, House(forks=True))

    def listener() -> None:
        raise OSError("no database")

    engine.subscribe("start", listener)
    stay.take(ONE)

    assert stay.get().code == 500
    assert any("the site cannot start: the site could not start" in line for line in stay.said)


def test_requests_wait_while_another_file_takes_the_place(stay: Stay, tmp_path: Path) -> None:
    """Apache runs the script again while others are served; none of them shall see the gap."""
    (tmp_path / "gap_app.py").write_text("from tests.embedding.test_lodger import TWO as app\n")
    (tmp_path / "site.ini").write_text("[mount /]\napp = gap_app:app\n")
    stay.take(ONE)
    held, seen = threading.Event(), []
    stay.engine.subscribe("stop", lambda: held.wait(5))
    swap = threading.Thread(target=stay.take, args=(tmp_path / "site.ini",))
    swap.start()
    wait_for(lambda: stay.engine.state == State.STOPPING)
    visitor = threading.Thread(target=lambda: seen.append(stay.get().text))
    visitor.start()
    held.set()
    swap.join(5)
    visitor.join(5)

    assert seen == ["two"]


def test_a_bus_that_runs_by_itself_takes_no_lodger(engine: Engine) -> None:
    """A script for Apache may be what somebody gives to sitebus-serve."""
    engine.start()

    with pytest.raises(CannotEmbed, match="sitebus-serve serves the same target itself"):
        Lodger(engine, House(), "wsgi")


def test_a_lifespan_can_come_again(engine: Engine) -> None:
    """Test clients give an application one lifespan after another."""
    site, house = Site(), House()
    lodger = Lodger(engine, house, "asgi")
    lodger.take(draw_up(ONE, site, None, {}))
    application = faces.asgi(lodger)
    sent: list[str] = []

    async def live() -> None:
        told = asyncio.Queue[dict[str, Any]]()
        await told.put({"type": "lifespan.startup"})

        async def send(message: Any) -> None:
            sent.append(message["type"])
            if message["type"].endswith("startup.complete"):
                assert engine.state == State.STARTED
                await told.put({"type": "lifespan.shutdown"})

        await application({"type": "lifespan"}, told.get, send)

    for _ in range(2):
        asyncio.run(live())

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"] * 2
