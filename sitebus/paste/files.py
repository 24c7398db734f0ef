"""What a PasteDeploy file says of serving: its server, its application, its loggers.

Its applications are loaded later, by `sitebus.paste.applications`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sitebus.errors import BadPasteFile, MissingExtra


class Server(NamedTuple):
    """A ``[server:main]``: its heading, what it would use, and its options."""

    section: str
    use: str
    options: Mapping[str, str]


class PasteFile(NamedTuple):
    """What a file says.

    Attributes:
        server: Its server, if it has one.
        main: The heading of the application that is served; empty if none is called main.
        has_loggers: Whether the logging module finds its own sections there.
    """

    server: Server | None
    main: str
    has_loggers: bool


def read(path: Path, variables: Mapping[str, str]) -> PasteFile:
    """Read *path*, with values for the ``%(NAME)s`` in it.

    Raises:
        MissingExtra: PasteDeploy is not installed.
        BadPasteFile: It makes no sense of the file.
    """
    try:
        from sitebus.paste._reader import FileReader
    except ModuleNotFoundError as error:
        raise MissingExtra("PasteDeploy", "paste") from error
    given = dict(variables)
    try:
        reader = FileReader(str(path))
        reader.update_defaults(given, overwrite=False)
        found = reader.server(given)
        server = None if found is None else Server(*found)
        return PasteFile(server, reader.main(), reader.parser.has_section("loggers"))
    # PasteDeploy passes on whatever configparser, files and importlib.metadata raise.
    except Exception as error:
        raise BadPasteFile(path, error) from error
