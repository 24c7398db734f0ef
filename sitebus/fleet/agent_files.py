"""What runs on a host to receive a file or a tree, which is then there in whole or not at all.

Only the standard library, as Python 3.8 has it; nothing of sitebus. What comes over a wire is as
`sitebus.fleet.agent_programs` says; it is sent by `sitebus.fleet.files`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tarfile
from typing import Any, Dict, Iterator  # noqa: UP035 - as Python 3.8 has it

from sitebus.fleet.agent_disk import MANY, failure, free, full, leads_out, sync, sync_disk, unlink
from sitebus.fleet.agent_programs import CHUNK, EACH, END, TAKEN


def receive_file(wire: Any, told: dict[str, Any]) -> dict[str, Any]:
    """Write what comes over the wire to a file, which is there in whole or not at all.

    Args:
        wire: Where it comes from.
        told: ``dest``; ``name``, for a *dest* that is a directory; ``mode``, ``mtime``, ``size``.
    """
    path = _place(told["dest"], told["name"])
    folder = os.path.dirname(path)
    draft = os.path.join(folder, _draft(os.path.basename(path)))
    try:
        _sweep(folder, f".{os.path.basename(path)[:200]}.sitebus-")
        room = free(folder)
        if room < told["size"]:
            return full(told["size"], room, folder)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", 0) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            size = _copy(_data(wire), file)
            if size != told["size"]:
                raise Cut
            os.fchmod(file.fileno(), told["mode"])
            os.utime(file.fileno(), (told["mtime"], told["mtime"]))
            os.fsync(file.fileno())
        os.replace(draft, path)
        sync(folder)
    except Cut:
        unlink(draft)
        return {"refused": "cut"}
    except OSError as error:
        unlink(draft)
        return failure(error, folder, told["size"])
    return {"path": path, "bytes": size}


class Cut(Exception):
    """The other side has gone, or sends something else than it said."""


def _place(dest: str, name: str) -> str:
    """Answer the file that is meant, as `cp` would."""
    path = os.path.expanduser(dest)
    if path.endswith("/") or os.path.isdir(path):
        path = os.path.join(path, name)
    return os.path.abspath(path)


def _data(wire: Any) -> Iterator[memoryview]:
    """Answer the data that comes over the wire, up to its end."""
    taken = 0
    for message in wire:
        if message[:1] == END:
            return
        yield memoryview(message)[1:]
        taken += len(message) - 1
        if taken >= EACH:
            wire.send(TAKEN + b"%d" % taken)
            taken = 0
    raise Cut


def _copy(chunks: Iterator[memoryview], file: Any) -> int:
    size = 0
    for chunk in chunks:
        while chunk:
            written = file.write(chunk)
            size += written
            chunk = chunk[written:]
    return size


def _draft(name: str) -> str:
    return f".{name[:200]}.sitebus-{os.urandom(6).hex()}"


# Trees.


def begin_tree(dest: str, name: str, size: int) -> dict[str, Any]:
    """Make the directory that a tree is received in, and answer where it is.

    Leftovers of others who have gone are removed.
    """
    path = _place(dest, name) if dest.endswith("/") else os.path.abspath(os.path.expanduser(dest))
    folder, name = os.path.split(path)
    try:
        if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
            said = "it is there, and not a directory"
            return {"refused": "error", "said": said, "path": path}
        os.makedirs(folder, exist_ok=True)
        _sweep(folder, f".{name[:200]}.sitebus-")
        room = free(folder)
        if room < size:
            return full(size, room, folder)
        draft = os.path.join(folder, _draft(name))
        os.mkdir(draft, 0o700)
        _held[draft] = _lock(draft)
    except OSError as error:
        return failure(error, folder, size)
    return {"path": path, "draft": draft, "rsync": bool(shutil.which("rsync"))}


#: Directories that are being filled, and the descriptors that say so.
_held: Dict[str, Any] = {}  # noqa: UP006 - as Python 3.8 has it


def _lock(path: str) -> int | None:
    """Hold it until this process ends; answer a descriptor, or None if another has it."""
    # A pipe that somebody has put there is not waited for.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _sweep(folder: str, prefix: str) -> None:
    """Remove what others have left who are gone."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if not name.startswith(prefix) or os.path.islink(path):
            continue
        try:
            fd = _lock(path)
        except OSError:
            continue
        if fd is not None:
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                unlink(path)
            os.close(fd)


