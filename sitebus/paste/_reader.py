"""The ``[server:main]`` of a PasteDeploy file, read as PasteDeploy does, and the server not loaded.

What ``use`` names need not be installed: sitebus serves instead.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote

from paste.deploy.loadwsgi import APP, SERVER, ConfigLoader, LoaderContext


class FileReader(ConfigLoader):  # type: ignore[misc]
    """PasteDeploy's own reader, which stops at the name of what it would import."""

    def get_context(
        self, object_type: Any, name: str | None = None, global_conf: dict[str, str] | None = None
    ) -> Any:
        """Answer a section's settings; `object` is what it would use."""
        if name is None or not self.absolute_name(name):
            return super().get_context(object_type, name, global_conf)
        scheme, _, rest = name.partition(":")
        if scheme.lower() != "config":
            return LoaderContext(name, object_type, "", global_conf or {}, {}, self)
        path, _, section = rest.partition("#")
        other = type(self)(os.path.join(os.path.dirname(self.filename), unquote(path)))
        other.update_defaults(global_conf or {}, overwrite=False)
        return other.get_context(object_type, section or "main", global_conf)

    def _context_from_explicit(
        self,
        object_type: Any,
        local_conf: dict[str, str],
        global_conf: dict[str, str],
        global_addition: dict[str, str],
        section: str,
    ) -> Any:
        for protocols in object_type.egg_protocols:
            for protocol in protocols:
                if protocol in local_conf:
                    used = local_conf.pop(protocol)
                    return LoaderContext(used, object_type, "", global_conf, local_conf, self)
        raise LookupError(f"no 'use' in [{section}]")

    def server(self, variables: dict[str, str]) -> tuple[str, str, dict[str, str]] | None:
        """Answer section, what it uses and its options; None where the file has no server."""
        sections = self.parser.sections()
        if not any(each.startswith("server:") for each in sections):
            return None
        section = self.find_config_section(SERVER, "main")
        context = self.get_context(SERVER, "main", variables)
        return section, str(context.object), dict(context.local_conf)

    def main(self) -> str:
        """Answer the section of the application that is served; empty if there is none."""
        try:
            return str(self.find_config_section(APP, "main"))
        except LookupError:
            return ""
