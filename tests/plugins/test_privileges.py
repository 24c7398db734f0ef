"""Privileges that were dropped are gone, all of them, or the site does not start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from sitebus.config.kinds import BadValue, Context
from sitebus.errors import CannotDropPrivileges, UnknownAccount
from sitebus.plugins.privileges import UMASK, DropPrivileges
from sitebus.process import Engine, Priority
from tests.helpers import PATIENCE, ROOT, Child, SiteProcess, environment, wait_for
from tests.plugins.launching import (
    Launched,
    Launcher,
    Python,
    finished,
    launching,
    public_folder,
    python_for_everyone,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such users")

as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become others"
)

NOBODY = 65534

#: Starts a bus that becomes somebody, and tells who it is then.
PROGRAM = """
import ctypes, json, os, sys
from sitebus.errors import SitebusError
from sitebus.plugins.privileges import DropPrivileges
from sitebus.process import Engine
told = json.loads(sys.argv[1])
{before}
bus = Engine()
try:
    DropPrivileges(bus, **told).subscribe()
    bus.start()
{between}
except SitebusError as error:
    print(error)
    sys.exit(error.status)
umask = os.umask(0)
with open("/proc/self/status") as file:
    status = file.read().replace(":", " ").splitlines()
print(json.dumps(dict(
    uids=os.getresuid(), gids=os.getresgid(), groups=sorted(os.getgroups()), umask=umask,
    env=[os.environ.get(name) for name in ("HOME", "USER", "LOGNAME")],
    status=dict(line.split()[:2] for line in status if len(line.split()) > 1),
)))
bus.exit()
"""


def run(
    before: str = "", between: str = "", groups: tuple[int, ...] = (0, 4, 27), **told: object
) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, as root with root's usual groups."""
    program = PROGRAM.format(before=before, between=textwrap.indent(between, "    "))
    python = python_for_everyone()
    env = environment(HOME="/root", USER="root", LOGNAME="root")
    env["PYTHONPATH"] += os.pathsep + python.library
    return subprocess.run(
        [python.path, "-W", "error", "-c", program, json.dumps(told)],
        extra_groups=groups,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def who(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a successful run said of itself."""
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@as_root
@pytest.mark.parametrize("user", ["nobody", str(NOBODY), NOBODY])
def test_a_user_alone_brings_its_own_groups(user: str | int) -> None:
    """Root's supplementary groups, disk among them, are as good as root."""
    import pwd

    account = pwd.getpwnam("nobody")
    said = who(run(uid=user))
    assert said["uids"] == [account.pw_uid] * 3
    assert said["gids"] == [account.pw_gid] * 3
    assert said["groups"] == sorted(os.getgrouplist("nobody", account.pw_gid))
    assert said["env"] == [account.pw_dir, "nobody", "nobody"]


@as_root
def test_a_group_of_its_own_can_be_named() -> None:
    """And is then the main one."""
    import grp

    daemon = grp.getgrnam("daemon").gr_gid
    said = who(run(uid="nobody", gid="daemon"))
    assert said["gids"] == [daemon] * 3
    assert 0 not in said["groups"]


@as_root
def test_a_number_without_an_account_will_do_with_a_group() -> None:
    """As in containers: no groups, no name, and nobody's home."""
    said = who(run(uid=54321, gid=54322))
    assert (said["uids"], said["gids"], said["groups"]) == ([54321] * 3, [54322] * 3, [])
    assert said["env"] == ["/", None, None]


@as_root
def test_nothing_of_root_is_left() -> None:
    """Neither an id nor a capability."""
    status = who(run(uid="nobody"))["status"]
    assert status["CapEff"] == status["CapPrm"] == "0" * 16


@as_root
def test_mask_and_renunciation_stand() -> None:
    """With neither of them, things stay as they were."""
    said = who(run(before="os.umask(0o22)", uid="nobody", umask=0o77, no_new_privs=True))
    assert said["umask"] == 0o77
    assert said["status"]["NoNewPrivs"] == "1"
    said = who(run(before="os.umask(0o22)", uid="nobody"))
    assert said["umask"] == 0o22
    assert said["status"]["NoNewPrivs"] == "0"


@as_root
def test_a_second_start_finds_it_done() -> None:
    """And so does the next image, which is not root any more."""
    again = "bus.stop()\nbus.start()"
    assert who(run(between=again, uid="nobody"))["uids"] == [NOBODY] * 3
    already = "os.setgroups([]); os.setresgid(65534,65534,65534); os.setresuid(65534,65534,65534)"
    assert who(run(before=already, uid="nobody"))["uids"] == [NOBODY] * 3


@as_root
def test_a_way_back_is_found_and_the_start_refused() -> None:
    """SECBIT_NO_SETUID_FIXUP keeps the capabilities of root over the change of the user."""
    keep = "assert ctypes.CDLL(None).prctl(28, 4, 0, 0, 0) == 0"
    done = run(before=keep, uid="nobody")
    assert done.returncode == 70
    assert "cannot run safely as nobody (65534)" in done.stdout
    assert "could make itself root again" in done.stdout


@as_root
def test_who_is_not_root_stays_who_it_is() -> None:
    """Status 77, before anything was bound or made."""
    other = "os.setgroups([]); os.setresgid(1, 1, 1); os.setresuid(1, 1, 1)"
    made = 'bus.subscribe("start", lambda: print("bound"), 60)'
    done = run(before=other, between="", uid="nobody")
    assert done.returncode == 77
    assert "cannot run as nobody (65534)" in done.stdout
    assert "this process is daemon (1)" in done.stdout
    done = run(before=f"{other}\nEngine.start = (lambda start: lambda bus: ({made}, start(bus)))"
               "(Engine.start)", uid="nobody")  # fmt: skip
    assert (done.returncode, "bound" in done.stdout) == (77, False)


@as_root
def test_a_group_alone_does_not_leave_root_in_disguise() -> None:
    """The files would be the group's, and the process still root's."""
    done = run(gid="daemon")
    assert done.returncode == 78
    assert "the process would stay root; name the user as well" in done.stdout


@as_root
def test_a_number_without_an_account_has_no_group() -> None:
    """It would keep root's."""
    done = run(uid=54321)
    assert done.returncode == 78
    assert "name the group as well" in done.stdout


@as_root
def test_a_python_that_the_user_may_not_read_is_told(tmp_path: Path) -> None:
    """Otherwise the next import would say that there is no module named email."""
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "os.py").touch(mode=0o600)
    done = run(before=f"os.__file__ = {str(hidden / 'os.py')!r}", uid="nobody")
    assert done.returncode == 78
    assert f"may not read {hidden}/os.py" in done.stdout


@pytest.mark.parametrize("call", ["subscribe", "check", "start", "trial"])
def test_an_unknown_user_is_refused_wherever_it_is_noticed(bus: Engine, call: str) -> None:
    """With the name that was likely meant."""
    plugin = DropPrivileges(bus)
    plugin.uid = "nobodi"
    with pytest.raises(UnknownAccount, match="no user 'nobodi'; did you mean 'nobody'") as caught:
        getattr(plugin, call)()
    assert caught.value.status == 78


def test_an_unknown_group_is_refused(bus: Engine) -> None:
    """As is a number that is none."""
    with pytest.raises(UnknownAccount, match="there is no group 'daemons'; did you mean 'daemon'"):
        DropPrivileges(bus, uid="nobody", gid="daemons").subscribe()
    for number in (-1, 2**32 - 1, "99999999999"):
        with pytest.raises(UnknownAccount, match="write a name or a number"):
            DropPrivileges(bus, uid=number).subscribe()


def test_names_and_numbers_are_the_same(bus: Engine) -> None:
    """Code for wspbus reads the numbers back."""
    plugin = DropPrivileges(bus, 0o27, b"nobody", "0")
    assert (plugin.umask, plugin.uid, plugin.gid) == (0o27, NOBODY, 0)
    assert DropPrivileges(bus).uid is None


def test_it_comes_after_the_pid_file_and_before_the_imports(bus: Engine) -> None:
    """Applications are never imported as root."""
    DropPrivileges(bus, umask=0o22).subscribe()
    (late,) = [
        each.priority
        for each in bus.describe().channels["start"]
        if each.name.endswith("DropPrivileges.start")
    ]
    assert Priority.PIDFILE < late < Priority.IMPORT


def test_a_trial_in_this_very_process_changes_nothing(bus: Engine) -> None:
    """Only a child that was made for it may give itself up."""
    if os.geteuid() != 0:
        pytest.skip("would be refused")
    before = os.getresuid(), os.getresgid(), os.getgroups(), dict(os.environ)
    plugin = DropPrivileges(bus, uid="nobody")
    try:
        plugin.trial()
    except CannotDropPrivileges:
        pass  # nobody may not run this Python
    assert (os.getresuid(), os.getresgid(), os.getgroups(), dict(os.environ)) == before


@as_root
def test_a_trial_in_a_child_goes_on_as_the_user(tmp_path: Path) -> None:
    """What it imports may write files, which must not be root's."""
    program = """
        import os
        from sitebus.plugins.privileges import DropPrivileges
        from sitebus.process import Engine
        class Trial(Engine):
            trying = True
        bus = Trial()
        DropPrivileges(bus, uid="nobody").subscribe()
        bus.publish("trial")
        print(os.getresuid())
    """
    python = python_for_everyone()
    env = {
        "PYTHONPATH": os.pathsep.join(filter(None, (environment()["PYTHONPATH"], python.library)))
    }
    with Child([python.path, "-c", textwrap.dedent(program)], env=env) as child:
        assert child.wait() == 0
        assert "(65534, 65534, 65534)" in child.output


@pytest.mark.parametrize(("text", "mask"), [("022", 0o22), ("77", 0o77), ("0o007", 7), ("0", 0)])
def test_a_mask_is_octal(text: str, mask: int) -> None:
    """As in the shell, with or without the zero."""
    assert UMASK.parse(text, Context(Path())) == mask
    assert UMASK.parse(UMASK.format(mask), Context(Path())) == mask


@pytest.mark.parametrize("text", ["", "8", "1777", "-1", "u=rwx", "00022"])
def test_what_is_no_mask_is_refused(text: str) -> None:
    """1777 are a directory's permissions, and no mask."""
    with pytest.raises(BadValue, match="octal"):
        UMASK.parse(text, Context(Path()))


# The whole site.


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    with public_folder() as folder, launching(folder) as launcher:
        yield launcher


@pytest.fixture
def python() -> Python:
    return python_for_everyone()


@as_root
def test_a_site_serves_restarts_and_ends_as_another_user(
    launcher: Launcher, python: Python
) -> None:
    """A daemon, a pid file, and a user who may do none of it."""
    run_dir = launcher.folder / "run"
    run_dir.mkdir()
    os.chown(run_dir, NOBODY, NOBODY)
    launcher.pidfile = run_dir / "site.pid"
    done = launcher.launch(python=python, drop={"uid": "nobody", "umask": 0o27})
    assert done.status == 0, done.err
    first = requests.get(done.url, timeout=PATIENCE).json()
    assert first["users"] == [NOBODY] * 3
    assert set(first["groups"]) == {NOBODY}
    assert (first["umask"], first["home"]) == (0o27, "/nonexistent")

    requests.get(f"{done.url}/restart", timeout=PATIENCE)
    said = wait_for(lambda: _of_another_boot(done.url, first["boot"]), PATIENCE)

    assert (said["pid"], said["users"]) == (first["pid"], [NOBODY] * 3)
    assert launcher.pid == said["pid"]
    launcher.end()
    assert not launcher.pidfile.exists()


def _of_another_boot(url: str, boot: str) -> dict[str, Any]:
    said: dict[str, Any] = requests.get(url, timeout=PATIENCE).json()
    return said if said["boot"] != boot else {}


def start_example(launcher: Launcher, python: Python) -> Launched:
    """Do what the example's README says, on a port that is free."""
    shutil.copytree(ROOT / "examples", launcher.folder / "examples")
    prepare = launcher.folder / "examples/daemon/prepare.sh"
    subprocess.run(["sh", prepare], check=True, env=environment())
    launcher.pidfile = prepare.parent / "run/site.pid"
    command = ["-m", "sitebus", "examples/daemon/site.ini", "--bind", "127.0.0.1:0"]
    return finished(launcher.spawn(command, python=python))


@as_root
def test_the_example_serves_as_nobody(launcher: Launcher, python: Python) -> None:
    """As its README says, up to the end of it."""
    done = start_example(launcher, python)
    assert done.status == 0, done.err
    answer = requests.get(f"{done.url}/world", timeout=PATIENCE)
    assert answer.text == "Hello from sitebus: you asked for /world\n"
    status = Path(f"/proc/{launcher.pid}/status").read_text()
    assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}" in status
    assert "NoNewPrivs:\t1" in status
    folder = launcher.folder / "examples/daemon"
    launcher.end()
    assert os.listdir(folder / "run") == []
    assert "GET /world" in (folder / "access.log").read_text()
    assert "WARNING" not in (folder / "site.log").read_text()


