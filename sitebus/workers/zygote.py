"""A process that loads something once, and forks workers of itself.

It has one thread, always: what another thread holds in the moment of a fork is held for ever in the
child. Loaded and frozen, its memory is shared with every worker as long as nobody writes to it; the
collector is told to leave it alone. It never serves and never starts its bus. When it is told, or
its link ends, it leaves; its workers have links of their own and stay.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from sitebus.errors import PreloadHasThreads
from sitebus.relay.frames import Decoder, encode
from sitebus.workers.freshness import forget_what_is_new
from sitebus.workers.inside import prepare, put_together, refusal

if TYPE_CHECKING:
    from sitebus.mounts import Site
    from sitebus.process import Engine

Message = Mapping[str, Any]

#: Bytes of one read, and the descriptors that may come with it.
_CHUNK = 64 * 1024
_MOST = 16


class Zygote:
    """One life of it; what it loads, and what a fork of it is, are for subclasses to say.

    Args:
        engine: The process's bus, which each worker starts for itself.
        site: What the applications are mounted on.
        sock: This end of the link.
    """

    def __init__(self, engine: Engine, site: Site, sock: socket.socket) -> None:
        self.engine = engine
        self.site = site
        self._socket = sock
        self._decoder = Decoder()
        self._messages: list[dict[str, Any]] = []
        self._descriptors: list[int] = []
        self._selector = selectors.DefaultSelector()
        #: The pid of each worker, by the descriptor that tells of its end.
        self._children: dict[int, int] = {}

    def run(self) -> int:
        """Load, fork whenever it is told to, and answer the exit status."""
        with self._socket:
            return self._live()

    def load(self, boot: Message) -> Message:
        """Load what all forks are to have, and answer what there is to say of it.

        Args:
            boot: What workers are told.
        """
        raise NotImplementedError

    def hear(self, message: Message) -> None:
        """Hear anything else from the supervisor."""

    def be_worker(self, told: Message, sock: socket.socket) -> int:
        """Be a worker, in a fork, and answer the exit status.

        Args:
            told: What came with the wish for it.
            sock: The worker's end of its link.
        """
        raise NotImplementedError

    def settle(self) -> None:
        """Have the memory shared from here on.

        Raises:
            PreloadHasThreads: There is more than one thread.
        """
        names = other_threads()
        if names:
            raise PreloadHasThreads(names)
        gc.collect()
        gc.freeze()

    def _live(self) -> int:
        boot = self._next()
        if boot is None:
            return 0
        try:
            self.send("loaded", **self.load(boot[0]))
            self._selector.register(self._socket, selectors.EVENT_READ)
            while self._turn():
                pass
        except Exception as error:  # noqa: BLE001 - strangers' code; whatever it is, it is told
            message = refusal(error)
            self._send(message)
            return int(message["status"])
        return 0

    def _turn(self) -> bool:
        """Do what there is to do; answer whether to go on."""
        if self._messages:  # they came with one that was taken before
            return self._obey()
        for key, _ in self._selector.select():
            if key.fileobj is not self._socket:
                self._bury(key.fd)
            elif not self._obey():
                return False
        return True

    def _obey(self) -> bool:
        """Do what has been told; answer whether to go on."""
        told = self._next()
        while told is not None:
            if told[0].get("is") == "fork":
                self._fork(*told)
            else:
                self.hear(told[0])
            if not self._messages:
                return True
            told = self._next()
        return False

    def _fork(self, told: Message, link: int | None) -> None:
        if link is None:
            return
        flush_streams()  # else the child would write it once more
        try:
            pid = os.fork()
        except OSError as error:
            self.send("unforked", serial=told["serial"], reason=str(error))
            os.close(link)
            return
        if pid == 0:
            self._be_worker(told, link)
        os.close(link)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid
        self._selector.register(pidfd, selectors.EVENT_READ)
        self.send("forked", pidfd, serial=told["serial"], pid=pid)

    def _be_worker(self, told: Message, link: int) -> NoReturn:
        """Go on as a worker; what belongs to the zygote is closed."""
        status = 70
        try:
            self._selector.close()
            self._socket.close()
            for fd in (*self._children, *self._descriptors):
                os.close(fd)
            signal.set_wakeup_fd(-1)
            status = self.be_worker(told, socket.socket(fileno=link))
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 70
        except BaseException:  # noqa: BLE001 - nothing may go on below: that is the zygote's
            import traceback

            traceback.print_exc()
        finally:
            _leave(status)

    def _bury(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self.send("ended", pid=pid, status=os.waitstatus_to_exitcode(status))

    # The link, without a thread.

    def send(self, what: str, fd: int | None = None, **values: Any) -> None:
        """Send a message up."""
        self._send({"is": what, **values}, fd)

    def _send(self, message: Message, fd: int | None = None) -> None:
        told = message if fd is None else {**message, "+fd": True}
        with suppress(OSError):  # nobody is there any more, as the next read shows
            data = encode(told)
            sent = socket.send_fds(self._socket, [data], [] if fd is None else [fd])
            self._socket.sendall(data[sent:])

    def _next(self) -> tuple[dict[str, Any], int | None] | None:
        """Answer the next message and its descriptor; None at the end."""
        while not self._messages:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, _CHUNK, _MOST)
            except OSError:
                return None
            if not data:
                return None
            for fd in fds:
                os.set_inheritable(fd, False)
            self._descriptors += fds
            self._messages += self._decoder.feed(data)
        message = self._messages.pop(0)
        carries = message.pop("+fd", False)
        return message, self._descriptors.pop(0) if carries and self._descriptors else None


class Preloading(Zygote):
    """Loads the applications, mounted and ready to serve."""

    def load(self, boot: Message) -> Message:
        """Put the site together, but for what a start does.

        Raises:
            SitebusError: It cannot be had, or cannot be forked.
        """
        began = time.time()
        configuration = prepare(self.engine, boot)
        loaded = put_together(self.engine, self.site, configuration)
        loaded.assembly.preload()
        forget_what_is_new(began)
        import sitebus.workers.worker  # noqa: F401 - so that no worker has to

        self._boot, self._loaded = boot, loaded
        self.settle()
        return {}

    def be_worker(self, told: Message, sock: socket.socket) -> int:
        """Serve."""
        from sitebus.workers.worker import Worker

        return Worker(self.engine, self.site, sock, self._loaded).run({**self._boot, **told})


def other_threads() -> list[str]:
    """Answer the names of all threads but this one, those of libraries in C as numbers."""
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    own = threading.get_native_id()
    others = [int(entry) for entry in os.listdir("/proc/self/task") if int(entry) != own]
    return [known.get(each, f"thread {each} of a library") for each in others]


def flush_streams() -> None:
    """Write what is to be written."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _leave(status: int) -> NoReturn:
    """End this process as an interpreter would, but for what the zygote had registered."""
    flush_streams()
    import atexit

    atexit._run_exitfuncs()
    os._exit(status)
