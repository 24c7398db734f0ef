"""What stands in a ``[mount ...]`` heading: a prefix, and the host and port it is for.

``/wiki``, ``docs.example.org/wiki``, ``*.example.org:8443/api``, ``[::1]:8080/``.
What a place may be is for `sitebus.mounts.routing`; here the two halves are told apart.
"""

from __future__ import annotations

from sitebus.config.texts import cut, short
from sitebus.errors import BadHost, BadPrefix
from sitebus.mounts.routing import Place


def parse_place(text: str) -> Place:
    """Read what follows the word ``mount``.

    Raises:
        ValueError: it is no place in a site; the message says what would be.
    """
    host, slash, path = text.partition("/")
    if not slash:
        raise ValueError(_without_slash(text))
    try:
        return Place.of(slash + path, host or None)
    except BadPrefix as error:
        raise ValueError(f"mount path {short(slash + path)}: {error.reason}") from error
    except BadHost as error:
        raise ValueError(f"mount host {short(host)}: {error.reason}") from error


def _without_slash(text: str) -> str:
    # A dot or a colon makes a host's name of it: the prefix is what is missing.
    meant = f"{text}/" if "." in text or ":" in text or text == "localhost" else f"/{text}"
    return f"mount path {short(text)} must contain '/' - did you mean [mount {cut(meant)}]?"
