"""Whether a site wants requests, and whether it can answer them."""

from __future__ import annotations

import weakref

from sitebus.control.crew import crew_of, is_ready
from sitebus.process import Engine

_KNOWN: weakref.WeakKeyDictionary[Engine, Readiness] = weakref.WeakKeyDictionary()


class Readiness:
    """What an operator has said about requests; a restart forgets it.

    Attributes:
        wanted: False while the site shall be passed over, whatever it could do.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.wanted = wanted

    @classmethod
    def of(cls, engine: Engine) -> Readiness:
        """Answer the one of *engine*, the same for everybody who asks."""
        return _KNOWN.setdefault(engine, cls())

    def is_ready(self, engine: Engine) -> bool:
        """Tell whether requests are wanted and would be answered."""
        return not self.why_not(engine)

    def why_not(self, engine: Engine) -> str:
        """Answer in a few words why the site is not ready; nothing if it is."""
        if not self.wanted:
            return "an operator has said: ready off"
        if engine.state != engine.machine.running:
            return f"the site is {getattr(engine.state, 'name', engine.state)}"
        crew = crew_of(engine)
        if crew is not None and not any(map(is_ready, crew.pictures())):
            return "no worker is ready"
        return ""
