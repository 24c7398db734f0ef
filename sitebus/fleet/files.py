"""Files and trees on their way to a host, where they are in whole or not at all.

One file goes over the connection as it is. So does a tree, as an archive, unless both sides have
rsync, which sends less where the host has something like it. Either is written beside where it is
to be, on a disk that has it for sure, and takes that name then.
"""

from __future__ import annotations

import os
import stat
import tarfile
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from shutil import which
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from sitebus.errors import (
    CannotWrite,
    DiskFull,
    FleetError,
    HostLost,
    MayNotWrite,
    NotATree,
    TransferFailed,
)
from sitebus.fleet import agent_disk, agent_files
from sitebus.fleet.agent_programs import CHUNK, DATA, END, TAKEN, Outgoing
from sitebus.fleet.said import shaped
from sitebus.fleet.shim import ANYHOW, Shim

if TYPE_CHECKING:
    from sitebus.fleet.host import Host

T = TypeVar("T")

#: Called with how many bytes have gone, and how many there are; from any thread.
Progress = Callable[[int, int], object]
#: How a tree goes there.
How = Literal["auto", "rsync", "tar"]


class Pushed(NamedTuple):
    """What has arrived.

    Attributes:
        path: Where it is on the host.
        size: How many bytes its files have.
        sent: How many bytes went over the connection for that.
    """

    path: str
    size: int
    sent: int


def push(
    host: Host,
    path: str | os.PathLike[str],
    dest: str,
    *,
    progress: Progress | None = None,
    how: How = "auto",
) -> Pushed:
    """Have a file or a tree at a host, in the place of what is there.

    Args:
        host: The host.
        path: What to send.
        dest: Its name there. If that ends with a slash, or a file's is a directory, it goes into
            that.
        progress: Called with how many bytes have gone, and how many there are.
        how: What sends a tree; by itself rsync if both sides have it.

    Raises:
        NotATree: It is not there, or cannot be read.
        FleetError: It has not arrived; what was there is so still.
    """
    path = os.path.abspath(path)
    try:
        about = os.stat(path)
        if stat.S_ISDIR(about.st_mode):
            return _push_tree(host, path, dest, Meter(_size_of(path), progress), how)
        if not stat.S_ISREG(about.st_mode):
            raise NotATree(path, "it is neither a file nor a directory")
        return _push_file(host, path, about, dest, Meter(about.st_size, progress))
    except OSError as error:
        raise NotATree(error.filename or path, (error.strerror or str(error)).lower()) from error


class Meter:
    """Counts what goes, and tells who wants to know."""

    def __init__(self, total: int, progress: Progress | None = None) -> None:
        self.total = total
        self.sent = 0
        self._progress = progress
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count some more."""
        with self._lock:
            self.sent += count
            # What programs say to each other is sent as well.
            done = min(self.sent, self.total)
        if self._progress is not None:
            self._progress(done, self.total)

    def end(self) -> None:
        """Say that it was all, however little that took."""
        if self._progress is not None:
            self._progress(self.total, self.total)


class Upload:
    """Data on its way to a function that runs on the host; a file to write to."""

    def __init__(
        self, host: Host, meter: Meter, function: Callable[..., object], *args: object
    ) -> None:
        self._wire = host.duplex(function, *args)
        self._outgoing = Outgoing(self._wire)
        self._meter = meter
        self._found: Mapping[str, Any] = {}
        self._error: FleetError | None = None
        self._thread = threading.Thread(target=self._hear, name=f"upload {host.name}", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Send *data* as fast as it is taken.

        Raises:
            BrokenPipeError: Nobody wants it; `finish` says why.
        """
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            try:
                is_sent = self._outgoing.send(DATA, piece)
            except FleetError:
                is_sent = False
            if not is_sent:
                raise BrokenPipeError
            self._meter.add(len(piece))
        return len(data)

    def finish(self, is_whole: bool = True) -> Mapping[str, Any]:
        """Answer what the function does; it is told whether that was all."""
        with suppress(FleetError):  # it has an answer already
            if is_whole:
                self._wire.send(END)
            else:
                self._wire.close()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found

    def _hear(self) -> None:
        try:
            for message in self._wire:
                if message[:1] == TAKEN:
                    self._outgoing.taken(shaped(self._wire.host, int, message[1:]))
            self._found = self._wire.result()
        except FleetError as error:
            self._error = error
        finally:
            self._outgoing.end()


def send(upload: Upload, write: Callable[[Upload], object]) -> Mapping[str, Any]:
    """Have *write* write it all, and answer what the host says."""
    try:
        write(upload)
    except BrokenPipeError:
        return upload.finish()
    except BaseException:
        with suppress(FleetError):
            upload.finish(is_whole=False)
        raise
    return upload.finish()


def unless_refused(
    host: str, what: str, shape: Callable[[Mapping[str, Any]], T]
) -> Callable[[Any], T]:
    """Answer what gives a host's answer a shape, or raises what its refusal means."""

    def read(answer: Mapping[str, Any]) -> T:
        refuse(host, answer, what)
        return shape(answer)

    return read


