"""Go on as another user, for good: after what only root may do, before any application's code.

The supplementary groups go first, then the group, then the user: after that nothing of it would be
permitted any more. ``initgroups`` alone leaves the group, ``setgid`` alone leaves root's
supplementary groups, so both are needed; and that it worked is not believed but tried.
A process that is that user already, as it is after a restart, is left as it is.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

from sitebus.config.kinds import BOOLEAN, TEXT, Context, Kind
from sitebus.config.options import Option, Row
from sitebus.errors import (
    CannotDropPrivileges,
    MayNotSwitch,
    NotOnThisPlatform,
    PrivilegesKept,
    UnknownAccount,
)
from sitebus.plugins import Plugin, listens
from sitebus.process import Engine, Priority

if sys.platform != "win32":
    import grp
    import pwd

#: Numbers above are not users; the highest means "leave as it is" to the system.
_HIGHEST = 2**32 - 2

_PR_SET_NO_NEW_PRIVS = 38


class Umask(Kind[int]):
    """A file mode mask, as the shell's ``umask`` writes it."""

    expected = "a file mode mask in octal, such as 022 or 077"
    metavar = "OCTAL"

    def parse(self, text: str, context: Context) -> int:
        """Read octal digits."""
        digits = text.removeprefix("0o")
        if not (0 < len(digits) <= 4 and set(digits) <= set("01234567")):
            raise self.bad()
        mask = int(digits, 8)
        if mask > 0o777:
            raise self.bad()
        return mask

    def format(self, value: int) -> str:
        """Write three octal digits."""
        return f"{value:03o}"


UMASK: Kind[int] = Umask()


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


class DropPrivileges(Plugin):
    """Run as the user *uid* and the group *gid*, names or numbers, from after the binding on.

    Without a group it is the user's main one; the other groups are the user's own as well.

    Args:
        bus: The bus.
        umask: The mask for the modes of new files; kept if left out.
        uid: The user.
        gid: The group.
        no_new_privs: No program run from here on gets more rights by being set-user-id (Linux).

    Raises:
        UnknownAccount: The start, or the trial of a restart, finds no such user or group.
        CannotDropPrivileges: The process would stay root, its group is not known, or the user may
            not read the Python that runs it.
        MayNotSwitch: This process is another user, and not root.
        PrivilegesKept: It could have become root again.
    """

    OPTIONS: ClassVar[tuple[Row, ...]] = (
        Option("user", TEXT, None, "The user to run as once the sockets are bound."),
        Option("group", TEXT, None, "The group to run as; the user's main group if not said."),
        Option("umask", UMASK, None, "The mask for the modes of new files, in octal."),
        Option(
            "no_new_privs",
            BOOLEAN,
            False,
            "Have set-user-id programs gain nothing when the site runs them (Linux).",
        ),
    )

    def __init__(
        self,
        bus: Engine,
        umask: int | None = None,
        uid: str | bytes | int | None = None,
        gid: str | bytes | int | None = None,
        *,
        no_new_privs: bool = False,
    ) -> None:
        super().__init__(bus)
        self.umask = umask
        self._uid = uid
        self._gid = gid
        self.no_new_privs = no_new_privs

    @classmethod
    def from_settings(
        cls,
        bus: Engine,
        *,
        user: str | None = None,
        group: str | None = None,
        umask: int | None = None,
        no_new_privs: bool = False,
    ) -> DropPrivileges:
        """Make it from the settings of ``[plugin drop_privileges]``."""
        return cls(bus, umask, user, group, no_new_privs=no_new_privs)

    @property
    def uid(self) -> int | None:
        """The user's number; may be set to a name.

        Raises:
            UnknownAccount: There is no such user.
        """
        return None if self._uid is None else _user(self._uid).uid

    @uid.setter
    def uid(self, user: str | bytes | int | None) -> None:
        self._uid = user

    @property
    def gid(self) -> int | None:
        """The group's number; may be set to a name.

        Raises:
            UnknownAccount: There is no such group.
        """
        return None if self._gid is None else _group(self._gid)

    @gid.setter
    def gid(self, group: str | bytes | int | None) -> None:
        self._gid = group

    def subscribe(self) -> None:
        """Listen for the start.

        Raises:
            SitebusError: There is no such user or group, or they do not say enough.
        """
        self.wanted()
        super().subscribe()

    def wanted(self) -> Identity | None:
        """Answer whom the process is to run as; None if it stays who it is.

        Raises:
            SitebusError: That is not clear, or cannot be on this platform.
        """
        if self.no_new_privs and not sys.platform.startswith("linux"):
            raise NotOnThisPlatform("no_new_privs", "Linux", "leave it out")
        if self._uid is None and self._gid is None:
            return None
        if sys.platform == "win32":
            raise NotOnThisPlatform("DropPrivileges", "Unix", "leave user and group out")
        return _identity(self._uid, self._gid)

    # Before anything is bound or made.
    @listens("start", priority=Priority.BIND - 2)
    def check(self) -> None:
        """Make sure that the process may become who it is to be."""
        with _CalledOff(self.bus):
            self._require()

    @listens("start", priority=Priority.DROP_PRIVILEGES)
    def start(self) -> None:
        """Become the user, and make sure that there is no way back."""
        with _CalledOff(self.bus):
            self._drop()

    @listens("trial", priority=Priority.DROP_PRIVILEGES)
    def trial(self) -> None:
        """Refuse a restart that could not become the user.

        In the child that tries it, what comes after runs as the user, like the site itself: an
        application imported as root might leave files that the site can then not write to.
        """
        self._require()
        if getattr(self.bus, "trying", False):
            self._drop()

    def _require(self) -> None:
        wanted = self.wanted()
        if wanted is None or _is(wanted):
            return
        if not _may_switch():
            raise MayNotSwitch(str(wanted), str(_present()))
        for file in _unreadable(wanted):
            raise CannotDropPrivileges(
                f"{wanted} may not read {file}",
                "name another user, or install Python where every user may read it",
            )

    def _drop(self) -> None:
        wanted = self.wanted()
        if wanted is None:
            self._note_what_stays()
        elif _is(wanted):
            self.bus.log(f"Running as {wanted} already")
        else:
            before = _present()
            _become(wanted)
            self.bus.log(f"Running as {wanted}; was {before}")
        if self.umask is not None:
            old = os.umask(self.umask)
            self.bus.log(f"umask old: {old:03o}, new: {self.umask:03o}")
        if self.no_new_privs:
            _renounce()

    def _note_what_stays(self) -> None:
        if self.umask is None and not self.no_new_privs:
            self.bus.log(
                "DropPrivileges has neither user, group nor umask, and changes nothing", 30
            )


