"""What a serving process has imported: cheroot's modules, ours, and next to nothing else."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.helpers import PATIENCE, URL, Child, environment

#: What the command needs beyond cheroot: its arguments, ``python -m``, signals and the collector of
#: garbage. Where gettext is not cheroot's already, it brings the locale.
COMMAND = {"argparse", "gc", "gettext", "locale", "_locale", "runpy", "signal"}
#: What ``sitebus.quickstart`` needs beyond cheroot: neither arguments nor ``python -m``.
QUICK = {"signal"}
#: Of ours, what a site without a file does not need.
FOR_FILES = {"sitebus.config.sources", "sitebus.config.tokens"}
FOR_THE_COMMAND = {"sitebus.cli.arguments", "sitebus.cli.serve"}
#: What a site with a control socket, as it has by default, does without while nobody asks it, and
#: what is only for those who trust proxies, speak TLS, have workers, or give flags.
FOR_SOME = {
    "argparse",
    "json",
    "ipaddress",
    "sitebus.cli.flags",
    *(f"sitebus.control.{name}" for name in ("api", "checks", "connections", "jobs", "peers")),
    *(f"sitebus.control.{name}" for name in ("families", "pictures", "readiness", "wire")),
    *(f"sitebus.servers.{name}" for name in ("client_certs", "forwarded", "proxy_protocol")),
    "sitebus.workers.launch",
}

APPLICATION = """\
import sys


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["\\n".join(sorted(sys.modules)).encode()]
"""
SITE = """\
[server]
bind = 127.0.0.1:0

[control]
socket = control.sock

[mount /]
app = said:app
"""
QUICKSTART = (
    APPLICATION
    + """\


if __name__ == "__main__":
    import sitebus

    sitebus.quickstart(app, bind="127.0.0.1:0")
"""
)


@pytest.fixture(scope="module")
def with_cheroot() -> set[str]:
    """The modules of a process that could serve by cheroot alone."""
    program = "import json, sys, cheroot.wsgi, cheroot.ssl; print(json.dumps(list(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    return set(json.loads(answer.stdout))


def modules_of(site: Child) -> set[str]:
    """Answer what the application of *site* saw."""
    with urlopen(site.wait_for_output(URL).group(), timeout=PATIENCE) as response:
        return set(response.read().decode().split())


def of_the_library(modules: set[str]) -> set[str]:
    """Answer those of the standard library, packages for their parts."""
    return {name.partition(".")[0] for name in modules} & sys.stdlib_module_names


def test_the_command_imports_little_beyond_cheroot(tmp_path: Path, with_cheroot: set[str]) -> None:
    """Each module more is waited for at every start, and at every restart."""
    (tmp_path / "said.py").write_text(APPLICATION)
    command = [sys.executable, "-m", "sitebus", "-b", "127.0.0.1:0", "said:app"]
    with Child(command, tmp_path) as site:
        modules = modules_of(site)
    assert of_the_library(modules - with_cheroot) <= COMMAND
    assert not FOR_FILES & modules


def test_a_site_imports_for_its_clients_and_nobody_else(
    tmp_path: Path, with_cheroot: set[str]
) -> None:
    """The control socket answers all the same: who asks first waits for what answers."""
    (tmp_path / "said.py").write_text(APPLICATION)
    (tmp_path / "site.ini").write_text(SITE)
    with Child([sys.executable, "-m", "sitebus", "site.ini"], tmp_path) as site:
        before = modules_of(site)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "control.sock"))
            client.sendall(b"GET /v1/version HTTP/1.1\r\nHost: site\r\n\r\n")
            answer = client.recv(4096)
        after = modules_of(site)
    assert not (FOR_SOME - with_cheroot) & before
    assert answer.startswith(b"HTTP/1.1 200")
    assert {"sitebus.control.api", "sitebus.control.peers"} <= after


def test_quickstart_imports_less_than_the_command(tmp_path: Path, with_cheroot: set[str]) -> None:
    """A program that serves itself has no arguments of ours to read."""
    program = tmp_path / "said.py"
    program.write_text(QUICKSTART)
    with Child([sys.executable, program], tmp_path) as site:
        modules = modules_of(site)
    assert of_the_library(modules - with_cheroot) <= QUICK
    assert not (FOR_FILES | FOR_THE_COMMAND) & modules
