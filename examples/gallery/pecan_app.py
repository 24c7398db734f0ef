"""The gallery's application in Pecan."""

from __future__ import annotations

from pathlib import Path

import pecan
from pecan import expose, request, response
from webob.static import DirectoryApp

PAGE = """\
<!doctype html>
<link rel="stylesheet" href="{root}/static/style.css">
<h1>Pecan</h1>
<a href="{root}/page/7">A page</a>
"""

serve_static = DirectoryApp(str(Path(__file__).parent / "static"))


class RootController:
    @expose()
    def index(self) -> str:
        return PAGE.format(root=request.application_url)

    @expose()
    def page(self, number: str) -> str:
        return f"Page {int(number)}"

    @expose()
    def go(self) -> None:
        # A path alone would be taken from the host's root: redirect() knows no prefix.
        pecan.redirect(f"{request.application_url}/page/7")

    @expose()
    def static(self, *path: str) -> object:
        request.path_info = "/".join(("", *path))
        return request.get_response(serve_static)

    @expose("json")
    def visitor(self, name: str | None = None) -> dict[str, str]:
        if name is None:
            return {"name": request.cookies.get("visitor", "")}
        response.set_cookie("visitor", name)
        return {"name": name}

    @expose("json")
    def echo(self, text: str) -> dict[str, str]:
        return {"text": text}

    @expose()
    def error(self) -> None:
        raise ValueError("a mistake in Pecan's controller")


# Otherwise Pecan takes .css off the address, and looks for a "style".
application = pecan.make_app(RootController(), guess_content_type_from_ext=False)
