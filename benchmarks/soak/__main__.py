"""``python -m benchmarks.soak``: what is wanted; the exit status tells whether all was well."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys

from benchmarks.soak.run import Soak
from sitebus.errors import SitebusError


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=_ABOUT)
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="for each adapter (%(default)g)"
    )
    parser.add_argument(
        "--adapter", action="append", help="which to soak; may be given several times (cheroot)"
    )
    parser.add_argument("--seed", type=int, help="makes the same things happen again")
    wanted = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        # As by Ctrl-C: what was started is ended before we are.
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    seed = random.randrange(1 << 32) if wanted.seed is None else wanted.seed
    print(f"seed {seed}", flush=True)
    adapters = wanted.adapter or ["cheroot"]
    # All of them, whatever becomes of the first.
    try:
        well = [Soak(adapter, wanted.seconds, seed).run() for adapter in adapters]
    except SitebusError as error:
        sys.exit(str(error))
    return os.EX_OK if all(well) else 1


_ABOUT = "Mixed load on a real site while it is restarted, reloaded and changed at random."

if __name__ == "__main__":
    if not os.path.exists("/proc/self/task"):
        sys.exit("descriptors, threads and memory of a process are read from Linux's /proc")
    sys.exit(main())
