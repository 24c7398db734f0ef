"""What can be served of a folder, seen without importing any of it."""

from __future__ import annotations

from sitebus.cli.starters.found import Folder, Found, look

__all__ = ["Folder", "Found", "look"]
