"""Go on as another user, for good: after what only root may do, before any application's code.

A process that is that user already, as it is after a restart, is left as it is. How one becomes
somebody else is `sitebus.accounts`' business.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import ClassVar

from sitebus import accounts
from sitebus.accounts import Identity
from sitebus.config.kinds import BOOLEAN, BadValue, Context, Kind
from sitebus.config.options import Option, Row
from sitebus.errors import (
    CannotDropPrivileges,
    MayNotSwitch,
    NotOnThisPlatform,
    UnknownAccount,
    nearest,
)
from sitebus.plugins import Plugin, call_off, listens
from sitebus.process import Engine, Priority


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


class Account(Kind[str]):
    """A user or a group of this system, by name or number."""

    metavar = "NAME"

    def __init__(self, what: str, find: Callable[[str], object]) -> None:
        self.expected = f"a {what} of this system, by name or number"
        self._find = find

    def parse(self, text: str, context: Context) -> str:
        """Make sure that there is one."""
        try:
            self._find(text)
        except UnknownAccount as error:
            near = nearest(text[:60], error.known)
            hint = f" - did you mean {near!r}?" if near else ""
            raise BadValue(f"expected {self.expected}{hint}") from error
        return text


class DropPrivileges(Plugin):
    """Run as another user once the sockets are bound, with no way back.

    Without a group it is the user's main one; the other groups are the user's own as well.

    Args:
        bus: The bus.
        umask: The mask for the modes of new files; kept if left out.
        uid: The user, by name or number.
        gid: The group, likewise.
        no_new_privs: No program run from here on gets more rights by being set-user-id (Linux).

    Raises:
        UnknownAccount: The start, or the trial of a restart, finds no such user or group.
        CannotDropPrivileges: The process would stay root, its group is not known, or the user may
            not read the Python that runs it.
        MayNotSwitch: This process is another user, and not root.
        PrivilegesKept: It could have become root again.
    """

    OPTIONS: ClassVar[tuple[Row, ...]] = (
        Option(
            "user",
            Account("user", accounts.user_of),
            None,
            "The user to run as once the sockets are bound.",
        ),
        Option(
            "group",
            Account("group", accounts.gid_of),
            None,
            "The group to run as; the user's main group if not said.",
        ),
        Option(
            "umask",
            UMASK,
            None,
            "The mask for the modes of new files, logs and pid file among them; in octal.",
        ),
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
        return None if self._uid is None else accounts.user_of(self._uid).uid

    @uid.setter
    def uid(self, user: str | bytes | int | None) -> None:
        self._uid = user

    @property
    def gid(self) -> int | None:
        """The group's number; may be set to a name.

        Raises:
            UnknownAccount: There is no such group.
        """
        return None if self._gid is None else accounts.gid_of(self._gid)

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
        return accounts.identity(self._uid, self._gid)

    # Before anything is bound or made.
    @listens("start", priority=Priority.BIND - 2)
    def check(self) -> None:
        """Make sure that the process may become who it is to be."""
        self._or_not_at_all(self._require)

    @listens("start", priority=Priority.DROP_PRIVILEGES)
    def start(self) -> None:
        """Become the user, and make sure that there is no way back."""
        self._or_not_at_all(self._drop)

    @listens("trial", priority=Priority.DROP_PRIVILEGES)
    def trial(self) -> None:
        """Refuse a restart that could not become the user.

        In the child that tries it, what comes after runs as the user, like the site itself: an
        application imported as root might leave files that the site can then not write to.
        """
        self._require()
        if getattr(self.bus, "trying", False):
            self._drop()

    def _or_not_at_all(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:
            if not call_off(self.bus):
                # It would run the other listeners, and serve as root meanwhile.
                self.bus.log(str(error), 40)
                raise SystemExit(getattr(error, "status", 1)) from error
            raise

    def _require(self) -> None:
        wanted = self.wanted()
        if wanted is None or accounts.is_now(wanted):
            return
        if not accounts.may_switch():
            raise MayNotSwitch(str(wanted), str(accounts.present()))
        for file in accounts.unreadable(wanted):
            raise CannotDropPrivileges(
                f"{wanted} may not read {file}",
                "name another user, or install Python where every user may read it",
            )

    def _drop(self) -> None:
        wanted = self.wanted()
        if wanted is None:
            self._note_what_stays()
        elif accounts.is_now(wanted):
            self.bus.log(f"Running as {wanted} already")
        else:
            before = accounts.present()
            accounts.become(wanted)
            self.bus.log(f"Running as {wanted}; was {before}")
            self._look_around(wanted)
        if self.umask is not None:
            old = os.umask(self.umask)
            if old != self.umask:
                self.bus.log(f"umask old: {old:03o}, new: {self.umask:03o}")
        if self.no_new_privs:
            accounts.renounce()

    def _look_around(self, who: Identity) -> None:
        """Applications are imported from here, mostly, and would only be said not to be there."""
        if not os.access(".", os.R_OK | os.X_OK):
            self.bus.log(f"{who} may not read the current directory, {os.getcwd()}", 30)

    def _note_what_stays(self) -> None:
        if self.umask is None and not self.no_new_privs:
            self.bus.log(
                "DropPrivileges has neither user, group nor umask, and changes nothing", 30
            )
