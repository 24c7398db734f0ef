"""Have garbage collected seldom while a site starts: nearly all that is made then stays.

Imports make tens of thousands of objects, which the collector would look through again and again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sitebus.process import Engine

#: So many new objects are looked through at once, rather than some hundreds.
MANY = 50_000


@contextmanager
def at_rest(engine: Engine) -> Iterator[None]:
    """Collect seldom until *engine* has started, or the block ends.

    Who says how often meanwhile, or that it shall not be done at all, has it so.
    """
    usual = gc.get_threshold()
    seldom = (MANY, *usual[1:])
    if not 0 < usual[0] < MANY:
        yield
        return

    def wake() -> None:
        if gc.get_threshold() == seldom:
            gc.set_threshold(*usual)

    gc.set_threshold(*seldom)
    engine.subscribe("started", wake)
    try:
        yield
    finally:
        engine.unsubscribe("started", wake)
        wake()
