"""Calls: who is asked, and who is not; and what is answered when nothing can be."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sitebus.errors import RelayNoAnswer, RelayRemoteError
from tests.helpers import wait_for
from tests.relay.nodes import Node, meeting, socket_in

CROSSING: dict[str, Any] = {"export": ["ask", "x"], "import_": ["ask", "x"]}


def test_only_nodes_that_are_named_hear_a_call(tmp_path: Path) -> None:
    """Who has one node reload does not mean all of them."""
    address = socket_in(tmp_path)
    rules = {"graceful": ["a"]}
    a = Node("a", bind=address, **CROSSING)
    b, c = (Node(name, peers=address, commands=rules, **CROSSING) for name in ("b", "c"))
    for node in (b, c):
        node.hears("ask", "graceful", "x")
    with meeting(a, b, c):
        assert a.relay.wait_peers("b", "c")
        assert a.relay.call("ask", 1, nodes=["b"]) == {"b": []}
        assert a.relay.call("graceful", nodes=["b"]) == {"b": []}
        a.bus.publish("x")
        wait_for(lambda: ("x",) in b.heard and ("x",) in c.heard)
        assert b.heard == [("ask", 1), ("graceful",), ("x",)]
        assert c.heard == [("x",)]
        assert c.relay.counts()["gap"] == 0


def test_who_is_named_and_does_not_import_says_so(tmp_path: Path) -> None:
    """And who is not connected is not waited for."""
    a = Node("a", bind=socket_in(tmp_path))
    b = Node("b", peers=socket_in(tmp_path))
    with meeting(a, b):
        began = time.monotonic()
        answers = a.relay.call("ask", nodes=["b", "nobody"], timeout=60)
        assert time.monotonic() - began < 30
        assert "not imported" in str(answers["b"])
        assert isinstance(answers["nobody"], RelayNoAnswer)
        assert str(answers["nobody"]) == "nobody did not answer 'ask': it is not connected"
        assert a.relay.counts()["drop"] == 0


def test_nobody_is_asked_where_nobody_is_named(tmp_path: Path) -> None:
    """No nodes are not all nodes."""
    a = Node("a", bind=socket_in(tmp_path), **CROSSING)
    b = Node("b", peers=socket_in(tmp_path), **CROSSING).hears("ask", "x")
    with meeting(a, b):
        assert a.relay.call("ask", nodes=[]) == {}
        a.bus.publish("x")
        wait_for(lambda: b.heard)
        assert b.heard == [("x",)]


class NoWorkers:
    """A site that is stopped has workers, and none of them is there."""

    def ask(self, *_: object) -> list[object]:
        from sitebus.errors import NotServing

        raise NotServing("talk to the workers", "STOPPED")


def test_a_site_whose_workers_are_not_there_answers(tmp_path: Path) -> None:
    """With why it cannot; nobody waits for the end of the time."""
    a = Node("a", bind=socket_in(tmp_path), **CROSSING)
    b = Node("b", peers=socket_in(tmp_path), **CROSSING)
    b.bus.workers = NoWorkers()
    with meeting(a, b):
        answer = a.relay.call("ask", timeout=60)["b"]
        assert isinstance(answer, RelayRemoteError)
        assert "talk to the workers" in str(answer)


def test_a_listener_that_leaves_is_an_answer(tmp_path: Path) -> None:
    """It ends no thread of the relay, and the next question is answered."""
    a = Node("a", bind=socket_in(tmp_path), **CROSSING)
    b = Node("b", peers=socket_in(tmp_path), **CROSSING)

    def leave() -> None:
        raise SystemExit(3)

    b.bus.subscribe("ask", leave)
    with meeting(a, b):
        for _ in range(2):
            assert "SystemExit(3)" in str(a.relay.call("ask", timeout=60)["b"])


def test_a_slow_answer_does_not_hold_up_a_command(tmp_path: Path) -> None:
    """Who is stuck in a listener can still be told to reload."""
    address = socket_in(tmp_path)
    a = Node("a", bind=address, **CROSSING)
    b = Node("b", peers=address, commands={"graceful": ["a"]}, **CROSSING)
    inside, goes_on = threading.Event(), threading.Event()

    def slow() -> None:
        inside.set()
        goes_on.wait(30)

    b.bus.subscribe("ask", slow)
    with meeting(a, b):
        asking = threading.Thread(target=lambda: a.relay.call("ask", timeout=30))
        asking.start()
        assert inside.wait(10)
        assert a.relay.call("graceful", timeout=20) == {"b": []}
        goes_on.set()
        asking.join(10)


def test_too_many_questions_are_refused_and_not_kept(tmp_path: Path) -> None:
    """Who asks on and on does not fill the memory of who cannot keep up."""
    address = socket_in(tmp_path)
    a = Node("a", bind=address, **CROSSING)
    b = Node("b", peers=address, high_water=4, **CROSSING)
    goes_on = threading.Event()
    b.bus.subscribe("ask", lambda: goes_on.wait(30))
    answers: list[str] = []
    with meeting(a, b):
        asking = [
            threading.Thread(target=lambda: answers.append(str(a.relay.call("ask", timeout=30))))
            for _ in range(12)
        ]
        for each in asking:
            each.start()
        wait_for(lambda: sum("too many questions" in each for each in answers) >= 7)
        goes_on.set()
        for each in asking:
            each.join(20)


@pytest.mark.parametrize("way", ["put", "call"])
def test_a_command_is_never_said_again_to_who_comes_late(tmp_path: Path, way: str) -> None:
    """Whatever is retained: a node that was told to exit would be told so with each start."""
    address = socket_in(tmp_path)
    a = Node("a", bind=address, retain="*")
    b = Node("b", peers=address, commands={"graceful": ["a"]}, import_="x").hears("graceful", "x")
    with a.relay:
        if way == "put":
            a.relay.publish().put("graceful", None)
        else:
            a.relay.call("graceful")
            a.relay.call("x")
        a.relay.publish().put("x", "last")
        with b.relay:
            wait_for(lambda: b.heard)
    assert b.heard == [("x", "last")]
