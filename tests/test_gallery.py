"""One site of many frameworks: each makes its links, redirects, cookies and errors as by itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import pytest
import requests

from tests.helpers import PATIENCE, ROOT, SiteProcess

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

GALLERY = ROOT / "examples" / "gallery"

pytestmark = pytest.mark.slow


class Place(NamedTuple):
    """Where a framework's application is, and what is peculiar about it."""

    name: str
    prefix: str
    host: str = ""
    #: The page that has the links.
    contents: str = "/"
    #: Whether it has a lifespan and WebSockets.
    lives: bool = False
    #: Whether every address is a page, known or not.
    catches_all: bool = False

    @property
    def framework(self) -> str:
        return self.name.partition(" ")[0]


WSGI = (
    Place("Flask", "/flask"),
    Place("Django", "/django"),
    Place("Bottle", "/bottle"),
    Place("Pyramid", "/pyramid"),
    Place("Falcon", "/falcon"),
    Place("CherryPy", "/cherrypy"),
    Place("web.py", "/webpy"),
    Place("Morepath", "/morepath"),
    Place("TurboGears", "/turbogears"),
    Place("Pecan", "/pecan"),
    Place("WebOb", "/webob"),
    # Its index is a program for the browser, which asks for the components there.
    Place("Dash", "/dash", contents="/_dash-layout", catches_all=True),
    Place("Bottle on a host", "", "bottle.localhost"),
    Place("Falcon deep on a host", "/deep/falcon", "new.apps.localhost"),
)
ASGI = (
    Place("Starlette", "/starlette", lives=True),
    Place("FastAPI", "/fastapi", lives=True),
    Place("Quart", "/quart", lives=True),
    Place("Litestar", "/litestar", lives=True),
    Place("Sanic", "/sanic", lives=True),
    Place("Falcon", "/falcon-asgi", lives=True),
    # Django leaves lifespans and WebSockets to others.
    Place("Django", "/django-asgi"),
    # With a second lifespan: each mount has its own.
    Place("Starlette on a host", "", "starlette.localhost", lives=True),
)
PLACES = WSGI + ASGI
LIVING = [place for place in PLACES if place.lives]

#: The servers that have WebSockets, and those that serve ASGI over a bridge.
TALKATIVE = ("uvicorn", "hypercorn", "granian")
TACITURN = ("cheroot", "waitress", "wsgiref")
SERVERS = TALKATIVE + TACITURN
#: wsgiref serves one request on each connection.
KEEPING = tuple(name for name in SERVERS if name != "wsgiref")

#: Modules to import for the frameworks above.
NEEDED = (
    "flask", "django", "bottle", "pyramid", "falcon", "cherrypy", "web", "morepath", "tg", "pecan",
    "webob", "dash", "starlette", "fastapi", "quart", "litestar", "sanic",
    # Forms, sessions and servers.
    "python_multipart", "itsdangerous", "uvicorn", "websockets", "hypercorn", "granian", "waitress",
)  # fmt: skip

#: The warnings of frameworks are theirs to mend.
QUIET = {"PYTHONWARNINGS": ""}

#: What is mounted of Dash is the Flask application that it is made of.
SHOWN = {"Dash": "Flask"}

#: What to do with what frameworks log about their lifespans.
LOGGING = {
    "version": 1,
    "handlers": {"terminal": {"class": "logging.StreamHandler"}},
    "loggers": {"gallery": {"level": "INFO", "handlers": ["terminal"]}},
}

#: An application that cannot start.
BROKEN = """\
from starlette.applications import Starlette

async def fail(app):
    raise RuntimeError("no database at db:5432")
    yield

app = Starlette(lifespan=fail)
"""


