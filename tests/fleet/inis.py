"""Fleets whose hosts are this machine, and functions to run on them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

OPS = '''
"""What an operator wrote for hosts."""

import os
import subprocess
import sys
import threading
import time

import mitogen.core



def add(a, b=0):
    return a + b


def pid():
    return os.getpid()


def parent():
    return os.getppid()


def nap(seconds):
    time.sleep(seconds)
    return seconds


def mark_and_nap(path, seconds):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(seconds)


def sleeper():
    """Start a process, and wait for it."""
    subprocess.run(["sleep", "1234.5"])


def leave_sleeper():
    """Start a process, and leave it."""
    return subprocess.Popen(["sleep", "1234.5"]).pid


def boom(what):
    raise ValueError(what)


def vanish():
    os._exit(3)


def leave():
    sys.exit("enough")


def raise_odd(kind):
    class Mute(Exception):
        def __str__(self):
            raise ValueError

    class Wide(Exception):
        fields = {"x": "x" * (31 << 20)}
        is_the_agents = True

    import asyncio

    raise {
        "cancelled": asyncio.CancelledError("gone"),
        "mute": Mute(),
        "long": ValueError("x" * (31 << 20)),
        "wide": Wide("too much"),
    }[kind]


def yield_odd(kind):
    yield 1
    raise_odd(kind)


def someone():
    return object()


def count(last):
    for number in range(last):
        yield number


def forever():
    number = 0
    while True:
        yield number
        number += 1


def half():
    yield 1
    raise KeyError("two")


def echo(wire, greeting):
    wire.send(greeting.encode())
    total = 0
    for data in wire:
        total += len(data)
        wire.send(data[::-1])
    return total


def in_main_thread():
    return threading.current_thread() is threading.main_thread()


def import_it(name):
    return __import__(name).__name__


def has_module(name):
    import importlib

    return importlib.import_module(name).__name__


@mitogen.core.takes_econtext
def with_econtext(value, econtext):
    return [value, type(econtext).__name__]


@mitogen.core.takes_router
def with_router(value, router):
    return [value, type(router).__name__]


@mitogen.core.takes_econtext
def stream_with_econtext(econtext):
    yield type(econtext).__name__


def answer_to_interrupts():
    import signal

    return str(signal.getsignal(signal.SIGINT))


class Shelf:
    @staticmethod
    def static(value):
        return ["static", value]

    @classmethod
    def of_class(cls, value):
        return [cls.__name__, value]

    def of_object(self):
        return 1
'''


@contextmanager
def module(folder: Path, name: str, text: str = OPS) -> Iterator[ModuleType]:
    """Have a module of that name to import, from *folder*."""
    (folder / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name, None)


def write(path: Path, text: str = "", *, hosts: tuple[str, ...] = ("web1",)) -> Path:
    """Write a ``fleet.ini`` whose hosts are this machine, with *text* behind ``method``."""
    lines = "".join(f"{name} = localhost\n" for name in hosts)
    path.write_text(f"[hosts]\n{lines}\n[fleet]\nmethod = local\n{text}")
    return path
