"""What bad input gets: one sentence, the right status, and nothing of ours besides."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.helpers import PATIENCE, environment

INI = "[server]\nbind = 127.0.0.1:0\n[mount /]\napp = hello:app\n"


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ("gone.ini", 66, "cannot read gone.ini: there is no such file"),
        ("-c .", 66, "cannot read .: it is a directory"),
        ("gone.py:app", 66, "there is no file"),
        ("", 64, "nothing to serve: name a site.ini"),
        (
            "--thread 3 hello:app",
            64,
            "unrecognized arguments: --thread - did you mean --threads?",
        ),
        ("hello:app --color pink", 64, "argument --color: invalid choice"),
        ("-q -v hello:app", 64, "not allowed with"),
        ("hello:app hello:app", 64, "two mounts on /: hello:app and hello:app"),
        ("/a=hello:app --mount /a/=hello:app", 64, "two mounts on /a"),
        ("--mount hello:app", 64, "expected PATH=APPLICATION"),
        ("/a//b=hello:app", 64, "/a//b=hello:app: mount path"),
        ("a.ini b.ini", 64, "one site.ini at a time, not a.ini and b.ini"),
        ("--factory -c site.ini", 64, "--interface and --factory are for an application"),
        ("-o threads=3 hello:app", 64, "-o threads=3: expected SECTION.KEY=VALUE"),
        ("-o server.thread=3 hello:app", 64, "did you mean 'threads'?"),
        ("-t 0 hello:app", 64, "--threads: threads = '0': expected a whole number"),
        ("-b 127.0.0.1:99999 hello:app", 64, "--bind: bind = '127.0.0.1:99999'"),
        ("--log-level loud hello:app", 64, "--log-level: level = 'loud'"),
        ("--chdir gone hello:app", 66, "cannot read gone: no such file"),
        ("--env-file gone hello:app", 66, "cannot read gone: no such file"),
        ("nope:app", 78, "there is no module 'nope'"),
        ("hello:ap", 78, "has no attribute 'ap'; did you mean 'app'?"),
        ("hello:number", 78, "cannot be called"),
        ("hello:greeter", 78, "factory"),
        ("static:gone", 66, "gone"),
        ("hello:app --access-log gone/access.log", 73, "gone/access.log"),
        ("hello:app -o logging.error=gone/error.log", 73, "gone/error.log"),
        ("-o server..threads=3 hello:app", 64, "nothing follows the dot of 'server.'"),
        ("-o server.timeout=30d hello:app", 64, "at most 1d"),
        ("-o server.linger=2d hello:app", 64, "at most 1d"),
        ("-o site.environment=embedded hello:app", 64, "expected development or production"),
        ("redirect:ftp://u:hunt/er@2@h/", 78, "'redirect:ftp://u:********@h/'"),
        ("-o server.adapter=cherot hello:app", 64, "did you mean 'cheroot'?"),
        ("-o server.tls_cert=hello.py hello:app", 78, "hello.py"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_status(
    command: Command, arguments: str, status: int, sentence: str
) -> None:
    """A service manager reads the status, a person the sentence."""
    done = command(*arguments.split(), *(["-b", "127.0.0.1:0"] if "-b" not in arguments else []))
    (told,) = done.stderr.splitlines()
    assert told.startswith("sitebus-serve: ")
    assert sentence in told
    assert done.returncode == status
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[server]\nthread = 3\n", "site.ini:2: [server] has no setting 'thread' - did you mean"),
        (
            "[mount /a]\napp = x\n[mount /a/]\napp = y\n",
            "site.ini:3: two mounts on /a, the other at",
        ),
        ("[site]\nname = x\n", "site.ini: nothing is mounted; add a [mount /] with an app"),
        (
            "[app:main]\nuse = egg:x\n[mount /]\napp = x\n",
            "sitebus-serve: site.ini:1: [app:main] makes this a PasteDep",
        ),
        ("no sense\n", "site.ini:1: the file has no [section]"),
        (
            f"{INI}tls_key = x\n",
            "site.ini:5: [mount] has no setting 'tls_key' - it belongs in [server]",
        ),
    ],
)
def test_a_bad_file_is_status_78(
    command: Command, directory: Path, text: str, sentence: str
) -> None:
    """The line begins with the place, so that an editor can jump there."""
    (directory / "site.ini").write_text(text)
    for arguments in (["site.ini"], ["--check"], ["--print-config"], ["--list-mounts"]):
        done = command(*arguments)
        if "nothing is mounted" in sentence and arguments[0].startswith(("--p", "--l")):
            continue
        (told,) = done.stderr.splitlines()
        assert told.startswith(sentence)
        assert done.returncode == 78


def test_every_mistake_of_a_file_is_told(command: Command) -> None:
    """In one run, each on its line."""
    path = Path(__file__).parent.parent / "config" / "bad.ini"
    done = command("--check", str(path))
    assert len(done.stderr.splitlines()) > 20
    assert all(line.startswith(f"{path}:") for line in done.stderr.splitlines())
    assert done.returncode == 78


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("broken:app", "ZeroDivisionError: division by zero"),
        ("typo.py", "SyntaxError: invalid syntax"),
        ("leaves:app", "SystemExit: I am a script"),
    ],
)
def test_an_applications_own_failure_shows_its_traceback(
    command: Command, target: str, error: str
) -> None:
    """Whoever wrote it needs the line; none of ours is in the way."""
    done = command(target, "-b", "127.0.0.1:0")
    *traceback, told = done.stderr.splitlines()
    assert traceback[-1].startswith(error.partition(":")[0])
    assert told.startswith("sitebus-serve: loading ")
    assert error in told
    assert "sitebus/" not in done.stderr
    assert "importlib" not in done.stderr
    assert done.returncode == 70


def test_a_port_in_use_names_its_holder(command: Command) -> None:
    """The next step is to look at that process."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("hello:app", "-b", f"127.0.0.1:{port}")
    (told,) = done.stderr.splitlines()
    assert f"127.0.0.1:{port}" in told
    assert "in use" in told
    if Path("/proc/self/fd").exists():
        assert str(os.getpid()) in told
    assert done.returncode == 69


