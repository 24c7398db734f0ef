"""Answer signals: exit, reload in place, restart, tell what every thread does.

A handler runs between any two lines of the main thread, which may hold any lock: logging's, a
queue's, an application's. So it notes the number, wakes the main loop, and returns; `Engine.block`
then publishes on the channel named like the signal, where the actions listen beside everybody else.
However many come meanwhile, each number is noted once and one call is queued.

Two things do not wait for the main loop, because the main thread may be what is stuck.
To be told to end is `Engine.interrupt`'s, which is safe in a handler and counts: the third leaves.
A picture of the threads is taken, and its channel published, in a thread of its own; so is
everything on a bus that has no work for the main thread, as wspbus.
"""

from __future__ import annotations

import enum
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from sitebus.deadline import leave_now
from sitebus.errors import NotMainThread, UnknownAction
from sitebus.listeners import Listener
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority
from sitebus.signalnames import ELSEWHERE, NAMES, NUMBERS, aliases, number_of
from sitebus.wakeup import Wakeup

if TYPE_CHECKING:
    from sitebus.serving import Frame, ThreadPicture

#: What a signal can be answered with, and what that means.
ACTIONS: Mapping[str, str] = {
    "exit": "exit in order; the second cuts every wait short, the third leaves with status 70",
    "graceful": "reload in place: log files are opened again, certificates are read again",
    "restart": "try the same command line, then run it in this process, on the same sockets",
    "dump": "log where every thread is, and which request it serves",
    "hangup": "exit if the process was started from a terminal, restart otherwise",
    "ignore": "do nothing",
    "default": "leave it to the system, which ends the process at most signals",
    "publish": "only tell the listeners on the channel named like the signal",
}

#: What is done about which signal unless somebody says otherwise.
DEFAULTS: Mapping[str, str] = {
    "SIGTERM": "exit",
    "SIGINT": "exit",
    "SIGBREAK": "exit",  # Ctrl-Break, on Windows
    "SIGHUP": "hangup",
    "SIGUSR1": "graceful",
    "SIGUSR2": "restart",
    "SIGQUIT": "dump",
}

#: What asks a process to end, on every platform.
ENDING = (signal.SIGTERM, signal.SIGINT)

#: The actions run after those who only want to know.
LAST = 100

DEBUG, INFO, WARNING = 10, 20, 30

Disposition = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None
Handler = Callable[..., Any] | signal.Handlers | None


class Role(enum.IntEnum):
    """What a handler has to know about its signal; of several, the highest counts."""

    NONE = 0
    #: Somebody else's function may end the process, as long as there is time for it.
    MAY_END = 1
    DUMPS = 2
    HANGS_UP = 3
    ENDS = 4


