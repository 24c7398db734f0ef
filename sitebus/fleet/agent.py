"""What runs on a host for the one who opened the fleet: it starts what is asked for, and answers.

This module and its siblings ``agent_*.py`` are sent to the host over the connection, and know no
more than the standard library there, from Python 3.8 on: they import nothing of sitebus but each
other, line by line as ``from sitebus.fleet.agent… import``, which is told to hosts with the name
that their package has there.
What is asked for runs in a thread of its own, so that the next thing can be asked for meanwhile;
what others wrote has a process of its own, which can be ended.
Values come and go as JSON; only a `Wire` carries bytes.
When the connection ends, so does everything here, with the processes it has started, except for
those that were asked to stay.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The longest answer that is sent; mitogen drops what is longer than it takes, and says nothing.
LONGEST = 30 << 20

#: As much is sent of what an exception says, and of the end of its traceback.
MOST_SAID, MOST_TRACED = 10000, 100000

#: How many items of a stream may be on their way before the reader has said that it wants more.
WINDOW = 256

F = TypeVar("F", bound="Callable[..., Any]")


def takes_econtext(function: F) -> F:
    """Have a function called with the ``econtext`` of the process that it runs in."""
    function.mitogen_takes_econtext = True  # type: ignore[attr-defined]
    return function


class NotPlain(Exception):
    """What a function has answered cannot be said in JSON."""


class Stopped(Exception):
    """Nobody wants the answer any more."""


class Wire:
    """This end of a connection that carries bytes both ways, in order and whole.

    Iterating ends when the other side has closed it, or is gone.
    """

    def __init__(self, up: Any) -> None:
        self._up = up
        self._heard: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def send(self, data: bytes) -> None:
        """Send bytes; never waits."""
        core: Any = sys.modules["mitogen.core"]
        self._up.send(bytes(data), enc=core.Message.ENC_BIN)

    def hear(self, message: Any) -> None:
        """Take what the other side has sent; in the thread that reads the connection."""
        self._heard.put(None if message.is_dead else message.data)

    def close(self) -> None:
        """Say that nothing follows: the other side's iteration ends."""
        self._up.send(json.dumps({"closed": True}))

    def end(self) -> None:
        """End the iteration here."""
        self._heard.put(None)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            data = self._heard.get()
            if data is None:
                self._heard.put(None)
                return
            yield data


class Exchange(threading.Thread):
    """One thing that was asked for, in its thread.

    What it runs may say how it is to be stopped: ``threading.current_thread().on_stop(close)``.
    """

    def __init__(self, up: Any, number: int, function: Callable[[], Any]) -> None:
        super().__init__(name=f"exchange-{number}", daemon=True)
        self.number = number
        self.stopping = threading.Event()
        self._up = up
        self._function = function
        self._permits = threading.Semaphore(WINDOW)
        self._closers: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def on_stop(self, close: Callable[[], object]) -> None:
        """Call *close* when nobody wants the answer any more; at once if that is so."""
        with self._lock:
            self._closers.append(close)
            late = self.stopping.is_set()
        if late:
            close()

    def not_on_stop(self, close: Callable[[], object]) -> None:
        """Forget *close*."""
        with self._lock:
            if close in self._closers:
                self._closers.remove(close)

    def stop(self) -> None:
        """End it as soon as it can."""
        with self._lock:
            self.stopping.set()
            closers = list(self._closers)
        self._permits.release()
        for close in closers:
            try:
                close()
            except Exception:  # noqa: BLE001 - a stranger's; the others are to be called as well
                traceback.print_exc()

    def more(self, count: int) -> None:
        """Allow for more items."""
        for _ in range(count):
            self._permits.release()

    def run(self) -> None:
        try:
            self._tell(_outcome(self._work))
        finally:
            EXCHANGES.pop(self.number, None)

    def _work(self) -> Any:
        found = self._function()
        if not hasattr(found, "__next__"):
            return found
        try:
            for item in found:
                self._permits.acquire()
                if self.stopping.is_set():
                    break
                self._tell(plain({"item": item}))
        finally:
            found.close()
        return None

    def _tell(self, text: str) -> None:
        self._up.send(text)


#: What runs, by its number.
EXCHANGES: dict[int, Exchange] = {}

#: The leaders of the groups of processes that end with the connection.
GROUPS: set[int] = set()


def plain(said: Any) -> str:
    """Answer it as JSON.

    Raises:
        NotPlain: That cannot be.
    """
    try:
        text = json.dumps(said)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotPlain(f"the answer cannot be sent: {error}; answer what JSON can say") from None
    if len(text) > LONGEST:
        sizes = f"{len(text) >> 20} MB long, and {LONGEST >> 20} MB is the most"
        raise NotPlain(f"the answer is {sizes}; send it in parts, as a generator does")
    return text