def test_the_sockets_come_before_the_imports(command: Command, directory: Path) -> None:
    """An application that takes a minute to import should not do so for nothing."""
    (directory / "slow.py").write_text("raise AssertionError('imported')\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("slow:app", "-b", f"127.0.0.1:{taken.getsockname()[1]}")
    assert "imported" not in done.stderr
    assert done.returncode == 69


PORTS = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")

#: Give up the capability to use low ports, as far as there is one, and go on as the command.
WITHOUT_PERMISSION = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 10)  # PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE
os.execv(sys.executable, [sys.executable, "-m", "sitebus", *sys.argv[1:]])
"""


@pytest.mark.skipif(
    not PORTS.exists() or int(PORTS.read_text()) < 2, reason="any user may use any port here"
)
def test_a_port_that_is_not_permitted_is_status_77(directory: Path) -> None:
    """Only root may listen below 1024, on most systems."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PERMISSION, "hello:app", "-b", "127.0.0.1:1"],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    (told,) = done.stderr.splitlines()
    assert "127.0.0.1:1" in told
    assert done.returncode == 77


def test_a_mount_that_fails_takes_its_neighbours_along(command: Command) -> None:
    """Half a site is worse than none: nobody would notice."""
    done = command("/=hello:app", "/x=nope:app", "-b", "127.0.0.1:0")
    assert "there is no module 'nope'" in done.stderr
    assert "serving" not in done.stderr
    assert done.returncode == 78


def test_a_strangers_plugin_that_fails_is_named(command: Command, directory: Path) -> None:
    """Its traceback is in the log; the sentence says which listener it was."""
    (directory / "shop.py").write_text(
        "from sitebus.plugins import Plugin, listens\n"
        "class Cache(Plugin):\n"
        "    @listens('start')\n"
        "    def start(self):\n"
        "        raise ValueError('no cache\\nat all')\n"
    )
    (directory / "site.ini").write_text(f"{INI}[plugin cache]\nuse = shop:Cache\n")
    done = command("site.ini")
    told = done.stderr.splitlines()[-1]
    assert told.startswith("sitebus-serve: the site could not start: ValueError: no cache at all")
    assert "Cache.start" in told
    assert done.returncode == 70
    (directory / "site.ini").write_text(f"{INI}[plugin cache]\nuse = shop:Cache\nsize = 3\n")
    done = command("site.ini")
    assert "unexpected keyword argument 'size'" in done.stderr.splitlines()[-1]
    assert "sitebus/" not in done.stderr
    assert done.returncode == 70


