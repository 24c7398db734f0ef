"""The engines of others: a mounted CherryPy or magicbus application has its own, run by ours.

An application of CherryPy relies on ``cherrypy.engine``, one of magicbus on its bus: their plugins
start and stop with it. Who is mounted is looked at, and neither library is ever imported here.
What such a bus would do to the process is off: the site has servers, signals, a reloader, a user
and a terminal already.

CherryPy ends the process, without a word to anybody, where a listener of its start fails; so its
steps are taken here one by one.
"""

from __future__ import annotations

import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

from sitebus.errors import GuestFailed
from sitebus.mounts import Mount, Site
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority

#: Plugins of theirs for what a process has once.
PROCESS_WIDE = frozenset(
    {"ServerAdapter", "ServerPlugin", "Autoreloader", "SignalHandler", "Daemonizer",
     "DropPrivileges"}
)  # fmt: skip
_LIBRARIES = ("cherrypy", "magicbus")


class Guest(ABC):
    """A bus of somebody else's.

    Attributes:
        name: What it is called in messages.
        exits: The channel on which it tells of its end.
    """

    name = ""
    exits = ""

    def __init__(self, bus: Any) -> None:
        self.bus = bus
        self._heard: list[tuple[str, Callable[..., object]]] = []

    def hear(self, channel: str, listener: Callable[..., object], priority: int = 50) -> None:
        """Subscribe a listener of ours."""
        self.bus.subscribe(channel, listener, priority)
        self._heard.append((channel, listener))

    def release(self) -> None:
        """Take our listeners off again."""
        while self._heard:
            self.bus.unsubscribe(*self._heard.pop())

    @property
    @abstractmethod
    def runs(self) -> bool: ...

    @property
    @abstractmethod
    def has_left(self) -> bool: ...

    @abstractmethod
    def take_restart(self) -> bool:
        """Tell whether its program wants to be run again, which the site does from here on."""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def exit(self) -> None: ...

    @abstractmethod
    def graceful(self) -> None: ...


class CherryPyEngine(Guest):
    """``cherrypy.engine``."""

    name = "cherrypy.engine"
    exits = "exit"

    @property
    def runs(self) -> bool:
        return bool(self.bus.state is self.bus.states.STARTED)

    @property
    def has_left(self) -> bool:
        return bool(self.bus.state is self.bus.states.EXITING)

    def take_restart(self) -> bool:
        return bool(self.bus.execv)

    def start(self) -> None:
        self._hand_logs_over()
        self.bus.state = self.bus.states.STARTING
        self.bus.publish("start")
        self.bus.state = self.bus.states.STARTED

    def stop(self) -> None:
        self.bus.stop()

    def exit(self) -> None:
        self.bus.state = self.bus.states.EXITING
        self.bus.publish("exit")

    def graceful(self) -> None:
        self.bus.publish("graceful")

    def _hand_logs_over(self) -> None:
        """Have the site alone log what the bus says, and who asked for what."""
        for listener in tuple(self.bus.listeners["log"]):
            if getattr(listener, "__module__", "") == "cherrypy":
                self.bus.unsubscribe("log", listener)
        access: Any = sys.modules["cherrypy"].log.access_log
        for handler in tuple(access.handlers):
            # A file is somebody's wish.
            if getattr(handler, "_cpbuiltin", "") == "screen":
                access.removeHandler(handler)


class MagicBus(Guest):
    """A ``magicbus.ProcessBus``."""

    name = "magicbus"
    exits = "EXIT"

    def __init__(self, bus: Any) -> None:
        super().__init__(bus)
        self._failure: BaseException | None = None
        # It would wait for every thread of the site.
        if (wait := getattr(bus, "thread_wait", None)) is not None:
            wait.unsubscribe()
        self.hear("START_ERROR", self._failed, 0)

    @property
    def runs(self) -> bool:
        return bool(self.bus.state == "RUN")

    @property
    def has_left(self) -> bool:
        return self.bus.state in ("EXIT", "EXITED")

    def take_restart(self) -> bool:
        known = self.bus.listeners.get("execv", ())
        owners: list[Any] = [getattr(each, "__self__", None) for each in known]
        asked = [owner for owner in owners if type(owner).__name__ == "Execv"]
        for owner in asked:
            # It would not wait for block(), but do it when the bus has left.
            owner.unsubscribe()
        return bool(asked)

    def start(self) -> None:
        if self.bus.state == "EXITED":
            # Tests serve one site after another; its own table has no way back.
            self.bus.state = "INITIAL"
        self.bus.transition("RUN")
        if not self.runs:
            raise self._failure or RuntimeError(f"magicbus is in its state {self.bus.state}")

    def _failed(self, kind: object, error: BaseException, trace: object) -> None:
        self._failure = error

    def stop(self) -> None:
        self.bus.transition("IDLE")

    def exit(self) -> None:
        self.bus.transition("EXITED")

    def graceful(self) -> None:
        """Do nothing: to magicbus that is a stop and a start."""


