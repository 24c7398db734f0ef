"""Where the control sockets of a user's sites are, and who may have made them.

By default a site named *shop* has ``sitebus/shop.sock`` below the user's runtime directory:
``$XDG_RUNTIME_DIR`` if it is the user's own, else ``/run`` for root, else a directory of the user's
below the temporary one.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping

from sitebus.errors import CannotControl, MayNotControl

FOLDER = "sitebus"
_SUFFIX = ".sock"
_ELSEWHERE = "set another path with [control] socket"


def folder(environ: Mapping[str, str] | None = None) -> str:
    """Answer the directory of this user's control sockets, which may not be there yet."""
    return os.path.join(_runtime(os.environ if environ is None else environ), FOLDER)


def _runtime(environ: Mapping[str, str]) -> str:
    mine = environ.get("XDG_RUNTIME_DIR", "")
    # Who becomes another user keeps the variable, and must leave nothing in that user's directory.
    if os.path.isabs(mine) and _owner(mine) == os.geteuid():
        return mine
    if os.geteuid() == 0:
        return "/run"
    return os.path.join(environ.get("TMPDIR") or "/tmp", f"{FOLDER}-{os.geteuid()}")


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def folders() -> tuple[str, ...]:
    """Answer every directory that sockets of this user's sites may be in, the usual one first."""
    # One that was started by root, and became this user later, has left its socket there.
    return tuple(dict.fromkeys((folder(), os.path.join("/run", FOLDER))))


def paths(name: str, pid: int | None = None) -> tuple[str, ...]:
    """Answer the paths, in each directory, of a site of that name; of a namesake's with its pid."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:60] or "site"
    stem = plain if pid is None else f"{plain}.{pid}"
    return tuple(os.path.join(each, stem + _SUFFIX) for each in folders())


def sockets() -> Iterator[str]:
    """Answer the control sockets in this user's directories, whether or not somebody listens."""
    for each in folders():
        # What others can put there is not what it seems.
        if not why_foreign(each):
            yield from _sockets_in(each)


def _sockets_in(folder: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [os.path.join(folder, name) for name in names if name.endswith(_SUFFIX)]


def why_foreign(folder: str) -> str:
    """Answer why a directory is not one to trust; nothing if it is, or is not there."""
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is not a directory"
    if found.st_uid not in (0, os.geteuid()):
        return f"{folder} belongs to user {found.st_uid}"
    if found.st_mode & 0o022:
        return f"others may write in {folder}"
    return ""


def make_folder(path: str) -> None:
    """Make the directory that the default socket *path* is to be in.

    Raises:
        CannotControl: It cannot be made, or is somebody else's.
    """
    place = os.path.dirname(path)
    runtime = os.path.dirname(place)
    if os.path.basename(runtime) == f"{FOLDER}-{os.geteuid()}":
        _make(runtime, path, 0o700)
    _make(place, path, 0o755 if runtime == "/run" else 0o700)


def _make(folder: str, path: str, mode: int) -> None:
    try:
        os.mkdir(folder, mode)
    except FileExistsError:
        pass
    except PermissionError as error:
        reason = f"user {os.geteuid()} may not make the directory {folder}"
        raise MayNotControl(path, reason, _ELSEWHERE) from error
    except OSError as error:
        reason = f"the directory {folder} cannot be made ({(error.strerror or '').lower()})"
        raise CannotControl(path, reason, _ELSEWHERE) from error
    if reason := why_foreign(folder):
        raise MayNotControl(path, reason, _ELSEWHERE)
