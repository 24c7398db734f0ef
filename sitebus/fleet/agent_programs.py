"""What runs on a host to have a program talk to somebody at this end: its streams, its status.

Only the standard library, as Python 3.8 has it; nothing of sitebus. A *wire* is handed in: it has
``send(bytes)`` and ``close()``, and is iterated for what arrives. Its other end is in
`sitebus.fleet.shim`.

What is sent begins with a letter: ``d`` is data for a program or a file, ``e`` the end of it, ``1``
and ``2`` is what a program writes, ``a`` says how much has been taken of it. Nobody sends more than
`WINDOW` bytes ahead of what was taken, so that nothing piles up where one side is slower.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from queue import SimpleQueue
from typing import Any

#: How many bytes may be under way.
WINDOW = 4 << 20
#: How many bytes go into one message: what the transport takes in one piece.
CHUNK = (128 << 10) - 128
#: After so many bytes it is said that they were taken.
EACH = WINDOW // 8
#: How long a program may take to end when nobody is there any more; seconds.
FAREWELL = 3.0

DATA, END, OUT, ERR, TAKEN = b"d", b"e", b"1", b"2", b"a"

_SFTP_SERVERS = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/libexec/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/lib/misc/sftp-server",
)


class Outgoing:
    """Sends no more than the other side is ready to take."""

    def __init__(self, wire: Any) -> None:
        self._wire = wire
        self._change = threading.Condition()
        self._ahead = 0
        self._is_over = False

    def send(self, letter: bytes, data: bytes) -> bool:
        """Send *data* when there is room for it; answer whether it still can be."""
        with self._change:
            while self._ahead >= WINDOW and not self._is_over:
                self._change.wait()
            if self._is_over:
                return False
            self._ahead += len(data)
        self._wire.send(letter + data)
        return True

    def taken(self, count: int) -> None:
        """Hear that so many bytes were taken."""
        with self._change:
            self._ahead -= count
            self._change.notify_all()

    def end(self) -> None:
        """Let go of whoever waits."""
        with self._change:
            self._is_over = True
            self._change.notify_all()


class Incoming:
    """Says how much was taken, now and then."""

    def __init__(self, wire: Any) -> None:
        self._wire = wire
        self._taken = 0
        self._lock = threading.Lock()

    def took(self, count: int) -> None:
        """Note that *count* bytes were used up."""
        with self._lock:
            self._taken += count
            told = self._taken if self._taken >= EACH else 0
            self._taken -= told
        if told:
            self._wire.send(TAKEN + b"%d" % told)


def run(
    wire: Any, command: str, subsystem: str = "", environ: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a command as a shell would, with its streams on the wire; answer its exit status."""
    argv = _sftp() if subsystem == "sftp" else ["/bin/sh", "-c", command]
    if not argv:
        return {"status": 127, "said": "there is no sftp-server on the host"}
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=_home(),
            env=dict(os.environ, **(environ or {})),
            start_new_session=True,
        )
    except OSError as error:
        return {"status": 127, "said": f"{argv[0]}: {error.strerror}"}

    def kill() -> None:
        _end(process, signal.SIGKILL)

    # It does not outlast the connection, whatever it makes of the end of its streams.
    thread: Any = threading.current_thread()
    thread.on_stop(kill)
    try:
        return {"status": _attend(wire, process), "said": ""}
    finally:
        thread.not_on_stop(kill)


def _home() -> str:
    home = os.path.expanduser("~")
    return home if os.path.isdir(home) else "/"


def _sftp() -> list[str]:
    found = [path for path in _SFTP_SERVERS if os.access(path, os.X_OK)]
    return found[:1]


def _attend(wire: Any, process: subprocess.Popen[bytes]) -> int:
    """Move what a process reads and writes; answer its exit status."""
    outgoing, incoming, ended = Outgoing(wire), Incoming(wire), threading.Event()
    queue: SimpleQueue[bytes | None] = SimpleQueue()
    threads = [
        threading.Thread(target=_read, args=(process.stdout, OUT, outgoing), daemon=True),
        threading.Thread(target=_read, args=(process.stderr, ERR, outgoing), daemon=True),
        threading.Thread(target=_write, args=(process.stdin, queue, incoming), daemon=True),
        # Its end ends the wire, which this thread then waits for no longer.
        threading.Thread(target=_hear, args=(wire, process, outgoing, queue, ended), daemon=True),
    ]
    for thread in threads:
        thread.start()
    status = process.wait()
    for thread in threads[:2]:
        thread.join()
    ended.set()
    queue.put(None)
    return status


def _read(stream: Any, letter: bytes, outgoing: Outgoing) -> None:
    with stream:
        while True:
            data = os.read(stream.fileno(), CHUNK)
            if not data or not outgoing.send(letter, data):
                return


def _write(stream: Any, queue: SimpleQueue[bytes | None], incoming: Incoming) -> None:
    data = queue.get()
    with stream:
        while data is not None:
            try:
                rest = memoryview(data)[1:]
                while rest:
                    rest = rest[os.write(stream.fileno(), rest) :]
            except OSError:
                break  # it reads no more
            incoming.took(len(data) - 1)
            data = queue.get()
    while data is not None:  # what is still under way has room made for it
        incoming.took(len(data) - 1)
        data = queue.get()


def _hear(
    wire: Any,
    process: subprocess.Popen[bytes],
    outgoing: Outgoing,
    queue: SimpleQueue[bytes | None],
    ended: threading.Event,
) -> None:
    for message in wire:
        letter = message[:1]
        if letter == DATA:
            queue.put(message)
        elif letter == END:
            queue.put(None)
        elif letter == TAKEN:
            outgoing.taken(int(message[1:]))
    outgoing.end()
    if not ended.is_set():
        _end(process, signal.SIGHUP)  # nobody is there any more
        if not ended.wait(FAREWELL):
            _end(process, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal a process with all of its group, of which some may be left when it has ended."""
    try:
        os.killpg(process.pid, number)
    except OSError:
        pass  # all of it has ended