class SignalHandler(Plugin):
    """Answer signals while subscribed; what answered them before is put back afterwards.

    A signal that is ignored when the plugin is subscribed, as ``nohup`` and ``command &`` leave
    it, stays so, unless it is set in *actions*, `handlers` or with `set_handler`.

    Args:
        bus: Where they are published.
        actions: What to do about which signal, by the names in `ACTIONS`; `DEFAULTS` for others.

    Attributes:
        handlers: What is called about which signal, to be changed before `subscribe`: a function,
            ``SIG_IGN``, ``SIG_DFL``, or None to have it published and nothing else. Signals that
            only other platforms have may be among them.
        renew: What SIGHUP does instead of a restart, if anything, and also while the terminal that
            the process was started from is still there.

    Raises:
        UnknownSignal: *actions* names a signal that is not known here.
        CannotCatch: It names one that no process can answer.
        UnknownAction: It names something that is not in `ACTIONS`.
    """

    #: Each number's name; the first of several.
    signals: ClassVar[dict[int, str]] = dict(NAMES)

    def __init__(self, bus: Engine, *, actions: Mapping[str, str] | None = None) -> None:
        super().__init__(bus)
        self.handlers: dict[str, Handler] = {}
        self.renew: Callable[[], object] | None = None
        for name, action in {**DEFAULTS, **(actions or {})}.items():
            if name not in (actions or {}) and name not in NUMBERS:
                continue
            number_of(name)
            self.handlers[name] = self._action(name, action)
        self._unasked = {n: h for n, h in self.handlers.items() if n not in (actions or {})}
        self._before: dict[int, Disposition] = {}
        self._ours: dict[int, Disposition] = {}
        self._taken: list[tuple[str, Handler]] = []
        self._added: list[tuple[str, Handler]] = []
        self._roles: dict[int, Role] = {}
        self._interrupts = 0
        self._terminal: int | None = None
        self._parent: object = None
        call_in_main = getattr(bus, "call_in_main", None)
        self._apart = Pending(_call_in_a_thread, self._answer)
        self._pending = Pending(call_in_main, self._answer) if call_in_main else self._apart
        # A bus without such work looks after its main thread itself.
        self._wakeup = Wakeup(self._pending.look) if call_in_main else None

    def subscribe(self) -> None:
        """Take the signals over, all or none.

        Raises:
            NotMainThread: Python lets only the main thread of a process do so.
            UnknownSignal: `handlers` has a name that no signal has, here or elsewhere.
            CannotCatch: `handlers` has one that no process can answer.
        """
        require_main_thread("SignalHandler.subscribe()")
        wanted = list(self._wanted())
        super().subscribe()
        self._stop_listening(self._taken)
        self._terminal = _terminal()
        try:
            for name, handler in wanted:
                self._take(self._taken, name, handler)
            if self._wakeup is not None:
                self._wakeup.open()
                if self._is_up():
                    self._wakeup.watch()
        except BaseException:
            self.unsubscribe()
            raise

    def unsubscribe(self) -> None:
        """Give the signals back, unless somebody else took them meanwhile.

        Raises:
            NotMainThread: Python lets only the main thread of a process do so.
        """
        require_main_thread("SignalHandler.unsubscribe()")
        super().unsubscribe()
        if self._wakeup is not None:
            self._wakeup.close()
        for number, before in self._before.items():
            # Bound methods are equal, never identical.
            if signal.getsignal(number) == self._ours[number]:
                # None: the handler was not set from Python, and cannot be set again from it.
                signal.signal(number, signal.SIG_DFL if before is None else before)
                self.bus.log(f"Restored what {self.signals[number]} did before.", DEBUG)
        self._before.clear()
        self._ours.clear()
        self._stop_listening(self._taken)
        self._stop_listening(self._added)
        self._roles = {}
        self._interrupts = 0

    def set_handler(self, signal: str | int, listener: Listener | None = None) -> None:
        """Have *signal* published on the channel of its name, where *listener* listens.

        What else listens there still does. `unsubscribe` takes it back.

        Raises:
            NotMainThread: Python lets only the main thread of a process do so.
            UnknownSignal: There is no such signal here; it is a ValueError.
            CannotCatch: No process can answer this one; it is a ValueError.
        """
        require_main_thread("SignalHandler.set_handler()")
        number = number_of(signal)
        name = signal if isinstance(signal, str) else self.signals[number]
        self._take(self._added, name, listener)

    # A process that becomes a daemon must not have threads before.
    @listens("start", priority=Priority.DAEMONIZE + 1)
    def start(self) -> None:
        """Notice signals that reach other threads, from here on."""
        if self._wakeup is not None:
            self._wakeup.watch()

    # The actions; each is also a listener on the channels of its signals.

    def handle_SIGHUP(self) -> None:  # noqa: N802 - the name that wspbus gave it
        """Exit a process that was started from a terminal, and restart any other."""
        if self._hangs_up():
            self.bus.log("SIGHUP caught in a process started from a terminal. Exiting.")
            self._exit()
        elif self.renew is not None:
            self.bus.log("SIGHUP caught.")
            self.renew()
        else:
            self.bus.log("SIGHUP caught in a process without a terminal. Restarting.")
            self._restart()

    def dump(self) -> None:
        """Log where every thread is, and what it serves."""
        # Asked for outright: seen however little is logged.
        self.bus.log(f"All threads:\n{_picture(self.bus)}", WARNING)

    def _exit(self) -> None:
        if self._interrupts and hasattr(self.bus, "interrupt"):
            return  # the handler has told the bus already
        leave = getattr(self.bus, "exit", None)
        if leave is not None:
            leave()
        else:
            self.bus.transition("EXITED")  # magicbus'

    def _graceful(self) -> None:
        if not self._is_leaving():
            self.bus.graceful()

    def _restart(self) -> None:
        if not self._is_leaving():
            getattr(self.bus, "restart_soon", self.bus.restart)()

    def _action(self, name: str, action: str) -> Handler:
        actions: dict[str, Handler] = {
            "exit": self._exit,
            "graceful": self._graceful,
            "restart": self._restart,
            "dump": self.dump,
            "hangup": self.handle_SIGHUP,
            "ignore": signal.SIG_IGN,
            "default": signal.SIG_DFL,
            "publish": None,
        }
        try:
            return actions[action]
        except KeyError:
            raise UnknownAction(name, action, ACTIONS) from None

    # Taking a signal over.

    def _wanted(self) -> Iterator[tuple[str, Handler]]:
        for name, handler in self.handlers.items():
            if name in ELSEWHERE:
                self.bus.log(f"There is no {name} on this platform.", DEBUG)
                continue
            number = number_of(name)
            by_default = name in self._unasked and self._unasked[name] == handler
            if by_default and signal.getsignal(number) is signal.SIG_IGN:
                self.bus.log(f"{name} was ignored before, and stays so.", DEBUG)
                continue
            yield name, handler

    def _take(self, taken: list[tuple[str, Handler]], name: str, handler: Handler) -> None:
        number = NUMBERS[name]
        taken.append((name, handler))
        if handler is signal.SIG_DFL:
            self._install(number, signal.SIG_DFL)
        elif handler is signal.SIG_IGN:
            # Truly ignored, it would be so in every child, and after a restart for good.
            self._install(number, _do_nothing)
        else:
            if callable(handler):
                ours = getattr(handler, "__self__", None) is self
                self.bus.subscribe(name, handler, LAST if ours else None)
            self._roles = self._roles_now()
            self._install(number, self._caught)
            self.bus.log(f"Listening for {name}.", DEBUG)

    def _install(self, number: int, disposition: Disposition) -> None:
        self._parent = _parent()
        before = signal.getsignal(number)
        if number not in self._before or before != self._ours[number]:
            self._before[number] = before
        self._ours[number] = disposition
        signal.signal(number, disposition)

    def _stop_listening(self, taken: list[tuple[str, Handler]]) -> None:
        for name, handler in taken:
            if callable(handler):
                self.bus.unsubscribe(name, handler)
        taken.clear()

    def _roles_now(self) -> dict[int, Role]:
        roles: dict[int, Role] = {}
        for name, handler in (*self._taken, *self._added):
            number = NUMBERS[name]
            roles[number] = max(roles.get(number, Role.NONE), self._role(number, handler))
        return roles

    def _role(self, number: int, handler: Handler) -> Role:
        function = getattr(handler, "__func__", None)
        if handler == getattr(self.bus, "exit", ...) or function is SignalHandler._exit:
            return Role.ENDS
        if function is SignalHandler.handle_SIGHUP:
            return Role.HANGS_UP
        if function is SignalHandler.dump:
            return Role.DUMPS
        ours = getattr(handler, "__self__", None) is self
        return Role.MAY_END if number in ENDING and not ours else Role.NONE

    # When one comes.

    def _caught(self, number: int, frame: FrameType | None) -> None:
        """Do what is safe wherever the main thread happens to be, and return."""
        if _parent() is not self._parent:
            self._leave_to(self._before[number], number, frame)
            return
        role = self._roles.get(number, Role.NONE)
        if self._tells_to_end(role):
            self._interrupt()
        elif self._interrupts and role is not Role.DUMPS:
            return  # nothing else counts any more, and a storm cannot keep the main loop busy
        (self._apart if role is Role.DUMPS else self._pending).add(number)

    def _leave_to(self, before: Disposition, number: int, frame: FrameType | None) -> None:
        """Do as if sitebus were not here: the site is the process this one was forked from."""
        if callable(before):
            before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL if before is None else before)
            os.kill(os.getpid(), number)

    def _tells_to_end(self, role: Role) -> bool:
        if role is Role.HANGS_UP:
            # A closed terminal sends several; only people who press Ctrl-C again are in a hurry.
            leaving = self._interrupts or getattr(self.bus, "leaving", False)
            return not leaving and self._hangs_up()
        # Whatever somebody else's handler does, it cannot do it while the main thread is stopping.
        return role is Role.ENDS or (role is Role.MAY_END and self._is_leaving())

    def _interrupt(self) -> None:
        self._interrupts += 1
        interrupt = getattr(self.bus, "interrupt", None)
        if interrupt is not None:
            interrupt()
        elif self._interrupts > 2:
            leave_now()

    def _is_leaving(self) -> bool:
        """Tell whether the bus is on its way out, be it to end or to be run again."""
        return any(getattr(self.bus, name, False) for name in ("leaving", "execv", "relieved"))

    def _is_up(self) -> bool:
        """Tell whether a message to start comes too late, or may do."""
        machine, state = self.bus.machine, self.bus.state
        return state == machine.running or machine.channels.get(state) == machine.channel("start")

    def _hangs_up(self) -> bool:
        """Tell whether SIGHUP means the end: of a terminal; one that is still there sent none."""
        return self._has_terminal() and (self.renew is None or _terminal() is None)

    def _has_terminal(self) -> bool:
        """Tell whether standard input is a terminal, or the one it was before that hung up."""
        return _terminal() is not None or (
            self._terminal is not None and self._terminal == _standard_input()
        )

    def _answer(self, number: int) -> None:
        self.bus.log(f"Caught signal {self.signals[number]}.", INFO)
        for name in aliases(number):
            # The bus has logged what went wrong, listener by listener.
            with suppress(Exception):
                self.bus.publish(name)


