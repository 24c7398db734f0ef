"""Hosts that answer whatever they like: an error of that host's, and nothing else.

The agent that is sent is another one here, which does what a host could have it do.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sitebus import fleet
from sitebus.errors import ConnectFailed, FleetError, RemoteError
from sitebus.fleet import Fleet, Host, _mitogen, fleets
from sitebus.fleet.sources import PACKAGE, agent_sources
from tests.fleet import inis
from tests.helpers import PATIENCE, wait_for

#: Answers the same to whatever it is asked.
PARROT = """
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *args, **kwargs: %s
"""


#: What is answered as it is, whatever the names in it.
OPEN = ("facts", "version", "ready", "restart", "wait_ready")


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Have hosts do something else: the text behind a module of the agent's."""
    found = agent_sources()

    def send(name: str, text: str) -> None:
        path, source = found[f"{PACKAGE}.{name}"]
        found[f"{PACKAGE}.{name}"] = path, source + text.encode()

    monkeypatch.setattr(fleets, "agent_sources", lambda: found)
    return send


@pytest.fixture
def parrot(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have hosts answer the same to everything."""

    def answer(said: str) -> None:
        found = agent_sources()
        for name, (path, _) in found.items():
            if name not in (PACKAGE, f"{PACKAGE}.agent"):
                found[name] = path, (PARROT % said).encode()
        monkeypatch.setattr(fleets, "agent_sources", lambda: found)

    return answer


@contextmanager
def opened(folder: Path, *names: str) -> Iterator[Fleet]:
    path = inis.write(folder / "fleet.ini", f"[site]\nroot = {folder}/shop\n", hosts=names)
    with fleet.open(path) as found:
        yield found


def processes(parent: int) -> set[int]:
    """Answer the processes that a process has started, and those that they have."""
    text = "".join(path.read_text() for path in Path(f"/proc/{parent}/task").glob("*/children"))
    found = set(map(int, text.split()))
    return found.union(*(processes(each) for each in found))


def asked(host: Host, folder: Path) -> dict[str, Callable[[], Any]]:
    (folder / "tree").mkdir(exist_ok=True)
    (folder / "tree" / "file").write_text("x")
    return {
        "exec": lambda: host.exec(["true"]),
        "launch": lambda: host.launch(["true"]),
        "facts": host.facts,
        "fetch": lambda: host.fetch("http://127.0.0.1/"),
        "version": host.engine.version,
        "status": host.engine.status,
        "state": lambda: host.engine.state,
        "workers": host.engine.workers,
        "jobs": host.engine.jobs,
        "graceful": host.engine.graceful,
        "restart": host.engine.restart,
        "exit": host.engine.exit,
        "ready": lambda: host.engine.ready(True),
        "wait_ready": host.engine.wait_ready,
        "file": lambda: host.push(folder / "tree" / "file", "/nowhere"),
        "tree": lambda: host.push(folder / "tree", "/nowhere"),
        "stage": lambda: host.releases.stage(folder / "tree", "1"),
        "list": host.releases.list,
        "current": host.releases.current,
        "activate": lambda: host.releases.activate("1"),
        "rollback": host.releases.rollback,
        "remove_old": host.releases.remove_old,
    }


@pytest.mark.parametrize(
    "said",
    [
        "None",
        "float('inf')",
        "'x'",
        "[1]",
        "{'refused': 'full', 'needed': 'all'}",
        "{'there': False, 'missing': [7], 'draft': '', 'last': None, 'rsync': 1}",
    ],
)
def test_what_does_not_fit_is_an_error_of_that_host(
    tmp_path: Path, parrot: Callable[[str], None], said: str
) -> None:
    """Not a traceback here, which would be the end for the other hosts too."""
    parrot(said)
    with opened(tmp_path, "a") as one:
        for name, ask in asked(one["a"], tmp_path).items():
            if said.startswith("{") and name in OPEN:
                continue
            with pytest.raises(FleetError) as caught:
                ask()
            assert caught.value.host == "a", name


def test_an_item_that_does_not_fit_ends_the_stream(
    tmp_path: Path, parrot: Callable[[str], None]
) -> None:
    parrot("iter([3, 4])")
    with opened(tmp_path, "a") as one:
        stream = one["a"].exec_stream(["true"])
        with pytest.raises(RemoteError, match="makes no sense"):
            next(stream)
        assert list(stream) == []


def test_a_host_cannot_move_the_cursor(tmp_path: Path, sends: Callable[[str, str], None]) -> None:
    """What it says is printed on the operator's terminal."""
    sends("agent_run", "\ndef facts(root):\n    raise CannotRun('\\033[2J\\nall\\u202e is well')\n")
    with opened(tmp_path, "a") as one, pytest.raises(RemoteError) as caught:
        one["a"].facts()
    assert str(caught.value).isprintable()
    assert "all" in caught.value.sentence


def test_an_agent_that_does_not_run_there_is_told_of_that_host(
    tmp_path: Path, sends: Callable[[str, str], None]
) -> None:
    sends("agent", "\nraise RuntimeError('older than it should be')\n")
    before = processes(os.getpid())
    with opened(tmp_path, "a", "b") as two:
        for name, error in two.connect().items():
            assert isinstance(error, ConnectFailed)
            assert str(error).startswith(f"{name}: its Python cannot run the agent: ")
            assert "older than it should be" in error.sentence
        wait_for(lambda: not processes(os.getpid()) - before)


@pytest.mark.parametrize("said", ["'{'", "'[]'", "'{}'", "None", "b'x'"])
def test_a_greeting_that_makes_no_sense(
    tmp_path: Path, sends: Callable[[str, str], None], said: str
) -> None:
    sends("agent", f"\ndef hello():\n    return {said}\n")
    with opened(tmp_path, "a") as one:
        error = one.connect()["a"]
    assert isinstance(error, FleetError)
    assert "makes no sense" in error.sentence or "cannot run the agent" in error.sentence


def test_a_lane_that_is_no_good_is_not_left_there(
    tmp_path: Path, sends: Callable[[str, str], None]
) -> None:
    sends("agent", "\ndef settle():\n    raise RuntimeError('no room')\n")
    with opened(tmp_path, "a") as one:
        one["a"].connect()
        before = processes(os.getpid())
        with pytest.raises(ConnectFailed, match=r"^a: its Python cannot run the agent: .*no room"):
            one["a"].call(asyncio.iscoroutine, 1)
        wait_for(lambda: processes(os.getpid()) == before)


@pytest.mark.parametrize("handle", ["'x'", "-1", "1 << 70", "None", "True"])
def test_a_handle_that_is_none_does_not_end_the_others(
    tmp_path: Path, sends: Callable[[str, str], None], handle: str
) -> None:
    """Mitogen's one thread would end of a message that it cannot write."""
    sends("agent", f"\ndef connect(up, *args):\n    up.send(json.dumps({{'open': {handle}}}))\n")
    (tmp_path / "x").write_text("x")
    with opened(tmp_path, "a", "b") as two:
        two.connect()
        with pytest.raises(RemoteError, match="makes no sense"):
            two["a"].push(tmp_path / "x", "/nowhere")
        assert two["b"].exec(["echo", "well"]).out == "well\n"


def test_a_host_cannot_pass_another_off_as_a_process_of_its_own(
    tmp_path: Path, sends: Callable[[str, str], None]
) -> None:
    """What is meant for it would run on the other."""
    sends(
        "agent",
        "\nimport mitogen.parent\n"
        "mitogen.parent._proxy_connect = lambda **k: {'id': 2, 'msg': None, 'name': 'x'}\n",
    )
    with opened(tmp_path, "evil", "good") as two:
        two["evil"].connect()
        good = two["good"].connect()["pid"]
        assert two["good"].lineage == (2,)
        with pytest.raises(ConnectFailed, match="a process that is not its own"):
            two["evil"].call(asyncio.iscoroutine, 1, timeout=PATIENCE)
        assert two["good"].facts()["pid"] == good
        router = two["good"].lanes.trunk().trust.router
        assert router.context_by_id(2) is two["good"].lanes.trunk().context


def test_a_host_has_no_more_numbers_than_it_can_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sends: Callable[[str, str], None]
) -> None:
    """There is an end to them, and each is kept in mind."""
    monkeypatch.setattr(_mitogen, "_MOST_BLOCKS", 2)
    sends(
        "agent_run",
        "\nfrom sitebus_agent.agent import takes_econtext\n"
        "@takes_econtext\ndef facts(root, econtext):\n"
        "    import mitogen.core as core\n"
        "    ask = lambda: core.Message(handle=core.ALLOCATE_ID)\n"
        "    return {'given': [list(econtext.parent.send_await(ask())) for _ in range(3)]}\n",
    )
    with opened(tmp_path, "a") as one, pytest.raises(RemoteError, match="numbers enough"):
        one["a"].facts()
