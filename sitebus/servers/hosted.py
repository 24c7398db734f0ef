"""What `sitebus.servers.hosting` and the adapters on it say to each other."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

Speech = Literal["wsgi", "asgi"]
#: Is given an idle connection for who serves after us: the number of the listening socket that it
#: came by, a descriptor of its own, who is at the other end, and what was read of a next request.
Leave = Callable[[int, socket.socket, tuple[str, int] | None, bytes], object]


class Hosted(Protocol):
    """The server of one library, for one start and one stop.

    Attributes:
        serving: Set when it serves, and also when it has ended without.
        ready: Whether it serves.
        draining: Whether `drain` was called.
        drained: Set when the last connection is closed.
        shut: Set when it accepts nothing any more, and holds no listening socket that could.
    """

    serving: threading.Event
    drained: threading.Event
    shut: threading.Event

    @property
    def ready(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    def start(self) -> object:
        """Serve until drained or finished; raises what keeps it from serving."""

    def stop(self) -> object:
        """End; for those who know nothing of drains."""

    def drain(self, linger: float, *, for_good: bool = False) -> None:
        """Accept nothing more and answer the rest with ``Connection: close``; does not wait.

        *for_good*: nobody will accept after us, so those the kernel has accepted are served too.

        Those whose abilities say that they hand over have a third argument, *leave*: a `Leave`, or
        None. If it is given, connections stay open, and each is given to it once it is idle. They
        also have ``adopt(connections)``, which takes pairs of the number of a listening socket and
        an `Idle` connection, while serving.
        """

    def finish(self, grace: float) -> Sequence[tuple[str, str]]:
        """End at once, drained or not, and wait *grace* seconds for what is still inside.

        Returns:
            Who is still busy then, and with what.
        """


class Abilities(NamedTuple):
    """What a server library can do, for the table in the docs and for refusals."""

    speaks: tuple[Speech, ...]
    tls: bool = True
    unix: bool = True
    http2: bool = False
    websocket: bool = False
    #: Idle connections of plain HTTP/1.1 outlive a restart.
    hand_over: bool = False
    #: Connections may begin with a PROXY header.
    proxy_protocol: bool = False
    #: What is peculiar, in one sentence.
    note: str = ""


class Faces(NamedTuple):
    """A site as servers see it: the same applications through either interface."""

    wsgi: Callable[..., Any]
    #: Answers the ASGI application: to make one takes asyncio, which not every site needs.
    asgi: Callable[[], Callable[..., Any]]
    #: Which of the two its applications rather speak.
    speech: Callable[[], Speech]