def test_check_import_tells_what_each_application_is(command: Command) -> None:
    """And how sure that is, without binding anything."""
    done = command("--check=import", "/=hello:app", "/x=broken:app", "/y=nope:app")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows == [
        ["/", "hello:app", "wsgi", "CERTAIN"],
        ["/x", "broken:app", "FAILED"],
        ["/y", "nope:app", "FAILED"],
    ]
    assert "ZeroDivisionError" in done.stderr
    assert "no module 'nope'" in done.stderr
    assert done.returncode == 78


def test_env_files_are_checked(command: Command, directory: Path) -> None:
    """Like every other file."""
    (directory / "env").write_text("GOOD=1\nnot so good\n\n# fine\n=bad\n")
    done = command("hello:app", "--env-file", "env")
    assert done.stderr.splitlines() == ["env:2: expected NAME=value", "env:5: expected NAME=value"]
    assert done.returncode == 78


def test_a_reader_that_has_seen_enough_is_no_error(directory: Path) -> None:
    """``sitebus-serve --print-config | head -1`` prints one line and no complaint."""
    with subprocess.Popen(
        [sys.executable, "-m", "sitebus", "--print-config", "hello:app"],
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("text", "status", "sentence"),
    [
        ("[logging]\naccess = /gone/${file:pw}\n", 73, "cannot write the log '********'"),
        ("[server]\nbind = unix:/gone/${file:pw}\n", 69, "cannot listen on ********"),
        ("[server]\ntls_cert = ${file:pw}\n", 78, "tls_cert = '********': expected"),
    ],
)
def test_an_error_repeats_no_secret(
    command: Command, directory: Path, text: str, status: int, sentence: str
) -> None:
    """It is written to a log that others read."""
    (directory / "pw").write_text("hunter2")
    (directory / "site.ini").write_text(f"{text}[mount /]\napp = hello:app\n")
    done = command("site.ini")
    assert sentence in done.stderr
    assert "hunter2" not in done.stderr
    assert done.returncode == status


def test_a_plugin_of_ours_is_known_by_its_name(directory: Path, command: Command) -> None:
    """With the setting that is wrong, and what was meant."""
    (directory / "site.ini").write_text(
        "[mount /]\napp = hello:app\n"
        "[plugin pidfil]\npath = x\n"
        "[plugin pidfile]\npath = x\nuse = y:z\n"
        "[plugin drop_privileges]\nuser = nobodi\ngroup = 4x\n"
    )
    done = command("--check", "site.ini")
    assert done.returncode == 78
    assert done.stderr.splitlines() == [
        "site.ini:3: [plugin pidfil] needs 'use': a callable to import, such as module:name"
        " - did you mean [plugin pidfile]?",
        "site.ini:7: [plugin pidfile] has no setting 'use'",
        "site.ini:9: user = 'nobodi': expected a user of this system, by name or number"
        " - did you mean 'nobody'?",
        "site.ini:10: group = '4x': expected a group of this system, by name or number",
    ]


def test_a_directory_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    """A shell may stand where a deployment was."""
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", f"rmdir ../gone; exec {sys.executable} -m sitebus hello:app"],
        cwd=gone,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 66
    assert "the current directory is not there any more" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("tls_cert = hello.py", "hello.py"),
        ("proxy_protocol = all\nadapter = granian", "proxy_protocol"),
        (
            "adapter = waitress\nwaitress.trusted_proxy_headers = x-forwarded-for",
            "waitress.trusted_proxy_headers",
        ),
    ],
)
def test_a_server_that_could_not_be_made_is_found(
    command: Command, directory: Path, settings: str, sentence: str
) -> None:
    """What is wrong only once all settings are together is told by --check=import as well."""
    text = f"[server]\n{settings}\n[mount /]\napp = hello:app\n"
    (directory / "site.ini").write_text(text)
    done = command("--check=import", "site.ini")
    assert done.returncode not in (0, 70), done
    assert sentence in done.stderr
    assert "FAILED" in done.stdout
    assert "Traceback" not in done.stderr
