"""Questions and their answers, and the small parts of the relay that know no other node."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sitebus.errors import MessageTooLarge, NotJson, RelayNoAnswer, RelayRemoteError
from sitebus.relay import calls, ports
from sitebus.relay.calls import Question, Questions
from sitebus.relay.frames import LIMIT
from sitebus.relay.room import ENVELOPE, check_room


def test_a_question_waits_for_those_who_are_to_answer() -> None:
    """And no longer; they are told in order."""
    question = Question("ask", ["b", "a"], open_ended=False)
    question.hear("b", calls.result([2]))
    question.hear("a", calls.result([1]))
    assert list(question.wait(60).items()) == [("a", [1]), ("b", [2])]


def test_the_first_answer_of_a_node_counts() -> None:
    """One that comes twice, or after its end was told, changes nothing."""
    question = Question("ask", ["a", "b"], open_ended=False)
    question.hear("a", calls.result(1))
    question.hear("a", calls.result(2))
    question.lose("b", "it is gone")
    question.lose("a", "it is gone")
    question.hear("b", calls.result(3))
    answers = question.wait(60)
    assert answers["a"] == 1
    assert isinstance(answers["b"], RelayNoAnswer)


@pytest.mark.parametrize("told", [None, [], "text", {}, {"results": 1}, {"error": None}])
def test_an_answer_that_makes_no_sense_is_an_error(told: object) -> None:
    """It may come from another release."""
    question = Question("ask", ["a"], open_ended=False)
    question.hear("a", told)
    answer = question.wait(1)["a"]
    assert isinstance(answer, RelayRemoteError)
    assert "nothing of use" in str(answer)


def test_none_is_an_answer() -> None:
    """Most listeners return nothing."""
    question = Question("ask", ["a"], open_ended=False)
    question.hear("a", calls.result(None))
    assert question.wait(1) == {"a": None}


def test_where_others_may_answer_it_takes_its_time() -> None:
    """Those who were not expected are heard as well."""
    question = Question("ask", [], open_ended=True)
    threading.Timer(0.05, lambda: question.hear("x", calls.result(1))).start()
    assert question.wait(0.3) == {"x": 1}


def test_an_answer_that_nobody_waits_for_is_nobodys() -> None:
    """Too late, or made up by a stranger."""
    questions = Questions()
    question = Question("ask", ["a"], open_ended=False)
    questions.add("1", question)
    questions.hear("2", "a", calls.result("no"))
    questions.remove("1")
    questions.remove("1")
    questions.hear("1", "a", calls.result("late"))
    questions.lose("a", "it is gone")
    assert isinstance(question.wait(0)["a"], RelayNoAnswer)


def test_a_long_reason_is_one_short_line() -> None:
    """It is to fit into a message, whatever a listener has raised."""
    assert calls.error("a\n b")["error"] == "a b"
    assert len(calls.error("x" * 10_000)["error"]) == 4000


def test_there_is_room_for_what_an_envelope_adds() -> None:
    """Else a message would fail where nobody asks any more."""
    size = LIMIT - ENVELOPE - len('{"ch":"c","args":[""],"kw":{}}')
    check_room("c", ["x" * size], {})
    with pytest.raises(MessageTooLarge):
        check_room("c", ["x" * (size + 1)], {})
    with pytest.raises(NotJson):
        check_room("c", [], {"x": {1}})


def test_ports_that_the_system_gives_away_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it does not say, none are doubted."""
    told = tmp_path / "range"
    monkeypatch.setattr(ports, "_RANGE", told)
    assert list(ports.doubts_about(["tcp://127.0.0.1:40000"])) == []
    told.write_text("10000\t20000\n")
    addresses = [
        "tcp://127.0.0.1:9999",
        "tcp://[::1]:20000",
        "unix:/run/x",
        "tcp://127.0.0.1:20001",
    ]
    (doubt,) = ports.doubts_about(addresses)
    assert doubt.startswith("tcp://[::1]:20000 has a port")
