"""What goes wrong with a site in somebody else's process."""

from __future__ import annotations

from sitebus.errors.base import EX_CONFIG, EX_USAGE, SitebusError


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


class EmbedsItself(SitebusError):
    """What is to be embedded is what embedding answers: it would ask itself, and never be done."""

    status = EX_CONFIG

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"cannot embed {self.name!r}: it is what embed() has answered, and would ask itself; "
            "name the application, not the script that the host runs"
        )


class SpeaksWSGI(SitebusError):
    """An ASGI server has called what embedding answers for servers of WSGI."""

    status = EX_CONFIG

    def __str__(self) -> str:
        return (
            "cannot answer a server that speaks ASGI: the script has sitebus.embed(), which is for "
            "WSGI; say sitebus.embed_asgi() in it, or --interface wsgi to the server"
        )
