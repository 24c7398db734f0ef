"""Show visitors of a site under development how its reloads go.

What they see is `sitebus.reload.face`'s; this hears on the bus what there is to show.
"""

from __future__ import annotations

from sitebus.errors import CannotRestart, TrialFailed
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority
from sitebus.reload.face import Face

TITLE = "The site was not reloaded"
COLD_TITLE = "The site cannot start"


class ReloadFace(Plugin):
    """Keep *face* up to date."""

    def __init__(self, bus: Engine, face: Face) -> None:
        super().__init__(bus)
        self.face = face

    @listens("start", priority=Priority.SERVE - 1)
    def start(self) -> None:
        """Let pages listen again."""
        self.face.streams.open()

    @listens("restart_refused")
    def restart_refused(self, error: TrialFailed | CannotRestart) -> None:
        """Show why the old code goes on serving, or that there is still none to serve."""
        cold = self.face.cold
        said = _mistake(error) if cold and isinstance(error, TrialFailed) else str(error)
        text = f"{said}\n\n{getattr(error, 'text', '')}".rstrip()
        self.face.fail(COLD_TITLE if cold else TITLE, text, cold=cold)

    @listens("reload_mended")
    def reload_mended(self) -> None:
        """Whatever was wrong has been undone, and nothing is to be reloaded."""
        self.face.revert()

    @listens("files_refreshed")
    def files_refreshed(self, paths: object = ()) -> None:
        """Templates changed, and need no other code."""
        self.face.refresh()

    @listens("stop", priority=Priority.DRAIN - 1)
    def stop(self) -> None:
        """End the event streams: a server that drains would wait for them."""
        self.face.streams.close()


def _mistake(error: TrialFailed) -> str:
    """Say what *error* says, without the old code that there is not."""
    place = f"{error.file}:{error.line}: " if error.file else ""
    return place + error.reason.removeprefix(place)