class GuestEngines(Plugin):
    """Start and stop the engines that mounted applications have of their own.

    Args:
        bus: The engine.
        site: Where applications are mounted.
        refuse: Told why one of them does not start.
    """

    def __init__(self, bus: Engine, site: Site, refuse: Callable[[Exception], object]) -> None:
        super().__init__(bus)
        self.site = site
        self.refuse = refuse
        self._before = site.noticed
        self._guests: dict[int, Guest] = {}
        self._lock = threading.RLock()
        self._leaving = False

    @listens("start", priority=(Priority.IMPORT + Priority.SERVE) / 2)
    def start(self) -> None:
        """Start the engine of whoever is mounted; the start is off if one does not."""
        try:
            for mount in self.site.mounts:
                self.notice(mount)
        except GuestFailed as error:
            self.refuse(error)
        else:
            self.site.noticed = self.notice

    def notice(self, mount: Mount) -> None:
        """Start the engines that the application of *mount* has.

        Raises:
            GuestFailed: One does not start.
        """
        with self._lock:
            for bus in _buses(mount):
                guest = self._guests.get(id(bus))
                if guest is None:
                    guest = self._guests[id(bus)] = self._welcome(bus)
                if not guest.runs:
                    _start(guest, mount)

    def _welcome(self, bus: Any) -> Guest:
        guest = CherryPyEngine(bus) if _is_of(bus, "cherrypy") else MagicBus(bus)
        off = ", ".join(sorted(_turn_off(bus)))
        said = f", without its {off}" if off else ""
        self.bus.log(f"{guest.name} is started and stopped with the site{said}")
        guest.hear("log", partial(self._log, guest.name))
        guest.hear(guest.exits, partial(self._left, guest))
        return guest

    def _log(self, name: str, message: str = "", level: int = 20) -> None:
        self.bus.log(f"{name}: {message}", level)

    def _left(self, guest: Guest) -> None:
        """End the site where an application has ended its engine."""
        if self._leaving:
            return
        if guest.take_restart():
            self.bus.restart()
        else:
            self.bus.exit()

    @listens("graceful")
    def graceful(self) -> None:
        """Hand the message on."""
        for guest in self._running():
            guest.graceful()

    @listens("stop", priority=Priority.SERVER_STOP + 1)
    def stop(self) -> None:
        """Stop them, the last one first; every server has drained."""
        self.site.noticed = self._before
        with ExitStack() as stopping:
            for guest in self._running():
                stopping.callback(guest.stop)

    @listens("exit")
    def exit(self) -> None:
        """Let them clean up."""
        self._leaving = True
        with ExitStack() as leaving:
            leaving.callback(setattr, self, "_leaving", False)
            leaving.callback(self._guests.clear)
            for guest in self._guests.values():
                leaving.callback(guest.release)
                if not guest.has_left:
                    leaving.callback(guest.exit)

    def _running(self) -> list[Guest]:
        with self._lock:
            return [guest for guest in self._guests.values() if guest.runs]


def _start(guest: Guest, mount: Mount) -> None:
    try:
        guest.start()
    # Its plugins are strangers, and may raise anything.
    except Exception as error:
        raise GuestFailed(guest.name, mount.name, _only(error)) from error


def _buses(mount: Mount) -> Iterator[Any]:
    """Answer the buses of others that the application of *mount* has."""
    cherrypy = sys.modules.get("cherrypy")
    if mount.framework == "CherryPy" and _is_of(getattr(cherrypy, "engine", None), "cherrypy"):
        yield getattr(cherrypy, "engine", None)
    if "magicbus" in sys.modules:
        yield from {id(bus): bus for bus in _magic(mount.app)}.values()


def _magic(app: Any) -> Iterator[Any]:
    """Answer each magicbus that *app* holds, or its module does."""
    kind = getattr(sys.modules.get("magicbus.process"), "ProcessBus", ())
    owner = getattr(app, "__self__", app)
    plain = getattr(app, "__module__", None) or type(app).__module__
    names = {plain, getattr(owner, "__module__", None)}
    held: list[Iterable[Any]] = [getattr(owner, "__dict__", {}).values()]
    held += [vars(sys.modules[name]).values() for name in names if name in sys.modules]
    for values in held:
        yield from (value for value in tuple(values) if isinstance(value, kind))


def _is_of(thing: object, library: str) -> bool:
    return any(each.__module__.partition(".")[0] == library for each in type(thing).__mro__)


def _turn_off(bus: Any) -> Iterator[str]:
    """Take what a process has once off *bus*; answer what there was."""
    for owner in _process_wide(bus):
        if hasattr(owner, "_previous_handlers"):
            _restore_signals(owner)
        else:
            owner.unsubscribe()
        for channel, listeners in bus.listeners.items():
            for listener in tuple(listeners):
                if getattr(listener, "__self__", None) is owner:
                    bus.unsubscribe(channel, listener)
        yield type(owner).__name__


def _restore_signals(handler: Any) -> None:
    """Take signals from a handler of theirs, but for those that are somebody else's by now.

    Its own way back puts every signal where it was before, ours too that came later.
    """
    before = handler._previous_handlers
    for number in tuple(before):
        if getattr(signal.getsignal(number), "__self__", None) is handler and _may_set():
            signal.signal(number, before.pop(number) or signal.SIG_DFL)


def _may_set() -> bool:
    return threading.current_thread() is threading.main_thread()


def _process_wide(bus: Any) -> list[Any]:
    listeners = [each for known in bus.listeners.values() for each in known]
    # Who answers a signal need not listen to anything.
    listeners += map(signal.getsignal, signal.valid_signals())
    owners = {id(owner): owner for each in listeners if (owner := getattr(each, "__self__", None))}
    return [owner for owner in owners.values() if _is_process_wide(owner)]


def _is_process_wide(owner: object) -> bool:
    return any(
        each.__name__ in PROCESS_WIDE and each.__module__.startswith(_LIBRARIES)
        for each in type(owner).__mro__
    )


def _only(error: Exception) -> Exception:
    """Answer what a listener of theirs raised, if it is one alone."""
    instances: list[Exception] = getattr(error, "get_instances", list)()
    return instances[0] if len(instances) == 1 else error
