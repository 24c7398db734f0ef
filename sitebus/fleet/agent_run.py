"""What the agent does on its host besides talking to the site: commands, facts, one URL.

A command that is run ends with the connection, with all of its group; one that is launched stays.
"""

from __future__ import annotations

import codecs
import contextlib
import getpass
import os
import platform
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sitebus.fleet.agent import GROUPS

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator

    Environment = dict[str, str]

#: The most that is kept of a page.
MOST_BODY = 64 << 10
#: How long a command that was launched is watched for an early end; seconds.
WATCH = 0.2


#: What was launched and did not end at once, by process: where it writes, and from where on.
_launched: dict[int, tuple[subprocess.Popen[bytes], str, int]] = {}


class RunError(Exception):
    """A command was not run, or did not end well."""

    is_the_agents = True

    def __init__(self, sentence: str, **fields: Any) -> None:
        super().__init__(sentence)
        self.fields = fields


class CannotRun(RunError):
    """There is no such command, or it may not be run."""


class LaunchFailed(RunError):
    """What was to stay has ended at once."""


class TimedOut(RunError):
    """It has taken longer than it may, and was ended."""


class CannotFetch(RunError):
    """There is no answer from a URL."""


def execute(
    argv: list[str],
    cwd: str | None,
    env: Environment | None,
    input: str | None,
    timeout: float | None,
    limit: int,
) -> dict[str, Any]:
    """Run a command to its end; answer its status, and the last of what it wrote.

    Raises:
        CannotRun: There is no such command.
        TimedOut: It does not end in time; it is killed.
    """
    kept = {"out": bytearray(), "err": bytearray()}
    lost = {"out": 0, "err": 0}
    status = 0
    for name, data in _run(argv, cwd, env, input, timeout):
        if isinstance(data, int):
            status = data
            continue
        kept[name] += data
        over = len(kept[name]) - limit
        if over > 0:
            lost[name] += over
            del kept[name][:over]
    out, err = (bytes(each).decode("utf-8", "replace") for each in kept.values())
    return {"status": status, "out": out, "err": err, "lost": lost["out"] + lost["err"]}


def follow(
    argv: list[str], cwd: str | None, env: Environment | None, input: str | None
) -> Iterator[list[Any]]:
    """Yield what a command writes, as it does: ``out`` or ``err`` and text; at last ``status``."""
    decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("out", "err")}
    for name, data in _run(argv, cwd, env, input, None):
        if isinstance(data, int):
            rest = [[each, decoder.decode(b"", True)] for each, decoder in decoders.items()]
            yield from (each for each in rest if each[1])
            yield ["status", data]
        else:
            text = decoders[name].decode(data)
            if text:
                yield [name, text]


def _run(
    argv: list[str],
    cwd: str | None,
    env: Environment | None,
    input: str | None,
    timeout: float | None,
) -> Iterator[tuple[str, Any]]:
    process = _popen(argv, cwd, env, subprocess.PIPE, subprocess.PIPE)
    GROUPS.add(process.pid)

    def kill() -> None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)

    thread: Any = threading.current_thread()
    is_asked_for = hasattr(thread, "on_stop")
    if is_asked_for:
        thread.on_stop(kill)
    try:
        yield from _pumped(process, (input or "").encode(), timeout, argv)
    finally:
        if is_asked_for:  # others may have the number afterwards
            thread.not_on_stop(kill)
        # Also what it has left behind: it was not asked to stay.
        kill()
        process.wait()
        GROUPS.discard(process.pid)
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _popen(
    argv: list[str], cwd: str | None, env: Environment | None, out: Any, err: Any
) -> subprocess.Popen[bytes]:
    words: Any = argv
    if not words or isinstance(words, str):
        raise CannotRun("no command is named; give its name, and each argument, as a list")
    stdin = subprocess.PIPE if out == subprocess.PIPE else subprocess.DEVNULL
    try:
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=stdin,
            stdout=out,
            stderr=err,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        missing = cwd if error.filename == cwd and cwd else argv[0]
        reason = (error.strerror or str(error)).lower()
        raise CannotRun(f"cannot run {missing}: {reason}; say its whole path") from None
    except (TypeError, ValueError) as error:
        raise CannotRun(f"cannot run {argv[0]!r}: {error}; give words without that") from None


