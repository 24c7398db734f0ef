"""What an event loop does not know of TLS: who does not speak it, and not to wait at its end."""

from __future__ import annotations

import ssl
from typing import Any

#: The first byte of a TLS handshake record.
HANDSHAKE = b"\x16"

_REFUSAL = b"This port speaks HTTPS only, not HTTP.\r\n"
#: What a client gets that speaks plain HTTP to a TLS port.
PLAIN_TO_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_REFUSAL), _REFUSAL)
)


def leave_at_once(context: ssl.SSLContext) -> None:
    """Let connections of *context* end without waiting for the client's goodbye.

    An idle client may not look at its connection for a long time. TLS allows it: who closes says
    so (RFC 8446, section 6.1) and owes nothing more.
    """
    if getattr(context, "sslobject_class", None) is _Prompt:
        return
    wrap_bio = context.wrap_bio

    def wrap(incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *rest: Any, **more: Any) -> Any:
        wrapped: Any = wrap_bio(incoming, outgoing, *rest, **more)
        wrapped.outgoing = outgoing
        return wrapped

    context.sslobject_class = _Prompt
    context.wrap_bio = wrap  # type: ignore[method-assign]


class _Prompt(ssl.SSLObject):
    outgoing: ssl.MemoryBIO

    def unwrap(self) -> None:
        """Say goodbye; done, unless something that was said before is still on its way out."""
        # Then asked again once it is out.
        is_behind = self.outgoing.pending > 0
        try:
            super().unwrap()
        except ssl.SSLWantReadError:
            if is_behind:
                raise
