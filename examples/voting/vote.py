"""A vote over a relay: a chair, and voters that are processes of their own.

python vote.py              the chair: starts three voters, asks them, counts, ends
python vote.py ADDRESS NAME one voter, who looks for the chair at ADDRESS
"""

# ruff: noqa: T201 - what it prints is all it has to show

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import sitebus
from sitebus.relay import Relay
from sitebus.relay.subscriber import Subscriber

#: What each of them thinks; who counts does not know.
OPINIONS = {"ada": "tea", "grace": "coffee", "alan": "tea"}


def chair(address: str) -> bool:
    """Ask everybody in three ways, and answer whether they agree."""
    with Relay(sitebus.Engine(), node="chair", bind=address) as relay, ExitStack() as stack:
        ballots = relay.subscribe("group.ballots")
        publisher = relay.publish()
        for name in OPINIONS:
            argv = [sys.executable, __file__, address, name]
            stack.enter_context(subprocess.Popen(argv))
        # No pause that is hopefully long enough: who is there hears what is said from now on.
        if not relay.wait_peers(*OPINIONS, timeout=30):
            sys.exit("not all voters came")

        # From a group to all of its members, and from the members to a group: everybody hears the
        # question, and all answers come to one place.
        publisher.put("group.voters", "tea or coffee?")
        first = Counter(ballot["vote"] for ballot in take(ballots, len(OPINIONS)))
        print("asked as a group:", tell(first))

        # Directly: each member hears what is meant for it alone.
        publisher.put([f"direct.{name}" for name in OPINIONS], "tea or coffee?")
        second = Counter(ballot["vote"] for ballot in take(ballots, len(OPINIONS)))
        print("asked directly:  ", tell(second))

        # Both in one: a question to all, and the answers with the names of those who gave them.
        answers = relay.call("vote", "tea or coffee?", timeout=10)
        third = Counter(vote for votes in answers.values() for vote in votes)
        for name, votes in answers.items():
            print(f"  {name} says {votes[0]}")
        print("asked by a call: ", tell(third))

        publisher.put("group.voters", None)  # they may go
        return first == second == third


def voter(address: str, name: str) -> None:
    """Answer questions until there are no more."""
    engine = sitebus.Engine()
    engine.subscribe("vote", lambda question: OPINIONS[name])
    relay = Relay(engine, node=name, peers=address, import_="vote")
    # Before it begins: who is there then hears everything.
    questions = relay.subscribe(["group.voters", f"direct.{name}"])
    with relay:
        publisher = relay.publish()
        for question in questions:
            if question is None:
                break
            publisher.put("group.ballots", {"who": name, "vote": OPINIONS[name]})


def take(subscriber: Subscriber, count: int) -> list[Any]:
    """Answer so many messages, waiting for them."""
    return [subscriber.get(block=True, timeout=10) for _ in range(count)]


def tell(votes: Counter[str]) -> str:
    return ", ".join(f"{count} for {choice}" for choice, count in votes.most_common())


if __name__ == "__main__":
    if len(sys.argv) == 3:
        voter(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as folder:
            agree = chair(f"unix:{Path(folder) / 'vote.sock'}")
        print("the result:", "all three say the same" if agree else "somebody cannot count")
        sys.exit(0 if agree else 1)
