"""The section ``[signals]``: a setting for each signal that this platform has."""

from __future__ import annotations

from sitebus.config import Option, Section
from sitebus.config.kinds import BadValue, Choice, Context, Kind
from sitebus.config.options import Row
from sitebus.errors import CannotCatch
from sitebus.plugins.signals import ACTIONS, DEFAULTS
from sitebus.signalnames import NUMBERS, can_be_answered, number_of


class Unanswerable(Kind[str]):
    """What is done about a signal that no process can do anything about."""

    expected = "nothing"
    metavar = "ACTION"

    def __init__(self, name: str) -> None:
        self.name = name

    def parse(self, text: str, context: Context) -> str:
        """Say why nothing can be done.

        Raises:
            BadValue: Whatever was said.
        """
        try:
            number_of(self.name)
        except CannotCatch as error:
            raise BadValue(str(error)) from error
        return text


def section() -> Section:
    """Answer the section, with the signals that have an answer unless the file says otherwise."""
    rows = tuple(filter(None, (_row(name.lower()) for name in DEFAULTS)))
    return Section("signals", rows, "What the process does about signals.", others=_row)


def _row(key: str) -> Row | None:
    name = key.upper()
    if name not in NUMBERS:
        return None
    kind: Kind[str] = Choice(*ACTIONS) if can_be_answered(name) else Unanswerable(name)
    said = f"What {name} does: {', '.join(ACTIONS)}."
    return Option(key, kind, DEFAULTS.get(name), said)
