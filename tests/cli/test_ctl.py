"""``sitebus-ctl`` as an operator types it: real sites, real sockets, real exit statuses."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sitebus.cli.ctl import main
from sitebus.control.socketplugin import ControlSocket
from sitebus.process import Engine
from tests.control.clients import NOBODY, FakeCrew, Ticket, as_nobody, ask
from tests.helpers import PATIENCE, Child, environment, wait_for

SITE = Path(__file__).with_name("ctl_site.py")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


class Ctl:
    """The command, in a directory and a runtime directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runtime = directory / "run"
        self.runtime.mkdir(mode=0o700)
        self.running = ExitStack()

    @property
    def environment(self) -> dict[str, str]:
        return environment(XDG_RUNTIME_DIR=str(self.runtime), PYTHONWARNINGS="error")

    def argv(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "sitebus.cli.ctl", *map(str, arguments)]

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*arguments),
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def said(self, *arguments: str | Path) -> str:
        """Answer what it prints; it must go well."""
        done = self(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def refused(self, *arguments: str | Path) -> tuple[int, str]:
        """Answer the status and the sentence."""
        done = self(*arguments)
        assert done.stderr.startswith("sitebus-ctl: "), done
        assert done.stderr.count("\n") == 1, done
        return done.returncode, done.stderr.removeprefix("sitebus-ctl: ").rstrip()

    def serve(self, name: str = "shop", text: str = "", file: str = "site.ini") -> Child:
        """Start a site, and wait until it serves."""
        path = self.directory / file
        path.write_text(f"[site]\nname = {name}\n{text}")
        child = Child([sys.executable, SITE, file], self.directory, self.environment)
        self.running.enter_context(child)
        child.wait_for_output("^serving")
        return child


@pytest.fixture
def ctl(tmp_path: Path) -> Iterator[Ctl]:
    """Answer the command; sites that it was to talk to end with the test."""
    found = Ctl(tmp_path)
    with found.running:
        yield found


@pytest.fixture
def supervised(engine: Engine, tmp_path: Path) -> Iterator[tuple[Path, FakeCrew]]:
    """Answer the socket of a site with workers."""
    path = tmp_path / "workers.sock"
    plugin = ControlSocket(engine, path, name="many", publish=("shop.price",))
    crew = FakeCrew()
    engine.workers = crew
    plugin.subscribe()
    engine.start()
    yield path, crew
    if crew.running is not None:
        crew.running.end()
    engine.exit()
    plugin.unsubscribe()
    engine.workers = None


def test_the_site_of_this_directory_is_meant(ctl: Ctl) -> None:
    """Who stands in a project means its site."""
    site = ctl.serve()
    said = ctl.said("status")
    assert re.search(r"^shop  STARTED, ready$", said, re.MULTILINE)
    assert f"process   {site.pid}, for" in said
    assert f"serves    {ctl.directory / 'site.ini'}" in said


@pytest.mark.parametrize(
    "target",
    ["shop", "site.ini", "run/sitebus/shop.sock", "./site.ini"],
)
def test_a_site_can_be_named_in_every_way(ctl: Ctl, target: str) -> None:
    """By name, by file, and by socket."""
    ctl.serve()
    assert json.loads(ctl.said("-j", target, "status"))["name"] == "shop"
    assert json.loads(ctl.said(target, "status", "--json"))["name"] == "shop"


def test_of_several_sites_one_has_to_be_named(ctl: Ctl) -> None:
    """Ending the wrong one would be worse than asking."""
    ctl.serve("shop", file="shop.ini")
    ctl.serve("wiki", file="wiki.ini")
    status, sentence = ctl.refused("exit")
    assert status == 2
    assert "several sites are running: name one of" in sentence
    assert "shop.sock" in sentence
    assert "wiki.sock" in sentence
    assert json.loads(ctl.said("wiki", "status", "-j"))["name"] == "wiki"


def test_a_namesake_is_not_taken_for_it(ctl: Ctl) -> None:
    """Two directories, both with a site that nobody gave a name."""
    ctl.serve("site", file="first.ini")
    second = ctl.serve("site", file="second.ini")
    assert json.loads(ctl.said("second.ini", "status", "-j"))["pid"] == second.pid
    assert ctl.refused("site", "status")[0] == 2


def test_a_socket_elsewhere_is_found_by_the_file(ctl: Ctl) -> None:
    """The file says where it is."""
    ctl.serve(text="[control]\nsocket = here.sock\n")
    assert json.loads(ctl.said("status", "-j"))["name"] == "shop"
    assert ctl.refused("shop", "status") == (
        3,
        "no site named 'shop' is running; start it with sitebus-serve",
    )


def test_a_socket_of_another_site_is_not_used(ctl: Ctl) -> None:
    """Two files that name one socket: the command says so, and does nothing."""
    ctl.serve(text="[control]\nsocket = here.sock\n")
    (ctl.directory / "other.ini").write_text("[control]\nsocket = here.sock\n")
    status, sentence = ctl.refused("other.ini", "exit")
    assert status == 3
    assert f"is the socket of a site that serves {ctl.directory / 'site.ini'}" in sentence


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["status"], 3, "no site of this user is running"),
        (["shop", "status"], 3, "no site named 'shop' is running"),
        (["./x.sock", "status"], 3, "no site answers on ./x.sock"),
        (["wrong.ini", "status"], 2, "wrong.ini"),
        (["away.ini", "status"], 2, "away.ini"),
        (["off.ini", "status"], 3, "says [control] enabled = no"),
        ([], 2, "which command?"),
        (["stauts"], 2, "did you mean status?"),
        (["shop", "stauts"], 2, "which command?"),
        (["scale", "many"], 2, "'many' is not a number"),
        (["publish", "shop.price", "tea"], 2, """'tea' is not JSON; for a text, say '"tea"'"""),
        (["ready", "perhaps"], 2, "invalid choice: 'perhaps'"),
        (["status", "shop"], 2, "unrecognized arguments: shop (a TARGET comes before the command)"),
        (["status", "--shop"], 2, "unrecognized arguments: --shop; see"),
        (["wait", "ready", "--timeout", "soon"], 2, "'soon' is not a number of seconds"),
        (["wait", "ready", "--timeout", "0.2"], 3, "no site of this user is running"),
        (["status", "--nonsense"], 2, "unrecognized arguments: --nonsense"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    ctl: Ctl, arguments: list[str], status: int, sentence: str
) -> None:
    """And an exit status that says what kind it is."""
    (ctl.directory / "wrong.ini").write_text("[site]\nnaem = shop\n")
    (ctl.directory / "off.ini").write_text("[control]\nenabled = no\n")
    found, said = ctl.refused(*arguments)
    assert (found, sentence in said) == (status, True), said