class _CalledOff:
    """Have the rest of a start left out when the block fails: it would run as root."""

    def __init__(self, bus: Any) -> None:
        self.bus = bus

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return
        machine = getattr(self.bus, "machine", None)
        if machine is None:
            # A foreign bus would run the other listeners, and serve as root meanwhile.
            self.bus.log(str(error), 40)
            raise SystemExit(getattr(error, "status", 1)) from error
        if self.bus.state in machine.preemptible:
            self.bus.exit()


def _identity(user: str | bytes | int | None, group: str | bytes | int | None) -> Identity:
    gid = None if group is None else _group(group)
    if user is None:
        return _of_group_alone(gid)
    account = _user(user)
    if gid is not None:
        return account._replace(gid=gid)
    if account.gid < 0:
        raise CannotDropPrivileges(
            f"user {account.uid} is not known here, and so has no group", "name the group as well"
        )
    return account


def _of_group_alone(gid: int | None) -> Identity:
    present = _present()
    if present.uid == 0:
        raise CannotDropPrivileges(
            "with a group and no user the process would stay root", "name the user as well"
        )
    return present._replace(gid=present.gid if gid is None else gid)


def _present() -> Identity:
    return _user(os.geteuid())._replace(gid=os.getegid())


def _user(user: str | bytes | int) -> Identity:
    """Look a user up; one that the system does not know has a number, and the group -1."""
    if isinstance(user, bytes):
        user = os.fsdecode(user)
    entry = _entry(user, pwd.getpwnam, pwd.getpwuid)
    if entry is not None:
        return Identity(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir or "/")
    names = (each.pw_name for each in pwd.getpwall())
    return Identity(_number("user", user, names), -1)


def _group(group: str | bytes | int) -> int:
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


def _is(wanted: Identity) -> bool:
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


def _may_switch() -> bool:
    try:
        # Changes nothing, and needs the same capability as changing something.
        os.setgroups(os.getgroups())
    except OSError:
        return False
    return True


def _unreadable(wanted: Identity) -> list[str]:
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


def _become(wanted: Identity) -> None:
    try:
        _set_groups(wanted)
        _set_group(wanted.gid)
        _set_user(wanted.uid)
    except PermissionError as error:
        raise MayNotSwitch(str(wanted), str(_present())) from error
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
    if not _is(wanted):
        raise PrivilegesKept(str(wanted), f"is {_present()}")
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


def _renounce() -> None:
    """Set no_new_privs for this thread and all it makes; there are hardly others this early.

    Raises:
        SitebusError: The kernel refuses.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno()).lower()
        raise NotOnThisPlatform("no_new_privs", "Linux from 3.5 on", f"leave it out ({reason})")