def _pumped(
    process: subprocess.Popen[bytes], data: bytes, timeout: float | None, argv: list[str]
) -> Iterator[tuple[str, Any]]:
    end = None if timeout is None else time.monotonic() + timeout
    view = memoryview(data)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, "out")  # type: ignore[arg-type]
        selector.register(process.stderr, selectors.EVENT_READ, "err")  # type: ignore[arg-type]
        if data:
            os.set_blocking(process.stdin.fileno(), False)  # type: ignore[union-attr]
            selector.register(process.stdin, selectors.EVENT_WRITE, "in")  # type: ignore[arg-type]
        else:
            process.stdin.close()  # type: ignore[union-attr]
        while selector.get_map():
            left = None if end is None else end - time.monotonic()
            ready = selector.select(left) if left is None or left > 0 else []
            if not ready:
                raise _late(argv, timeout)
            for key, _ in ready:
                if key.data == "in":
                    view = _written(selector, key, view)
                    continue
                said = os.read(key.fd, 1 << 16)
                if said:
                    yield key.data, said
                else:
                    selector.unregister(key.fileobj)
    try:
        status = process.wait(None if end is None else max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise _late(argv, timeout) from None
    yield "status", status


def _written(selector: selectors.BaseSelector, key: Any, view: memoryview) -> memoryview:
    try:
        view = view[os.write(key.fd, view[: 1 << 16]) :]
    except BlockingIOError:
        return view
    except BrokenPipeError:
        view = view[:0]  # it reads no further
    if not view:
        selector.unregister(key.fileobj)
        key.fileobj.close()
    return view


def _late(argv: list[str], timeout: float | None) -> TimedOut:
    return TimedOut(f"{argv[0]} has not ended within {timeout:g} s, and was killed; allow more")


def launch(argv: list[str], cwd: str | None, env: Environment | None, log: str | None) -> int:
    """Start a command that stays when the connection ends; answer its process.

    Raises:
        LaunchFailed: It has ended at once, and not well.
    """
    out = log or os.devnull
    try:
        file = open(out, "ab")  # noqa: SIM115 - closed below, once the child has it
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise CannotRun(f"cannot write {out}: {reason}; say another log") from None
    with file:
        before = os.fstat(file.fileno()).st_size
        process = _popen(argv, cwd, env, file, file)
    try:
        status = process.wait(WATCH)
    except subprocess.TimeoutExpired:
        _launched[process.pid] = (process, out, before)
        # Reaped when it ends before the agent does, which has nothing else to wait for.
        threading.Thread(target=process.wait, daemon=True).start()
        return process.pid
    if status:
        raise LaunchFailed(_how_it_ended(argv[0], "ended at once", status, out, before))
    return process.pid


def _how_it_ended(name: str, ended: str, status: int, log: str, begin: int) -> str:
    last = _last_line(log, begin)
    return (
        f"{name} has {ended} with status {status}{': ' if last else ''}{last}; run it there by hand"
    )


def outcome(pid: int, name: str) -> None:
    """Return if what was launched runs still, or has ended well.

    Raises:
        LaunchFailed: It has not.
    """
    process, log, begin = _launched.get(pid, (None, "", 0))
    if process is not None and process.poll():
        raise LaunchFailed(_how_it_ended(name, "ended", process.returncode, log, begin))


def _last_line(path: str, begin: int) -> str:
    if path == os.devnull:
        return ""
    with open(path, "rb") as file:
        file.seek(begin)
        lines = file.read(MOST_BODY).decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]


def facts(root: str | None) -> dict[str, Any]:
    """Answer what this host is, and how it does."""
    place = root if root and os.path.isdir(root) else os.path.expanduser("~")
    disk = shutil.disk_usage(place if os.path.isdir(place) else "/")
    return {
        "hostname": socket.gethostname(),
        "user": _user(),
        "uid": os.geteuid(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "sitebus": _installed("sitebus"),
        "cpus": os.cpu_count(),
        "load": [round(each, 2) for each in os.getloadavg()],
        "disk": {"path": place, "free": disk.free, "total": disk.total},
        "time": time.time(),
    }


def _installed(name: str) -> str | None:
    """Answer the release that this Python has of something; its sites may have another Python."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.geteuid())


def fetch(url: str, timeout: float, addresses: list[str]) -> dict[str, Any]:
    """Answer what a URL says; a path is asked for at the first of the site's *addresses*.

    Raises:
        CannotFetch: There is no answer.
    """
    import http.client  # large, and most of what hosts are asked needs none of it

    began = time.monotonic()
    try:
        connection, target = _towards(url, timeout, addresses)
        with contextlib.closing(connection):
            connection.request("GET", target, headers={"User-Agent": "sitebus-fleet"})
            answer = connection.getresponse()
            body = answer.read(MOST_BODY).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        raise CannotFetch(f"no answer from {url}: {reason}; see the site's log") from None
    return {"status": answer.status, "body": body, "seconds": round(time.monotonic() - began, 4)}


def _towards(
    url: str, timeout: float, addresses: list[str]
) -> tuple[http.client.HTTPConnection, str]:
    import http.client

    if url.startswith("/"):
        if not addresses:
            raise CannotFetch(f"there is no address to ask for {url}; start the site")
        first = addresses[0]
        if first.startswith("unix:"):
            return _by_socket(first[len("unix:") :], timeout), url
        host, _, port = first.rpartition(":")
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host)
        return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout), url
    try:
        parts = urlsplit(url)
        number = parts.port
    except ValueError as error:
        raise CannotFetch(f"{url} is no URL: {error}; write http://HOST/PATH, or a path") from None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CannotFetch(f"{url} is no URL of http; write http://HOST/PATH, or a path")
    target = parts.path or "/"
    target = f"{target}?{parts.query}" if parts.query else target
    return kind(parts.hostname, number, timeout=timeout), target


def _by_socket(path: str, timeout: float) -> http.client.HTTPConnection:
    import http.client

    connection = http.client.HTTPConnection("localhost", timeout=timeout)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(timeout)
        connection.sock.connect(path)
    except OSError:
        connection.close()
        raise
    return connection
