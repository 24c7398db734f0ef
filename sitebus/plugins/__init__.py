"""Plugins: several listeners that are subscribed as one unit.

A plugin names the part it plays ("start"), not the channel; the bus's machine knows that magicbus
calls it "START". Its constructor stores and touches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from sitebus.errors import BadListener, UnknownChannel, nearest
from sitebus.listeners import name_of
from sitebus.process import Engine

Method = TypeVar("Method", bound=Callable[..., Any])

_MARK = "__sitebus_listens__"

#: The plugins that a ``[plugin NAME]`` gets without saying where they are.
BUILT_IN: Mapping[str, str] = {
    "daemon": "sitebus.plugins.daemon:Daemonizer",
    "drop_privileges": "sitebus.plugins.privileges:DropPrivileges",
    "pidfile": "sitebus.plugins.pidfile:PIDFile",
    "systemd": "sitebus.plugins.systemd:Systemd",
    "threads": "sitebus.plugins.stuck:ThreadMonitor",
}

#: Those of the process that is started, where others serve for it.
OF_SUPERVISOR = frozenset({"daemon", "pidfile", "systemd"})

#: How many values a message carries on the channels that every bus has.
_VALUES = {"log": 2} | dict.fromkeys(
    ("start", "started", "stop", "stopped", "exit", "exited", "graceful", "main"), 0
)


def find(name: str) -> Any:
    """Answer the class of the built-in plugin called *name*; None if there is none."""
    from importlib import import_module

    module, _, attribute = BUILT_IN.get(name, "").partition(":")
    return getattr(import_module(module), attribute) if module else None


class Mark(NamedTuple):
    """What `listens` notes on a method: the channel, or its role, and the priority."""

    channel: str
    priority: float | None


def listens(channel: str, priority: float | None = None) -> Callable[[Method], Method]:
    """Mark a method of a `Plugin` as a listener of *channel*.

    A subclass that overrides the method still listens, and may set ``priority`` on its own.
    """

    def mark(method: Method) -> Method:
        marks = getattr(method, _MARK, ())
        setattr(method, _MARK, (*marks, Mark(channel, priority)))
        return method

    return mark


class Plugin:
    """The base of every plugin: methods marked with `listens`, subscribed as one unit."""

    def __init__(self, bus: Engine) -> None:
        self.bus = bus

    def subscribe(self) -> None:
        """Start listening on every marked channel, or on none.

        Raises:
            UnknownChannel: A channel's name is a near miss of one that the bus has.
            BadListener: A method cannot take the messages of its channel.
        """
        found = list(self._listeners())
        for mark, channel, method in found:
            self._check(mark, channel, method)
        for mark, channel, method in found:
            self.bus.subscribe(channel, method, getattr(method, "priority", mark.priority))

    def unsubscribe(self) -> None:
        """Stop listening."""
        for _, channel, method in self._listeners():
            self.bus.unsubscribe(channel, method)

    def _listeners(self) -> Iterator[tuple[Mark, str, Callable[..., Any]]]:
        machine = getattr(self.bus, "machine", None)
        for name, marks in _marks_of(type(self)).items():
            for mark in marks:
                channel = machine.channel(mark.channel) if machine else mark.channel
                yield mark, channel, getattr(self, name)

    def _check(self, mark: Mark, channel: str, method: Callable[..., Any]) -> None:
        known = getattr(self.bus, "listeners", {})
        # Any name may be a channel; a letter or two off one that exists is a mistake.
        if channel not in known and mark.channel not in _VALUES and _nearest(channel, known):
            raise UnknownChannel(channel, name_of(method), known)
        values = _VALUES.get(mark.channel)
        if values is not None and not _takes(method, values):
            messages = f"its messages carry {values} values" if values else "its messages are bare"
            raise BadListener(name_of(method), channel, messages)


def call_off(bus: Any) -> bool:
    """Have the rest of a start left out, in a listener of it that is about to raise.

    For failures after which nothing more may be done. False on a bus of somebody else's, which
    runs the other listeners whatever happens.
    """
    machine = getattr(bus, "machine", None)
    if machine is None:
        return False
    if bus.state in machine.preemptible:
        bus.exit()
    return True


class SimplePlugin:
    """A plugin as wspbus and magicbus know it: methods are named like their channels.

    Channels that are declared later than `subscribe` are missed; `Plugin` does not have that trap.
    """

    def __init__(self, bus: Engine) -> None:
        self.bus = bus

    def subscribe(self) -> None:
        """Subscribe every method that is named like a channel of the bus."""
        for channel in list(self.bus.listeners):
            method = getattr(self, channel, None)
            if method is not None:
                self.bus.subscribe(channel, method)

    def unsubscribe(self) -> None:
        """Undo `subscribe`."""
        for channel in list(self.bus.listeners):
            method = getattr(self, channel, None)
            if method is not None:
                self.bus.unsubscribe(channel, method)


def _nearest(name: str, known: Iterable[str]) -> str | None:
    letters = set(name)
    # Comparing costs an import, and most names are like no other.
    like = [
        other
        for other in known
        if abs(len(other) - len(name)) < 3 and len(letters.symmetric_difference(other)) < 3
    ]
    return nearest(name, like, 0.75)


def _marks_of(kind: type) -> dict[str, tuple[Mark, ...]]:
    """Marks by method name; the most derived class that marks a name decides."""
    marks: dict[str, tuple[Mark, ...]] = {}
    for ancestor in reversed(kind.__mro__):
        for name, value in vars(ancestor).items():
            if hasattr(value, _MARK):
                marks[name] = getattr(value, _MARK)
    return marks


def _takes(method: Callable[..., Any], values: int) -> bool:
    """Tell whether *method* can be called with that many values; strange callables may try."""
    code = getattr(method, "__code__", None)
    if code is None:
        return True
    positional = code.co_argcount - (1 if hasattr(method, "__self__") else 0)
    required = positional - len(getattr(method, "__defaults__", None) or ())
    keyword_only = code.co_kwonlyargcount - len(getattr(method, "__kwdefaults__", None) or {})
    takes_any = bool(code.co_flags & 0x04)  # inspect.CO_VARARGS
    return keyword_only <= 0 and required <= values and (takes_any or values <= positional)
