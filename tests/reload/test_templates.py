"""Templates are found by being opened, whatever engine opens them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import environment

#: What every program does: render, and say what would be watched; then render a second time.
PROGRAM = """
import os, sys
from sitebus.reload.opened import OPENED
from sitebus.reload.sources import Sources
OPENED.start()
{engine}
subject = Sources(set).find()
for path in sorted(subject.files):
    print(os.path.relpath(path))
"""

JINJA = """
import jinja2
env = jinja2.Environment(loader=jinja2.FileSystemLoader("templates"){options})
env.get_template("page.html").render()
"""

PACKAGED = """
import jinja2
jinja2.Environment(loader=jinja2.PackageLoader("shop")).get_template("page.html").render()
"""

MAKO = """
from mako.lookup import TemplateLookup
lookup = TemplateLookup(directories=[os.path.abspath("templates")]{options})
lookup.get_template("page.html").render()
"""

CHAMELEON = """
from chameleon import PageTemplateLoader
PageTemplateLoader("templates", ".html")["page"]()
"""

DJANGO = """
import django
from django.conf import settings
from django.template.loader import render_to_string
backend = {{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": ["templates"]}}
settings.configure(TEMPLATES=[backend], DEBUG={debug})
django.setup()
render_to_string("page.html")
"""

INHERITING = {
    "jinja2": ('{% extends "base.html" %}', "base"),
    "mako": ('<%inherit file="base.html"/>', "base"),
    "django": ('{% extends "base.html" %}', "base"),
    "chameleon": (
        '<html xmlns:metal="http://xml.zope.org/namespaces/metal"><metal:block '
        'use-macro="load: base.html"/></html>',
        "<html>base</html>",
    ),
}

CASES = [
    pytest.param("jinja2", JINJA.format(options=""), {}, id="jinja2"),
    pytest.param(
        "jinja2",
        JINJA.format(
            options=", bytecode_cache=(os.makedirs('cache', exist_ok=True),"
            " jinja2.FileSystemBytecodeCache('cache'))[1]"
        ),
        {},
        id="jinja2-bytecode-cache",
    ),
    pytest.param("jinja2", PACKAGED, {}, id="jinja2-package"),
    pytest.param("mako", MAKO.format(options=""), {}, id="mako"),
    pytest.param(
        "mako",
        MAKO.format(options=", module_directory=os.path.abspath('generated')"),
        {},
        id="mako-module-directory",
    ),
    pytest.param("chameleon", CHAMELEON, {}, id="chameleon"),
    pytest.param("chameleon", CHAMELEON, {"CHAMELEON_CACHE": "cache"}, id="chameleon-cache"),
    pytest.param("django", DJANGO.format(debug=True), {}, id="django-debug"),
    pytest.param("django", DJANGO.format(debug=False), {}, id="django-cached"),
]


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    def make(engine: str) -> Path:
        page, base = INHERITING[engine]
        for folder in ("templates", "shop/templates"):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "page.html").write_text(page)
            (tmp_path / folder / "base.html").write_text(base)
            (tmp_path / folder / "unused.html").write_text(base)
        (tmp_path / "shop" / "__init__.py").write_text("")
        (tmp_path / "cache").mkdir()
        return tmp_path

    return make


@pytest.mark.parametrize(("library", "engine", "env"), CASES)
def test_a_template_that_is_used_is_watched(
    project: Callable[[str], Path], library: str, engine: str, env: dict[str, str]
) -> None:
    """Nobody lists templates, and a second process may find all of them compiled already."""
    pytest.importorskip(library)
    folder = project(library)
    home = "shop/templates" if "PackageLoader" in engine else "templates"
    program = folder / "program.py"
    program.write_text(PROGRAM.format(engine=engine))
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, program],
            cwd=folder,
            env=environment(**env),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert result.returncode == 0, result.stderr
        found = {line for line in result.stdout.splitlines() if line.endswith(".html")}
        assert found == {os.path.join(home, name) for name in ("page.html", "base.html")}
