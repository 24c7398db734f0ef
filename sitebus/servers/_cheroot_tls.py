"""TLS around cheroot's connections, with a context that may be replaced while serving."""

from __future__ import annotations

import socket
import ssl


class TLSAdapter:
    """What cheroot looks for at ``ssl_adapter``; only whether there is one matters to it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        """Put TLS around *sock*; the handshake is left for whoever has time for it.

        Raises:
            OSError: The client has left already.
        """
        # Else the descriptor could be lost on the way from the one to the other.
        sock.getpeername()
        return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
