"""``python -m sitebus init``: a site.ini for what is in a folder, which works as it is."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from sitebus import assembly
from sitebus.cli.init import main
from sitebus.cli.starters import modules
from sitebus.testing import ServedSite
from tests.helpers import PATIENCE, SiteProcess, environment

Result = subprocess.CompletedProcess[str]
Init = Callable[..., Result]

#: Each kind of project: its files, what is to be served, what / answers, and what it is not.
FLASK = "from flask import Flask\n"
VIEW = "\n@app.get('/')\ndef index():\n    return 'hello'\n"
PLAIN = """\
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""
ASGI = """\
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
"""
FACTORY = f"""\
{FLASK}
def create_app(config=None):
    app = Flask(__name__)
    app.add_url_rule("/", view_func=lambda: "hello")
    return app
"""
STARLETTE = """\
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
application = Starlette(routes=[Route("/", lambda request: PlainTextResponse("hello"))])
"""
KINDS: dict[str, tuple[dict[str, str], str]] = {
    "Flask": ({"web.py": f"{FLASK}app = Flask(__name__)\n{VIEW}"}, "web:app"),
    "a factory": ({"shop/__init__.py": FACTORY}, "factory:shop:create_app"),
    "a factory that somebody calls": (
        {
            "src/shop/__init__.py": "",
            "src/shop/making.py": FACTORY,
            "src/shop/wsgi.py": "from .making import create_app\napplication = create_app()\n",
        },
        "shop.wsgi:application",
    ),
    "an import where servers look": (
        {"wsgi.py": "from shop import app as application\n", "shop/__init__.py": PLAIN},
        "wsgi.py:application",
    ),
    "FastAPI": (
        {
            "backend/main.py": "import fastapi\nimport texts\n\napp = fastapi.FastAPI()\n\n"
            "@app.get('/')\ndef index() -> str:\n    return texts.HELLO\n",
            "backend/texts.py": "HELLO = 'hello'\n",
            "tests/test_main.py": "from flask import Flask\napp = Flask('x')\n",
            ".venv/lib/app.py": "from flask import Flask\napp = Flask('x')\n",
            "env/pyvenv.cfg": "",
            "env/app.py": "from flask import Flask\napp = Flask('x')\n",
        },
        "main:app",
    ),
    "Starlette": ({"api/__init__.py": "", "api/asgi.py": STARLETTE}, "api.asgi:application"),
    "Bottle": (
        {"shop.py": "import bottle\napp = bottle.Bottle()\n@app.get('/')\ndef i(): return 'hello'"},
        "shop:app",
    ),
    "Pyramid": (
        {
            "shop.py": "from pyramid.config import Configurator\n"
            "from pyramid.response import Response\n"
            "with Configurator() as config:\n    config.add_route('home', '/')\n"
            "    config.add_view(lambda request: Response('hello'), route_name='home')\n"
            "    app = config.make_wsgi_app()\n"
        },
        "shop:app",
    ),
    "CherryPy": (
        {
            "shop.py": "import cherrypy\n\nclass Root:\n    @cherrypy.expose\n"
            "    def index(self):\n        return 'hello'\n\n"
            "cherrypy.config.update({'environment': 'embedded'})\n"
            "application = cherrypy.tree.mount(Root(), '')\n"
        },
        "shop:application",
    ),
    "plain WSGI": ({"my-site.py": PLAIN}, "my-site.py:app"),
    "plain ASGI": ({"hello.py": ASGI}, "hello:app"),
    "an instance": (
        {
            "hello.py": "class Hello:\n    def __call__(self, environ, start_response):\n"
            "        start_response('200 OK', [])\n        return [b'hello']\n\n"
            "class Loud:\n    def __init__(self, app):\n        self.app = app\n"
            "    def __call__(self, environ, start_response):\n"
            "        return self.app(environ, start_response)\n\napp = Loud(Hello())\n"
        },
        "hello:app",
    ),
    "a module named like a scheme": ({"static/__init__.py": PLAIN}, "wsgi:static:app"),
    "a module named like one of Python's": ({"site.py": PLAIN}, "site.py:app"),
    "Litestar": (
        {
            "shop.py": "from litestar import Litestar, get\n\n@get('/')\n"
            "async def index() -> str:\n    return 'hello'\n\n"
            "def create_app() -> Litestar:\n"
            "    return Litestar([index], logging_config=None)\n"
        },
        "factory:shop:create_app",
    ),
    "Dash": (
        {
            "charts.py": "import dash\n\napp = dash.Dash(__name__)\napp.layout = dash.html.Div()\n"
            "server = app.server\n\n@server.get('/hello')\ndef hello():\n    return 'hello'\n"
        },
        "charts:server",
    ),
    "files": ({"public/index.html": "hello"}, "static:${here}/public"),
    "files here": ({"index.html": "hello"}, "static:${here}"),
}


