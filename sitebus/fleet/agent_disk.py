"""What is done with the disk of a host, whatever is put there: room, names, and that it stays.

Only the standard library, as Python 3.8 has it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from typing import Any

#: What a file takes is a multiple of that.
BLOCK = 4096
#: If more files than these are to be on the disk, all of the disk is waited for.
MANY = 300


def free(folder: str) -> int:
    """Answer how many bytes this user may still write below a directory."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def room_for(size: int) -> int:
    """Answer how much room a file takes."""
    return -(-size // BLOCK) * BLOCK


def digest_of(path: str) -> str:
    """Answer what tells a file's content from any other."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def write(path: str, text: str) -> None:
    """Have a small file with that text, in whole or not at all."""
    draft = path + ".new"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def remove(folder: str) -> None:
    """Remove a tree, also one whose directories say that nothing in them may be removed."""

    def allow(function: Any, path: str, _: Any) -> None:
        try:
            os.chmod(os.path.dirname(path), 0o700)
            function(path)
        except OSError:
            pass

    shutil.rmtree(folder, onerror=allow)


def unlink(path: str) -> None:
    """Remove a file, if it is there, and that may be."""
    try:
        os.unlink(path)
    except OSError:
        pass


def sync(path: str) -> None:
    """Have a file, or the names in a directory, outlast a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_disk(folder: str) -> None:
    """Wait for all that anybody has written to a disk: once, rather than for thousands of files."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        import ctypes

        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)
    except (ImportError, AttributeError):
        os.sync()
    finally:
        os.close(fd)


def leads_out(name: str, target: str) -> bool:
    """Tell whether a link of that name leads out of the tree that it is in."""
    if target.startswith("/"):
        return True
    place = os.path.normpath(os.path.join(os.path.dirname(name), target))
    return place == ".." or place.startswith("../")


def full(needed: int, room: int, folder: str) -> dict[str, Any]:
    """Answer what a host says where there is no room."""
    return {"refused": "full", "needed": needed, "free": room, "folder": folder}


def failure(error: OSError, folder: str, needed: int = 0) -> dict[str, Any]:
    """Answer what a host says of an error of its system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return full(needed, free(folder), folder)
    kind = "denied" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "error"
    path = error.filename if isinstance(error.filename, str) else folder
    return {"refused": kind, "said": (error.strerror or str(error)).lower(), "path": path}
