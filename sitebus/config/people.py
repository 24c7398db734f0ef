"""Kinds of settings that say who may use a file or a socket.

That a user or a group is there is looked up when it is read: a mistake is told at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from sitebus.config.kinds import BadValue, Context, Kind, Listing
from sitebus.errors import UnknownAccount, nearest


class FileMode(Kind[int]):
    """The permissions of a file, as ``chmod`` takes them."""

    expected = "the permissions of a file in octal, such as 600 or 660"
    metavar = "OCTAL"

    def parse(self, text: str, context: Context) -> int:
        """Read three octal digits."""
        digits = text.removeprefix("0o").removeprefix("0")
        if len(digits) != 3 or not set(digits) <= set("01234567"):
            raise self.bad()
        return int(digits, 8)

    def format(self, value: int) -> str:
        """Write four octal digits."""
        return f"{value:04o}"


class Group(Kind[str]):
    """A group of this system, by name or number."""

    expected = "a group of this system, by name or number"
    metavar = "GROUP"

    def parse(self, text: str, context: Context) -> str:
        """Make sure that there is one."""
        from sitebus import accounts

        _find(accounts.gid_of, text, self.expected)
        return text


class Who(Kind[str]):
    """A user of this system, or with an ``@`` before it a group."""

    expected = "a user of this system, by name or number, or a group as @GROUP"
    metavar = "USER|@GROUP"
    group: ClassVar[Group] = Group()

    def parse(self, text: str, context: Context) -> str:
        """Make sure that there is one."""
        from sitebus import accounts

        if text.startswith("@"):
            self.group.parse(text[1:], context)
        else:
            _find(accounts.user_of, text, self.expected)
        return text


def _find(find: Callable[[str], object], text: str, expected: str) -> None:
    try:
        find(text)
    except UnknownAccount as error:
        near = nearest(text[:60], error.known)
        hint = f" - did you mean {near!r}?" if near else ""
        raise BadValue(f"expected {expected}{hint}") from error


FILE_MODE: Kind[int] = FileMode()
GROUP: Kind[str] = Group()
PEOPLE: Kind[tuple[str, ...]] = Listing(
    Who(), expected="users by name or number, and groups as @GROUP"
)
