"""The examples of the relay are run as their READMEs say."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import requests

from tests.helpers import ROOT, Child, environment, wait_for
from tests.test_examples import EXAMPLES, command_of
from tests.workers.site import children


def copied(example: str, folder: Path) -> list[str]:
    """Copy an example, and answer the command of its README."""
    shutil.copytree(EXAMPLES / example, folder / "examples" / example)
    program, *arguments = command_of(EXAMPLES / example)
    assert program == "python"
    return [sys.executable, *arguments]


def test_the_vote_ends_with_its_result(tmp_path: Path) -> None:
    """Asked as a group, directly, and by a call; three processes answer each time."""
    done = subprocess.run(
        copied("voting", tmp_path),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 for tea, 1 for coffee") == 3
    assert re.search(r"  ada says tea\n  alan says tea\n  grace says coffee\n", done.stdout)
    assert done.stdout.endswith("the result: all three say the same\n")
    assert done.stderr == ""


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def test_a_post_to_one_site_is_known_to_all_four_processes(tmp_path: Path) -> None:
    """Nobody sells at the old price, whichever site and process is asked."""
    argv = copied("relay-cache-invalidation", tmp_path)
    folder = tmp_path / "examples/relay-cache-invalidation"
    east, west, relay = free_ports(3)
    for file in folder.glob("*.ini"):
        text = file.read_text().replace("8081", str(east)).replace("8082", str(west))
        file.write_text(text.replace("5555", str(relay)))
    with Child(argv, tmp_path) as both:
        wait_for(lambda: both.output.count("Ctrl-C to stop") == 2, 30)
        for name in ("east", "west"):
            both.wait_for_output(f"relay: {name} is up")
        sites = {pid for pid, line in children(both.pid).items() if "sitebus" in line}
        processes = {pid for site in sites for pid in children(site)}
        assert len(processes) == 4

        def prices() -> dict[int, tuple[str, str]]:
            """Answer what each process says, and from where."""
            told: dict[int, tuple[str, str]] = {}

            def all_have_answered() -> bool:
                for port in (east, west):
                    text = requests.get(f"http://127.0.0.1:{port}/", timeout=10).text
                    match = re.fullmatch(r"tea is (\S+), says process (\d+) from (.*)\n", text)
                    assert match, text
                    told[int(match[2])] = match[1], match[3]
                return told.keys() == processes

            wait_for(all_have_answered, 20)
            return told

        assert {price for price, _ in prices().values()} == {"3"}
        # By now each has it in memory.
        assert set(prices().values()) == {("3", "memory")}
        requests.post(f"http://127.0.0.1:{east}/?5", timeout=10)
        wait_for(lambda: {price for price, _ in prices().values()} == {"5"})
        both.signal(signal.SIGINT)
        for pid in sites:
            signal_site(pid)
        assert both.wait() == 0, both.output
        assert "Traceback" not in both.output


def signal_site(pid: int) -> None:
    """Do as a terminal does, which sends Ctrl-C to everybody in its foreground."""
    import os

    os.kill(pid, signal.SIGINT)


def test_the_examples_say_what_they_need() -> None:
    """Nothing but sitebus and the relay's extra."""
    for example in ("voting", "relay-cache-invalidation"):
        for file in (ROOT / "examples" / example).glob("*.py"):
            names = re.findall(r"^(?:import|from) (\w+)", file.read_text(), re.MULTILINE)
            assert set(names) <= {*sys.stdlib_module_names, "sitebus"}, file
