"""Every public name of ``magicbus.plugins``."""

from __future__ import annotations

from sitebus.plugins import SimplePlugin

__all__ = ["SimplePlugin"]
