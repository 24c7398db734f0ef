"""Files saved in every manner, at any pace: in the end what is known is what is there."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from sitebus.reload.stamps import look
from tests.helpers import wait_for
from tests.reload.watching import Watching, watching

STEPS = 60


class Storm:
    """A site below *root*, and somebody who changes it without a plan."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.numbers = itertools.count(1)
        self.deep = root / "site" / "shop" / "deep"
        self.deep.mkdir(parents=True)
        places = [root / "site", root / "site" / "shop", self.deep]
        self.files = [place / name for place in places for name in ("a.py", "b.py", "c.py")]
        for release in "12":
            (root / release).mkdir()
            (root / release / "v.py").write_text(self.text())
        (root / "current").symlink_to("1")
        for path in self.files:
            path.write_text(self.text())
        self.files.append(root / "current" / "v.py")

    def text(self) -> str:
        return f"X = {next(self.numbers)}\n" + "#" * self.random.choice([0, 0, 3, 70_000])

    def pause(self, *seconds: float) -> None:
        threading.Event().wait(self.random.choice(seconds))

    def step(self) -> None:
        act = self.random.choice(MANNERS)
        with suppress(FileNotFoundError):
            act(self, self.random.choice(self.files))
        self.pause(0, 0, 0, 0.005, 0.03, 0.1)

    def behind(self, seen: Watching) -> list[str]:
        """Answer the files that are not as they are known to be."""
        known = seen.watcher.snapshot.states
        now = {str(path): look(str(path)).digest for path in self.files}
        return [path for path, digest in now.items() if known[path].digest != digest]

    # Manners.

    def in_place(self, path: Path) -> None:
        path.write_text(self.text())

    def slowly(self, path: Path) -> None:
        with path.open("w") as file:
            self.pause(0.01, 0.05, 0.1)
            file.write(self.text())

    def renamed_over(self, path: Path) -> None:
        draft = path.with_name(".draft~")
        draft.write_text(self.text())
        draft.replace(path)

    def made_older(self, path: Path) -> None:
        path.write_text(self.text())
        os.utime(path, (1_000_000_000, 1_000_000_000))

    def deleted(self, path: Path) -> None:
        path.unlink()
        self.pause(0, 0.02)

    def made_anew(self, path: Path) -> None:
        self.deleted(path)
        path.write_text(self.text())

    def cut_off(self, path: Path) -> None:
        os.truncate(path, self.random.randrange(5))

    def touched(self, path: Path) -> None:
        os.utime(path)
        path.chmod(self.random.choice([0o600, 0o644]))

    def swapped(self, path: Path) -> None:
        aside = self.root / "aside"
        other = self.random.choice(self.files)
        if other.exists():
            path.rename(aside)
            with suppress(FileNotFoundError):  # it was the same
                other.rename(path)
            aside.rename(other)

    def folder_moved_and_back(self, path: Path) -> None:
        moved = self.root / "moved"
        folder = self.random.choice([self.deep, self.deep.parent, self.root / "site"])
        folder.rename(moved)
        for each in moved.rglob("a.py"):
            each.write_text(self.text())
        self.pause(0, 0.01, 0.1)
        moved.rename(folder)

    def folder_copied(self, path: Path) -> None:
        shutil.copytree(self.deep.parent, self.root / "copy")
        for each in (self.root / "copy").rglob("*.py"):
            each.write_text(self.text())
        old = self.root / f"old{next(self.numbers)}"
        self.deep.parent.rename(old)
        self.pause(0, 0.02)
        (self.root / "copy").rename(self.deep.parent)
        if self.random.random() < 0.5:
            shutil.rmtree(old)

    def folder_made_anew(self, path: Path) -> None:
        shutil.rmtree(self.deep)
        self.pause(0, 0.02)
        self.deep.mkdir()
        (self.deep / "b.py").write_text(self.text())

    def link_flipped(self, path: Path) -> None:
        other = {"1": "2", "2": "1"}[os.readlink(self.root / "current")]
        (self.root / "next").symlink_to(other)
        (self.root / "next").replace(self.root / "current")

    def release_replaced(self, path: Path) -> None:
        (self.root / "1").rename(self.root / f"old{next(self.numbers)}")
        (self.root / "1").mkdir()
        (self.root / "1" / "v.py").write_text(self.text())


MANNERS: list[Callable[[Storm, Path], None]] = [
    Storm.in_place,
    Storm.slowly,
    Storm.renamed_over,
    Storm.made_older,
    Storm.deleted,
    Storm.made_anew,
    Storm.cut_off,
    Storm.touched,
    Storm.swapped,
    Storm.folder_moved_and_back,
    Storm.folder_copied,
    Storm.folder_made_anew,
    Storm.link_flipped,
    Storm.release_replaced,
]


@pytest.mark.parametrize("way", ["polling", "inotify", "watchfiles"])
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_no_change_is_lost(tmp_path: Path, way: str, seed: int) -> None:
    """A change that is not told stays untold until somebody happens to save again."""
    storm = Storm(tmp_path, seed)
    with watching(storm.files, way=way, debounce=0.02) as seen:
        for step in range(STEPS):
            storm.step()
            if step % 10 == 9:
                wait_for(lambda: not storm.behind(seen), what=f"all to be told at {step}")