class Gallery:
    """The site as a visitor sees it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.port = urlsplit(url).port or 80

    def visitor(self, place: Place) -> Visitor:
        return Visitor(self.url, place)


class Visitor:
    """Somebody with one browser, at one of the applications."""

    def __init__(self, url: str, place: Place) -> None:
        self.url = url
        self.place = place
        self.session = requests.Session()
        if place.host:
            self.session.headers["Host"] = f"{place.host}:{urlsplit(url).port}"

    @property
    def base(self) -> str:
        return self.url + self.place.prefix

    def get(self, path: str, status: int = 200) -> requests.Response:
        """Ask for *path* below the prefix, and do not follow a redirect."""
        answer = self.session.get(self.base + path, timeout=PATIENCE, allow_redirects=False)
        assert answer.status_code == status, f"{answer.status_code} {answer.text}"
        return answer

    def post(self, path: str, **form: str) -> Any:
        """Send *form*, and answer the JSON that comes back."""
        answer = self.session.post(self.base + path, data=form, timeout=PATIENCE)
        assert answer.ok, answer.text
        return answer.json()

    def path_of(self, address: str, at: str) -> str:
        """Answer the path, below the prefix, of an *address* found on the page *at*.

        That it is on this site, and below the prefix, is what the tests are about.
        """
        own = urlsplit(self.base)._replace(netloc=self.netloc)
        parts = urlsplit(urljoin(own.geturl() + at, address))
        assert (parts.scheme, parts.netloc) == ("http", self.netloc), address
        assert parts.path.startswith(f"{self.place.prefix}/"), address
        return parts.path.removeprefix(self.place.prefix)

    @property
    def netloc(self) -> str:
        return str(self.session.headers.get("Host", urlsplit(self.url).netloc))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a copy of the gallery is; all its frameworks are there, or should be."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing and "CI" not in os.environ:
        pytest.skip(f"needs what sitebus[test] brings; missing are {missing}")
    folder = tmp_path_factory.mktemp("gallery")
    shutil.copytree(GALLERY, folder / "gallery", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def serve(folder: Path, server: str, *options: str, site: str = "site.ini") -> SiteProcess:
    """Start the gallery."""
    chosen = ("--bind", "127.0.0.1:0", "-o", f"server.adapter={server}", *options)
    return SiteProcess(f"gallery/{site}", *chosen, cwd=folder, env=QUIET)


@pytest.fixture(scope="module", params=SERVERS)
def site(request: pytest.FixtureRequest, folder: Path) -> Iterator[SiteProcess]:
    """The gallery, served by each adapter in turn."""
    with serve(folder, request.param) as child:
        assert child.url
        yield child
        assert child.stop() == 0


@pytest.fixture(scope="module")
def gallery(site: SiteProcess) -> Gallery:
    return Gallery(site.url)


@pytest.fixture(params=PLACES, ids=lambda place: place.name)
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.param
    return found


@pytest.fixture
def visitor(gallery: Gallery, place: Place) -> Visitor:
    return gallery.visitor(place)


def links(answer: requests.Response) -> list[str]:
    """Answer what a page links to; Dash's components name it as HTML does."""
    is_json = answer.headers["Content-Type"].startswith("application/json")
    text = json.dumps(answer.json()) if is_json else answer.text
    return re.findall(r'href"?(?:=|: )"([^"]+)"', text)


def test_the_check_tells_what_each_is_and_how_surely(folder: Path) -> None:
    """Before anybody serves it."""
    with SiteProcess("--check=import", "gallery/site.ini", cwd=folder, env=QUIET) as child:
        assert child.wait() == 0
    rows = [line.split(maxsplit=2)[2] for line in child.output.splitlines() if "CERTAIN" in line]

    interfaces = [("asgi3" if place in ASGI else "wsgi") for place in PLACES]
    names = [SHOWN.get(place.framework, place.framework) for place in PLACES]
    expected = [f"{name} ({each}) CERTAIN" for name, each in zip(names, interfaces, strict=True)]
    assert rows == ["WebOb (wsgi) CERTAIN", *expected]


def test_the_front_page_links_to_every_application(gallery: Gallery) -> None:
    """It asks the site what is mounted."""
    found = links(requests.get(gallery.url, timeout=PATIENCE))

    assert [urlsplit(each).path.rstrip("/") for each in found] == [each.prefix for each in PLACES]
    assert [urlsplit(each).hostname for each in found if "localhost" in each] == [
        "bottle.localhost",
        "any.apps.localhost",
        "starlette.localhost",
    ]


