"""Who is waited for, for how long, and who makes room; see `sitebus.servers._uvicorn`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sitebus.servers._uvicorn_parting import Protocol
from sitebus.servers._uvicorn_polite import Polite, is_running
from sitebus.servers.heads import Refusal

#: How many times it is looked, in the time that a client has, what clients do.
ROUNDS = 2
#: By how much a round may be early, in seconds.
SOON = 0.01


class Lack(NamedTuple):
    """What a client owes: it has not got on with it if this is the same later.

    Attributes:
        what: Its name.
        whose: Of which request.
        so_far: How much has come, or is still to go.
    """

    what: str
    whose: object
    so_far: int

    def give_up(self, connection: Protocol) -> None:
        """Close *connection* for lack of it."""
        if self.what == "reading":
            if is_running(getattr(connection, "cycle", None)):
                connection.cycle.disconnected = True
            # What it does not take would be waited for by a close as well.
            connection.transport.abort()
        elif isinstance(connection, Polite):
            why = f"The {self.what} of the request did not come in time."
            connection.send_away(Refusal(408, why))
        else:
            connection.transport.close()


def lack_of(connection: Protocol) -> Lack | None:
    """Answer what is waited for from the client of *connection*, if anything is."""
    unsent = connection.transport.get_write_buffer_size()
    if unsent:
        return Lack("reading", None, unsent)
    if getattr(connection, "stalled", 0):
        return Lack("reading", "HTTP/2", connection.turns.written)
    if not hasattr(connection, "cycle") or connection.transport.is_closing():
        return None
    cycle = connection.cycle
    if is_running(cycle):
        owes = cycle.more_body and not (cycle.response_started or cycle.waiting_for_100_continue)
        if owes and not connection.flow.read_paused:
            return Lack("body", cycle, getattr(connection, "pieces", 0))
    elif getattr(connection, "timeout_keep_alive_task", connection) is None:
        return Lack("head", id(connection.scope), getattr(connection, "head", 0))
    return None


class Room:
    """Closes who has been idle longest, for one more.

    Args:
        crowd: All connections.
    """

    def __init__(self, crowd: Collection[Protocol]) -> None:
        self._crowd = crowd
        # Those that were idle when it was looked last, each with the timer that it had, longest
        # idle last: to look at all for each newcomer would be what an attack wants.
        self._idle: list[tuple[Any, Protocol]] = []

    def make(self) -> bool:
        """Close one; tell whether there was one."""
        return self._close_one() or (self._look() and self._close_one())

    def _look(self) -> bool:
        timed = ((getattr(each, "timeout_keep_alive_task", None), each) for each in self._crowd)
        idle = [(timer, each) for timer, each in timed if timer is not None]
        self._idle = sorted(idle, key=lambda row: -row[0].when())
        return bool(idle)

    def _close_one(self) -> bool:
        while self._idle:
            timer, connection = self._idle.pop()
            is_idle = connection.timeout_keep_alive_task is timer
            if is_idle and connection in self._crowd and not connection.transport.is_closing():
                if getattr(getattr(connection, "cycle", None), "more_body", False):
                    # Its body would be heard out first, and there is no room for that.
                    connection.transport.abort()
                else:
                    connection.timeout_keep_alive_handler()
                return True
        return False
