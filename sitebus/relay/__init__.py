"""One bus, many processes: how messages go from one to another and back.

`frames` says what a message looks like on the wire, `poller` is the one thread that waits for
whatever may come, `link` sends and receives over a socket that two processes share. What the
messages mean is for those who send them to know.
"""

from sitebus.relay.frames import LIMIT, Decoder, encode
from sitebus.relay.link import NOTHING, Link, Rest
from sitebus.relay.poller import READ, WRITE, Poller

__all__ = ["LIMIT", "NOTHING", "READ", "WRITE", "Decoder", "Link", "Poller", "Rest", "encode"]
