"""The admin address: a site's health and metrics, true even when every worker hangs.

Served by threads of the process that it tells of, and by nothing that an application could hold up.
Its sockets are the engine's, so that a restart refuses no probe. It answers from before the
applications are imported until the engine exits: in between, a site that is not ready says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sitebus.control.answers import Answers
from sitebus.control.families import Family
from sitebus.control.health import Health
from sitebus.control.little_http import LittleServer
from sitebus.errors import AddressShared
from sitebus.listeners import ERROR
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority
from sitebus.sockets import Address, Listener


class AdminServer(Plugin):
    """Answer ``/livez``, ``/readyz``, ``/startupz``, ``/healthz`` and ``/metrics`` at *binds*.

    Args:
        bus: The engine.
        binds: Where; nowhere if empty. A unix socket is its owner's alone.
        health: Who knows how the site is.
        families: The site's metrics; None if they are not told.
    """

    def __init__(
        self,
        bus: Engine,
        binds: Iterable[Address | str],
        health: Health,
        families: Callable[[], Iterable[Family]] | None = None,
    ) -> None:
        super().__init__(bus)
        self.binds = tuple(binds)
        self._listeners_bound: tuple[Listener, ...] = ()
        self._server = LittleServer(Answers(health, families).answer, self._tell_of)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it answers, with real ports."""
        return tuple(listener.address for listener in self._listeners_bound)

    def unsubscribe(self) -> None:
        """Listen no more, and answer no more."""
        super().unsubscribe()
        self._server.close()

    @listens("start", priority=Priority.BIND)
    def bind(self) -> None:
        """Take the sockets, while that may still be permitted.

        Raises:
            AddressShared: A server of the site listens at one of them.
            BindError: One cannot be had.
        """
        self._listeners_bound = tuple(map(self._bound, self.binds))

    def _bound(self, address: Address | str) -> Listener:
        others = set(self.bus.sockets.listeners) - set(self._listeners_bound)
        listener = self.bus.sockets.bind(address)
        if listener in others:
            # Each would get the other's clients.
            raise AddressShared(str(listener.address))
        return listener

    # After a daemon has forked, and before applications are imported, which may take long.
    @listens("start", priority=Priority.IMPORT - 2)
    def start(self) -> None:
        """Begin to answer."""
        if self._listeners_bound and not self._server.is_open:
            self._server.open(listener.dup() for listener in self._listeners_bound)

    # Last of all: until then, a site that is leaving says so.
    @listens("exit", priority=99)
    def exit(self) -> None:
        """Answer no more; the sockets are the engine's."""
        self._server.close()

    def _tell_of(self, error: BaseException) -> None:
        self.bus.log("Error at the admin address", ERROR, traceback=error)