def test_a_page_links_to_another_below_the_prefix(visitor: Visitor) -> None:
    """The framework makes the address, and it leads there."""
    contents = visitor.place.contents
    page = next(each for each in links(visitor.get(contents)) if each.endswith("page/7"))

    assert "Page 7" in visitor.get(visitor.path_of(page, contents)).text


def test_a_redirect_keeps_the_prefix(visitor: Visitor) -> None:
    """Whether Location is a path or a whole address."""
    answer = visitor.session.get(visitor.base + "/go", timeout=PATIENCE, allow_redirects=False)

    assert answer.status_code in (301, 302, 303, 307, 308)
    assert "Page 7" in visitor.get(visitor.path_of(answer.headers["Location"], "/go")).text


def test_the_bare_prefix_leads_to_the_first_page(visitor: Visitor) -> None:
    """With a redirect to the slash or without: a visitor who leaves it off arrives."""
    answer = visitor.session.get(visitor.base, timeout=PATIENCE, allow_redirects=False)
    if answer.is_redirect:
        assert visitor.path_of(answer.headers["Location"], "") == "/"
        answer = visitor.get("/")

    assert answer.status_code == 200
    assert visitor.place.framework in answer.text


def test_a_static_file_is_served(visitor: Visitor) -> None:
    """Linked as the framework does, and with its type."""
    style = next(each for each in links(visitor.get("/")) if "style.css" in each)
    address = urlsplit(style)._replace(query="").geturl()
    answer = visitor.get(visitor.path_of(address, "/"))

    assert answer.content == (GALLERY / "static/style.css").read_bytes()
    assert answer.headers["Content-Type"].startswith("text/css")


def test_a_form_reaches_the_application(visitor: Visitor) -> None:
    """Long, and in any language."""
    text = "Grüße, 你好 & more = " * 2_000

    assert visitor.post("/echo", text=text) == {"text": text}


def test_a_cookie_is_kept_to_the_prefix(visitor: Visitor) -> None:
    """All of them were set for the whole host."""
    visitor.post("/visitor", name="ada")

    paths = {cookie.path.rstrip("/") for cookie in visitor.session.cookies}
    assert paths == {visitor.place.prefix}
    assert visitor.get("/visitor").json() == {"name": "ada"}


def test_applications_do_not_log_each_other_out(gallery: Gallery) -> None:
    """One browser, logged in everywhere at once, under another name each."""
    with requests.Session() as browser:
        visitors = [gallery.visitor(place) for place in PLACES if not place.host]
        for each in visitors:
            each.session = browser
            each.post("/visitor", name=f"in{each.place.name}")

        for each in visitors:
            assert each.get("/visitor").json() == {"name": f"in{each.place.name}"}


def test_an_error_is_a_500_and_nothing_else(visitor: Visitor, gallery: Gallery) -> None:
    """Neither this application nor its neighbours notice; nothing of the code is shown."""
    answer = visitor.get("/error", 500)

    assert "a mistake" not in answer.text
    assert "Page 1" in visitor.get("/page/1").text
    for other in PLACES:
        gallery.visitor(other).get("/page/1")


def test_an_unknown_page_is_the_applications_to_refuse(visitor: Visitor) -> None:
    """The site looks no further once it has found the prefix."""
    visitor.get("/nowhere/at/all", 200 if visitor.place.catches_all else 404)


@pytest.mark.parametrize("place", LIVING, ids=lambda place: place.name)
def test_what_was_made_at_the_start_is_there(gallery: Gallery, place: Place) -> None:
    """Each application had a lifespan of its own."""
    assert gallery.visitor(place).get("/started").json() == {"started": place.framework}


def talk(gallery: Gallery, place: Place) -> ClientConnection:
    """Open the application's WebSocket."""
    from websockets.sync.client import connect

    url = f"ws://{gallery.visitor(place).netloc}{place.prefix}/chat"
    server = socket.create_connection(("127.0.0.1", gallery.port), PATIENCE)
    try:
        return connect(url, sock=server, open_timeout=PATIENCE)
    finally:
        if sys.exc_info()[0]:
            server.close()