def finish_tree(path: str, draft: str, mode: int) -> dict[str, Any]:
    """Put a tree that was received in its place."""
    folder = os.path.dirname(path)
    try:
        os.chmod(draft, mode)
        sync_files(draft)
        if os.path.isdir(path):
            _exchange(draft, path)
            shutil.rmtree(draft, ignore_errors=True)
        else:
            os.rename(draft, path)
        sync(folder)
    except OSError as error:
        drop_tree(draft)
        return failure(error, folder)
    _let_go(draft)
    return {"path": path}


def drop_tree(draft: str) -> dict[str, Any]:
    """Give a tree up that was being received."""
    shutil.rmtree(draft, ignore_errors=True)
    _let_go(draft)
    return {}


def _let_go(draft: str) -> None:
    fd = _held.pop(draft, None)
    if fd is not None:
        os.close(fd)


def sync_files(folder: str) -> None:
    """Have all that was written below a directory outlast a power cut."""
    paths = [folder]
    for parent, names, files in os.walk(folder):
        paths += [os.path.join(parent, name) for name in (*names, *files)]
    paths = [path for path in paths if not os.path.islink(path)]
    if len(paths) > MANY:
        sync_disk(folder)
        return
    for path in reversed(paths):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _exchange(one: str, other: str) -> None:
    """Have two directories change places, at once where the system can do that."""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        at, exchange = -100, 2
        if libc.renameat2(at, os.fsencode(one), at, os.fsencode(other), exchange) == 0:
            return
    except (ImportError, AttributeError):
        pass
    aside = f"{one}.old"
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)


def receive_tree(wire: Any, folder: str, size: int, inside: bool) -> dict[str, Any]:
    """Unpack what comes over the wire below a directory.

    Args:
        wire: Where it comes from.
        folder: The directory.
        size: How much room it will take.
        inside: Whether links may not lead out of it.
    """
    reader: Any = _Reader(wire)
    try:
        count = 0
        links: set[str] = set()
        folders: list[tarfile.TarInfo] = []
        with tarfile.open(mode="r|", fileobj=reader, errors="surrogateescape") as archive:
            for member in archive:
                count += _unpack(archive, member, folder, links, inside)
                if member.isdir():
                    folders.append(member)
        reader.drain()
        for each in reversed(folders):  # what is in them could not be written any more
            _set(os.path.join(folder, each.name), each)
    except (tarfile.TarError, Cut, EOFError) as error:
        return {"refused": "cut", "said": str(error)}
    except _Unsafe as error:
        return {"refused": "error", "said": str(error), "path": folder}
    except OSError as error:
        return failure(error, folder, size)
    return {"bytes": count}


class _Unsafe(Exception):
    """An archive has something that could be written elsewhere."""


class _Reader:
    """The data of a wire as a file to read."""

    def __init__(self, wire: Any) -> None:
        self._chunks = _data(wire)
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Answer so many bytes; fewer at the end."""
        parts = []
        while size > 0:
            if not self._rest:
                self._rest = next(self._chunks, memoryview(b""))
                if not self._rest:
                    break
            part, self._rest = self._rest[:size], self._rest[size:]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def drain(self) -> None:
        """Read to the end."""
        for _ in self._chunks:
            pass


def _unpack(
    archive: tarfile.TarFile, member: tarfile.TarInfo, folder: str, links: set[str], inside: bool
) -> int:
    """Write one member, and answer how many bytes that were."""
    names = member.name.split("/")
    if member.name.startswith("/") or ".." in names:
        raise _Unsafe(f"{member.name!r} leads out of it")
    heads = {"/".join(names[:count]) for count in range(1, len(names) + 1)}
    if heads & links:
        raise _Unsafe(f"{member.name!r} is behind a link")
    path = os.path.join(folder, member.name)
    if member.isdir():
        if names != ["."]:
            os.mkdir(path, 0o700)
        return 0
    if member.issym():
        if inside and leads_out(member.name, member.linkname):
            raise _Unsafe(f"{member.name!r} leads out of it")
        os.symlink(member.linkname, path)
        links.add(member.name)
        return 0
    if not member.isreg():
        raise _Unsafe(f"{member.name!r} is neither file, directory nor link")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o600), "wb") as file:
        source = archive.extractfile(member)
        assert source is not None
        shutil.copyfileobj(source, file, CHUNK)
    _set(path, member)
    return member.size


def _set(path: str, member: tarfile.TarInfo) -> None:
    os.chmod(path, member.mode & 0o777)
    os.utime(path, (member.mtime, member.mtime))
