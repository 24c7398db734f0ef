"""CherryPy's and magicbus' own tests of their buses, unmodified, on ours."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.helpers import ROOT, environment

pytestmark = pytest.mark.slow

#: What fails there and is meant to, or fails with CherryPy alone as well.
DIFFERENT = {
    "test_4_Autoreload": "it touches a file, and a file with the same content has not changed",
    "test_SIGHUP_daemonized": "a restarted daemon keeps its process id",
    "test_HTTP11_Timeout": "who never says anything is closed without an answer",
    "test_queue_full": "fails with CherryPy alone",
    "test_daemonize": "a pid file ends with a newline, as in CherryPy",
}

MAGICBUS = (
    "",
    "base",
    "process",
    "plugins",
    "plugins.lifecycle",
    "plugins.loggers",
    "plugins.opsys",
    "plugins.servers",
    "plugins.signalhandler",
    "plugins.tasks",
)


def package_of(library: str) -> Path:
    """Answer where *library* is installed; it is not imported here."""
    found = find_spec(library)
    if found is None and "CI" not in os.environ:
        pytest.skip(f"needs {library}")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def apart() -> list[str]:
    """Answer what runs a command in a network of its own, if that can be had.

    The tests' ports are fixed, and another run of these tests may be under way.
    """
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
    if not shutil.which("unshare") or not shutil.which("ip"):
        return []
    tried = subprocess.run([*command, "true"], capture_output=True)
    return command if tried.returncode == 0 else []


def run(
    tmp_path: Path, tests: Iterable[Path], environ: Mapping[str, str], *options: str
) -> dict[str, bool]:
    """Run *tests* in a process of their own; answer which of them passed."""
    report = tmp_path / "report.xml"
    quiet = ["-p", "no:cacheprovider", "-W", "ignore", "-c", os.devnull, "--timeout", "40"]
    kept = [f"--rootdir={tmp_path}", f"--junitxml={report}"]
    # A terminal, for the test in which one hangs up.
    keyboard, terminal = pty.openpty()
    try:
        outcome = subprocess.run(
            [*apart(), sys.executable, "-m", "pytest", *quiet, *kept, *options, *map(str, tests)],
            cwd=tmp_path,
            env=environment(**environ),
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=250,
        )
    finally:
        os.close(keyboard)
        os.close(terminal)
    print(outcome.stdout)
    cases = ET.parse(report).iter("testcase")
    return {
        str(case.get("name")): case.find("failure") is None and case.find("error") is None
        for case in cases
    }


def assert_only_differences(passed: Mapping[str, bool], at_least: int) -> None:
    assert len(passed) >= at_least
    assert {name for name, well in passed.items() if not well} <= set(DIFFERENT)


@pytest.fixture
def cherrypy_tests(tmp_path: Path) -> Path:
    """A copy of CherryPy, which writes its logs beside its tests; every process installs ours."""
    copy = tmp_path / "cherrypy"
    shutil.copytree(package_of("cherrypy"), copy)
    (tmp_path / "sitecustomize.py").write_text(
        "from sitebus.compat.cherrypy import install\n\ninstall()\n"
    )
    return copy / "test"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "at_least"),
    [("test_bus", 12), ("test_plugins", 1), ("test_states", 12), ("test_conn", 15)],
)
def test_cherrypys_own_tests_pass(cherrypy_tests: Path, name: str, at_least: int) -> None:
    """Its users' programs rely on what these assert."""
    folder = cherrypy_tests.parent.parent
    path = os.pathsep.join((str(folder), str(ROOT)))

    passed = run(folder, [cherrypy_tests / f"{name}.py"], {"PYTHONPATH": path})

    assert_only_differences(passed, at_least)


@pytest.mark.timeout(300)
def test_magicbus_own_tests_pass(tmp_path: Path) -> None:
    """With its import lines leading here."""
    theirs, ours = package_of("magicbus"), tmp_path / "magicbus"
    shutil.copytree(theirs / "test", ours / "test")
    shutil.copy(theirs / "compat.py", ours)  # the tests' own helpers need it
    (ours / "plugins").mkdir()
    for module in MAGICBUS:
        file = ours / module.replace(".", "/")
        place = file / "__init__.py" if module in ("", "plugins") else file.with_suffix(".py")
        # Its tests start processes with a path of their own.
        found = f"import sys\nsys.path.append({str(ROOT)!r})\n" if not module else ""
        dotted = f".{module}" if module else ""
        place.write_text(f"{found}from sitebus.compat.magicbus{dotted} import *\n")
    # Where it fails, this one leaves its daemon behind.
    left_out = (
        "--deselect=magicbus/test/test_signals.py::TestSignalHandling::test_SIGHUP_daemonized"
    )
    path = os.pathsep.join((str(tmp_path), str(ROOT)))

    passed = run(tmp_path, [ours / "test"], {"PYTHONPATH": path}, "-s", left_out)

    assert_only_differences(passed, 18)