def _outcome(work: Callable[[], Any]) -> str:
    try:
        return plain({"done": work()})
    except BaseException as error:  # noqa: BLE001 - whatever was called, its failure is the answer
        return json.dumps({"failed": _told(error)})


def _told(error: BaseException) -> dict[str, Any]:
    ours = getattr(type(error), "is_the_agents", False) is True
    told = {
        "kind": type(error).__name__,
        "sentence": _sentence(error),
        "ours": ours,
        "fields": getattr(error, "fields", {}) if ours else {},
        "traceback": traceback.format_exc()[-MOST_TRACED:],
    }
    try:
        plain(told)
    except NotPlain:
        told["fields"] = {}
    return told


def _sentence(error: BaseException) -> str:
    kind = type(error).__name__
    try:
        return " ".join(str(error)[:MOST_SAID].split()) or kind
    except Exception:  # noqa: BLE001 - a stranger's, which cannot even say what it is
        return f"{kind}, which cannot be printed"


def _named(module: str, name: str, econtext: Any, kwargs: dict[str, Any]) -> Any:
    found: Any = importlib.import_module(module)
    for word in name.split("."):
        found = getattr(found, word)
    if getattr(found, "mitogen_takes_econtext", False):
        kwargs["econtext"] = econtext
    if getattr(found, "mitogen_takes_router", False):
        kwargs["router"] = econtext.router
    return found


@takes_econtext
def hello(econtext: Any) -> str:
    """Make this process one that ends with all it has started; answer what it is."""
    core: Any = sys.modules["mitogen.core"]
    core.listen(econtext.broker, "shutdown", _end_groups)
    # An operator's Ctrl-C is not meant for this, where it is on the same terminal; what is run
    # from here begins with the usual answer to it, as it would not if this ignored it.
    signal.signal(signal.SIGINT, _go_on)
    told = {
        "pid": os.getpid(),
        "uid": os.geteuid(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "executable": sys.executable,
    }
    return json.dumps(told)


@takes_econtext
def settle(econtext: Any) -> str:
    """Make this process, which others' functions will run in, the leader of its own group."""
    try:
        os.setsid()
    except OSError:
        pass  # it is one
    if os.getpgrp() == os.getpid():
        GROUPS.add(os.getpid())
    return str(hello(econtext))


def _go_on(number: int, frame: object) -> None:
    """Do nothing, as that signal asks."""


def _end_groups() -> None:
    for exchange in list(EXCHANGES.values()):
        exchange.stop()
    # This process's own group last, since that ends it.
    for leader in sorted(GROUPS, key=lambda each: each == os.getpid()):
        end_group(leader)


def end_group(leader: int) -> None:
    """Kill a process with all of its group."""
    GROUPS.discard(leader)
    try:
        os.killpg(leader, signal.SIGKILL)
    except OSError:
        pass  # all of it has ended


@takes_econtext
def begin(up: Any, number: int, module: str, name: str, text: str, econtext: Any) -> None:
    """Run a function in a thread; its answer, or what it yields, goes *up*."""

    def function() -> Any:
        args, kwargs = json.loads(text)
        return _named(module, name, econtext, kwargs)(*args, **kwargs)

    _start(up, number, function)


@takes_econtext
def connect(up: Any, number: int, module: str, name: str, text: str, econtext: Any) -> None:
    """Run a function in a thread, with a `Wire` as its first argument."""
    core: Any = sys.modules["mitogen.core"]
    wire = Wire(up)
    router = econtext.router
    handle = router.add_handler(wire.hear, policy=core.has_parent_authority)

    def function() -> Any:
        try:
            args, kwargs = json.loads(text)
            return _named(module, name, econtext, kwargs)(wire, *args, **kwargs)
        finally:
            router.del_handler(handle)

    up.send(json.dumps({"open": handle}))
    _start(up, number, function).on_stop(wire.end)


def _start(up: Any, number: int, function: Callable[[], Any]) -> Exchange:
    exchange = EXCHANGES[number] = Exchange(up, number, function)
    exchange.start()
    return exchange


def tell(number: int, count: int) -> None:
    """Allow an exchange to send so many more items; none at all ends it."""
    exchange = EXCHANGES.get(number)
    if exchange is not None:
        exchange.more(count) if count else exchange.stop()


def ping() -> bool:
    """Answer, which is all that is asked for."""
    return True


@takes_econtext
def alone(module: str, name: str, text: str, econtext: Any) -> str:
    """Run a function in the main thread, and answer its outcome."""

    def work() -> Any:
        args, kwargs = json.loads(text)
        return _named(module, name, econtext, kwargs)(*args, **kwargs)

    return _outcome(work)
