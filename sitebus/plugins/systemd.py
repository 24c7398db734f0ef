"""Tell systemd what the site is doing, and that it is alive; do nothing where systemd does not ask.

Speaks the protocol of ``sd_notify(3)``: one datagram for each piece of news, to the socket that
``NOTIFY_SOCKET`` names. A re-exec is a reload to systemd: the pid stays, and the new image is the
one that says READY. The variables stay in the environment for it.

The watchdog's proof of life is a call that goes through the main loop. Only while the bus moves,
which has its own deadline on the way down and systemd's on the way up, the main loop may be busy
with that, and the proof is given without it; to a graceful, which has none, for as long as a stop
may take.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sitebus.config.kinds import BOOLEAN
from sitebus.config.options import Option, Row
from sitebus.deadline import LAST_GRACE
from sitebus.listeners import ERROR, WARNING
from sitebus.plugins import Mark, Plugin, listens
from sitebus.plugins.tasks import BackgroundTask
from sitebus.process import Engine, Priority

if TYPE_CHECKING:
    from sitebus.sockets import Listener

#: Before and after every other listener of a channel.
FIRST, LAST = float("-inf"), float("inf")

FOREVER = float("inf")

#: systemd reads no more than a page; a status is for one line of a terminal.
LONGEST_STATUS = 500

#: What a bus of wspbus' own lacks, and what comes nearest there.
_FOREIGN = {"started": "start", "stopped": "stop"}


class Systemd(Plugin):
    """Notify systemd of start, reload and end, answer its watchdog, keep sockets in its store.

    Args:
        bus: The bus.
        notify_socket: Where systemd listens: a path, or a name after ``@``; ``$NOTIFY_SOCKET`` if
            left out. With neither, nothing is done at all.
        watchdog: Answer the watchdog, if systemd runs one.
        fdstore: Have systemd keep the listening sockets, so that they survive a crash.
        status: Say in a line what the site is doing; ``systemctl status`` shows it.
    """

    OPTIONS: ClassVar[tuple[Row, ...]] = (
        Option("watchdog", BOOLEAN, True, "Answer systemd's watchdog while the site is alive."),
        Option(
            "fdstore", BOOLEAN, False, "Have systemd keep the listening sockets through a crash."
        ),
        Option("status", BOOLEAN, True, "Say in one line what the site is doing."),
    )

    def __init__(
        self,
        bus: Engine,
        *,
        notify_socket: str | None = None,
        watchdog: bool = True,
        fdstore: bool = False,
        status: bool = True,
    ) -> None:
        super().__init__(bus)
        self.manager = Manager(bus, notify_socket or os.environ.get("NOTIFY_SOCKET", ""))
        self.fdstore = fdstore
        self.status = status
        self._pid = os.getpid()
        interval = watchdog_interval(os.environ) if watchdog and self.manager.address else None
        self._watchdog = Watchdog(bus, interval, self.manager)
        self._ready = False
        self._said_goodbye = False
        self._stored: list[str] = []

    def _listeners(self) -> Iterator[tuple[Mark, str, Callable[..., Any]]]:
        # The trial of a restart has our environment, and is not the service.
        if not self.manager.address or getattr(self.bus, "trying", False):
            return
        foreign = not hasattr(self.bus, "machine")
        for mark, channel, method in super()._listeners():
            yield mark, _FOREIGN.get(channel, channel) if foreign else channel, method

    # Threads begin only when privileges are dropped; imports, which come next, may take long.
    @listens("start", priority=Priority.IMPORT - 1)
    def start(self) -> None:
        """Begin to answer the watchdog: to systemd, a re-exec has never stopped."""
        self._watchdog.busy_until = FOREVER
        self._watchdog.start()
        # Half an interval may have passed before a re-exec, and half will until the first beat.
        # From a fork that has not said who it is, nobody would hear it.
        if os.getpid() == self._pid:
            self._watchdog.prove()
        self._tell(status="Starting")

    @listens("started", priority=Priority.READY)
    def started(self) -> None:
        """Say READY, with where the site is reached."""
        self._ready = True
        if os.getpid() != self._pid:
            self._introduce()
        self._tell("READY=1", status=self._serving)
        if self.fdstore:
            self._store()
        self._watchdog.busy_until = 0.0

    @listens("graceful", priority=FIRST)
    def graceful(self) -> None:
        """Say RELOADING before anybody reloads."""
        if self._ready:
            patience = getattr(self.bus, "stop_timeout", 0.0)
            self._watchdog.busy_until = time.monotonic() + patience
            self._tell(*_reloading(), status="Reloading")

    @listens("graceful", priority=LAST)
    def graceful_done(self) -> None:
        """Say READY when everybody has reloaded."""
        if self._ready:
            self._tell("READY=1", status=self._serving)
            self._watchdog.busy_until = 0.0

    @listens("rolling.begin")
    def roll_begins(self, facts: Mapping[str, Any]) -> None:
        """Say RELOADING while all workers are being replaced: that is what was asked for."""
        if self._ready and facts.get("kind") == "roll":
            self._tell(*_reloading(), status="Replacing the workers")

    @listens("rolling.done")
    @listens("rolling.abort")
    def roll_ended(self, facts: Mapping[str, Any]) -> None:
        """Say READY again, and what went wrong if something did."""
        if self._ready and facts.get("kind") == "roll":
            failed = facts.get("state") == "aborted"
            reason = f"reload failed: {facts.get('reason')}; still serving the old code"
            self._tell("READY=1", status=reason if failed else self._serving)

    @listens("restart_refused")
    def restart_refused(self, error: BaseException) -> None:
        """Answer systemd, which may wait for a reload, that there is none."""
        # Refused because of an exit, it is no news.
        if self._ready and not getattr(self.bus, "leaving", False):
            reason = str(error).partition("\n")[0]
            self._tell(*_reloading())
            self._tell("READY=1", status=f"reload failed: {reason}; still serving the old code")

    @listens("stop", priority=FIRST)
    def stop(self) -> None:
        """Say STOPPING first of all, or RELOADING if the same process comes back."""
        self._watchdog.busy_until = FOREVER
        if getattr(self.bus, "leaving", False):
            self._say_goodbye()
        elif getattr(self.bus, "execv", False):
            self._tell(*_reloading(), *self._patience(), status="Restarting")

    @listens("stopped", priority=LAST)
    def stopped(self) -> None:
        """Say that nothing is served for now."""
        if not (getattr(self.bus, "leaving", False) or getattr(self.bus, "execv", False)):
            self._ready = False
            self._watchdog.busy_until = 0.0
            self._tell(status="Stopped; the next start goes on")

    @listens("exit", priority=FIRST)
    def exit(self) -> None:
        """Say STOPPING, if the bus did not stop on the way or changed its mind about a re-exec."""
        if not getattr(self.bus, "execv", False):
            self._say_goodbye()
            self._watchdog.stop()

    @listens("execv", priority=FIRST)
    def execv(self) -> None:
        """Leave the watchdog to the next image, with all the time that there is."""
        self._watchdog.hand_over()

    def _tell(self, *fields: str, status: str = "") -> None:
        if status and self.status:
            fields = (*fields, f"STATUS={_one_line(status)}")
        if fields:
            self.manager.tell(*fields)

    @property
    def _serving(self) -> str:
        addresses = getattr(self.bus, "addresses", ())
        return f"Serving on {', '.join(map(str, addresses))}" if addresses else "Serving"

    def _introduce(self) -> None:
        """Say that this process, a fork of the one that systemd started, is the service now."""
        if os.environ.get("WATCHDOG_PID") == str(self._pid):
            os.environ["WATCHDOG_PID"] = str(os.getpid())
        self._pid = os.getpid()
        self.manager.tell(f"MAINPID={self._pid}")

    def _say_goodbye(self) -> None:
        if self._said_goodbye:
            return
        self._said_goodbye = True
        self._tell("STOPPING=1", *self._patience(), status="Finishing what is in flight")
        for name in self._stored:
            self.manager.tell("FDSTOREREMOVE=1", f"FDNAME={name}")

    def _patience(self) -> Iterator[str]:
        """Ask systemd for the time that the bus gives itself."""
        seconds = getattr(self.bus, "stop_timeout", None)
        if seconds is not None:
            yield f"EXTEND_TIMEOUT_USEC={int((seconds + LAST_GRACE) * 1e6)}"

    def _store(self) -> None:
        sockets = getattr(self.bus, "sockets", None)
        # What a socket unit made, systemd has anyway.
        ours = [each for each in sockets.listeners if not each.name] if sockets else []
        self._stored = [_stored_name(each) for each in ours]
        for name, each in zip(self._stored, ours, strict=True):
            self.manager.tell("FDSTORE=1", f"FDNAME={name}", fds=[each.socket.fileno()])


class Manager:
    """systemd, as far as it listens.

    Attributes:
        address: Where; empty if it does not.
    """

    def __init__(self, bus: Engine, address: str) -> None:
        self.bus = bus
        self.address = address
        self._warned = False

    def tell(self, *fields: str, fds: Iterable[int] = ()) -> None:
        """Send one datagram; that it cannot be sent is logged, once."""
        try:
            self._send("\n".join(fields).encode("utf-8", "replace"), list(fds))
        except (OSError, ValueError) as error:
            if not self._warned:
                self._warned = True
                self.bus.log(f"cannot notify systemd at {self.address!r}: {error}", level=WARNING)

    def _send(self, message: bytes, fds: list[int]) -> None:
        place = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)  # its queue may be full
            sock.connect(place)
            if fds:
                socket.send_fds(sock, [message], fds)
            else:
                sock.send(message)


class Watchdog:
    """Prove that the bus is alive, twice in every *interval* that systemd gives it.

    Attributes:
        busy_until: How long the main loop may be busy with moving the bus; `time.monotonic`.
    """

    def __init__(self, bus: Engine, interval: float | None, manager: Manager) -> None:
        self.bus = bus
        self.interval = interval
        self.manager = manager
        self.busy_until = 0.0
        self._asked = False
        self._warned = ""
        self._task: BackgroundTask | None = None

    def start(self) -> None:
        """Begin; does nothing if nobody asks for it or it has begun."""
        if self.interval is None or self._task is not None:
            return
        self._task = BackgroundTask(self.interval / 2, self._beat, bus=self.bus)
        self._task.name = "sitebus watchdog"
        self._task.start()

    def hand_over(self) -> None:
        """End with a proof: until the next image's first, there is the whole interval."""
        if self._task is not None:
            self.stop()
            self.prove()

    def stop(self) -> None:
        """End."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            if task is not threading.current_thread():
                task.join(1.0)

    def _beat(self) -> None:
        call_in_main = getattr(self.bus, "call_in_main", None)
        if call_in_main is None or time.monotonic() < self.busy_until:
            self.prove()
        elif self._asked:
            self._warn("the main loop has not come round")
        else:
            self._asked = True
            call_in_main(self._answer)

    def _answer(self) -> None:
        self._asked = False
        if getattr(getattr(self.bus, "serving", None), "stuck", False):
            self._warn("every thread that serves is stuck")
        else:
            self._warned = ""
            self.prove()

    def prove(self) -> None:
        """Say once that the bus is alive, if anybody asks."""
        if self.interval is not None:
            self.manager.tell("WATCHDOG=1")

    def _warn(self, reason: str) -> None:
        if self._warned != reason:
            self._warned = reason
            self.bus.log(f"not answering systemd's watchdog: {reason}", level=ERROR)


def watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Answer how often systemd wants to hear from this process, in seconds; None for never."""
    pid, usec = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if pid not in ("", str(os.getpid())) or not (usec.isascii() and usec.isdigit()):
        return None
    return int(usec) / 1e6 or None


def _reloading() -> tuple[str, str]:
    # In one datagram: by the time systemd tells this reload from an earlier one.
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:LONGEST_STATUS]


def _stored_name(listener: Listener) -> str:
    """Name a socket so that it is found again, as one that was handed down is."""
    from sitebus.sockets.handdown import Origin

    file = listener.file
    identity = (file.device, file.inode) if file else None
    name = Origin(listener.name, listener.asked, identity).encode()
    return name if len(name) < 256 else "sitebus"  # longer ones systemd refuses
