"""Import sitebus from the folder that is named and print, as JSON, what changed by that.

A program of its own: it needs an interpreter that has not imported anything yet.
"""

import atexit
import os
import signal
import sys

FOLDER = sys.argv[1]


def descriptors() -> set[str]:
    """The descriptors that are open: those listed twice, since listing opens one."""
    return {fd for fd in os.listdir("/dev/fd") if os.path.exists(f"/dev/fd/{fd}")}


def handlers() -> set[str]:
    return {f"{number}: {signal.getsignal(number)}" for number in signal.valid_signals()}


modules, opened, handled = set(sys.modules), descriptors(), handlers()
count = atexit._ncallbacks()

sys.path.insert(0, FOLDER)
import sitebus  # noqa: E402, F401

after = set(sys.modules)
registered = atexit._ncallbacks() - count
left, changed = descriptors() - opened, handlers() - handled

import json  # noqa: E402
import threading  # noqa: E402

report = {
    "modules": sorted(after - modules),
    "threads": [thread.name for thread in threading.enumerate()][1:],
    "descriptors": sorted(left),
    "exit functions": [f"{registered} more"] if registered else [],
    "signals": sorted(changed),
}
print(json.dumps(report))