def refuse(host: str, answer: Mapping[str, Any], what: str) -> None:
    """Raise what a host's refusal means, if it is one.

    Raises:
        FleetError: It is.
    """
    kind = answer.get("refused")
    if kind is None:
        return
    if kind == "full":
        raise DiskFull(host, what, answer["needed"], answer["free"], answer["folder"])
    if kind == "cut":
        raise HostLost(host, f"{what} did not arrive in whole; nothing was changed")
    error = MayNotWrite if kind == "denied" else CannotWrite
    raise error(host, f"cannot write {answer['path']}: {answer['said']}; nothing was changed")


# One file.


def _push_file(host: Host, path: str, about: os.stat_result, dest: str, meter: Meter) -> Pushed:
    told = {
        "dest": dest,
        "name": os.path.basename(path),
        "mode": about.st_mode & 0o777,
        "mtime": about.st_mtime,
        "size": about.st_size,
    }
    with open(path, "rb") as file:
        upload = Upload(host, meter, agent_files.receive_file, told)
        answer = send(upload, lambda it: [it.write(data) for data in _pieces(file.read)])
    meter.end()
    read = unless_refused(host.name, path, lambda it: (str(it["path"]), int(it["bytes"])))
    place, size = shaped(host.name, read, answer)
    return Pushed(place, size, meter.sent)


def _pieces(read: Callable[[int], bytes]) -> Iterable[bytes]:
    return iter(lambda: read(CHUNK), b"")


# A tree.


def _push_tree(host: Host, path: str, dest: str, meter: Meter, how: How) -> Pushed:
    name = os.path.basename(path)
    read = unless_refused(
        host.name, path, lambda it: (str(it["path"]), str(it["draft"]), it["rsync"] is True)
    )
    place, draft, there = host.ask(agent_files.begin_tree, dest, name, meter.total, shape=read)
    try:
        if by_rsync(host, how, there):
            rsync(host, meter, path, draft, "-rlptc", f"--link-dest={place}", what=path)
        else:
            archive(host, meter, path, draft, sorted(_below(path)), what=path)
        given = place, draft, os.stat(path).st_mode & 0o777
        done = unless_refused(host.name, path, lambda it: str(it["path"]))
        place = host.ask(agent_files.finish_tree, *given, shape=done)
    except BaseException:
        with suppress(FleetError):
            host.call(agent_files.drop_tree, draft)
        raise
    meter.end()
    return Pushed(place, meter.total, meter.sent)


def by_rsync(host: Host, how: How, there: bool) -> bool:
    """Tell whether rsync is to be used.

    Raises:
        TransferFailed: It is asked for, and the host has none.
    """
    if how == "rsync" and not there:
        raise TransferFailed(host.name, "rsync", 127, "it is not installed on the host")
    return how == "rsync" or (how == "auto" and there and which("rsync") is not None)


def rsync(
    host: Host,
    meter: Meter,
    path: str,
    draft: str,
    *options: str,
    names: Iterable[str] | None = None,
    what: str,
) -> None:
    """Send the files of a directory with rsync: all that there are, or those with *names*.

    Raises:
        DiskFull: There is no room for them.
        TransferFailed: It has failed otherwise.
    """
    told = [] if names is None else ["--files-from=-", "--from0"]
    data = b"" if names is None else b"\0".join(map(os.fsencode, names))
    with Shim(host, sent=meter.add) as shim:
        try:
            # The arguments go over the connection: no shell has its way with them.
            shim.rsync(
                *("--protect-args", "--chmod=ug-s", *options, *told),
                *("--", f"{path}/", f"{ANYHOW}:{draft}/"),
                input=data,
            )
        except TransferFailed as error:
            if "No space left" not in error.output and "quota" not in error.output:
                raise
            free = host.ask(agent_disk.free, draft, shape=int)
            raise DiskFull(host.name, what, meter.total, free, draft) from error


def archive(
    host: Host,
    meter: Meter,
    path: str,
    draft: str,
    names: Iterable[str],
    *,
    inside: bool = False,
    what: str,
) -> None:
    """Send files of a directory as an archive; raises as `rsync` does."""

    def write(upload: Upload) -> None:
        file: Any = upload
        with tarfile.open(mode="w|", fileobj=file, bufsize=CHUNK, format=tarfile.PAX_FORMAT) as tar:
            for name in names:
                # Of a file with two names each goes by itself.
                tar.inodes.clear()  # type: ignore[attr-defined]  # which is not in its stubs
                tar.add(os.path.join(path, name), name, recursive=False)

    upload = Upload(host, meter, agent_files.receive_tree, draft, meter.total, inside)
    shaped(host.name, unless_refused(host.name, what, dict), send(upload, write))


def _below(path: str) -> Iterable[str]:
    for folder, names, files in os.walk(path):
        for name in (*names, *files):
            yield os.path.relpath(os.path.join(folder, name), path)


def _size_of(path: str) -> int:
    found = (os.lstat(os.path.join(path, name)) for name in _below(path))
    return sum(each.st_size for each in found if stat.S_ISREG(each.st_mode))
