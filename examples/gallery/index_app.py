"""The gallery's front page: a link to every application of the site that serves it."""

from __future__ import annotations

from webob import Request, Response
from webob.dec import wsgify
from webob.exc import HTTPNotFound

import sitebus

PAGE = """\
<!doctype html>
<title>Gallery</title>
<h1>Gallery</h1>
<ul>
{links}
</ul>
"""


def link(request: Request, mount: sitebus.Mount) -> str:
    host = request.host_url
    if mount.host:
        # *.localhost needs some name in place of the star, and the port is the visitor's.
        name = mount.host.replace("*", "any").partition(":")[0]
        host = f"{request.scheme}://{name}:{request.host_port}"
    return f'<li><a href="{host}{mount.prefix}/">{mount.name}</a>: {mount.framework}</li>'


@wsgify
def application(request: Request) -> Response:
    if request.path_info not in ("", "/"):
        return HTTPNotFound()
    others = [mount for mount in sitebus.site.mounts if mount.prefix or mount.host]
    return Response(PAGE.format(links="\n".join(link(request, mount) for mount in others)))
