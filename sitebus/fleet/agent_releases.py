"""What runs on a host to keep the releases of a site: staged, made current, removed.

Only the standard library, as Python 3.8 has it; nothing of sitebus. Below the site's root there are

* ``releases/ID``: a release, which got this name when it was whole, and has in it what it says of
  itself, and what its files were like;
* ``releases/.staging-ID``: one that is on its way, held by who sends it;
* ``releases/.before/ID``: which release was current before that one;
* ``current``: a link to one of them. That it is renamed into place is all that an activation is: it
  is done or it is not, whatever happens;
* ``shared``: what belongs to no release.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from typing import Dict, Iterable  # noqa: UP035 - as Python 3.8 has it

from sitebus.fleet.agent_disk import (
    BLOCK,
    MANY,
    digest_of,
    failure,
    free,
    leads_out,
    remove,
    room_for,
    sync,
    sync_disk,
    unlink,
    write,
)
from sitebus.fleet.agent_shelf import (
    BEFORE,
    FILES,
    LEAVING,
    LOCK,
    MARK,
    STAGING,
    Answer,
    Entry,
    Refusal,
    current_in,
    files_of,
    mark_of,
    names_in,
    newest_in,
    previous_of,
    were_current,
)

#: The descriptors of releases that are on their way, by where they are.
_held: Dict[str, int] = {}  # noqa: UP006 - as Python 3.8 has it


def begin(root: str, id: str, digest: str, entries: list[Entry]) -> Answer:
    """Make room for a release, with all of it that the last one has already.

    Returns:
        ``there`` if the host has it; else where it goes to (``draft``), which *entries* are
        ``missing`` by their number, and what has them nearly (``last``).
    """
    root = os.path.abspath(os.path.expanduser(root))
    draft = os.path.join(root, "releases", STAGING + id)
    is_ours = False
    try:
        os.makedirs(os.path.join(root, "releases", BEFORE), exist_ok=True)
        os.makedirs(os.path.join(root, "shared"), exist_ok=True)
        with _Locked(root):
            _sweep(root, draft)
            if _is_there(root, id, digest):
                return {"there": True}
            _take(draft)
            is_ours = True
        last = newest_in(root)
        missing = _lay_out(draft, entries, last and os.path.join(root, "releases", last))
        needed = sum(room_for(entries[number][4]) for number in missing)
        room = free(root)
        if needed > room:
            raise Refusal("full", needed=needed, free=room, folder=root)
    except (Refusal, OSError) as error:
        if is_ours:
            _give_up(draft)
        return _answer(error, root, sum(room_for(each[4]) for each in entries))
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
    draft = os.path.join(releases, STAGING + id)
    try:
        _hold(draft)
    except (Refusal, OSError) as error:
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
        write(os.path.join(draft, FILES), json.dumps(entries, separators=(",", ":")))
        write(os.path.join(draft, MARK), json.dumps(told))
        os.chmod(draft, 0o755)
        _sync(draft, [*new, *(each[0] for each in entries if each[1] == "d")])
        with _Locked(root):
            os.rename(draft, os.path.join(releases, id))
            sync(releases)
    except (Refusal, OSError) as error:
        _give_up(draft)
        return _answer(error, root)
    _let_go(draft)
    return {"files": told["files"], "bytes": size}


def abandon(root: str, id: str) -> Answer:
    """Remove a release that was on its way."""
    root = os.path.abspath(os.path.expanduser(root))
    draft = os.path.join(root, "releases", STAGING + id)
    try:
        _hold(draft)
    except (Refusal, OSError):
        pass  # it is gone, or another's by now
    else:
        _give_up(draft)
    return {"free": free(root)}


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
            was = current_in(root)
            if was == id:
                return {"was": was}
            _check(root, id)
            if was is not None and id != previous_of(root, was):
                write(os.path.join(root, "releases", BEFORE, id), was)
                sync(os.path.join(root, "releases", BEFORE))
            _flip(root, id)
            return {"was": was}
    except (Refusal, OSError) as error:
        return _answer(error, root, BLOCK)


def state(root: str) -> Answer:
    """Answer which releases there are, which is current, and which was before that."""
    root = os.path.abspath(os.path.expanduser(root))
    try:
        return _state(root)
    except (Refusal, OSError) as error:
        return _answer(error, root)


def _state(root: str) -> Answer:
    current, found = current_in(root), []
    proven = were_current(root) | {current}
    for name in names_in(root):
        mark = mark_of(root, name)
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
    return {"current": current, "previous": previous_of(root, current), "releases": found}


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
                gone = os.path.join(root, "releases", LEAVING + each)
                remove(gone)
                os.rename(os.path.join(root, "releases", each), gone)
        for each in leaving:
            remove(os.path.join(root, "releases", LEAVING + each))
            unlink(os.path.join(root, "releases", BEFORE, each))
    except (Refusal, OSError) as error:
        return _answer(error, root)
    return {"removed": leaving}


def _check(root: str, id: str) -> None:
    if id not in names_in(root):
        known = [each["id"] for each in _state(root)["releases"]]
        raise Refusal("missing", known=known[-5:])
    if mark_of(root, id) is None and id not in were_current(root):
        raise Refusal("not_whole", path=os.path.join(root, "releases", id))


def _is_there(root: str, id: str, digest: str) -> bool:
    if not os.path.lexists(os.path.join(root, "releases", id)):
        return False
    mark = mark_of(root, id)
    if mark is None:
        raise Refusal("not_whole", path=os.path.join(root, "releases", id))
    if mark["digest"] != digest:
        raise Refusal("differs", current=id == current_in(root))
    return True


# What is made.


class _Locked:
    """Nobody else changes which releases there are."""

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "releases", LOCK)

    def __enter__(self) -> None:
        os.makedirs(os.path.join(os.path.dirname(self._path), BEFORE), exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _hold(folder: str) -> None:
    """Have a directory as long as this process lives.

    Raises:
        Refusal: Another one has it.
    """
    if folder in _held:
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise Refusal("busy") from None
    _held[folder] = fd


def _take(draft: str) -> None:
    """Make an empty directory for a release that comes."""
    if draft in _held:
        raise Refusal("busy")
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
    remove(draft)
    _let_go(draft)


def _sweep(root: str, own: str) -> None:
    """Remove what others have left who are gone."""
    folder = os.path.join(root, "releases")
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith((STAGING, LEAVING)) and path != own and path not in _held:
            try:
                _hold(path)
            except (Refusal, OSError):
                continue
            _give_up(path)


def _lay_out(draft: str, entries: Iterable[Entry], last: str | None) -> list[int]:
    """Make directories, links, and files that are known; answer the numbers of the others."""
    known = {}
    if last is not None:
        known = {each[0]: each for each in files_of(last)}
    missing = []
    for number, entry in enumerate(entries):
        path, kind, _, _, _, target = entry
        _refuse_outside(path)
        place = os.path.join(draft, path)
        if kind == "d":
            os.mkdir(place, 0o700)
        elif kind == "l":
            if leads_out(path, target):
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
        or names[0] in (MARK, FILES)
    ):
        raise OSError(errno.EINVAL, "a path leads out of the release", path)


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
        unlink(place)
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
                same = digest_of(place) == digest
                os.chmod(place, mode)
                os.utime(place, (changed, changed))
        except FileNotFoundError:
            same = False
        if not same:
            raise Refusal("changed", path=path)
        if found.st_nlink == 1:
            new.append(path)
    return new


def _flip(root: str, id: str) -> None:
    draft = os.path.join(root, ".current.%d" % os.getpid())  # noqa: UP031 - plain enough
    unlink(draft)
    try:
        os.symlink(os.path.join("releases", id), draft)
        os.replace(draft, os.path.join(root, "current"))
    except OSError:
        unlink(draft)
        raise
    sync(root)


def _sync(folder: str, names: list[str]) -> None:
    """Have files and directories in a directory outlast a power cut."""
    if len(names) > MANY:
        sync_disk(folder)
        return
    for name in (*reversed(names), MARK, FILES, ""):
        sync(os.path.join(folder, name))


def _answer(error: Refusal | OSError, root: str, needed: int = 0) -> Answer:
    return error.answer if isinstance(error, Refusal) else failure(error, root, needed)