def test_a_stopped_site_can_be_started(ctl: Ctl) -> None:
    """Each waits until it is done."""
    ctl.serve()
    assert " stop done, " in ctl.said("stop")
    assert "STOPPED, not ready (the site is STOPPED)" in ctl.said("status")
    assert " start done, " in ctl.said("start")
    assert "STARTED, ready" in ctl.said("status")


def test_an_exit_ends_the_site(ctl: Ctl) -> None:
    """And leaves no socket behind."""
    site = ctl.serve()
    assert " exit done, " in ctl.said("exit")
    assert site.wait() == 0
    assert list((ctl.runtime / "sitebus").iterdir()) == []
    assert ctl.refused("status")[0] == 3


def test_a_restart_brings_the_same_process_back(ctl: Ctl) -> None:
    """The same pid, other code, and no client is turned away meanwhile."""
    site = ctl.serve()
    path = ctl.runtime / "sitebus" / "shop.sock"
    answers: Counter[object] = Counter()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.002):
            try:
                answers[ask(path, "GET", "/v1/version").status] += 1
            except OSError as error:
                answers[repr(error)] += 1

    boot = json.loads(ctl.said("status", "-j"))["boot"]
    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(3):
        assert ctl.said("restart") == f"shop serves again, as process {site.pid}\n"
    over.set()
    looking.join()
    assert json.loads(ctl.said("status", "-j"))["boot"] != boot
    assert set(answers) == {200}


def test_a_restart_that_is_refused_is_a_failure(ctl: Ctl) -> None:
    """The old code goes on; a script that deploys must not go on."""
    ctl.serve()
    (ctl.directory / "site.ini").write_text("[site]\nnaem = shop\n")
    done = ctl("shop", "restart")
    assert done.returncode == 1
    assert "restart failed" in done.stdout
    assert "naem" in done.stdout
    assert "STARTED, ready" in ctl.said("shop", "status")


def test_a_restart_takes_up_another_socket(ctl: Ctl) -> None:
    """And leaves nothing where it was before."""
    site = ctl.serve(text="[control]\nsocket = before.sock\n")
    path = ctl.directory / "site.ini"
    path.write_text(path.read_text().replace("before", "after"))
    assert ctl.said("./before.sock", "restart") == f"shop serves again, as process {site.pid}\n"
    assert [each.name for each in ctl.directory.glob("*.sock")] == ["after.sock"]
    assert ctl.said("status").startswith("shop")


