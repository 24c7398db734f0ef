"""Publishing: one message to every listener of a channel, in order, whatever fails.

What a bus is besides its channels (states, commands, the walk) is `sitebus.bus`'.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

from sitebus.errors import (
    ChannelFailures,
    CommandCancelled,
    Interrupted,
    LoopEnded,
    SitebusError,
    WouldDeadlock,
)
from sitebus.listeners import ERROR, INFO, Listener, Listeners, Subscription, name_of, shown
from sitebus.loop import LoopThread
from sitebus.machine import AnyState
from sitebus.mailbox import Mailboxes

AnyListener = TypeVar("AnyListener", bound=Listener)

#: Told when there is reason to look again, without more to say.
LOOK = object()

#: Told when waits are cut short.
HURRY = object()


class Channels:
    """Listeners on named channels, and the ways to tell them something.

    Args:
        channels: Those declared from the start; subscribing to any other declares it.
        timed: Those whose listeners are always timed.
    """

    publish_exception_class = ChannelFailures

    #: Where a bus is; only for the error that says that a start was cut short.
    state: AnyState = None

    def __init__(self, channels: Iterable[str], timed: Iterable[str]) -> None:
        self._mail = Mailboxes()
        self._listeners = Listeners(channels, timed, lambda: self._mail.tell(LOOK))
        self._quick = self._listeners.quick
        self._timing = False
        self._logging: set[int] = set()
        self._loop = LoopThread()
        self._walker: int | None = None
        self._running: Subscription | None = None
        self.impatient = False

    @property
    def listeners(self) -> Listeners:
        """The channels and who listens on each: a mapping of names to live sets."""
        return self._listeners

    @listeners.setter
    def listeners(self, channels: Mapping[str, Iterable[Listener]]) -> None:
        for channel, listeners in channels.items():
            self._listeners[channel] = listeners

    @property
    def timing(self) -> bool:
        """Whether listeners of every channel are timed, not only those of the lifecycle."""
        return self._timing

    @timing.setter
    def timing(self, wanted: bool) -> None:
        self._timing = wanted
        self._listeners.time_all(wanted)

    @overload
    def subscribe(
        self, channel: str, listener: None = None, priority: float | None = None
    ) -> Callable[[AnyListener], AnyListener]: ...

    @overload
    def subscribe(
        self, channel: str, listener: Listener, priority: float | None = None
    ) -> None: ...

    def subscribe(
        self, channel: str, listener: Listener | None = None, priority: float | None = None
    ) -> Any:
        """Run *listener* for every message on *channel*; lower priorities run first.

        Without a listener, answer a decorator. The default priority is ``listener.priority`` or
        50; equal ones run in order of subscription. Subscribing again changes the priority.
        """
        if not isinstance(channel, str) and callable(channel):
            raise TypeError('subscribe needs the name of a channel: @bus.subscribe("start")')
        if listener is None:
            return functools.partial(self._decorate, channel, priority)
        if not callable(listener):
            raise TypeError(f"a listener is callable, and {listener!r} is not")
        self._listeners.subscribe(channel, listener, priority)
        return None

    def _decorate(self, channel: str, priority: float | None, listener: AnyListener) -> AnyListener:
        self.subscribe(channel, listener, priority)
        return listener

    def unsubscribe(self, channel: str, listener: Listener) -> None:
        """Stop running *listener* for *channel*; no harm if it never did."""
        self._listeners.unsubscribe(channel, listener)

    @overload
    def overhear(
        self, pattern: str, listener: None = None, priority: float | None = None
    ) -> Callable[[AnyListener], AnyListener]: ...

    @overload
    def overhear(self, pattern: str, listener: Listener, priority: float | None = None) -> None: ...

    def overhear(
        self, pattern: str, listener: Listener | None = None, priority: float | None = None
    ) -> Any:
        """Run *listener* for every message on every channel whose name is like *pattern*.

        It is called with the channel and then with what the message carries, in its turn among the
        channel's listeners, also where the channel has no listeners and was never heard of. What it
        returns is nobody's; what it raises is treated as a listener's failure. Who overhears a
        channel by several patterns hears each message once.

        Without a listener, answer a decorator.

        Args:
            pattern: A name in which each ``*`` stands for any run of characters, or none.
            listener: Takes a channel, and whatever else.
            priority: As in `subscribe`.
        """
        if not isinstance(pattern, str):
            raise TypeError('overhear needs a pattern of channels: @bus.overhear("cache.*")')
        if listener is None:
            return functools.partial(self._decorate_overhearing, pattern, priority)
        if not callable(listener):
            raise TypeError(f"a listener is callable, and {listener!r} is not")
        self._listeners.overhear(pattern, listener, priority)
        return None

    def _decorate_overhearing(
        self, pattern: str, priority: float | None, listener: AnyListener
    ) -> AnyListener:
        self.overhear(pattern, listener, priority)
        return listener

    def forget(self, pattern: str, listener: Listener) -> None:
        """Have *listener* no longer overhear *pattern*; no harm if it never did."""
        self._listeners.forget(pattern, listener)

    def clear(self) -> None:
        """Drop every listener of every channel, and everybody who overhears."""
        self._listeners.clear()

    def publish(self, channel: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call the listeners of *channel* in order and answer what each returned.

        Every listener runs even if another fails; asynchronous ones are waited for.

        Raises:
            ChannelFailures: Some failed; each failure was logged with its traceback.
            KeyboardInterrupt, SystemExit: A listener raised it; the rest did not run.
            WouldDeadlock: Called on the event loop's thread for asynchronous listeners.
        """
        calls = self._quick.get(channel)
        if calls is None:
            return self._deliver(channel, args, kwargs)
        results: list[Any] = []
        failures: list[Exception] | None = None
        remaining = iter(calls)
        while True:
            try:
                # Most messages carry nothing, and a bare call is the cheapest there is.
                if not args and not kwargs:
                    for call in remaining:
                        results.append(call())  # noqa: PERF401 - what went before a failure counts
                else:
                    for call in remaining:
                        results.append(call(*args, **kwargs))
                break
            except Exception as error:  # noqa: BLE001 - a listener's: the others still run
                failures = self._failed(channel, call, error, failures)
            except SystemExit as leaving:
                raise _truthful(leaving, failures)  # noqa: B904 - it is the same exception
        if failures:
            raise self.publish_exception_class(channel, failures)
        return results

    async def apublish(self, channel: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Do as `publish` does, from any event loop, without blocking it on asynchronous ones."""
        results = []
        failures: list[Exception] | None = None
        for each in self._listeners.in_turn(channel):
            try:
                if each.pattern is not None:
                    await self._call_async(each, (channel, *args), kwargs)
                else:
                    results.append(await self._call_async(each, args, kwargs))
            except Exception as error:  # noqa: BLE001 - a listener's: the others still run
                failures = self._failed(channel, each.listener, error, failures)
            except SystemExit as leaving:
                raise _truthful(leaving, failures)  # noqa: B904 - it is the same exception
        if failures:
            raise self.publish_exception_class(channel, failures)
        return results

    def log(self, msg: str = "", level: int = INFO, traceback: Any = False) -> None:
        """Publish *msg* on the channel ``log``; a failing listener there breaks nothing.

        Args:
            msg: One line, mostly.
            level: As in `logging`.
            traceback: True appends the exception being handled; an exception or an ``exc_info``
                tuple appends that one.
        """
        if traceback:
            msg = "\n".join(filter(None, (msg, _format_exception(traceback))))
        me = threading.get_ident()
        if me in self._logging:
            _print_to_stderr(msg)  # from a log listener: it would hear itself for ever
            return
        self._logging.add(me)
        try:
            self.publish("log", msg, level)
        finally:
            self._logging.discard(me)

    def _deliver(self, channel: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Publish with all that the quick way leaves out: time, coroutines, being cut short."""
        results = []
        failures: list[Exception] | None = None
        subscriptions = self._listeners.in_turn(channel)
        on_loop = self._loop.is_current and channel != "log"
        if on_loop and any(each.asynchronous for each in subscriptions):
            raise WouldDeadlock("publish(...)", "await bus.apublish(...)")
        for each in subscriptions:
            if self._preempts(channel):
                if failures:
                    break
                raise CommandCancelled(channel, self.state)
            try:
                if each.pattern is not None:
                    self._call(channel, each, (channel, *args), kwargs)
                else:
                    results.append(self._call(channel, each, args, kwargs))
            except Exception as error:  # noqa: BLE001 - a listener's: the others still run
                failures = self._failed(channel, each.listener, error, failures)
            except SystemExit as leaving:
                raise _truthful(leaving, failures)  # noqa: B904 - it is the same exception
        if failures:
            raise self.publish_exception_class(channel, failures)
        return results

    def _call(
        self, channel: str, each: Subscription, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        outer = self._running
        if self._is_walker and channel != "log":
            self._running = each
        began = time.perf_counter()
        try:
            if not each.asynchronous:
                return each.listener(*args, **kwargs)
            if channel == "log":
                return self._log_later(each, args, kwargs)
            return self._wait_for(each, args, kwargs)
        finally:
            each.took(time.perf_counter() - began)
            self._running = outer

    def _log_later(
        self, each: Subscription, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Nobody waits for a log line; after the loop's end it is not written any more."""
        try:
            future = self._loop.submit(each.listener(*args, **kwargs))
        except LoopEnded:
            return
        future.add_done_callback(functools.partial(_watch_log, each.listener))

    def _wait_for(
        self, each: Subscription, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run an asynchronous listener on the loop and wait, unless waits are cut short."""
        with self._mail.open() as box:
            future = self._loop.submit(each.listener(*args, **kwargs))
            future.add_done_callback(box.put)
            while not future.done():
                if self.impatient or box.get() is HURRY:
                    future.cancel()
                    raise Interrupted(name_of(each.listener))
        return future.result().get()

    async def _call_async(
        self, each: Subscription, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        began = time.perf_counter()
        try:
            if not each.asynchronous:
                return each.listener(*args, **kwargs)
            if self._loop.is_current:
                return await each.listener(*args, **kwargs)
            import asyncio

            future = self._loop.submit(each.listener(*args, **kwargs))
            return (await asyncio.wrap_future(future)).get()
        finally:
            each.took(time.perf_counter() - began)

    def _failed(
        self, channel: str, listener: Listener, error: Exception, failures: list[Exception] | None
    ) -> list[Exception]:
        """Log one listener's failure and add it to the others."""
        if channel == "log":
            _report_broken_log(listener, error)
            return []
        note = f"listener {name_of(listener)} on channel {channel!r}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        message = f"Error in {channel!r} listener {shown(listener)}"
        if isinstance(error, SitebusError):
            # What we raise on purpose says all there is to say.
            self.log(f"{message}: {error}", ERROR)
        else:
            self.log(message, ERROR, traceback=error)
        return [*(failures or ()), error]

    @property
    def _is_walker(self) -> bool:
        return self._walker == threading.get_ident()

    def _preempts(self, channel: str) -> bool:
        """Tell whether the rest of *channel*, of a start that is, is not wanted any more."""
        return False


def _truthful(leaving: SystemExit, failures: list[Exception] | None) -> SystemExit:
    """After a failure, a listener that leaves cannot claim success."""
    if failures and not leaving.code:
        leaving.code = 1
    return leaving


def _format_exception(traceback: Any) -> str:
    import traceback as formatter

    if isinstance(traceback, BaseException):
        return "".join(formatter.format_exception(traceback))
    if isinstance(traceback, tuple):
        return "".join(formatter.format_exception(*traceback))
    return "".join(formatter.format_exception(*sys.exc_info()))


def _watch_log(listener: Listener, future: Any) -> None:
    """An asynchronous log listener has ended; tell if that was a failure."""
    if not future.cancelled() and isinstance(error := future.exception(), Exception):
        _report_broken_log(listener, error)


def _report_broken_log(listener: Listener, error: Exception) -> None:
    """The log cannot tell that it is broken."""
    _print_to_stderr(f"sitebus: log listener {name_of(listener)} failed: {error!r}")


def _print_to_stderr(line: str) -> None:
    """Use what the interpreter started with, if it is there."""
    if sys.__stderr__ is None:
        return
    try:
        print(line, file=sys.__stderr__)
    except (OSError, ValueError):
        pass  # standard error is closed as well; there is nobody left to tell
