"""What belongs to whoever runs a process is as it was, while a lodger is there and afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, ROOT, environment

#: A file that says everything which means something only in a process of one's own.
INI = """
[server]
bind = 127.0.0.1:1
[server second]
bind = unix:second.sock
[signals]
sigusr1 = restart
[workers]
count = 2
[health]
bind = 127.0.0.1:2
[control]
socket = control.sock
[plugin daemon]
[plugin pidfile]
path = pid
[plugin drop_privileges]
user = nobody
umask = 077
[mount /]
app = app:application
"""

APP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""

#: A request, as a host gives it to an application.
ASK = """
import io

def ask(application):
    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/", "SCRIPT_NAME": "", "SERVER_NAME": "a",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.input": io.BytesIO(),
        "wsgi.url_scheme": "http", "wsgi.errors": io.StringIO(), "wsgi.version": (1, 0),
    }
    assert b"".join(application(environ, lambda *told: None)) == b"hello"
"""

#: A host that notes what is done to it.
HOST = """
import atexit, os, signal, sys, threading

DONE = []
TOUCHED = ("socket.bind", "socket.__new__", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn",
           "subprocess.Popen", "os.kill", "os.chmod", "os.chown", "signal.pthread_kill")
WRITING = frozenset("wax+")
TOLD = ("Uid", "Gid", "SigB", "SigI", "SigC", "Umask")
watching = True

def audit(event, arguments):
    if not watching:
        return
    if event in TOUCHED:
        DONE.append(event)
    if event == "open" and isinstance(arguments[1], str) and WRITING.intersection(arguments[1]):
        DONE.append(f"open {arguments[0]}")

def refuse(name):
    def refused(*arguments):
        DONE.append(name)
    return refused

sys.addaudithook(audit)
# What the interpreter does not tell of.
for name in ("_exit", "abort", "umask", "setuid", "setgid", "setgroups", "initgroups", "setsid",
             "setpgid", "dup2", "nice", "chroot"):
    setattr(os, name, refuse(name))
for name in ("signal", "set_wakeup_fd", "siginterrupt", "pthread_sigmask", "setitimer", "alarm"):
    setattr(signal, name, refuse(name))

def picture():
    masks = [line for line in open("/proc/self/status") if line.startswith(TOLD)]
    return {
        "masks": masks,
        "handlers": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "argv": list(sys.argv),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "cwd": os.getcwd(),
        "session": (os.getsid(0), os.getpgid(0)),
        "threads": [each.name for each in threading.enumerate()],
        "listen": {name: os.environ.get(name) for name in ("LISTEN_PID", "LISTEN_FDS")},
        "hooks": (sys.excepthook, threading.excepthook),
    }

os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), "1"
# With its first thread the C library takes a signal of its own.
threading.Thread(target=int).start()
before = picture()

def compare():
    global watching
    watching = False
    after = picture()
    for name in before:
        assert after[name] == before[name], (name, before[name], after[name])
    assert not DONE, DONE
    print("HANDS OFF", file=sys.stderr)

# Registered before the lodger's, and so called after it.
atexit.register(compare)

import sitebus

