"""Asking everybody on the channel ``health`` how they are, without waiting for who does not answer.

Each listener is asked in a daemon thread of its own, for a thread that hangs cannot be ended. One
that hangs has failed, and is not asked again before it has answered: however often somebody looks,
one listener holds one thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from sitebus.control.health import CHANNEL
from sitebus.listeners import is_async, name_of
from sitebus.process import Engine


class Check(NamedTuple):
    """What came of one check.

    Attributes:
        detail: what there is to say, on one line; for the operator's eyes.
        seconds: how long it took; 0 for what is known without asking.
    """

    name: str
    ok: bool
    detail: str = ""
    seconds: float = 0.0


class _Asking:
    """A listener that is being asked, for everybody who wants to know."""

    __slots__ = ("answer", "answered", "began", "listener")

    def __init__(self, listener: Callable[[], object]) -> None:
        self.listener = listener
        self.began = time.monotonic()
        self.answered = threading.Event()
        self.answer: Check | None = None


class Checks:
    """The listeners of the channel ``health``.

    A listener may have an attribute ``timeout``, its own in seconds.
    """

    def __init__(self, bus: Engine) -> None:
        self.bus = bus
        self._lock = threading.Lock()
        # By identity: not every listener can be a key, and who is asked cannot vanish.
        self._asking: dict[int, _Asking] = {}
        self._names: dict[int, str] = {}

    def run(self, timeout: float, exclude: Collection[str] = ()) -> list[Check]:
        """Ask everybody at once, and wait *timeout* seconds for each at most."""
        listeners = list(self.bus.listeners.get(CHANNEL, ()))
        self._forget_but(listeners)
        asked = [
            self._ask(listener) for listener in listeners if self.name_of(listener) not in exclude
        ]
        checks = [self._outcome(each, timeout) for each in asked]
        return [check for check in checks if check.name not in exclude]

    def name_of(self, listener: Callable[[], object]) -> str:
        """Answer the name that a check gave itself when it last answered; its function's before."""
        return self._names.get(id(listener)) or name_of(listener)

    def _forget_but(self, listeners: Collection[Callable[[], object]]) -> None:
        present = set(map(id, listeners))
        with self._lock:
            self._names = {key: name for key, name in self._names.items() if key in present}

    def _ask(self, listener: Callable[[], object]) -> _Asking:
        key = id(listener)
        with self._lock:
            asking = self._asking.get(key)
            if asking is None:
                asking = self._asking[key] = _Asking(listener)
                thread = threading.Thread(
                    target=self._hear, args=(asking,), name="sitebus health check", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:  # the system has no thread for it
                    del self._asking[key]
                    asking.answer = Check(name_of(listener), ok=False, detail=str(error))
                    asking.answered.set()
        return asking

    def _hear(self, asking: _Asking) -> None:
        own = self.name_of(asking.listener)
        try:
            found = _read(self._call(asking.listener), own)
        # A stranger's: whatever it raises, it has failed.
        except BaseException as error:  # noqa: BLE001
            found = Check(own, ok=False, detail=_line(f"{type(error).__name__}: {error}"))
        asking.answer = found._replace(seconds=time.monotonic() - asking.began)
        with self._lock:
            self._names[id(asking.listener)] = found.name
            del self._asking[id(asking.listener)]
        asking.answered.set()

    def _call(self, listener: Callable[[], Any]) -> object:
        if not is_async(listener):
            return listener()
        import asyncio

        loop = self.bus.loop  # not there any more, it must not leave a coroutine behind
        return asyncio.run_coroutine_threadsafe(listener(), loop).result()

    def _outcome(self, asking: _Asking, timeout: float) -> Check:
        wanted = getattr(asking.listener, "timeout", timeout)
        patience = wanted if isinstance(wanted, (int, float)) else timeout
        asking.answered.wait(max(0.0, asking.began + patience - time.monotonic()))
        if asking.answer is not None:
            return asking.answer
        waited = time.monotonic() - asking.began
        name = self.name_of(asking.listener)
        # Of one that has hung for hours, the hours are told.
        told = waited if waited >= 2 * patience else patience
        return Check(name, ok=False, detail=f"no answer in {told:.3g} s", seconds=waited)


def _read(answer: object, name: str) -> Check:
    match answer:
        case None | True:
            return Check(name, ok=True)
        case False:
            return Check(name, ok=False)
        case (str(own), ok):
            return Check(_line(own), bool(ok))
        case (str(own), ok, detail):
            return Check(_line(own), bool(ok), _line("" if detail is None else detail))
    said = f"it answered {answer!r:.60}, and not (name, ok, detail)"
    return Check(name, ok=False, detail=_line(said))


def _line(text: object) -> str:
    """Answer *text* on one line, and not a long one."""
    return " ".join(str(text).encode("utf-8", "replace").decode().split())[:300]
