"""A process that loads the applications once, and forks workers of itself.

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
from sitebus.workers.inside import Loaded, prepare, put_together, refusal

if TYPE_CHECKING:
    from sitebus.mounts import Site
    from sitebus.process import Engine

Message = Mapping[str, Any]

#: Bytes of one read, and the descriptors that may come with it.
_CHUNK = 64 * 1024
_MOST = 16


class Zygote:
    """One life of it.

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

    def _live(self) -> int:
        boot = self._next()
        if boot is None:
            return 0
        try:
            loaded = self._load(boot[0])
        except Exception as error:  # noqa: BLE001 - strangers' code; whatever it is, it is told
            message = refusal(error)
            self._send(message)
            return int(message["status"])
        self._send({"is": "loaded"})
        self._selector.register(self._socket, selectors.EVENT_READ)
        while self._turn(boot[0], loaded):
            pass
        return 0

    def _load(self, boot: Message) -> Loaded:
        began = time.time()
        configuration = prepare(self.engine, boot)
        loaded = put_together(self.engine, self.site, configuration)
        loaded.assembly.preload()
        forget_what_is_new(began)
        import sitebus.workers.worker  # noqa: F401 - so that no worker has to

        names = other_threads()
        if names:
            raise PreloadHasThreads(names)
        gc.collect()
        gc.freeze()
        return loaded

    def _turn(self, boot: Message, loaded: Loaded) -> bool:
        """Do what there is to do; answer whether to go on."""
        for key, _ in self._selector.select():
            if key.fileobj is not self._socket:
                self._bury(key.fd)
            elif not self._obey(boot, loaded):
                return False
        return True

    def _obey(self, boot: Message, loaded: Loaded) -> bool:
        """Do what has been told; answer whether to go on."""
        told = self._next()
        while told is not None:
            if told[0].get("is") == "fork":
                self._fork({**boot, **told[0]}, told[1], loaded)
            if not self._messages:
                return True
            told = self._next()
        return False

    def _fork(self, boot: Message, link: int | None, loaded: Loaded) -> None:
        if link is None:
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()  # else the child would write it once more
        try:
            pid = os.fork()
        except OSError as error:
            self._send({"is": "unforked", "serial": boot["serial"], "reason": str(error)})
            os.close(link)
            return
        if pid == 0:
            self._be_worker(boot, link, loaded)
        os.close(link)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid
        self._selector.register(pidfd, selectors.EVENT_READ)
        self._send({"is": "forked", "serial": boot["serial"], "pid": pid}, pidfd)

    def _be_worker(self, boot: Message, link: int, loaded: Loaded) -> NoReturn:
        """Go on as a worker; what belongs to the zygote is closed."""
        from sitebus.workers.worker import Worker

        status = 70
        try:
            self._selector.close()
            self._socket.close()
            for fd in (*self._children, *self._descriptors):
                os.close(fd)
            signal.set_wakeup_fd(-1)
            status = Worker(self.engine, self.site, socket.socket(fileno=link), loaded).run(boot)
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
        self._send({"is": "ended", "pid": pid, "status": os.waitstatus_to_exitcode(status)})

    # The link, without a thread.

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


def other_threads() -> list[str]:
    """Answer the names of all threads but this one, those of libraries in C as numbers."""
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    own = threading.get_native_id()
    others = [int(entry) for entry in os.listdir("/proc/self/task") if int(entry) != own]
    return [known.get(each, f"thread {each} of a library") for each in others]


def _leave(status: int) -> NoReturn:
    """End this process as an interpreter would, but for what the zygote had registered."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    import atexit

    atexit._run_exitfuncs()
    os._exit(status)
