"""What a roll asks of a host, run there: the lock against a second roll.

The lock is a file that tells who holds it. It counts as long as the process that wrote it is there,
and says again and again that its roll goes on: so it is free once the link to that roll is gone.

Python 3.8 and its library have to suffice for this file, and it imports nothing of sitebus: it is
sent to the host, which has perhaps another version, or none.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from typing import Any

#: As much of the file as is read.
_MOST = 65536


def hold(wire: Any, paths: list[str], token: str, holder: dict[str, Any], stale: float) -> None:
    """Lock this host for the roll *token* until the other end closes, or is gone.

    What stands against it is sent back as JSON: nothing, else who has the lock, or an ``error``.
    Each message of the other end says that the roll goes on, and is answered alike.

    Args:
        wire: The line to who rolls.
        paths: Where the lock may be; the first whose directory is there is it.
        token: Whose it is.
        holder: What to tell others of who has it.
        stale: After so many seconds without a message, others may take it.
    """
    if not _told(wire, take(paths, token, holder, stale)):
        return
    for _ in wire:
        if not _told(wire, take(paths, token, holder, stale)):
            return
    free(paths, token)


def _told(wire: Any, found: dict[str, Any] | None) -> bool:
    """Say what stands against the lock; tell whether nothing does."""
    wire.send(json.dumps(found).encode())
    return found is None


def take(
    paths: list[str], token: str, holder: dict[str, Any], stale: float
) -> dict[str, Any] | None:
    """Take the lock, or say again that it is held; answer who else has it, or an ``error``."""
    path = _place(paths)
    try:
        descriptor = _open(path)
        try:
            return _take(descriptor, token, holder, stale)
        finally:
            os.close(descriptor)
    except OSError as error:
        return {"error": f"{path}: {error.strerror or error}"}


def free(paths: list[str], token: str) -> bool:
    """Let others roll; tell whether the lock was that of *token*."""
    # It may be in a place that was not the first one to be there when it was taken.
    return any(_free(path, token) for path in map(os.path.expanduser, paths))


def _free(path: str, token: str) -> bool:
    if not os.path.exists(path):
        return False
    descriptor = _open(path)
    try:
        if _read(descriptor).get("token") != token:
            return False
        os.unlink(path)
        return True
    finally:
        os.close(descriptor)


def _place(paths: list[str]) -> str:
    """Answer the first path whose directory is there: a lock is no reason to make one."""
    found = [os.path.expanduser(path) for path in paths]
    return next((path for path in found if os.path.isdir(os.path.dirname(path))), found[-1])


def _open(path: str) -> int:
    """Open the file that stands there, which nobody else reads or writes until it is closed."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o664)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _stands(path, descriptor):
            return descriptor
        # Its roll has ended, and removed it, while this waited for it.
        os.close(descriptor)


def _stands(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _take(
    descriptor: int, token: str, holder: dict[str, Any], stale: float
) -> dict[str, Any] | None:
    found = _read(descriptor)
    mine = found.get("token") == token
    if not mine and _holds(found, stale):
        return found
    now = time.time()
    since = found.get("since", now) if mine else now
    ours = dict(holder, token=token, since=since, beat=now, pid=os.getpid())
    _write(descriptor, json.dumps(dict(ours, began=_began(os.getpid()))).encode())
    return None


def _read(descriptor: int) -> dict[str, Any]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        found = json.loads(os.read(descriptor, _MOST) or b"{}")
    except ValueError:
        return {}  # the machine went down while it was written
    return found if isinstance(found, dict) else {}


def _write(descriptor: int, data: bytes) -> None:
    # What was there is overwritten, not removed first: on a full disk its place may be lost.
    written = os.pwrite(descriptor, data, 0)
    if written < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(descriptor, written)


def _holds(found: dict[str, Any], stale: float) -> bool:
    """Tell whether who took the lock is still there, and at work."""
    pid, beat = found.get("pid"), found.get("beat")
    if not isinstance(pid, int) or not isinstance(beat, (int, float)):
        return False
    # A clock that was set back makes nobody wait for longer than it takes anyway.
    return abs(time.time() - beat) < stale and _is_same(pid, str(found.get("began", "")))


def _is_same(pid: int, began: str) -> bool:
    if began:
        return _began(pid) == began
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _began(pid: int) -> str:
    """Answer when a process began, by which it differs from a later one of that number."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""
