"""Whether a message that has another way to go first will fit where it goes last.

Its sender is to be told, and not only who passes it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sitebus.errors import MessageTooLarge
from sitebus.relay.envelope import check_name
from sitebus.relay.frames import LIMIT, dump

#: What an envelope adds at most to channel, values and named values.
ENVELOPE = 2048


def check_room(channel: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Make sure that a message fits into an envelope of the relay.

    Raises:
        BadName: No channel is called so.
        NotJson: It holds what JSON cannot say; a TypeError.
        MessageTooLarge: It does not fit.
    """
    check_name("channel", channel)
    size = len(dump({"ch": channel, "args": list(args), "kw": dict(kwargs)}))
    if size > LIMIT - ENVELOPE:
        raise MessageTooLarge(size, LIMIT - ENVELOPE)
