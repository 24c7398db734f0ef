"""Serve both sites until Ctrl-C: http://127.0.0.1:8081 and http://127.0.0.1:8082.

Ask either of them, and then change the price at one:

    curl http://127.0.0.1:8082/
    curl -X POST http://127.0.0.1:8081/?5
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    argv = [sys.executable, "-m", "sitebus"]
    sites = [subprocess.Popen([*argv, HERE / name]) for name in ("east.ini", "west.ini")]
    # Ctrl-C reaches them too, and they end in order.
    with contextlib.suppress(KeyboardInterrupt):
        for site in sites:
            site.wait()
    sys.exit(max(site.wait() for site in sites))


if __name__ == "__main__":
    main()
