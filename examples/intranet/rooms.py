"""Meeting rooms, in WebOb: look them up and book one."""

from __future__ import annotations

from webob import Request, Response
from webob.dec import wsgify
from webob.exc import HTTPMethodNotAllowed, HTTPNotFound, HTTPSeeOther

rooms: dict[str, str] = {"attic": "", "cellar": ""}


@wsgify
def application(request: Request) -> Response:
    """``GET /`` lists the rooms, ``GET /attic`` shows one, ``POST /attic`` books it."""
    name = request.path_info.strip("/")
    if not name:
        return Response(json=rooms)
    if name not in rooms:
        return HTTPNotFound(f"There is no room {name!r}.")
    if request.method == "POST":
        rooms[name] = request.POST.get("who", "somebody")
        # application_url has the mount's prefix in it.
        return HTTPSeeOther(location=f"{request.application_url}/{name}")
    if request.method not in ("GET", "HEAD"):
        return HTTPMethodNotAllowed()
    return Response(json={"room": name, "booked by": rooms[name] or None})
