"""What may be believed of trusted proxies: the headers in which they tell of clients, by name.

Options and defaults are made of these; what the headers say is read by `sitebus.servers.forwarded`,
where a site trusts anybody.
"""

from __future__ import annotations

#: In lower case; the first has everything, each other one thing.
FORWARDED = "forwarded"
FOR = "x-forwarded-for"
PROTO = "x-forwarded-proto"
HOST = "x-forwarded-host"
PORT = "x-forwarded-port"
PREFIX = "x-forwarded-prefix"
HEADERS = (FORWARDED, FOR, PROTO, HOST, PORT, PREFIX)
