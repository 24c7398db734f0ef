"""rsync, scp and git over a connection that is there: no second login, and where ssh could not go.

What these programs take for ssh is `sitebus.fleet.shim_program`; it finds its way here through a
socket that nobody else can reach, and here what it asks for is run on the host, in the lane that
the fleet has: behind a jump host, in a container, as the user whose password was asked for once.
Each invocation is a conversation of its own, and any number may go on at once. They end with the
program that made them, with the `Shim`, and with the link to the host, whichever is first.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from sitebus.errors import FleetError, ProgramMissing, TransferFailed
from sitebus.fleet import agent_programs
from sitebus.fleet.agent_programs import CHUNK, DATA, EACH, END, ERR, OUT, TAKEN, WINDOW
from sitebus.fleet.passwords import NAMES
from sitebus.fleet.said import shaped

if TYPE_CHECKING:
    from sitebus.fleet.host import Host

#: Called with the number of bytes that have just gone to the host.
Sent = Callable[[int], object]

_PROGRAM = Path(__file__).with_name("shim_program.py")
#: What the host may be called as well: its own name may be one that rsync takes for something else.
ANYHOW = "there.sitebus.invalid"
#: The longest name of a socket on every system that has any.
_LONGEST = 100
#: The longest command, as the system has it.
_MOST = 1 << 18
_PEER = struct.Struct("3i")


class Done(NamedTuple):
    """What a program has written, and its exit status."""

    status: int
    out: str
    err: str


class Wish(NamedTuple):
    """What `sitebus.fleet.shim_program` asks for."""

    host: str
    command: str
    subsystem: str
    environ: dict[str, str]


class Shim:
    """A way to one host for programs that know ssh; a context manager.

    In their arguments the host has the name that it has in the fleet: ``web1:/srv/shop``.

    Args:
        host: Where they shall come out.
        sent: Called from a thread with the number of bytes that have gone there.
    """

    def __init__(self, host: Host, *, sent: Sent | None = None) -> None:
        self.host = host
        self.sent: Sent = sent or (lambda count: None)
        self._folder: Path | None = None
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._conversations: set[_Conversation] = set()
        self._programs: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._is_open = False
        #: Why the host could not be asked, if it could not.
        self._lost: FleetError | None = None

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Be there for programs."""
        self.host.connect()
        # Nobody else gets into the directory, whatever the mask is.
        folder = tempfile.mkdtemp(prefix="sitebus-shim-")
        if len(folder) > _LONGEST:
            os.rmdir(folder)
            folder = tempfile.mkdtemp(prefix="sitebus-shim-", dir="/tmp")
        self._folder = Path(folder)
        _sweep(self._folder)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Who sweeps takes a socket that is bound, and not listened on, for one of the dead.
        self._listener.bind(str(self._folder / "d"))
        self._listener.listen(64)
        os.rename(self._folder / "d", self._folder / "s")
        self._write_program()
        self._is_open = True
        self._thread = threading.Thread(target=self._listen, name=f"shim {self.host.name}")
        self._thread.daemon = True
        self._thread.start()

    def close(self) -> None:
        """End what goes on, and leave nothing."""
        with self._lock:
            self._is_open = False
            conversations, programs = tuple(self._conversations), tuple(self._programs)
        for program in programs:
            program.terminate()
        for each in conversations:
            each.close()
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            if self._thread is not None:
                self._thread.join()
            self._listener.close()
        for each in conversations:
            each.join()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # For programs.

    @property
    def rsh(self) -> str:
        """What rsync takes as ``--rsh``, and git as ``GIT_SSH_COMMAND``: a command line."""
        assert self._folder is not None, "the shim is not open"
        words = (sys.executable, "-I", "-S", str(_PROGRAM), str(self._folder / "s"))
        return shlex.join(words)

    @property
    def program(self) -> str:
        """What scp takes as ``-S``: one program, without arguments."""
        assert self._folder is not None, "the shim is not open"
        return str(self._folder / "ssh")

    def environment(self) -> dict[str, str]:
        """Answer an environment in which rsync and git go through here by themselves."""
        own = {"RSYNC_RSH": self.rsh, "GIT_SSH_COMMAND": self.rsh, "GIT_SSH_VARIANT": "ssh"}
        # What they run in turn has no business with passwords.
        others = {name: each for name, each in os.environ.items() if name not in NAMES}
        return {**others, **own}

    def rsync(self, *arguments: str, input: bytes = b"") -> Done:
        """Run rsync, without compression unless it is asked for.

        Raises:
            ProgramMissing: There is none on this machine.
            TransferFailed: It says that it has failed.
            HostLost: The host is gone.
        """
        return self._run(["rsync", f"--rsh={self.rsh}", *arguments], input)

    def scp(self, *arguments: str) -> Done:
        """Run scp; raises as `rsync` does."""
        return self._run(["scp", "-S", self.program, "-o", "Compression=no", *arguments])

    def git(self, *arguments: str) -> Done:
        """Run git, whose remotes are written ``web1:/srv/shop.git``; raises as `rsync` does."""
        return self._run(["git", *arguments])

    def _run(self, argv: Sequence[str], input: bytes = b"") -> Done:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**self.environment(), "LC_ALL": "C"},
                start_new_session=True,
            )
        except FileNotFoundError:
            raise ProgramMissing(argv[0]) from None
        with process:
            self._programs.add(process)
            try:
                out, err = process.communicate(input)
            except BaseException:
                process.kill()
                raise
            finally:
                self._programs.discard(process)
        if process.returncode and self._lost is not None:
            raise self._lost
        done = Done(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
        if done.status:
            raise TransferFailed(self.host.name, argv[0], done.status, done.err or done.out)
        return done

    # The other side of the socket.

    def fail(self, error: FleetError) -> None:
        """Hear that a conversation could not be had."""
        self._lost = error

    def forget(self, conversation: _Conversation) -> None:
        """Hear that one is over."""
        with self._lock:
            self._conversations.discard(conversation)

    def _write_program(self) -> None:
        path = Path(self.program)
        path.write_text(f'#!/bin/sh\nexec {self.rsh} "$@"\n')
        path.chmod(0o700)

    def _listen(self) -> None:
        assert self._listener is not None
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._welcome(sock)
            except (OSError, ValueError, KeyError, TypeError):
                sock.close()  # nobody that was sent here

    def _welcome(self, sock: socket.socket) -> None:
        _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid != os.geteuid():
            raise ValueError("somebody else")
        sock.settimeout(5)  # it has everything at hand
        data, fds, _, _ = socket.recv_fds(sock, _MOST, 3)
        sock.settimeout(None)
        for fd in fds:
            os.set_inheritable(fd, False)
        try:
            told = Wish(**json.loads(data))
            if len(fds) != 3:
                raise ValueError("not three descriptors")
            talk = _Conversation(self, sock, fds, told)
            with self._lock:
                if not self._is_open:
                    raise ValueError("closed")
                self._conversations.add(talk)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        talk.start()


class _Conversation(threading.Thread):
    """One command on the host, between the descriptors of who asked for it."""

    def __init__(self, shim: Shim, sock: socket.socket, fds: Sequence[int], told: Wish) -> None:
        super().__init__(name=f"shim {shim.host.name} command", daemon=True)
        self.host = shim.host
        self._shim = shim
        self._sock = sock
        self._stdin, self._stdout, self._stderr = fds
        self._told = told
        self._ahead = 0
        self._lock = threading.Lock()
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._is_over = False
        self._wire: Any = None

    def run(self) -> None:
        answer = {"status": 255, "said": ""}
        try:
            if self._told.host not in (self.host.name, ANYHOW):
                answer["said"] = f"this leads to {self.host.name}, not to {self._told.host!r}"
                return
            answer = self._talk()
        except FleetError as error:
            answer["said"] = str(error)
            self._shim.fail(error)
        finally:
            with suppress(OSError):
                self._sock.send(json.dumps(answer).encode())
            for fd in (self._stdin, self._stdout, self._stderr, self._wake, self._woken):
                os.close(fd)
            self._sock.close()
            self._shim.forget(self)

    def close(self) -> None:
        """End it."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _talk(self) -> dict[str, Any]:
        told = self._told
        self._wire = self.host.duplex(
            agent_programs.run,
            told.command,
            told.subsystem,
            told.environ,
        )
        feeder = threading.Thread(target=self._feed, name="shim input", daemon=True)
        feeder.start()
        try:
            self._take()
            return shaped(self.host.name, _answer, self._wire.result())
        finally:
            with self._lock:
                self._is_over = True
            self._nudge()
            feeder.join()
            self._wire.stop()

    def _take(self) -> None:
        """Write what comes from the host to where it belongs."""
        places = {OUT: self._stdout, ERR: self._stderr}
        taken = 0
        for message in self._wire:
            letter = message[:1]
            if letter == TAKEN:
                with self._lock:
                    self._ahead -= shaped(self.host.name, int, message[1:])
                self._nudge()
            elif letter in places:
                self._write(places[letter], memoryview(message)[1:])
                taken += len(message) - 1
                if taken >= EACH:
                    self._wire.send(TAKEN + b"%d" % taken)
                    taken = 0

    def _write(self, fd: int, data: memoryview) -> None:
        """Write everything, unless nobody reads any more."""
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        poll.register(self._sock, select.POLLIN)
        while data:
            ready = dict(poll.poll())
            if fd not in ready:
                return  # who asked for it has gone
            try:
                # So much never waits, and the descriptor is not ours to change.
                data = data[os.write(fd, data[: select.PIPE_BUF]) :]
            except BlockingIOError:
                continue
            except OSError:
                return

    def _feed(self) -> None:
        try:
            self._feed_all()
        except FleetError:
            pass  # who waits for the result is told
        except BaseException:  # of a stranger who is told how much was sent
            self._wire.close()
            raise

    def _feed_all(self) -> None:
        """Send what is written for the command, as fast as it is taken."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        is_open, is_listening = True, False
        while not self._is_over:
            wanted = is_open and self._ahead < WINDOW
            if wanted != is_listening:
                if wanted:
                    poll.register(self._stdin, select.POLLIN)
                else:
                    poll.unregister(self._stdin)
                is_listening = wanted
            ready = dict(poll.poll())
            if self._sock.fileno() in ready:
                self._wire.close()  # who asked for it has gone
                return
            if self._wake in ready:
                os.read(self._wake, 4096)
            if is_listening and self._stdin in ready:
                is_open = self._send_some()

    def _send_some(self) -> bool:
        """Send what is there; answer whether more may come."""
        try:
            data = os.read(self._stdin, CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._wire.send(END)
            return False
        with self._lock:
            self._ahead += len(data)
        self._wire.send(DATA + data)
        self._shim.sent(len(data))
        return True

    def _nudge(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._woken, b".")


def _answer(found: Any) -> dict[str, Any]:
    status = int(found["status"])
    return {"status": 128 - status if status < 0 else status, "said": str(found["said"])}


def _sweep(own: Path) -> None:
    """Remove what others of this user have left who were killed."""
    for folder in own.parent.glob("sitebus-shim-*"):
        with suppress(OSError):
            if folder == own or folder.lstat().st_uid != os.geteuid():
                continue
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                try:
                    sock.connect(str(folder / "s"))
                except ConnectionRefusedError:
                    shutil.rmtree(folder, ignore_errors=True)
