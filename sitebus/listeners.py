"""Who listens where, and in which order.

Sorted when somebody subscribes, never when somebody publishes: each channel is an immutable tuple
that is replaced as a whole, so that whoever is publishing keeps the one it began with.

Who overhears is sorted in among the listeners of each channel that there is. For a name that is no
channel it is looked up each time and nothing is remembered: such names may come from strangers.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, MutableSet
from types import ModuleType
from typing import Any, NamedTuple

Listener = Callable[..., Any]

DEFAULT_PRIORITY = 50

# Levels of messages on the channel ``log``, as in `logging`, which costs too much to import for it.
INFO, WARNING, ERROR = 20, 30, 40

#: `inspect.CO_COROUTINE`; importing `inspect` costs a tenth of the whole import.
_CO_COROUTINE = 0x80


def is_async(listener: Listener) -> bool:
    """Tell whether calling *listener* makes a coroutine, without calling it."""
    target: Any = listener
    while isinstance(target, functools.partial):
        target = target.func
    target = getattr(target, "__func__", target)
    if not hasattr(target, "__code__"):
        target = getattr(type(target).__call__, "__func__", type(target).__call__)
    code = getattr(target, "__code__", None)
    return bool(code and code.co_flags & _CO_COROUTINE)


def name_of(listener: Listener) -> str:
    """Name *listener* as a reader of a log would look for it."""
    owner = getattr(listener, "__self__", None)
    plain = getattr(listener, "__name__", None)
    if owner is not None and plain is not None and not isinstance(owner, (type, ModuleType)):
        return f"{type(owner).__name__}.{plain}"
    qualified = getattr(listener, "__qualname__", None)
    return qualified if isinstance(qualified, str) else shown(listener)


def shown(listener: Listener) -> str:
    """Answer the ``repr`` of a stranger's object, which may fail."""
    try:
        return repr(listener)
    except Exception:  # noqa: BLE001 - a stranger's __repr__ must not hide what went wrong
        return f"<{type(listener).__qualname__}>"


