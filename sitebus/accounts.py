"""Users and groups of the system: looking them up, and becoming one of them for good.

The supplementary groups go first, then the group, then the user: after that nothing of it would be
permitted any more. ``initgroups`` alone leaves the group, ``setgid`` alone leaves root's
supplementary groups, so both are needed; and that it worked is not believed but tried.
When it happens is `sitebus.plugins.privileges`' business.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from sitebus.errors import (
    CannotDropPrivileges,
    MayNotSwitch,
    NotOnThisPlatform,
    PrivilegesKept,
    UnknownAccount,
)

if sys.platform != "win32":
    import grp
    import pwd

#: Numbers above are not users; the highest means "leave as it is" to the system.
_HIGHEST = 2**32 - 2

_PR_SET_NO_NEW_PRIVS = 38


class Identity(NamedTuple):
    """Whom a process runs as; a *name* only if the system knows the user."""

    uid: int
    gid: int
    name: str = ""
    home: str = "/"

    @property
    def groups(self) -> frozenset[int]:
        """The groups the user is in, the main one included."""
        if not self.name:
            return frozenset((self.gid,))
        return frozenset(os.getgrouplist(self.name, self.gid))

    def __str__(self) -> str:
        user = f"{self.name} ({self.uid})" if self.name else f"user {self.uid}"
        return f"{user}, group {_group_name(self.gid)}"


def identity(user: str | bytes | int | None, group: str | bytes | int | None) -> Identity:
    """Answer whom *user* and *group*, names or numbers, stand for; one of them may be left out.

    Raises:
        UnknownAccount: There is no such user or group.
        CannotDropPrivileges: They do not say enough.
    """
    gid = None if group is None else gid_of(group)
    if user is None:
        return _of_group_alone(gid)
    account = user_of(user)
    if gid is not None:
        return account._replace(gid=gid)
    if account.gid < 0:
        raise CannotDropPrivileges(
            f"user {account.uid} is not known here, and so has no group", "name the group as well"
        )
    return account


def _of_group_alone(gid: int | None) -> Identity:
    me = present()
    if me.uid == 0:
        raise CannotDropPrivileges(
            "with a group and no user the process would stay root", "name the user as well"
        )
    return me._replace(gid=me.gid if gid is None else gid)


def present() -> Identity:
    """Answer whom this process acts as."""
    return user_of(os.geteuid())._replace(gid=os.getegid())


def user_of(user: str | bytes | int) -> Identity:
    """Look a user up; one that the system does not know has a number, and the group -1.

    Raises:
        UnknownAccount: There is none of this name.
    """
    if isinstance(user, bytes):
        user = os.fsdecode(user)
    entry = _entry(user, pwd.getpwnam, pwd.getpwuid)
    if entry is not None:
        return Identity(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir or "/")
    names = (each.pw_name for each in pwd.getpwall())
    return Identity(_number("user", user, names), -1)


def gid_of(group: str | bytes | int) -> int:
    """Look a group up.

    Raises:
        UnknownAccount: There is none of this name.
    """
    if isinstance(group, bytes):
        group = os.fsdecode(group)
    entry = _entry(group, grp.getgrnam, grp.getgrgid)
    if entry is not None:
        return int(entry.gr_gid)
    return _number("group", group, (each.gr_name for each in grp.getgrall()))


def _group_name(gid: int) -> str:
    entry = _entry(gid, grp.getgrnam, grp.getgrgid)
    return f"{entry.gr_name} ({gid})" if entry else str(gid)


def _entry(who: str | int, by_name: Callable[[str], Any], by_id: Callable[[int], Any]) -> Any:
    """Look *who* up: as a name first, as ``chown`` does, since a name may be all digits."""
    if isinstance(who, str):
        with contextlib.suppress(KeyError, ValueError):
            return by_name(who)
        if not _is_number(who):
            return None
    with contextlib.suppress(KeyError, OverflowError, ValueError):
        return by_id(int(who))
    return None


def _number(kind: str, who: str | int, known: Iterable[str]) -> int:
    if isinstance(who, int) or _is_number(who):
        number = int(who)
        if 0 <= number <= _HIGHEST:
            return number
    raise UnknownAccount(kind, str(who), known)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def is_now(wanted: Identity) -> bool:
    """Tell whether this process is *wanted*, and could not easily be anybody else."""
    ids = {os.getuid(), os.geteuid()}, {os.getgid(), os.getegid()}
    if hasattr(os, "getresuid"):
        ids = set(os.getresuid()), set(os.getresgid())
    if ids != ({wanted.uid}, {wanted.gid}):
        return False
    # Root has to look after its groups; nobody else can, and has what an operator gave.
    return os.geteuid() != 0 or _groups() == wanted.groups


def _groups() -> frozenset[int]:
    return frozenset((*os.getgroups(), os.getegid()))


def may_switch() -> bool:
    """Tell whether this process may become somebody else."""
    try:
        # Changes nothing, and needs the same capability as changing something.
        os.setgroups(os.getgroups())
    except OSError:
        return False
    return True


def unreadable(wanted: Identity) -> list[str]:
    """Answer what a user could not import any more: Python has most of its library yet to read."""
    files = [getattr(os, "__file__", ""), __file__]
    with _guise(wanted):
        return [file for file in files if file and not os.access(file, os.R_OK, effective_ids=True)]


@contextlib.contextmanager
def _guise(wanted: Identity) -> Iterator[None]:
    """Be somebody else for the length of the block, with the way back kept."""
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups()
    try:
        _set_groups(wanted)
        os.setegid(wanted.gid)
        os.seteuid(wanted.uid)
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)


def _set_groups(wanted: Identity) -> None:
    if wanted.name:
        os.initgroups(wanted.name, wanted.gid)
    else:
        os.setgroups([])


def become(wanted: Identity) -> None:
    """Become *wanted* for good.

    Raises:
        MayNotSwitch: It is not permitted.
        PrivilegesKept: There would be a way back.
    """
    try:
        _set_groups(wanted)
        _set_group(wanted.gid)
        _set_user(wanted.uid)
    except PermissionError as error:
        raise MayNotSwitch(str(wanted), str(present())) from error
    _verify(wanted)
    _introduce(wanted)


def _set_group(gid: int) -> None:
    if hasattr(os, "setresgid"):
        os.setresgid(gid, gid, gid)
    else:
        os.setgid(gid)  # sets all three, for root


def _set_user(uid: int) -> None:
    if hasattr(os, "setresuid"):
        os.setresuid(uid, uid, uid)
    else:
        os.setuid(uid)


def _verify(wanted: Identity) -> None:
    """Raise PrivilegesKept if the process is not *wanted*, or could be root again."""
    if not is_now(wanted):
        raise PrivilegesKept(str(wanted), f"is {present()}")
    if wanted.uid == 0:
        return
    # What it has besides the user's own groups came with it from root.
    if surplus := _groups() - wanted.groups:
        raise PrivilegesKept(str(wanted), f"is still in the groups {sorted(surplus)}")
    if _can(_set_user) or (wanted.gid != 0 and _can(_set_group)):
        raise PrivilegesKept(str(wanted), "could make itself root again")


def _can(regain: Callable[[int], None]) -> bool:
    try:
        regain(0)
    except OSError:
        return False
    return True


def _introduce(wanted: Identity) -> None:
    """Say in the environment who this is: HOME of root is not for the user's programs."""
    os.environ["HOME"] = wanted.home
    for variable in ("USER", "LOGNAME"):
        if wanted.name:
            os.environ[variable] = wanted.name
        else:
            os.environ.pop(variable, None)


def renounce() -> None:
    """Set no_new_privs for this thread and all it makes; there are hardly others this early.

    Raises:
        SitebusError: The kernel refuses.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno()).lower()
        raise NotOnThisPlatform("no_new_privs", "Linux from 3.5 on", f"leave it out ({reason})")
