"""sitebus inside somebody else's process: Apache, uWSGI, gunicorn or uvicorn runs it.

The bus starts and stops with the process, and everything that belongs to whoever runs a process is
left alone: sockets, signals, user, file mask, standard output, command line, and how it ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from sitebus.embedding import faces, hosts
from sitebus.embedding.lodger import present
from sitebus.embedding.plans import draw_up
from sitebus.errors import SitebusError

if TYPE_CHECKING:
    from sitebus.asgi import ASGIApplication
    from sitebus.embedding.faces import Embedded
    from sitebus.embedding.lodger import Lodger
    from sitebus.mounts import Site
    from sitebus.process import Engine

__all__ = ["asgi", "wsgi"]

#: What has been answered: a script that is run again gets the same.
_faces: dict[str, Any] = {}


def wsgi(
    engine: Engine, site: Site, target: Any, beside: str | None, said: Mapping[str, Any]
) -> Embedded:
    """Embed *target*, and answer the WSGI application for the host; see ``sitebus.embed``."""
    lodger = _lodger(engine, site, target, beside, said, "wsgi")
    answer: Embedded = _faces.setdefault("wsgi", faces.Embedded(lodger))
    return answer


def asgi(
    engine: Engine, site: Site, target: Any, beside: str | None, said: Mapping[str, Any]
) -> ASGIApplication:
    """Embed *target*, and answer the ASGI application; see ``sitebus.embed_asgi``."""
    lodger = _lodger(engine, site, target, beside, said, "asgi")
    answer: ASGIApplication = _faces.setdefault("asgi", faces.asgi(lodger))
    return answer


def _lodger(
    engine: Engine,
    site: Site,
    target: Any,
    beside: str | None,
    said: Mapping[str, Any],
    speaks: Literal["wsgi", "asgi"],
) -> Lodger:
    try:
        plan = draw_up(target, site, beside, said)
        lodger = present(engine, hosts.find, speaks)
        lodger.take(plan)
    except SitebusError as error:
        # Hosts log the traceback, in which our ways would bury what is wrong; what the system said
        # is in the sentence.
        cause = None if isinstance(error.__cause__, OSError) else error.__cause__
        raise error.with_traceback(None) from cause
    return lodger
