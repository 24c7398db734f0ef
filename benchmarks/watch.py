"""What it costs to watch files while nothing changes, and to note what is opened.

    python -m benchmarks.watch [SECONDS]

Watches 5,000 files in 400 directories in every way, in a child process of its own, and counts its
processor time and its wake-ups (voluntary context switches of all threads), while nothing happens
and while another process opens and reads the files that are watched. The row "watchfiles" includes
what that library does inside: it looks at its own list 20 times a second. Then the price of
``open()`` and of other audited calls: without the audit hook, with it while nobody listens, and
with somebody listening. Linux only.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

FILES, FOLDERS = 5000, 400
SECONDS = 10.0
#: What a start sets going has come to an end by then; seconds.
SETTLED = 9.0
GOAL = 0.1  # percent of a core, with native notification


def make(root: Path) -> list[str]:
    paths = []
    for number in range(FILES):
        folder = root / f"d{number % FOLDERS}"
        folder.mkdir(exist_ok=True)
        path = folder / f"m{number}.py"
        path.write_text(f"X = {number}\n" * 50)
        paths.append(str(path))
    return paths


def idle(root: str, way: str, seconds: float) -> None:
    """Print the seconds of set-up, the percentage of a core, and the wake-ups a second.

    The last two once more, while the files are read by others.
    """
    from sitebus.plugins.autoreload import Autoreloader
    from sitebus.process import Engine
    from sitebus.reload.notices import Native
    from sitebus.reload.watcher import Watcher

    class Reloader(Autoreloader):
        def _new_watcher(self) -> Watcher:
            watcher = super()._new_watcher()
            if way == "watchfiles":
                watcher.way = Native
            return watcher

    engine = Engine()
    plugin = Reloader(engine, match="nothing", force_polling=way == "polling")
    if way != "none":
        plugin.files.update(str(path) for path in Path(root).rglob("*.py"))
        plugin.subscribe()
    began = time.process_time()
    engine.start()
    while way != "none" and len(plugin.mtimes) < FILES:
        threading.Event().wait(0.01)
    setup = time.process_time() - began
    threading.Event().wait(SETTLED)
    print(setup, *_used(seconds))
    with subprocess.Popen([sys.executable, "-c", READER, root]) as reader:
        threading.Event().wait(1.0)
        print(*_used(seconds))
        reader.kill()
    engine.exit()


#: Reads them all, about 100 a second.
READER = """
import pathlib, sys, time
while True:
    for path in pathlib.Path(sys.argv[1]).rglob("*.py"):
        path.read_bytes()
        time.sleep(0.01)
"""


def _used(seconds: float) -> tuple[float, float]:
    """Answer the percentage of a core, and the wake-ups a second, of this process."""
    before, wakeups = time.process_time(), _switches()
    threading.Event().wait(seconds)
    used = time.process_time() - before
    return 100 * used / seconds, (_switches() - wakeups) / seconds


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def hook(state: str) -> None:
    """Print the microseconds of one open() of a template, of another file, of another event."""
    from sitebus.reload.opened import OPENED

    if state != "none":
        OPENED.start()
    if state == "idle":
        OPENED.stop()
    with tempfile.TemporaryDirectory() as folder:
        costs = []
        for name in ("page.html", "data.bin"):
            path = os.path.join(folder, name)
            Path(path).write_text("")
            costs.append(_best(lambda path=path: open(path).close()))
        costs.append(_best(lambda: sys.audit("benchmark"), 200_000))
    print(*costs)


def _best(call: object, count: int = 20_000) -> float:
    import timeit

    return min(timeit.repeat(call, number=count, repeat=7)) / count * 1e6  # type: ignore[arg-type]


def child(*arguments: str) -> list[float]:
    run = [sys.executable, "-m", "benchmarks.watch", *arguments]
    return [float(word) for word in subprocess.check_output(run, text=True).split()]


def main(seconds: float = SECONDS) -> None:
    with tempfile.TemporaryDirectory() as root:
        make(Path(root))
        print(f"{FILES} files in {FOLDERS} directories     set-up, s    % of a core    wake-ups/s")
        for way in ("none", "native", "watchfiles", "polling"):
            setup, *figures = child("--idle", root, way, str(seconds))
            goal = f"   goal {GOAL:g} %, 0" if way == "native" else ""
            print(f"  {way:30} {setup:12.2f} {figures[0]:14.3f} {figures[1]:13.1f}{goal}")
            print(f"  {'  read by others':30} {'':12} {figures[2]:14.3f} {figures[3]:13.1f}")
    print("microseconds of                    open(page.html)  open(data.bin)  another event")
    for state, said in (("none", "no hook"), ("idle", "nobody listens"), ("on", "listening")):
        page, data, other = child("--hook", state)
        print(f"  {said:30} {page:16.2f} {data:15.2f} {other:14.3f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--idle"]:
        idle(sys.argv[2], sys.argv[3], float(sys.argv[4]))
    elif sys.argv[1:2] == ["--hook"]:
        hook(sys.argv[2])
    else:
        main(*map(float, sys.argv[1:2]))