@as_root
def test_a_restart_that_could_not_read_a_key_is_refused_while_the_site_serves(
    launcher: Launcher, python: Python
) -> None:
    """Root could read it at the start; the next image is nobody, and would not come up."""
    if not shutil.which("openssl") and "CI" not in os.environ:
        pytest.skip("needs the openssl command")
    shutil.copytree(ROOT / "examples", launcher.folder / "examples")
    certificate = launcher.folder / "examples/tls/certificate.sh"
    subprocess.run(["sh", certificate], check=True, capture_output=True, env=environment())
    certificate.with_name("certificate.pem").chmod(0o644)
    site = launcher.folder / "examples/tls/site.ini"
    log = launcher.folder / "log"
    (launcher.folder / "run").mkdir()
    os.chown(launcher.folder / "run", NOBODY, NOBODY)
    launcher.pidfile = launcher.folder / "run/site.pid"
    extra = f"""
[plugin daemon]
stderr = {log}
[plugin pidfile]
path = {launcher.pidfile}
[plugin drop_privileges]
user = nobody
"""
    site.write_text(site.read_text() + extra)
    command = ["-m", "sitebus", str(site), "--bind", "127.0.0.1:0"]
    done = finished(launcher.spawn(command, python=python))
    assert done.status == 0, done.err

    os.kill(launcher.pid, signal.SIGUSR2)

    wait_for(lambda: "goes on serving" in log.read_text(), PATIENCE, "the refusal")
    assert "key.pem: this user may not read it" in log.read_text()
    assert "Bus STOPPING" not in log.read_text()
    trusted = str(site.with_name("certificate.pem"))
    assert requests.get(done.url, verify=trusted, timeout=PATIENCE).status_code == 200
    launcher.end()


