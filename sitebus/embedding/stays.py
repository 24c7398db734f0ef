"""What becomes of a restart in somebody else's process: the host's business, or nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from sitebus.errors import CannotRestart, Unreachable
from sitebus.restarts import Restarts

if TYPE_CHECKING:
    from sitebus.embedding.hosts import Host
    from sitebus.process import Engine


class Stays(Restarts):
    """Grant no restart: running the host's command line again would be running the host again."""

    def __init__(self, engine: Engine, host: Host) -> None:
        super().__init__(engine)
        self._host = host

    def grant(self, force: bool) -> NoReturn:
        """Have the host replace this process, if it can.

        Raises:
            Unreachable: It will, and this process is on its way out.
            CannotRestart: It cannot.
        """
        if not self._host.recycles:
            reason = f"{self._host.name} runs this process; {self._host.reloads_by}"
            raise CannotRestart(tuple(getattr(sys, "argv", ())), reason)
        self._host.recycle()
        machine = self._engine.machine
        raise Unreachable(machine.running, self._engine.state, ())
