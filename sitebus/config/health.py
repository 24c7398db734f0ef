"""The options of health and metrics: where they are asked for, and how long a check may take."""

from __future__ import annotations

from sitebus.config.kinds import BOOLEAN, BindAddress, Duration, Listing
from sitebus.config.options import Option, Section

#: Less than probes usually wait, so that who asks learns which check it was.
CHECK_TIMEOUT = 0.9

HEALTH = Section(
    "health",
    (
        Option(
            "bind",
            Listing(BindAddress()),
            (),
            "Where /livez, /readyz, /startupz, /healthz and /metrics are answered, such as "
            "127.0.0.1:9090 or unix:/run/site.health; nowhere if empty.",
        ),
        Option(
            "check_timeout",
            Duration(0.01),
            CHECK_TIMEOUT,
            "How long a check may take before it has failed.",
        ),
        Option("metrics", BOOLEAN, True, "Count requests, and answer /metrics, where bind is set."),
    ),
    "What the site tells load balancers and monitors of itself.",
)