def test_waiting_for_a_site_that_is_not_there_yet(ctl: Ctl) -> None:
    """A script starts the site in the background, and goes on when it serves."""
    argv = ctl.argv("shop", "wait", "ready", "--timeout", "20")
    with Child(argv, ctl.directory, ctl.environment) as waiting:
        ctl.serve()
        assert waiting.wait() == 0
        assert "STARTED, ready" in waiting.output


def test_waiting_ends_when_requests_are_wanted_again(ctl: Ctl) -> None:
    """By what happens, not by looking again and again."""
    ctl.serve()
    assert ctl.said("ready", "off") == "requests are not wanted; not ready\n"
    assert "not ready (an operator has said: ready off)" in ctl.said("status")
    status, sentence = ctl.refused("wait", "ready", "--timeout", "0.2")
    assert (status, sentence) == (1, "not ready in time: an operator has said: ready off")
    with Child(ctl.argv("wait", "ready"), ctl.directory, ctl.environment) as waiting:
        assert ctl.said("ready", "on") == "requests are wanted; ready\n"
        assert waiting.wait() == 0


def test_publishing(ctl: Ctl) -> None:
    """Values are JSON."""
    site = ctl.serve(text="[control]\npublish = shop.price\n")
    assert ctl.said("publish", "shop.price", '"tea"', "3") == "[null]\n"
    site.wait_for_output("^price tea 3$")
    status, sentence = ctl.refused("publish", "exit")
    assert (status, "not open to the control socket" in sentence) == (4, True)


def test_events_can_be_followed_through_a_restart(ctl: Ctl) -> None:
    """Whoever watches a deployment sees it all."""
    ctl.serve()
    assert re.search(r"^\d\d:\d\d:\d\d started$", ctl.said("events"), re.MULTILINE)
    argv = ctl.argv("events", "-f", "started", "exit")
    with Child(argv, ctl.directory, ctl.environment) as watching:
        watching.wait_for_output("started")
        ctl.said("restart")
        watching.wait_for_output(r"(?s)started.*exit.*started")
        ctl.said("exit")
        assert watching.wait() == 0


def test_the_log_can_be_read(ctl: Ctl) -> None:
    """Without knowing where it is written."""
    ctl.serve()
    ctl.said("graceful")
    assert re.search(r"^\d\d:\d\d:\d\d INFO Bus graceful$", ctl.said("logs"), re.MULTILINE)
    lines = [json.loads(line) for line in ctl.said("logs", "-j").splitlines()]
    told = [(each["data"]["level"], each["data"]["message"]) for each in lines]
    assert (20, "Bus graceful") in told


def test_tables_are_for_people(ctl: Ctl) -> None:
    """Each of these must at least be one."""
    ctl.serve()
    assert re.search(r"^CHANNEL +PRIORITY +LISTENER", ctl.said("bus"))
    assert re.search(r"^name = shop +# site.ini:2$", ctl.said("config"), re.MULTILINE)
    assert "MainThread" in ctl.said("threads")
    assert json.loads(ctl.said("metrics"))["in_flight"] == 0
    assert ctl.said("workers") == "this site is one process, without workers\n"
    ctl.said("reopen")
    assert "reopen done" in ctl.said("jobs")


def test_that_nothing_was_asked_for_is_said(ctl: Ctl) -> None:
    """An empty line could be anything."""
    ctl.serve()
    assert ctl.said("jobs") == "nothing was asked for since the site began\n"
    assert json.loads(ctl.said("jobs", "-j")) == {"jobs": []}


def test_workers_are_a_table(ctl: Ctl, supervised: tuple[Path, FakeCrew]) -> None:
    """What an operator looks at when something is slow."""
    path, _ = supervised
    heading, first, second = ctl.said(path, "workers").splitlines()
    assert heading.split()[:4] == ["WORKER", "PID", "STATE", "FOR"]
    assert first.split()[:3] == ["1", "1001", "READY"]
    assert "50 MB" in second
    assert "workers   2 of 2 ready" in ctl.said(path, "status")


def test_workers_can_be_told_something(ctl: Ctl, supervised: tuple[Path, FakeCrew]) -> None:
    """Each command reaches the crew."""
    path, crew = supervised
    ctl.said(path, "kill", "2")
    assert "shop.py" in ctl.said(path, "dump", "1")
    assert "scale to 3 workers running" in ctl.said(path, "scale", "3")
    assert crew.asked == [("kill", 2), ("dump", 1), ("scale", 3)]
    status, sentence = ctl.refused(path, "drain", "1")
    assert status == 1
    assert "is running; wait for it to end" in sentence