class Pending:
    """Signals that came and are not answered yet: each once, and one call to answer them all.

    Args:
        call_soon: Has a function called where signals are answered; safe in a signal handler.
        answer: Answers one signal.
    """

    def __init__(
        self, call_soon: Callable[[Callable[[], object]], object], answer: Callable[[int], object]
    ) -> None:
        self._call_soon = call_soon
        self._answer_one = answer
        # In the order in which they came; adding and deleting are one step each.
        self._numbers: dict[int, None] = {}
        self._called = False
        self._turn = threading.RLock()

    def add(self, number: int) -> None:
        """Have *number* answered; safe in a signal handler, which takes no lock."""
        self._numbers[number] = None
        self.look()

    def look(self) -> None:
        """Have what there is answered; any thread may call it."""
        if not self._called:
            self._called = True
            try:
                self._call_soon(self._answer_all)
            except RuntimeError:
                self._called = False  # no thread to be had now; the next signal tries again

    def _answer_all(self) -> None:
        with self._turn:
            # First: what is added from here on has a call of its own.
            self._called = False
            for number in tuple(self._numbers):
                del self._numbers[number]
                self._answer_one(number)


def require_main_thread(call: str) -> None:
    """Refuse *call* in any other thread.

    Raises:
        NotMainThread: this is not the main thread.
    """
    thread = threading.current_thread()
    if thread is not threading.main_thread():
        raise NotMainThread(call, thread.name)


