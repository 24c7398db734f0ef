"""What runs on a host to keep the releases of a site: staged, made current, removed.

Only the standard library, as Python 3.8 has it; nothing of sitebus. Below the site's root there are

* ``releases/ID``: a release, which got this name when it was whole, and has `MARK` in it, and what
  its files were like;
* ``releases/.staging-ID``: one that is on its way, held by who sends it;
* ``releases/.before/ID``: which release was current before that one;
* ``current``: a link to one of them. That it is renamed into place is all that an activation is: it
  is done or it is not, whatever happens;
* ``shared``: what belongs to no release.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from typing import Any, Dict, Iterable, List, Optional  # noqa: UP035 - as Python 3.8 has it

MARK, _FILES = ".sitebus-release", ".sitebus-files"
_STAGING, _LEAVING, _BEFORE, _LOCK = ".staging-", ".leaving-", ".before", ".lock"
#: What a file takes is a multiple of that.
_BLOCK = 4096
#: If more files than these are to be on the disk, all of the disk is waited for.
_MANY = 300

Answer = Dict[str, Any]  # noqa: UP006 - as Python 3.8 has it
#: Path, kind, mode, time of change, size, and digest or target.
Entry = List[Any]  # noqa: UP006 - as Python 3.8 has it
_FIELDS = 6

#: The descriptors of releases that are on their way, by where they are.
_held: Dict[str, int] = {}  # noqa: UP006 - as Python 3.8 has it


class _Refusal(Exception):
    def __init__(self, kind: str, **told: Any) -> None:
        super().__init__(kind)
        self.answer = {"refused": kind, **told}


def begin(root: str, id: str, digest: str, entries: list[Entry]) -> Answer:
    """Make room for a release, with all of it that the last one has already.

    Returns:
        ``there`` if the host has it; else where it goes to (``draft``), which *entries* are
        ``missing`` by their number, and what has them nearly (``last``).
    """
    root = os.path.abspath(os.path.expanduser(root))
    draft = os.path.join(root, "releases", _STAGING + id)
    is_ours = False
    try:
        os.makedirs(os.path.join(root, "releases", _BEFORE), exist_ok=True)
        os.makedirs(os.path.join(root, "shared"), exist_ok=True)
        with _Locked(root):
            _sweep(root, draft)
            if _is_there(root, id, digest):
                return {"there": True}
            _take(draft)
            is_ours = True
        last = _newest(root)
        missing = _lay_out(draft, entries, last and os.path.join(root, "releases", last))
        needed = sum(_room(entries[number][4]) for number in missing)
        free = _free(root)
        if needed > free:
            raise _Refusal("full", needed=needed, free=free, folder=root)
    except (_Refusal, OSError) as error:
        if is_ours:
            _give_up(draft)
        return _answer(error, root, sum(_room(each[4]) for each in entries))
    return {
        "there": False,
        "draft": draft,
        "missing": missing,
        "last": last and os.path.join(root, "releases", last),
        "rsync": bool(shutil.which("rsync")),
    }


def finish(root: str, id: str, digest: str, entries: list[Entry], sent: list[int]) -> Answer:
    """Make a release of what has arrived, if that is all of it; *sent* are numbers of entries."""
    root = os.path.abspath(os.path.expanduser(root))
    releases = os.path.join(root, "releases")
    draft = os.path.join(releases, _STAGING + id)
    try:
        _hold(draft)
    except (_Refusal, OSError) as error:
        return _answer(error, root)
    try:
        new = _verify(draft, entries, frozenset(sent))
        for path, kind, mode, changed, _, _ in reversed(entries):
            if kind == "d":
                os.chmod(os.path.join(draft, path), mode)
                os.utime(os.path.join(draft, path), (changed, changed))
        size = sum(each[4] for each in entries if each[1] == "f")
        told = {
            "v": 1,
            "id": id,
            "digest": digest,
            "staged": time.time(),
            "files": sum(each[1] != "d" for each in entries),
            "bytes": size,
        }
        _write(os.path.join(draft, _FILES), json.dumps(entries, separators=(",", ":")))
        _write(os.path.join(draft, MARK), json.dumps(told))
        os.chmod(draft, 0o755)
        _sync(draft, [*new, *(each[0] for each in entries if each[1] == "d")])
        with _Locked(root):
            os.rename(draft, os.path.join(releases, id))
            _sync_one(releases)
    except (_Refusal, OSError) as error:
        _give_up(draft)
        return _answer(error, root)
    _let_go(draft)
    return {"files": told["files"], "bytes": size}


def abandon(root: str, id: str) -> Answer:
    """Remove a release that was on its way."""
    root = os.path.abspath(os.path.expanduser(root))
    draft = os.path.join(root, "releases", _STAGING + id)
    try:
        _hold(draft)
    except (_Refusal, OSError):
        pass  # it is gone, or another's by now
    else:
        _give_up(draft)
    return {"free": _free(root)}


def activate(root: str, id: str) -> Answer:
    """Make a release the current one.

    The one that was current before becomes its previous one, unless that is left for its own
    previous one: whoever goes back twice goes further back.

    Returns:
        ``was``: which was current before.
    """
    root = os.path.abspath(os.path.expanduser(root))
    try:
        with _Locked(root):
            was = _current(root)
            if was == id:
                return {"was": was}
            _check(root, id)
            if was is not None and id != _previous(root, was):
                _write(os.path.join(root, "releases", _BEFORE, id), was)
                _sync_one(os.path.join(root, "releases", _BEFORE))
            _flip(root, id)
            return {"was": was}
    except (_Refusal, OSError) as error:
        return _answer(error, root, _BLOCK)


def state(root: str) -> Answer:
    """Answer which releases there are, which is current, and which was before that."""
    root = os.path.abspath(os.path.expanduser(root))
    try:
        return _state(root)
    except (_Refusal, OSError) as error:
        return _answer(error, root)


def _state(root: str) -> Answer:
    current, found = _current(root), []
    proven = _were_current(root) | {current}
    for name in _names(root):
        mark = _mark(root, name)
        found.append(
            {
                "id": name,
                "marked": mark is not None,
                "whole": mark is not None or name in proven,
                "staged": None if mark is None else mark["staged"],
                "files": None if mark is None else mark["files"],
                "bytes": None if mark is None else mark["bytes"],
            }
        )
    found.sort(key=lambda each: (each["staged"] or 0, each["id"]))
    return {"current": current, "previous": _previous(root, current), "releases": found}


def remove_old(root: str, keep: int) -> Answer:
    """Remove all but the *keep* newest releases, and never the current one, nor its previous."""
    root = os.path.abspath(os.path.expanduser(root))
    try:
        with _Locked(root):
            told = _state(root)
            staged = [each["id"] for each in told["releases"] if each["marked"]]
            spared = {told["current"], told["previous"], *staged[max(len(staged) - keep, 0) :]}
            leaving = [each for each in staged if each not in spared]
            for each in leaving:
                # At once: what is half removed is no release any more.
                gone = os.path.join(root, "releases", _LEAVING + each)
                _remove(gone)
                os.rename(os.path.join(root, "releases", each), gone)
        for each in leaving:
            _remove(os.path.join(root, "releases", _LEAVING + each))
            _unlink(os.path.join(root, "releases", _BEFORE, each))
    except (_Refusal, OSError) as error:
        return _answer(error, root)
    return {"removed": leaving}


# What is there.


def _names(root: str) -> list[str]:
    folder = os.path.join(root, "releases")
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [
        name
        for name in names
        if not name.startswith(".") and os.path.isdir(os.path.join(folder, name))
    ]


def _mark(root: str, id: str) -> Optional[Answer]:  # noqa: UP045 - as Python 3.8 has it
    """Answer what a release says of itself; None if it was not staged to its end."""
    try:
        with open(os.path.join(root, "releases", id, MARK), encoding="utf-8") as file:
            told = json.load(file)
        return told if told["id"] == id and told["v"] == 1 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(release: str) -> list[Entry]:
    try:
        with open(os.path.join(release, _FILES), encoding="utf-8") as file:
            return [each for each in json.load(file) if len(each) == _FIELDS]
    except (OSError, ValueError, TypeError):
        return []


def _current(root: str) -> str | None:
    """Answer the release that is current; None if there is none.

    Raises:
        _Refusal: Something else has its name.
    """
    link = os.path.join(root, "current")
    try:
        target = os.readlink(link)
    except FileNotFoundError:
        return None
    except OSError:
        raise _Refusal("not_a_link", path=link) from None
    folder, found = os.path.split(os.path.normpath(os.path.join(root, target)))
    same = os.path.realpath(folder) == os.path.realpath(os.path.join(root, "releases"))
    if not same or found.startswith("."):
        raise _Refusal("not_a_link", path=link)
    return found


def _previous(root: str, current: str | None) -> str | None:
    if current is None:
        return None
    try:
        with open(os.path.join(root, "releases", _BEFORE, current), encoding="utf-8") as file:
            found = file.read().strip()
    except OSError:
        return None
    return found if found in _names(root) else None


def _were_current(root: str) -> set[str | None]:
    """Answer which releases were current once: somebody else may have staged them."""
    folder = os.path.join(root, "releases", _BEFORE)
    found: set[str | None] = set()
    if os.path.isdir(folder):
        for name in os.listdir(folder):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                found.add(file.read().strip())
    return found


def _check(root: str, id: str) -> None:
    if id not in _names(root):
        known = [each["id"] for each in _state(root)["releases"]]
        raise _Refusal("missing", known=known[-5:])
    if _mark(root, id) is None and id not in _were_current(root):
        raise _Refusal("not_whole", path=os.path.join(root, "releases", id))


def _newest(root: str) -> str | None:
    """Answer the release that the next one most likely resembles."""
    marks = [mark for mark in (_mark(root, each) for each in _names(root)) if mark]
    return str(max(marks, key=lambda mark: mark["staged"])["id"]) if marks else None


def _is_there(root: str, id: str, digest: str) -> bool:
    if not os.path.lexists(os.path.join(root, "releases", id)):
        return False
    mark = _mark(root, id)
    if mark is None:
        raise _Refusal("not_whole", path=os.path.join(root, "releases", id))
    if mark["digest"] != digest:
        raise _Refusal("differs", current=id == _current(root))
    return True


# What is made.


class _Locked:
    """Nobody else changes which releases there are."""

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "releases", _LOCK)

    def __enter__(self) -> None:
        os.makedirs(os.path.join(os.path.dirname(self._path), _BEFORE), exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _hold(folder: str) -> None:
    """Have a directory as long as this process lives.

    Raises:
        _Refusal: Another one has it.
    """
    if folder in _held:
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise _Refusal("busy") from None
    _held[folder] = fd


def _take(draft: str) -> None:
    """Make an empty directory for a release that comes."""
    if draft in _held:
        raise _Refusal("busy")
    if os.path.isdir(draft):
        _hold(draft)
        _give_up(draft)
    os.mkdir(draft, 0o700)
    _hold(draft)


def _let_go(draft: str) -> None:
    fd = _held.pop(draft, None)
    if fd is not None:
        os.close(fd)


def _give_up(draft: str) -> None:
    _remove(draft)
    _let_go(draft)


def _sweep(root: str, own: str) -> None:
    """Remove what others have left who are gone."""
    folder = os.path.join(root, "releases")
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith((_STAGING, _LEAVING)) and path != own and path not in _held:
            try:
                _hold(path)
            except (_Refusal, OSError):
                continue
            _give_up(path)


def _lay_out(draft: str, entries: Iterable[Entry], last: str | None) -> list[int]:
    """Make directories, links, and files that are known; answer the numbers of the others."""
    known = {}
    if last is not None:
        known = {each[0]: each for each in _files(last)}
    missing = []
    for number, entry in enumerate(entries):
        path, kind, _, _, _, target = entry
        _refuse_outside(path)
        place = os.path.join(draft, path)
        if kind == "d":
            os.mkdir(place, 0o700)
        elif kind == "l":
            if _leads_out(path, target):
                raise OSError(errno.EINVAL, "a link leads out of the release", path)
            os.symlink(target, place)
        elif not (last and _reuse(os.path.join(last, path), place, entry, known.get(path))):
            missing.append(number)
    return missing


def _refuse_outside(path: str) -> None:
    names = path.split("/")
    if (
        path.startswith("/")
        or not path
        or set(names) & {"", ".", ".."}
        or names[0] in (MARK, _FILES)
    ):
        raise OSError(errno.EINVAL, "a path leads out of the release", path)


def _leads_out(path: str, target: str) -> bool:
    place = os.path.normpath(os.path.join(os.path.dirname(path), target))
    return target.startswith("/") or place == ".." or place.startswith("../")


def _reuse(old: str, place: str, entry: Entry, known: Entry | None) -> bool:
    """Have a file of the last release once more, if it is the same; answer whether it is."""
    if known is None or known[1] != "f" or known[4:] != entry[4:]:
        return False
    try:
        found = os.lstat(old)
        # Somebody may have written to it since: then its time has a fraction.
        if (found.st_size, found.st_mtime_ns) != (known[4], known[3] * 10**9):
            return False
        if known[2:4] == entry[2:4] and found.st_mode & 0o777 == entry[2]:
            os.link(old, place, follow_symlinks=False)
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EACCES):
            raise
    try:
        shutil.copyfile(old, place, follow_symlinks=False)
    except PermissionError:
        _unlink(place)
        return False
    os.chmod(place, entry[2])
    os.utime(place, (entry[3], entry[3]))
    return True


def _verify(draft: str, entries: Iterable[Entry], sent: frozenset[int]) -> list[str]:
    """Refuse what is not what was announced; answer the files that no other release has."""
    new = []
    for number, (path, kind, mode, changed, size, digest) in enumerate(entries):
        if kind != "f":
            continue
        place = os.path.join(draft, path)
        try:
            found = os.lstat(place)
            same = found.st_size == size
            if same and number in sent:
                same = _digest(place) == digest
                os.chmod(place, mode)
                os.utime(place, (changed, changed))
        except FileNotFoundError:
            same = False
        if not same:
            raise _Refusal("changed", path=path)
        if found.st_nlink == 1:
            new.append(path)
    return new


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _flip(root: str, id: str) -> None:
    draft = os.path.join(root, ".current.%d" % os.getpid())  # noqa: UP031 - plain enough
    _unlink(draft)
    try:
        os.symlink(os.path.join("releases", id), draft)
        os.replace(draft, os.path.join(root, "current"))
    except OSError:
        _unlink(draft)
        raise
    _sync_one(root)


def _write(path: str, text: str) -> None:
    draft = path + ".new"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def _remove(folder: str) -> None:
    """Remove a tree, also one whose directories say that nothing in them may be removed."""

    def allow(function: Any, path: str, _: Any) -> None:
        try:
            os.chmod(os.path.dirname(path), 0o700)
            function(path)
        except OSError:
            pass

    shutil.rmtree(folder, onerror=allow)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _sync(folder: str, names: list[str]) -> None:
    """Have files and directories in a directory outlast a power cut."""
    if len(names) > _MANY:
        _sync_disk(folder)
        return
    for name in (*reversed(names), MARK, _FILES, ""):
        _sync_one(os.path.join(folder, name))


def _sync_disk(folder: str) -> None:
    """Wait for all that anybody has written to a disk: once, rather than for thousands of files."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), folder)
    except (ImportError, AttributeError):
        os.sync()
    finally:
        os.close(fd)


def _sync_one(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _room(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _free(folder: str) -> int:
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _answer(error: _Refusal | OSError, root: str, needed: int = 0) -> Answer:
    if isinstance(error, _Refusal):
        return error.answer
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"refused": "full", "needed": needed, "free": _free(root), "folder": root}
    kind = "denied" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "error"
    path = error.filename if isinstance(error.filename, str) else root
    return {"refused": kind, "said": (error.strerror or str(error)).lower(), "path": path}
