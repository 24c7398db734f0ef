"""``use = egg:sitebus#site``: applications of a PasteDeploy file, mounted in one `Site`.

.. code-block:: ini

    [composite:main]
    use = egg:sitebus#site
    / = shop
    /wiki = wiki
    docs.example.org/ = docs

The places are those of a ``[mount]``, and Paste's urlmap's: ``domain HOST port PORT /PATH``, for a
colon would end the key. Requests find their way as in every site, whatever the number of
applications.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from sitebus.errors import BadMountOption, BadPlace
from sitebus.mounts import Site

_URLMAP = re.compile(r"(?:domain\s+(?P<host>\S+)\s+)?(?:port\s+(?P<port>\d+)\s+)?(?P<path>/.*)")
_OPTIONS = ("development", "merge_slashes", "strict_hosts")
_YES = ("true", "yes", "on", "y", "t", "1")
_NO = ("false", "no", "off", "n", "f", "0")


class Loader(Protocol):
    """What PasteDeploy hands a composite to load its applications with."""

    def get_app(self, name: str, global_conf: Mapping[str, str]) -> Any: ...


def factory(loader: Loader, global_conf: Mapping[str, str], **local_conf: str) -> Any:
    """Answer the WSGI face of a site with an application at each place that is named.

    Args:
        loader: Loads what is named.
        global_conf: What every application is told.
        **local_conf: Places and the names of applications; ``development``, ``merge_slashes`` and
            ``strict_hosts`` as in a site.ini.

    Raises:
        BadPlace: A key is neither a place nor an option.
        BadMountOption: An option is neither yes nor no.
        BadPrefix, BadHost, DuplicateMount: A place makes no sense, or is taken.
    """
    options: Any = {key: _said(key, local_conf.pop(key)) for key in _OPTIONS if key in local_conf}
    site = Site()
    site.configure(**options)
    for key, name in local_conf.items():
        host, port, path = place(key)
        app = loader.get_app(name, global_conf=global_conf)
        site.mount(app, path, host=host, port=port, interface="wsgi")
    return site.wsgi


def place(key: str) -> tuple[str | None, int | None, str]:
    """Read host, port and path of a key.

    Raises:
        BadPlace: It is none.
    """
    if urlmap := _URLMAP.fullmatch(key.strip()):
        port = urlmap["port"]
        return urlmap["host"], int(port) if port else None, urlmap["path"]
    host, slash, path = key.strip().partition("/")
    if not slash:
        raise BadPlace(key, _OPTIONS)
    return host or None, None, slash + path


def _said(key: str, text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise BadMountOption(key, text, ("yes", "no"))
    return text.lower() in _YES