def _parent() -> object:
    """Answer whose worker this process is: what `multiprocessing` forks has our handlers, too."""
    # Not `parent_process()`, which fails while the module is only half imported.
    return getattr(sys.modules.get("multiprocessing.process"), "_parent_process", None)


def _picture(bus: Any) -> str:
    """Answer where every thread is and, on a bus that knows, what it serves."""
    if not hasattr(bus, "threads"):
        from sitebus.serving import Registry

        bus = Registry()
    return told(each for each in bus.threads() if each.ident != threading.get_ident())


def told(pictures: Iterable[ThreadPicture]) -> str:
    """Write *pictures*; those that serve nothing and are at one place are written once."""
    idle: dict[tuple[Frame, ...], list[ThreadPicture]] = {}
    lines = []
    for each in pictures:
        if each.request is None:
            idle.setdefault(each.frames, []).append(each)
        else:
            lines.append(str(each))
    for alike in idle.values():
        others = ", ".join(each.name for each in alike[1:])
        lines.append(f"{others}, and " * bool(others) + str(alike[0]))
    return "\n".join(lines)


def _call_in_a_thread(work: Callable[[], object]) -> None:
    import _thread

    # `Thread.start` takes a lock that the interrupted code may hold; this does not. And what runs
    # listeners must be known to `threading`, or it stays in its books when it is gone.
    _thread.start_new_thread(_call_in_a_known_thread, (work,))


def _call_in_a_known_thread(work: Callable[[], object]) -> None:
    try:
        threading.Thread(target=work, name="sitebus signals", daemon=True).start()
    except RuntimeError:
        work()  # that one was the last; this thread will do


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Ignore a signal, in this process only."""


def _standard_input() -> int | None:
    """Answer which device standard input is; it can be closed, missing, or an object."""
    try:
        return os.fstat(sys.stdin.fileno()).st_rdev
    except (AttributeError, OSError, ValueError):
        return None


def _terminal() -> int | None:
    """Answer which device standard input is, if that is a terminal."""
    device = _standard_input()
    return device if device is not None and os.isatty(sys.stdin.fileno()) else None