application = sitebus.embed("site.ini")
ask(application)
during = picture()
for name in set(before) - {"threads"}:
    assert during[name] == before[name], (name, before[name], during[name])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("site.ini", INI), ("app.py", APP), ("host.py", ASK + HOST)):
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder: Path, script: str = "host.py", *words: str) -> subprocess.CompletedProcess[str]:
    # From elsewhere: a host's directory is anything.
    return subprocess.run(
        [sys.executable, folder / script, *words],
        cwd=ROOT,
        env=environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_process_is_as_it_was(folder: Path) -> None:
    """A lodger that takes a signal makes a gunicorn that cannot be stopped; each has its story."""
    told = run(folder)

    assert told.returncode == 0, told.stderr
    assert "HANDS OFF" in told.stderr, told.stderr
    assert told.stdout == ""
    assert "not used here" in told.stderr
    assert {path.name for path in folder.iterdir()} == {"site.ini", "app.py", "host.py"}


PREFORK = """
import os, sys
import sitebus

def note(what):
    os.write(2, f"{what} {os.getpid() == parent}\\n".encode())

parent = os.getpid()
sitebus.engine.subscribe("start", lambda: note("start"))
sitebus.engine.subscribe("exit", lambda: note("exit"))
application = sitebus.embed("site.ini")

ask(application)
serving = sys.argv[1] == "serves"
if (child := os.fork()) == 0:
    if serving:
        ask(application)
        ask(application)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
ask(application)
"""


def test_a_child_that_serves_starts_and_ends_a_bus_of_its_own(folder: Path) -> None:
    """A host that nobody knows may fork after it has loaded the application."""
    (folder / "prefork.py").write_text(ASK + PREFORK)
    told = run(folder, "prefork.py", "serves")

    assert told.returncode == 0, told.stderr
    notes = [line for line in told.stderr.splitlines() if line.startswith(("start", "exit"))]
    assert notes == ["start True", "start False", "exit False", "exit True"]
    assert "Traceback" not in told.stderr
    assert "RuntimeWarning" not in told.stderr


def test_a_child_that_does_not_serve_ends_quietly(folder: Path) -> None:
    """Applications fork for reasons of their own; the parent's bus is not the child's to end."""
    (folder / "prefork.py").write_text(ASK + PREFORK)
    told = run(folder, "prefork.py", "works")

    assert told.returncode == 0, told.stderr
    notes = [line for line in told.stderr.splitlines() if line.startswith(("start", "exit"))]
    assert notes == ["start True", "exit True"]
    assert "RuntimeWarning" not in told.stderr


def test_importing_sitebus_imports_nothing_of_it() -> None:
    """Who embeds nothing pays nothing."""
    code = "import sitebus, sys; print([m for m in sys.modules if 'embedding' in m])"
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    # The errors of every room have one home.
    assert told.stdout.strip() == "['sitebus.errors.embedding']"


BOTH = """
import asyncio
import sitebus

sitebus.engine.subscribe("start", lambda: print("start"))
sitebus.engine.subscribe("exit", lambda: print("exit"))
first = sitebus.embed("site.ini")
ask(first)
assert sitebus.embed("site.ini") is first

application = sitebus.embed_asgi("site.ini")
async def serve():
    sent = []
    async def send(message):
        sent.append(message)
    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"",
             "root_path": "", "headers": [], "http_version": "1.1", "server": ("a", 80),
             "asgi": {"version": "3.0"}, "scheme": "http", "client": ("127.0.0.1", 1)}
    told = asyncio.Queue()
    told.put_nowait({"type": "http.request"})
    await application(scope, told.get, send)
    assert sent[0]["status"] == 200, sent
asyncio.run(serve())
"""


def test_the_two_kinds_follow_each_other_in_one_process(folder: Path) -> None:
    """A suite of tests imports both scripts; each answer is of the kind that was asked for."""
    (folder / "both.py").write_text(ASK + BOTH)
    told = run(folder, "both.py")

    assert told.returncode == 0, told.stderr
    assert told.stdout.split() == ["start", "exit", "start", "exit"]
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("face", ["embed", "embed_asgi"])
@pytest.mark.parametrize("wrong", ["missing.ini", "broken.ini"])
def test_a_mistake_is_the_script_s_line_and_a_sentence(folder: Path, face: str, wrong: str) -> None:
    """A host logs the whole traceback; of ours there are few places in it."""
    (folder / "broken.ini").write_text("[mount /]\nap = app:application\n")
    (folder / "wrong.py").write_text(f"import sitebus\nsitebus.{face}({wrong!r})\n")
    told = run(folder, "wrong.py")

    assert told.returncode == 1
    assert f'wrong.py", line 2, in <module>\n    sitebus.{face}' in told.stderr
    assert told.stderr.count(f'File "{ROOT}') <= 3, told.stderr


def test_a_file_that_is_not_there_is_told_with_where_it_was_looked_for(folder: Path) -> None:
    """A host's directory is often another one than its operator thinks."""
    (folder / "wrong.py").write_text('import sitebus\nsitebus.embed("missing.ini")\n')
    told = run(folder, "wrong.py")

    assert told.stderr.splitlines()[-1].endswith(
        f"cannot read missing.ini: there is no such file in {folder} or {ROOT}"
    )


#: Where its listeners have a thread that is no daemon, and the host's main thread ends.
THREADS = """
import threading
from wsgiref.simple_server import make_server
import sitebus

over = threading.Event()

def work():
    over.wait()
    print("work over", flush=True)

def start():
    sitebus.engine.thread = threading.Thread(target=work)
    sitebus.engine.thread.start()

def stop():
    over.set()
    sitebus.engine.thread.join()
    print("joined", flush=True)

sitebus.engine.subscribe("start", start)
sitebus.engine.subscribe("stop", stop)
sitebus.engine.subscribe("exit", lambda: print("exit", flush=True))
application = sitebus.embed("site.ini")
ask(application)
"""

#: A host that serves three visitors in such a thread of its own.
SERVES = """
import urllib.request

server = make_server("127.0.0.1", 0, application)

def serve():
    for _ in range(3):
        server.handle_request()
    print("served", flush=True)
    stop()

def visit():
    # The main thread has ended, and what is called at its end has been.
    threading.main_thread().join()
    for _ in range(3):
        assert urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/").status == 200

threading.Thread(target=serve).start()
threading.Thread(target=visit, daemon=True).start()
"""


def test_threads_that_a_listener_joins_keep_no_process(folder: Path) -> None:
    """Python waits for them before it tells anybody of the end who would have them end."""
    (folder / "threads.py").write_text(ASK + THREADS)
    told = run(folder, "threads.py")

    assert told.returncode == 0, told.stderr
    assert told.stdout.split("\n") == ["work over", "joined", "exit", ""]


def test_a_host_that_goes_on_in_other_threads_is_served_to_its_end(folder: Path) -> None:
    """Many a script starts its server in a thread, and ends."""
    (folder / "serves.py").write_text(ASK + THREADS + SERVES)
    told = run(folder, "serves.py")

    assert told.returncode == 0, told.stderr
    assert told.stdout.split("\n") == ["served", "work over", "joined", "joined", "exit", ""]
