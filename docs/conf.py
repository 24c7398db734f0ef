"""How the docs are built: ``python -m sphinx -W -n docs docs/_build/html``."""

import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import sitebus  # noqa: E402

project = "sitebus"
author = "the sitebus developers"
project_copyright = "the sitebus developers"
version = release = sitebus.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "from_code"]
exclude_patterns = ["_build"]
nitpicky = True
# Docstrings name attributes and parameters between single backticks too.
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", ".*")]

toc_object_entries = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# Types of other people, and what only names a type, have no page here.
nitpick_ignore_regex += [
    ("py:(class|exc|func|meth|mod)", r"(?!sitebus\b).*"),
    ("py:class", r"sitebus\.(plugins\.Method|sockets\.(files\.SocketFile|connections\.Idle))"),
    ("py:class", r"sitebus\.(testing\.waiting\.T|restarts\.Restarts|loop\.LoopThread)"),
    ("py:class", r"sitebus\.(fleet\.fleets\.T|config\.drafts\.Override)"),
]

# Dashes stay as they are typed: options begin with two of them.
smartquotes_action = "qe"

html_theme = "alabaster"
html_theme_options = {
    "description": "One process bus that hosts Python web applications",
    "fixed_sidebar": True,
    "page_width": "1080px",
}
html_static_path: list[str] = []
pygments_style = "friendly"


def unsplit(
    app: Sphinx, what: str, name: str, thing: object, options: Any, lines: list[str]
) -> None:
    """Put together again what napoleon took for a type: "The states by name: ``...``"."""
    if what in ("attribute", "data", "property"):
        for line in [line for line in lines if line.startswith(":type: ")]:
            lines.remove(line)
            lines[0] = f"{line.removeprefix(':type: ')}: {lines[0]}"


def setup(app: Sphinx) -> None:
    """Called by Sphinx; napoleon is done at 500."""
    app.connect("autodoc-process-docstring", unsplit, priority=600)
