"""What uvicorn's protocols for HTTP/1.1 are taught, whatever parses; see `_uvicorn_mended`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sitebus.servers._uvicorn_parting import Parting
from sitebus.servers._uvicorn_state import CLOSE
from sitebus.servers._uvicorn_strict import answer, said
from sitebus.servers.heads import Refusal

if TYPE_CHECKING:
    from sitebus.asgi import ASGIApplication, Receive, Scope, Send

#: Seconds that a client has to hang up when it was told its last.
FAREWELL = 1.0

BLANK = b"\r\n\r\n"
#: As uvicorn says it, whatever the reason.
INVALID = "Invalid HTTP request received."
_LATE = "The head of the request did not come in time."


def is_running(cycle: Any) -> bool:
    """Tell whether a connection's request is still being answered."""
    return cycle is not None and not cycle.response_complete


def head_of(data: bytes) -> int:
    """Answer how much of *data* is of the head that it begins with."""
    end = data.find(BLANK)
    return end if end >= 0 else len(data)


class Polite:
    """What all of them have in common; the rest is uvicorn's."""

    cycle: Any
    connections: Any
    pipeline: Any
    transport: Any
    flow: Any
    loop: Any
    logger: Any
    client: Any
    server_state: Any
    timeout_keep_alive: float
    timeout_keep_alive_task: Any
    timeout_keep_alive_handler: Any
    #: Seconds from the first byte of a head to its end; 0 is any.
    header_timeout = 0.0
    #: The longest body that a head may tell of; 0 is any.
    most_body = 0
    #: Runs while part of a head is there.
    head_timer: Any = None
    #: Why the parser was made to stop.
    refusal: Refusal | None = None
    #: How many pieces of bodies have come.
    pieces = 0
    #: Whether the rest is nothing that could be answered.
    is_deaf = False

    def send_400_response(self, msg: str) -> None:
        self.send_away(self.refusal or Refusal(400, msg))

    def send_away(self, refusal: Refusal) -> None:
        """Answer what is not served, unless that would be in the middle of another answer."""
        self.end_head()
        kind = refusal.kind
        self.logger.complain(kind, f"Refused a request from {self.who}: {kind}. {refusal.why}")
        cycle = self.cycle
        if not is_running(cycle):
            self.say_last(refusal)
        elif not cycle.more_body:
            # A later request is at fault: those before it are answered.
            cycle.keep_alive = False
            self.is_deaf = True
        elif getattr(self, "pipeline", None):
            # It waits for its turn, and gets no other answer then.
            self.is_deaf = True
            cycle.keep_alive = False
            self.pipeline[0] = cycle, _refusing(refusal)
        elif cycle.response_started:
            self.forget(cycle)
            self.transport.close()
        else:
            self.forget(cycle)
            self.say_last(refusal)

    def expect_rest(self, cycle: Any) -> None:
        """Be told that the body of *cycle* is still to come.

        It is heard out should the answer be the connection's last.
        """
        if cycle.waiting_for_100_continue and not cycle.body:
            self.ask_first(cycle)
        # Over TLS it cannot be said that nothing more comes.
        if not isinstance(self.transport, Parting) and self.transport.can_write_eof():
            self.transport = Parting(self, self.timeout_keep_alive, _nothing)
        if is_running(cycle):
            cycle.transport = self.transport

    def ask_first(self, cycle: Any) -> None:
        """Let an answer before the body was asked for be the last.

        Then some clients send it all the same, and others their next request.
        """
        before = cycle.default_headers
        if CLOSE in before or "receive" in vars(cycle):
            return
        cycle.default_headers = last = [*before, CLOSE]
        receive = cycle.receive

        async def asked() -> Any:
            vars(cycle).pop("receive", None)
            if cycle.default_headers is last:
                cycle.default_headers = before
            return await receive()

        cycle.receive = asked

    def forget(self, cycle: Any) -> None:
        """Tell an application, and all that it still sends, that nobody listens any more."""
        cycle.disconnected = True
        cycle.message_event.set()

    def say_last(self, refusal: Refusal) -> None:
        self.is_deaf = True
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        transport = self.transport
        transport.write(answer(refusal, self.server_state.default_headers))
        # Who has begun to send much reads what is said when all is sent.
        patience = self.timeout_keep_alive if refusal.status == 413 else FAREWELL
        self.transport = Parting(self, patience, _nothing)
        self.transport.part()

    @property
    def who(self) -> str:
        return self.client[0] if self.client else "a unix socket"

    def begin_head(self) -> None:
        """Be told that part of a head is there."""
        if self.head_timer is None and self.header_timeout:
            self.head_timer = self.loop.call_later(self.header_timeout, self.give_up_head)

    def end_head(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def give_up_head(self) -> None:
        self.head_timer = None
        if self.flow.read_paused:
            self.begin_head()  # it is we who do not read on
        elif not (self.is_deaf or self.transport.is_closing()):
            self.send_away(Refusal(408, _LATE))

    def wait_again(self) -> None:
        """Wait for the rest of a body, or for another request, as after the answer."""
        # It may have become a WebSocket meanwhile, or a lost one.
        is_open = self in self.connections and not self.transport.is_closing()
        if is_open and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


def _refusing(refusal: Refusal) -> ASGIApplication:
    """Answer an application that answers nothing else."""

    async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
        body, headers = said(refusal)
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return refuse


def _nothing() -> None:
    pass
