"""What goes wrong with metrics that an application counts, and with where all of it is told."""

from __future__ import annotations

from sitebus.errors.base import EX_CONFIG, SitebusError


class BadMetric(SitebusError, ValueError):
    """A metric cannot be had as it was asked for."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot have the metric {self.name!r:.80}: {self.reason}"


class AddressShared(SitebusError, ValueError):
    """Health was to be answered where a server of the site answers."""

    status = EX_CONFIG

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address

    def __str__(self) -> str:
        return (
            f"cannot answer for the site's health at {self.address}: a server listens there; give "
            "it an address of its own, or mount sitebus.control.health:site in the site"
        )
