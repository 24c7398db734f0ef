"""What goes wrong with a site in somebody else's process."""

from __future__ import annotations

from sitebus.errors.base import EX_USAGE, SitebusError


class CannotEmbed(SitebusError):
    """A site was to be embedded in a process in which sitebus runs by itself."""

    status = EX_USAGE

    def __init__(self, state: object) -> None:
        super().__init__(state)
        self.state = state

    def __str__(self) -> str:
        return (
            f"cannot embed a site: sitebus runs this process, its bus is in {self.state}; embed() "
            "is for other servers, and sitebus-serve serves the same target itself"
        )
