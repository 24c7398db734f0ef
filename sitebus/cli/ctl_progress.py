"""One line on a terminal that says how a job comes on; elsewhere, nothing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from sitebus.cli.ctl_client import Client
from sitebus.cli.ctl_tables import job as shown
from sitebus.errors import RequestRefused

#: How often the line is written anew; seconds.
_PACE = 0.5
#: Back to the beginning of the line, and what was there is gone.
_ANEW = "\r\033[K"


class Progress:
    """The line; it is gone when the block ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shows = stream.isatty()
        self._written = False

    @classmethod
    def on_terminal(cls) -> Progress:
        """Answer the line of standard error, which is read by people when it is a terminal."""
        return cls(sys.stderr)

    @property
    def pace(self) -> float:
        """How often it is to be shown; 0 for never."""
        return _PACE if self._shows else 0.0

    def show(self, client: Client, job: Mapping[str, Any]) -> None:
        """Write how the job stands, and the workers."""
        if not self._shows:
            return
        line = shown(job)
        try:
            workers = client.get("/v1/workers")["workers"]
        except RequestRefused:
            workers = ()
        counts = Counter(each["state"].lower() for each in workers)
        if counts:
            line += f"; workers: {', '.join(f'{n} {state}' for state, n in counts.items())}"
        self._stream.write(f"{_ANEW}{line[:120]}")
        self._stream.flush()
        self._written = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._written:
            self._stream.write(_ANEW)
            self._stream.flush()