def started(crew: FakeCrew) -> Ticket:
    found = wait_for(lambda: crew.running, PATIENCE, "the roll to begin")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("state", "reason", "status"),
    [("done", "", 0), ("aborted", "worker 1 did not become ready", 1)],
)
def test_a_roll_can_be_waited_for(
    ctl: Ctl, supervised: tuple[Path, FakeCrew], state: str, reason: str, status: int
) -> None:
    """A release that does not boot stops the script that deploys it."""
    path, crew = supervised
    argv = ctl.argv(path, "graceful", "--wait")
    with Child(argv, ctl.directory, ctl.environment) as waiting:
        started(crew).end(state, reason)
        assert waiting.wait() == status
        assert f"graceful {state}" in waiting.output
        assert reason in waiting.output


def test_waiting_has_an_end(ctl: Ctl, supervised: tuple[Path, FakeCrew]) -> None:
    """The roll goes on, and the status tells that it was not seen to end."""
    path, _ = supervised
    status, sentence = ctl.refused(path, "graceful", "--wait", "--timeout", "0.2")
    assert status == 1
    assert sentence.endswith("it goes on")


def on_a_terminal(argv: list[str], env: dict[str, str], then: Callable[[], object]) -> str:
    """Answer what is written to a terminal."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    then()
    parts = []
    with open(ours, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(4096):
                parts.append(part)
        except OSError:
            pass  # the other end is closed
    child.wait(PATIENCE)
    return b"".join(parts).decode()


def test_on_a_terminal_a_roll_shows_how_it_comes_on(
    ctl: Ctl, supervised: tuple[Path, FakeCrew]
) -> None:
    """In one line, which is gone at the end; and in colours, which are nowhere else."""
    path, crew = supervised
    env = {k: v for k, v in ctl.environment.items() if k != "NO_COLOR"} | {"TERM": "xterm"}
    looked = threading.Event()
    pictures = crew.pictures

    def look() -> object:
        looked.set()
        return pictures()

    crew.pictures = look  # type: ignore[method-assign, assignment]

    def end() -> None:
        ticket = started(crew)
        assert looked.wait(PATIENCE)
        ticket.end()

    shown = on_a_terminal(ctl.argv(path, "graceful", "--wait"), env, end)
    line = re.search(r"\r\x1b\[K(c\d+ graceful running \(0 of 4 steps\), .*?)\r\x1b\[K", shown)
    assert line is not None, shown
    assert line[1].endswith("; workers: 2 ready")
    assert "\x1b[32mready\x1b[0m" in on_a_terminal(ctl.argv(path, "status"), env, lambda: None)


@needs_root
def test_a_stranger_is_denied(ctl: Ctl) -> None:
    """By the file, and where that lets them in, by the site."""
    ctl.serve(text="[control]\nsocket = here.sock\nmode = 666\n")
    for folder in ctl.directory.parents:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)
    ctl.directory.chmod(0o711)
    path = ctl.directory / "here.sock"

    def stop() -> list[object]:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            status = main([str(path), "stop"])
        return [status, said.getvalue()]

    status, said = as_nobody(stop)
    assert status == 4
    assert f"user {NOBODY} may not control this site" in said
    path.chmod(0o600)
    status, said = as_nobody(stop)
    assert status == 4
    assert "this user may not use the control socket" in said


def test_the_help_names_every_command(ctl: Ctl) -> None:
    """Nobody remembers them all."""
    said = ctl.said("--help")
    for command in ("status", "graceful", "wait", "publish"):
        assert re.search(rf"^  {command} ", said, re.MULTILINE)
    assert "--wait" in ctl.said("graceful", "--help")


def test_it_starts_fast(ctl: Ctl) -> None:
    """Nothing heavy is imported to ask one question."""
    ctl.serve()
    program = (
        "import sys; from sitebus.cli.ctl import main; main(['status']);"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    argv = [sys.executable, "-c", program]
    done = subprocess.run(
        argv, cwd=ctl.directory, env=ctl.environment, capture_output=True, text=True, check=True
    )
    heavy = {"http", "logging", "asyncio", "ssl", "subprocess", "email", "tempfile", "requests"}
    assert not heavy & set(done.stderr.split())
    assert not {"sitebus.config", "sitebus.servers", "sitebus.assembly"} & set(done.stderr.split())
