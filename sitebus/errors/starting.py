"""What keeps ``python -m sitebus init`` from writing a file."""

from __future__ import annotations

from collections.abc import Sequence

from sitebus.errors.base import EX_CANTCREAT, EX_NOINPUT, SitebusError


class NothingFound(SitebusError):
    """A folder has no application that can be seen from outside."""

    status = EX_NOINPUT

    def __init__(self, folder: object, notes: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.folder = folder
        self.notes = tuple(notes)

    def __str__(self) -> str:
        notes = "".join(f" ({note})" for note in self.notes)
        return (
            f"found no application in {self.folder}{notes}; name yours, as in: "
            "sitebus-serve module:name"
        )


class FileIsThere(SitebusError):
    """A file that was to be written is there already."""

    status = EX_CANTCREAT

    def __init__(self, path: object) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is there already; --print shows what would be written"


class CannotWriteFile(SitebusError):
    """A file cannot be written."""

    status = EX_CANTCREAT

    def __init__(self, path: object, error: OSError) -> None:
        super().__init__(path)
        self.path = path
        self.error = error

    def __str__(self) -> str:
        reason = (self.error.strerror or str(self.error)).lower()
        return f"cannot write {self.path}: {reason}; --print shows what would be written"