def test_on_a_foreign_bus_nothing_is_served_after_a_refusal() -> None:
    """It would call its other listeners, the server's among them, and only then give up."""
    wspbus = pytest.importorskip("cherrypy.process.wspbus")
    bus, served = wspbus.Bus(), list[int]()
    plugin = DropPrivileges(bus)
    plugin.subscribe()
    bus.subscribe("start", lambda: served.append(1), 75)
    plugin.uid = "nobodi"
    with pytest.raises(SystemExit) as left:
        bus.publish("start")
    assert (left.value.code, served) == (78, [])


def test_the_mask_is_that_of_logs_and_pid_file_as_well(tmp_path: Path) -> None:
    """They are opened before anything is dropped, and may tell as much as the site's own files."""
    (tmp_path / "masked.py").write_text(
        "open('own', 'w').close()\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return []\n"
    )
    before = os.umask(0o022)
    try:
        site = SiteProcess(
            *("masked:application", "-b", "127.0.0.1:0", "--umask", "077"),
            *("-o", "logging.error=error.log", "--access-log", "access.log"),
            *("-o", "plugin pidfile.path=site.pid"),
            cwd=tmp_path,
        )
    finally:
        os.umask(before)
    with site:
        site.wait_for_output("serving on")
        names = ("own", "error.log", "access.log", "site.pid")
        modes = {name: (tmp_path / name).stat().st_mode & 0o077 for name in names}
        assert modes == dict.fromkeys(names, 0)
        assert site.stop() == 0
