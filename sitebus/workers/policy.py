"""How many workers there are to be, and how much patience there is with them."""

from __future__ import annotations

from typing import NamedTuple

#: A worker that has been READY for so long is no part of a crash loop; seconds.
STEADY = 10.0


class Policy(NamedTuple):
    """What the configuration says of workers; times in seconds, sizes in bytes.

    Attributes:
        count: How many workers serve.
        surge: How many more there may be while some are being replaced.
        max_unavailable: How many fewer may be READY meanwhile.
        boot_timeout: How long a worker may take until it is READY; 0 for ever.
        drain_timeout: How long a worker may take to finish what it has, once told to.
        kill_after: From SIGTERM to SIGKILL.
        heartbeat_timeout: How late a beat may be; 0 for ever.
        request_timeout: How old a request may get before its worker is replaced; 0 for any age.
        max_requests: After how many requests a worker is replaced; 0 for never.
        max_rss: Above which size a worker is replaced; 0 for never.
        lifetime: How long after it became READY a worker is replaced; 0 for never.
        jitter: The share of *max_requests* and *lifetime* that is added at most, drawn for each
            worker, so that those started together do not all come to their end together.
        backoff_first: The first pause between attempts in a slot whose workers keep failing.
        backoff_most: The longest.
        fatal_after: After how many failures in a row a slot is called FATAL; 0 for never.
    """

    count: int  # type: ignore[assignment]  # nobody counts in a policy
    surge: int = 1
    max_unavailable: int = 0
    boot_timeout: float = 60.0
    drain_timeout: float = 30.0
    kill_after: float = 5.0
    heartbeat_timeout: float = 10.0
    request_timeout: float = 0.0
    max_requests: int = 0
    max_rss: int = 0
    lifetime: float = 0.0
    jitter: float = 0.1
    backoff_first: float = 0.25
    backoff_most: float = 30.0
    fatal_after: int = 5

    @property
    def extra(self) -> int:
        """How many workers there may be beyond the count: the next is READY before one drains."""
        return max(1, self.surge)

    @property
    def least(self) -> int:
        """How many must stay READY while a roll goes on."""
        return self.count - self.max_unavailable