@pytest.fixture
def init(tmp_path: Path) -> Init:
    """Run it on files that are written to a folder."""

    def run(files: dict[str, str], *arguments: str) -> Result:
        write(tmp_path, files)
        return sitebus(tmp_path, "init", *arguments)

    return run


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def sitebus(folder: Path, *arguments: str) -> Result:
    return subprocess.run(
        [sys.executable, "-m", "sitebus", *arguments],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def served(folder: Path, *paths: str) -> str:
    """Answer what the written site answers."""
    # What frameworks warn of is not ours.
    env = {"SITEBUS_SERVER__BIND": "127.0.0.1:0", "PYTHONWARNINGS": "default"}
    with SiteProcess("site.ini", cwd=folder, env=env) as site:
        answers = [requests.get(f"{site.url}{each}", timeout=PATIENCE) for each in paths or "/"]
        assert [each.status_code for each in answers] == [200] * len(answers), answers[-1].text
        assert site.stop() == 0
        return "".join(each.text for each in answers)


def uncommented(text: str) -> str:
    """Answer the file with all that it offers as comments."""
    return re.sub(r"^# (?=\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)


@pytest.fixture
def forgotten(tmp_path: Path) -> Iterator[None]:
    """Forget the modules that a test has brought along: the next one's have the same names."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.mark.filterwarnings("ignore")  # What frameworks warn of is not ours.
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_found_is_served_as_it_is(tmp_path: Path, kind: str, forgotten: None) -> None:
    """The first site of somebody who has an application already is two commands away."""
    files, reference = KINDS[kind]
    write(tmp_path, files)
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "site.ini").read_text()
    assert f"\n[mount /]\napp = {reference}\n" in text
    # A page that the framework does not make of its own.
    path = "/hello" if kind == "Dash" else "/"
    with ServedSite(tmp_path / "site.ini") as site:
        answer = requests.get(f"{site.url}{path}", timeout=PATIENCE)
        assert (answer.status_code, answer.text.strip('"\n')) == (200, "hello")


@pytest.mark.parametrize("kind", ["a factory", "FastAPI", "plain WSGI", "Dash", "files here"])
def test_what_it_offers_as_a_comment_is_right_as_well(tmp_path: Path, kind: str) -> None:
    """Somebody will take the comment signs away."""
    write(tmp_path, KINDS[kind][0])
    write(tmp_path, {"static/style.css": "", "other.py": PLAIN, "tools/other.py": PLAIN})
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "site.ini").read_text()
    (tmp_path / "all.ini").write_text(uncommented(text))
    # What is wrong is raised.
    assert assembly.read(tmp_path / "all.ini", environ={}).mounts
    assert uncommented(text).count("\n[") > text.count("\n[")


#: Lines of a module, and what is found of it.
SHAPES = {
    "import flask as f\nsite = app = f.Flask('x')": "site wsgi Flask, app wsgi Flask",
    "from flask import Flask\napp = Flask('x')\napplication = ProxyFix(app)": (
        "app wsgi Flask, application wsgi Flask"
    ),
    "import falcon\napp = falcon.App()": "app wsgi Falcon",
    "import web\napp = web.application((), {}).wsgifunc()": "app wsgi web.py",
    "from quart import Quart\napp = Quart('x')": "app asgi Quart",
    "from sanic import Sanic\napp: Sanic = Sanic('x')": "app asgi Sanic",
    "import falcon.asgi\napp = falcon.asgi.App()": "app asgi Falcon",
    "import falcon.asgi as f\napp = f.App()": "app asgi Falcon",
    "import blacksheep as b\napp = b.Application()": "app asgi BlackSheep",
    "import socketio\napp = socketio.ASGIApp(socketio.AsyncServer())": "app asgi Socket.IO",
    "import pecan\napp = pecan.make_app('root')": "app wsgi Pecan",
    "try:\n    from flask import Flask as F\nfinally:\n    app = F('x')": "app wsgi Flask",
    "from flask import Flask\nif True:\n    app = Flask('x')": "app wsgi Flask",
    "from flask import Flask\nclass Shop(Flask): pass\napp = Shop('x')": "app wsgi Flask",
    "from flask import Flask\ndef make_app(*, debug=False):\n    return Flask('x')": (
        "make_app wsgi Flask factory"
    ),
    "def make():\n    def app(environ, start_response): pass\n    return app": "make wsgi  factory",
    "def app(environ, start_response): pass\ndef loud(app): return app": "app wsgi ",
    "class App:\n    async def __call__(self, scope, receive, send): pass\na = App()": "a asgi ",
    # What is no application, or none that can be had without more.
    "from flask import Flask\nif __name__ == '__main__':\n    app = Flask('x')": "",
    "from flask import Flask\ndef make_app(config): return Flask(config)": "",
    "from flask import Flask\ndef make_app(*, config): return Flask(config)": "",
    "import pytest, flask\n@pytest.fixture\ndef app(): return flask.Flask('x')": "",
    "from flask import Flask\ndef _app(): return Flask('x')": "",
    "from shop import Flask\napp = Flask('x')": "",
    "class App:\n    def __call__(self, environ, start_response): pass": "",
    "import flask\nname = flask.__name__\nflask = name": "",
    "async def make(): return make()\ndef again(): return again()\nx = again()": "",
}


@pytest.mark.parametrize("source", SHAPES)
def test_a_module_tells_what_it_makes(source: str) -> None:
    """By its text alone, however it is written."""
    found = [
        f"{each.name} {each.interface} {each.framework}{' factory' * each.factory}"
        for each in modules.read(source.encode()).made
    ]
    assert ", ".join(found) == SHAPES[source]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a project as Django itself does."""
    folder = tmp_path_factory.mktemp("django")
    command = [sys.executable, "-m", "django", "startproject", "mysite", str(folder)]
    subprocess.run(command, check=True, env=environment(), timeout=PATIENCE)
    urls = folder / "mysite" / "urls.py"
    urls.write_text(
        "from django.http import HttpResponse\nfrom django.urls import path\n"
        "urlpatterns = [path('', lambda request: HttpResponse('hello'))]\n"
    )
    return folder


@pytest.fixture
def django(project: Path, tmp_path: Path) -> Path:
    """Answer a copy of it, for one test."""
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_django_project_is_served(django: Path) -> None:
    """With its settings named, and its other interface as a comment."""
    assert main([str(django)]) == 0
    text = (django / "site.ini").read_text()
    assert "[env]\nDJANGO_SETTINGS_MODULE = mysite.settings\n" in text
    assert "\n[mount /]\napp = mysite.wsgi:application\n" in text
    assert "# app = mysite.asgi:application\n" in text
    assert "# [mount /static]" in text
    assert text.count("mysite.wsgi:application") == 1
    assert served(django) == "hello"


def test_a_django_project_with_more_is_served(django: Path) -> None:
    """In a folder below, its settings in several files, files collected, and Channels wanted."""
    root = django / "code"
    root.mkdir()
    for name in ("manage.py", "mysite"):
        (django / name).rename(root / name)
    settings = root / "mysite" / "settings"
    base = root / "mysite" / "settings.py"
    text = base.read_text().replace("parent.parent", "parent.parent.parent")
    settings.mkdir()
    base.rename(settings / "base.py")
    (settings / "__init__.py").write_text("")
    (settings / "base.py").write_text(f"{text}\nSTATIC_ROOT = BASE_DIR / 'collected'\n")
    (settings / "dev.py").write_text(
        "from .base import *\nASGI_APPLICATION = 'mysite.asgi.application'\n"
        "STATIC_URL = '/files/'\n"
    )
    for path in (root / "manage.py", root / "mysite" / "asgi.py"):
        path.write_text(path.read_text().replace("mysite.settings", "mysite.settings.dev"))
    (root / "collected").mkdir()
    (root / "collected" / "style.css").write_text("body {}")
    assert main([str(django)]) == 0
    text = (django / "site.ini").read_text()
    assert "python_path = ${here}/code\n" in text
    assert "\n[mount /]\napp = mysite.asgi:application\n" in text
    assert "\n[mount /files]\napp = static:${here}/code/collected\n" in text
    assert served(django, "/", "/files/style.css") == "hellobody {}"


def test_several_are_listed_and_one_is_chosen(init: Init, tmp_path: Path) -> None:
    """Nobody is to be surprised by which, nor to have to search for the others."""
    files = {
        "app.py": f"{FLASK}app = Flask(__name__)\n{VIEW}",
        "admin.py": f"{FLASK}app = Flask(__name__)\n{VIEW}",
        "tools/hello.py": PLAIN,
        "more/hello.py": PLAIN,
        "static/style.css": "body {}",
        "broken.py": "def app(:\n",
    }
    done = init(files)
    assert done.stdout.splitlines() == [
        "site.ini is written, and serves: Flask, in app.py",
        "  found as well, and there as a comment: Flask, in admin.py",
        "  found as well, and there as a comment: plain WSGI, in more/hello.py",
        "  found as well, and there as a comment: plain WSGI, in tools/hello.py",
        "  broken.py:1 is not read: SyntaxError",
        "try it: sitebus-serve --check=import site.ini",
    ]
    text = (tmp_path / "site.ini").read_text()
    assert "# [mount /admin]\n# app = admin:app\n" in text
    assert "from ${here}/tools, which python_path needs then.\n# [mount /hello-2]\n" in text
    assert "# [mount /static]\n# app = static:${here}/static\n" in text


def test_nothing_is_overwritten(init: Init, tmp_path: Path) -> None:
    """Not even a link that leads nowhere; and --print shows what it would have been."""
    init({"hello.py": PLAIN, "site.ini": "mine"})
    done = init({})
    assert (done.returncode, (tmp_path / "site.ini").read_text()) == (73, "mine")
    assert done.stderr == (
        "python -m sitebus init: site.ini is there already; --print shows what would be written\n"
    )
    printed = init({}, "--print")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert "app = hello:app" in printed.stdout
    (tmp_path / "site.ini").unlink()
    (tmp_path / "site.ini").symlink_to("elsewhere.ini")
    assert init({}).returncode == 73
    assert not (tmp_path / "elsewhere.ini").exists()


def test_a_paste_file_needs_no_other(init: Init, tmp_path: Path) -> None:
    """It is served as it is."""
    done = init({"development.ini": "[app:main]\nuse = egg:shop\n", "b.ini": "[app:main]\n"})
    assert done.returncode == 0
    assert "served as it is: sitebus-serve development.ini" in done.stderr
    assert not (tmp_path / "site.ini").exists()
    done = init({"hello.py": PLAIN, "site2.ini": "[mount /]\napp = hello:app\n"})
    assert "development.ini can be served as it is" in done.stdout
    assert "site2.ini can be" not in done.stdout
    assert (tmp_path / "site.ini").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ((), 66, "found no application in .; name yours"),
        (("nowhere",), 66, "there is no such directory"),
        (("notes.txt",), 66, "it is not a directory"),
        (("n" * 300,), 66, "file name too long"),
        (("--pint",), 64, "did you mean --print?"),
        (("a", "b"), 64, "unrecognized arguments: b"),
    ],
    ids=str,
)
def test_a_mistake_is_one_sentence(
    init: Init, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    """As with every command."""
    done = init({"notes.txt": "", "notes.py": "x = 5\n"}, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nothing_is_imported(init: Init, tmp_path: Path) -> None:
    """To look at code must not run it."""
    done = init({"shop.py": f"import os\nos.mkdir('imported')\nimport no_such\n{PLAIN}"})
    assert "plain WSGI, in shop.py" in done.stdout
    assert not (tmp_path / "imported").exists()


def test_strange_files_are_left_out(init: Init, tmp_path: Path) -> None:
    """A folder may have anything in it."""
    (tmp_path / "hello.py").write_text(PLAIN)
    (tmp_path / "null.py").write_bytes(b"\0app")
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    (tmp_path / "deep.py").write_text(f"x = {'(' * 5000}{')' * 5000}\n")
    (tmp_path / "large.py").write_text("#" * (2 << 20))
    (tmp_path / "line\nend.py").write_text(PLAIN)
    (tmp_path / "line\nend").mkdir()
    (tmp_path / "line\nend" / "app.py").write_text(PLAIN)
    os.mkdir(bytes(tmp_path) + b"/latin\xe9")
    (tmp_path / "latin\udce9" / "app.py").write_text(PLAIN)
    (tmp_path / "latin\udce9.ini").write_text("[app:main]\nuse = egg:x\n")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.py").symlink_to("nowhere.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "a $1 folder").mkdir()
    (tmp_path / "a $1 folder" / "app.py").write_text(PLAIN)
    done = init({})
    assert done.returncode == 0, done.stderr
    assert "is written, and serves: plain WSGI, in hello.py" in done.stdout
    text = (tmp_path / "site.ini").read_text()
    assert "# app = a $$1 folder/app.py:app" in text
    assert served(tmp_path) == "hello"


@pytest.fixture
def nobody() -> Iterator[None]:
    """Be a user for whom there are permissions."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that may be looked at, with two that may not; pytest's own are for its user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write(folder, {"hello.py": PLAIN, "static/style.css": "", "shop/app.py": PLAIN})
        for each in ("static", "shop"):
            (folder / each).chmod(0)
        yield folder
        for each in ("static", "shop"):
            (folder / each).chmod(0o755)


def test_what_may_not_be_read_is_left_out(
    closed: Path, nobody: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Others' folders are no reason to stop; the one that was asked for is."""
    assert main([str(closed), "--print"]) == 0
    assert "app = hello:app" in capsys.readouterr().out
    assert main([str(closed / "shop")]) == 77
    assert capsys.readouterr().err.endswith("shop: permission denied\n")
    if os.geteuid() != closed.stat().st_uid:
        assert main([str(closed)]) == 73
        assert "site.ini: permission denied" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [(), ("--print",)])
def test_what_cannot_be_printed_is_told(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A full disk is no bug of ours, and gets no traceback."""
    (tmp_path / "hello.py").write_text(PLAIN)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sitebus", "init", str(tmp_path), *arguments],
            env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    said = "cannot write to standard output: no space left on device"
    assert (done.returncode, done.stderr) == (73, f"python -m sitebus init: {said}\n")


def test_half_a_file_is_not_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next attempt would find it, and take it for somebody's own."""
    (tmp_path / "hello.py").write_text(PLAIN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # SIGXFSZ is ignored by Python, so that writing fails.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        assert main([str(tmp_path)]) == 73
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "site.ini: file too large" in capsys.readouterr().err
    assert not (tmp_path / "site.ini").exists()


def test_another_module_may_still_be_called_init(tmp_path: Path) -> None:
    """By its file, or with the name of the application in it."""
    (tmp_path / "init.py").write_text(PLAIN)
    assert sitebus(tmp_path, "--check=import", "init:app").returncode == 0
    assert sitebus(tmp_path, "init.py", "--check=import").returncode == 0
