"""An application of a PasteDeploy file: ``paste:FILE.ini``, ``paste:FILE.ini?NAME=VALUE#NAME``.

What follows the question mark are values for the ``%(NAME)s`` in the file, quoted as in a URL;
what follows the ``#`` is the application's name there, ``main`` if nothing does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from traceback import walk_tb
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from sitebus import references
from sitebus.errors import (
    AppFileNotFound,
    AppImportError,
    BadPasteFile,
    BadReference,
    MissingExtra,
)

#: Whose frames are PasteDeploy at work, and no application's code.
_MACHINERY = ("paste", "importlib", "configparser", "_frozen_importlib", "sitebus")


class PasteReference(NamedTuple):
    """What is to be loaded: a file, values for it, and the application's name in it."""

    path: str
    variables: Mapping[str, str]
    name: str

    @classmethod
    def parse(cls, text: str) -> PasteReference:
        """Read what follows ``paste:``."""
        rest, _, name = text.partition("#")
        path, _, query = rest.partition("?")
        variables = dict(parse_qsl(query, keep_blank_values=True))
        return cls(unquote(path.strip()), variables, name.strip() or "main")


def load(
    text: str,
    rest: str,
    directory: str | os.PathLike[str] = "",
    variables: Mapping[str, str] = {},
) -> Any:
    """Have PasteDeploy load an application.

    Args:
        text: The reference as somebody wrote it, for messages.
        rest: The same without its scheme.
        directory: What a relative path is relative to.
        variables: Values for the ``%(NAME)s`` in it, unless the reference has its own.

    Raises:
        BadReference: No file is named.
        AppFileNotFound: There is no such file.
        MissingExtra: PasteDeploy is not installed.
        BadPasteFile: PasteDeploy cannot find what the file names.
        AppImportError: The application's own code failed.
    """
    wanted = PasteReference.parse(rest)
    if not wanted.path:
        raise BadReference(text, "name a file, as in paste:development.ini#main")
    path = os.path.abspath(os.path.join(directory, os.path.expanduser(wanted.path)))
    if not os.path.isfile(path):
        raise AppFileNotFound(text, f"there is no file {path}")
    try:
        from paste.deploy import loadapp
    except ModuleNotFoundError as error:
        raise MissingExtra("PasteDeploy", "paste") from error
    uri, given = f"config:{quote(path)}", {**variables, **wanted.variables}
    try:
        return references.call(text, loadapp, uri, name=wanted.name, global_conf=given)
    except AppImportError as failure:
        if _is_of_the_file(failure.error):
            raise BadPasteFile(text, failure.error) from failure.error
        raise


def _is_of_the_file(error: BaseException) -> bool:
    """Tell whether no code but PasteDeploy's has run when it failed."""
    frames = walk_tb(error.__traceback__)
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in frames]
    return isinstance(error, Exception) and all(each in _MACHINERY for each in packages)