class Pattern:
    """Names that are like a text in which each ``*`` stands for any run of characters."""

    __slots__ = ("_first", "_last", "_middle", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._first, *rest = text.split("*")
        self._last = rest.pop() if rest else None
        self._middle = tuple(filter(None, rest))

    def matches(self, name: str) -> bool:
        """Tell whether *name* is one of them."""
        if self._last is None:
            return name == self.text
        start, end = len(self._first), len(name) - len(self._last)
        if start > end or not (name.startswith(self._first) and name.endswith(self._last)):
            return False
        for part in self._middle:
            found = name.find(part, start, end)
            if found < 0:
                return False
            start = found + len(part)
        return True


class Subscription:
    """One listener on one channel, or on those of a pattern, and how long it took."""

    __slots__ = ("asynchronous", "last", "listener", "longest", "order", "pattern", "priority")

    def __init__(
        self, listener: Listener, priority: float, order: int, pattern: Pattern | None = None
    ) -> None:
        self.listener = listener
        self.priority = priority
        self.order = order
        self.pattern = pattern
        self.asynchronous = is_async(listener)
        self.last: float | None = None
        self.longest: float | None = None

    def took(self, seconds: float) -> None:
        """Remember the duration of one call."""
        self.last = seconds
        if self.longest is None or seconds > self.longest:
            self.longest = seconds


class ListenerDescription(NamedTuple):
    """One listener as `Bus.describe` saw it; durations in seconds, None where none was taken."""

    name: str
    priority: float
    asynchronous: bool
    last: float | None
    longest: float | None


class Listeners(MutableMapping[str, "ChannelListeners"]):
    """The channels of a bus, as a mapping of channel names to sets of listeners.

    It is the mapping that wspbus calls ``bus.listeners``: iterate it, ``setdefault`` in it, assign
    a set to a name. Changing it is safe while other threads publish.
    """

    def __init__(
        self,
        channels: Iterable[str],
        timed: Iterable[str],
        changed: Callable[[], object] = lambda: None,
    ) -> None:
        self._lock = threading.RLock()
        self._changed = changed
        self._orders = itertools.count()
        self._timed = frozenset((*timed, "log"))
        self._time_all = False
        self._channels: dict[str, tuple[Subscription, ...]] = {}
        #: Who is called, in turn: the listeners of each channel, and who overhears it.
        self._turns: dict[str, tuple[Subscription, ...]] = {}
        self._overhearing: tuple[Subscription, ...] = ()
        #: What `Bus.publish` calls without further ado: neither timed nor asynchronous.
        self.quick: dict[str, tuple[Listener, ...]] = {}
        for channel in channels:
            self._store(channel, ())

    def subscribe(self, channel: str, listener: Listener, priority: float | None = None) -> None:
        """Add *listener*, or give it another priority if it is there."""
        with self._lock:
            others = self._without(channel, listener)
            self._store(channel, _sorted((*others, self._entry(listener, priority))))

    def unsubscribe(self, channel: str, listener: Listener) -> None:
        """Remove *listener* if it is there."""
        with self._lock:
            if channel in self._channels:
                self._store(channel, self._without(channel, listener))

    def overhear(self, pattern: str, listener: Listener, priority: float | None = None) -> None:
        """Add *listener* to the channels that match, whichever they are or will be."""
        with self._lock:
            others = self._others(pattern, listener)
            entry = self._entry(listener, priority, Pattern(pattern))
            self._overhear(_sorted((*others, entry)))

    def forget(self, pattern: str, listener: Listener) -> None:
        """Undo `overhear`, if it was done."""
        with self._lock:
            self._overhear(self._others(pattern, listener))

    def of(self, channel: str) -> tuple[Subscription, ...]:
        """Answer the subscriptions of *channel* in the order in which they run."""
        return self._channels.get(channel, ())

    def in_turn(self, channel: str) -> tuple[Subscription, ...]:
        """Answer those to call for a message on *channel*: who listens, and who overhears."""
        turn = self._turns.get(channel)
        return self._matching(channel, ()) if turn is None else turn

    def time_all(self, wanted: bool) -> None:
        """Take, or no longer take, the time of listeners on every channel."""
        with self._lock:
            self._time_all = wanted
            for channel, subscriptions in self._channels.items():
                self._store(channel, subscriptions)

    def describe(self) -> Mapping[str, tuple[ListenerDescription, ...]]:
        """Answer every channel and its listeners in the order in which they run."""
        return {
            channel: tuple(map(_described, subscriptions))
            for channel, subscriptions in self._channels.copy().items()
        }

    def describe_overhearing(self) -> Mapping[str, tuple[ListenerDescription, ...]]:
        """Answer every pattern and who overhears by it, in the order in which they run."""
        found: dict[str, tuple[ListenerDescription, ...]] = {}
        for each in self._overhearing:
            if each.pattern is not None:
                before = found.get(each.pattern.text, ())
                found[each.pattern.text] = (*before, _described(each))
        return found

    def _entry(
        self, listener: Listener, priority: float | None, pattern: Pattern | None = None
    ) -> Subscription:
        if priority is None:
            priority = getattr(listener, "priority", DEFAULT_PRIORITY)
        return Subscription(listener, priority, next(self._orders), pattern)

    def _others(self, pattern: str, listener: Listener) -> tuple[Subscription, ...]:
        return tuple(
            each
            for each in self._overhearing
            if each.listener != listener or each.pattern is None or each.pattern.text != pattern
        )

    def _overhear(self, overhearing: tuple[Subscription, ...]) -> None:
        self._overhearing = overhearing
        for channel, subscriptions in self._channels.items():
            self._store(channel, subscriptions)

    def _matching(
        self, channel: str, subscriptions: tuple[Subscription, ...]
    ) -> tuple[Subscription, ...]:
        """Sort who overhears *channel* in, each once, whatever number of its patterns match."""
        found: list[Subscription] = []
        for each in self._overhearing:
            matches = each.pattern is not None and each.pattern.matches(channel)
            if matches and all(each.listener != other.listener for other in found):
                found.append(each)
        return _sorted((*subscriptions, *found)) if found else subscriptions

    def _without(self, channel: str, listener: Listener) -> tuple[Subscription, ...]:
        return tuple(each for each in self.of(channel) if each.listener != listener)

    def _store(self, channel: str, subscriptions: tuple[Subscription, ...]) -> None:
        """Replace a channel as a whole, so that nobody sees it half changed, and tell of it."""
        turn = self._matching(channel, subscriptions)
        self._turns[channel] = turn
        self._channels[channel] = subscriptions
        slow = self._time_all or channel in self._timed or turn is not subscriptions
        if slow or any(each.asynchronous for each in subscriptions):
            self.quick.pop(channel, None)
        else:
            self.quick[channel] = tuple(each.listener for each in subscriptions)
        self._changed()

    def __getitem__(self, channel: str) -> ChannelListeners:
        if channel not in self._channels:
            raise KeyError(channel)
        return ChannelListeners(self, channel)

    def __setitem__(self, channel: str, listeners: Iterable[Listener]) -> None:
        kept = tuple(listeners)
        with self._lock:
            self._store(channel, ())
            for listener in kept:
                self.subscribe(channel, listener)

    def setdefault(self, channel: str, default: Any = None) -> ChannelListeners:
        """Answer the live set of *channel*, declared with the listeners of *default* if new."""
        with self._lock:
            if channel not in self._channels:
                self[channel] = default or ()
        return self[channel]

    def __delitem__(self, channel: str) -> None:
        with self._lock:
            del self._channels[channel]
            self.quick.pop(channel, None)
            self._turns.pop(channel, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._channels.copy())

    def __len__(self) -> int:
        return len(self._channels)

    def __contains__(self, channel: object) -> bool:
        return channel in self._channels

    def clear(self) -> None:
        """Drop every listener, and who overhears, and keep the channels."""
        with self._lock:
            self._overhearing = ()
            for channel in self:
                self._store(channel, ())


def _sorted(subscriptions: Iterable[Subscription]) -> tuple[Subscription, ...]:
    return tuple(sorted(subscriptions, key=lambda each: (each.priority, each.order)))


def _described(each: Subscription) -> ListenerDescription:
    name = name_of(each.listener)
    return ListenerDescription(name, each.priority, each.asynchronous, each.last, each.longest)


class ChannelListeners(MutableSet[Listener]):
    """The listeners of one channel as a live set, iterated in the order in which they run."""

    def __init__(self, listeners: Listeners, channel: str) -> None:
        self._listeners = listeners
        self._channel = channel

    def add(self, value: Listener) -> None:
        """Subscribe *value*, unless it listens here already."""
        if value not in self:
            self._listeners.subscribe(self._channel, value)

    def discard(self, value: Listener) -> None:
        """Unsubscribe *value* if it listens here."""
        self._listeners.unsubscribe(self._channel, value)

    def __iter__(self) -> Iterator[Listener]:
        return (each.listener for each in self._listeners.of(self._channel))

    def __len__(self) -> int:
        return len(self._listeners.of(self._channel))

    def __contains__(self, value: object) -> bool:
        return any(each.listener == value for each in self._listeners.of(self._channel))

    def __repr__(self) -> str:
        return f"{{{', '.join(name_of(listener) for listener in self)}}}"

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        """What set operators make of two channels is a plain set."""
        return set(it)