@pytest.mark.parametrize("site", TALKATIVE, indirect=True)
@pytest.mark.parametrize("place", LIVING, ids=lambda place: place.name)
def test_a_websocket_reaches_the_application(gallery: Gallery, place: Place) -> None:
    """In both directions, and more than once."""
    with talk(gallery, place) as chat:
        for text in ("hello", "Grüße, 你好"):
            chat.send(text)
            assert chat.recv(timeout=PATIENCE) == f"{place.framework}: {text}"


@pytest.mark.parametrize("site", TACITURN, indirect=True)
@pytest.mark.parametrize("place", LIVING, ids=lambda place: place.name)
def test_a_server_without_websockets_refuses_them(gallery: Gallery, place: Place) -> None:
    """The application answers as to any request for an address that is no page."""
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus) as refused:
        talk(gallery, place)

    assert 400 <= refused.value.response.status_code < 500
    gallery.visitor(place).get("/page/1")


@pytest.mark.parametrize("site", KEEPING, indirect=True)
@pytest.mark.parametrize("place", ASGI, ids=lambda place: place.name)
def test_the_connection_outlives_an_error(gallery: Gallery, place: Place) -> None:
    """Some frameworks raise again after their 500, and some servers close the connection then."""
    headers = {"Host": gallery.visitor(place).netloc}
    connection = HTTPConnection("127.0.0.1", gallery.port, timeout=PATIENCE)
    with closing(connection):
        for path, status in ("/error", 500), ("/page/1", 200):
            connection.request("GET", place.prefix + path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
            assert not answer.will_close
            # Else it would connect again by itself.
            connection.auto_open = False


@pytest.mark.parametrize("server", SERVERS)
def test_every_lifespan_ends_the_last_one_first(server: str, folder: Path) -> None:
    """With visitors still connected, and nothing left behind that would have to be waited for."""
    (folder / "logging.json").write_text(json.dumps(LOGGING))
    with serve(folder, server, "-o", f"logging.config={folder / 'logging.json'}") as child:
        gallery = Gallery(child.url)
        with ExitStack() as visits:
            for place in LIVING:
                visits.enter_context(gallery.visitor(place).session).get(child.url)
                if server in TALKATIVE:
                    visits.enter_context(talk(gallery, place))
            assert child.stop() == 0

    assert re.findall(r"^(\w+) has ended$", child.output, re.MULTILINE) == [
        place.framework for place in reversed(LIVING)
    ]
    assert not re.search("left behind|did not end|WARNING|ERROR|Traceback", child.output)


@pytest.mark.parametrize("server", ["cheroot", "uvicorn"])
def test_an_application_that_cannot_start_is_named(server: str, folder: Path) -> None:
    """In one sentence; those that had started end again."""
    site = (folder / "gallery" / "site.ini").read_text()
    (folder / "gallery" / "broken.py").write_text(BROKEN)
    (folder / "gallery" / "broken.ini").write_text(f"{site}\n[mount /broken]\napp = broken:app\n")
    with serve(folder, server, site="broken.ini") as child:
        assert child.wait() == 70

    said = [line for line in child.output.splitlines() if line.startswith("sitebus-serve: ")]
    assert len(said) == 1
    assert re.search("the application at /broken .*no database at db:5432", said[0])


def test_dash_finds_its_scripts_and_callbacks(gallery: Gallery) -> None:
    """A page of Dash is its scripts: one that is missing leaves it blank."""
    dash = gallery.visitor(next(place for place in PLACES if place.name == "Dash"))
    scripts = re.findall(r'<script src="([^"]+)"', dash.get("/").text)
    call: Any = {
        "output": "shouted.children",
        "outputs": {"id": "shouted", "property": "children"},
        "inputs": [{"id": "text", "property": "value", "value": "hello"}],
        "changedPropIds": ["text.value"],
    }

    assert scripts
    for script in scripts:
        dash.get(dash.path_of(script, "/").partition("?")[0])
    answer = dash.session.post(f"{dash.base}/_dash-update-component", json=call, timeout=PATIENCE)
    assert answer.json()["response"] == {"shouted": {"children": "HELLO"}}
