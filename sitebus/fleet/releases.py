"""The releases of a site on one host: staged beside each other, one of them current.

A release is a directory below ``ROOT/releases``. It has its name only when all of it has arrived,
is what was sent and is on the disk; before that nobody can make it current. ``ROOT/current`` is a
link to one of them, and moves at once. What two releases have in common is on the disk once, and is
sent once: what must not change with a file of another release is no part of either, but belongs to
``ROOT/shared``.

What is done on the host is in `sitebus.fleet.agent_releases`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus.errors import (
    BadReleaseId,
    FleetError,
    NoPreviousRelease,
    NoSuchRelease,
    NotALink,
    ReleaseBusy,
    ReleaseChanged,
    ReleaseDiffers,
    ReleaseNotWhole,
)
from sitebus.fleet import agent_releases, files
from sitebus.fleet.files import How, Meter, Progress
from sitebus.fleet.trees import LEFT_OUT, Tree, look

if TYPE_CHECKING:
    from sitebus.fleet.host import Host

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


class Staged(NamedTuple):
    """A release that a host has now.

    Attributes:
        id: Its name.
        files: How many files and links it has.
        size: How many bytes those have.
        sent: How many bytes went to the host for that.
        was_there: Whether the host had it before.
    """

    id: str
    files: int
    size: int
    sent: int
    was_there: bool


class Release(NamedTuple):
    """A release as a host knows it.

    Attributes:
        id: Its name.
        is_whole: It was staged to its end, or was current once.
        is_current: What the site is started from.
        is_previous: What a rollback leads to.
        staged_at: When, in seconds since 1970.
        files: How many files and links it has.
        size: How many bytes those have.
    """

    id: str
    is_whole: bool
    is_current: bool
    is_previous: bool
    staged_at: float | None
    files: int | None
    size: int | None


def check_id(id: str) -> str:
    """Answer a release's name, if it can be one.

    Raises:
        BadReleaseId: It cannot.
    """
    if not _ID.fullmatch(id):
        raise BadReleaseId(id)
    return id


class Releases:
    """The releases of a site on a host.

    Args:
        host: The host.
        root: The directory that has ``releases/``, ``current`` and ``shared/``.
    """

    def __init__(self, host: Host, root: str | os.PathLike[str]) -> None:
        self.host = host
        self.root = str(root)

    def stage(
        self,
        path: str | os.PathLike[str] | Tree,
        id: str,
        *,
        progress: Progress | None = None,
        how: How = "auto",
        leave_out: Collection[str] = LEFT_OUT,
    ) -> Staged:
        """Have a directory on the host as a release; nothing is activated.

        Args:
            path: The directory, or what `sitebus.fleet.trees.look` has found there, which several
                hosts can have in common.
            id: The release's name; staged again the same is no mistake, another one is.
            progress: Called with how many bytes have gone, and how many there are.
            how: What sends it; by itself rsync if both sides have it.
            leave_out: Names of files and directories that are no part of it.

        Raises:
            BadReleaseId: It cannot be called that.
            NotATree: It cannot be sent.
            FleetError: The host does not have it, nor half of it.
        """
        check_id(id)
        tree = path if isinstance(path, Tree) else look(path, leave_out)
        rows = [list(each) for each in tree.entries]
        begun = self.host.call(agent_releases.begin, self.root, id, tree.digest, rows)
        self._refuse(begun, id)
        count = sum(each.kind != "d" for each in tree.entries)
        if begun["there"]:
            return Staged(id, count, tree.size, 0, True)
        missing = [int(number) for number in begun["missing"]]
        meter = Meter(sum(tree.entries[number].size for number in missing), progress)
        try:
            self._send(tree, begun, missing, meter, how, id)
            args = self.root, id, tree.digest, rows, missing
            done = self.host.call(agent_releases.finish, *args)
        except BaseException:
            with suppress(FleetError):
                self.host.call(agent_releases.abandon, self.root, id)
            raise
        self._refuse(done, id)
        meter.end()
        return Staged(id, done["files"], done["bytes"], meter.sent, False)

    def _send(
        self,
        tree: Tree,
        begun: Mapping[str, Any],
        missing: Collection[int],
        meter: Meter,
        how: How,
        id: str,
    ) -> None:
        if not missing:
            return
        draft, last = str(begun["draft"]), begun["last"]
        names = [tree.entries[number].path for number in missing]
        what = f"release {id}"
        if files.by_rsync(self.host, how, begun["rsync"]):
            # They are known to differ, whatever size and time say; what they were like helps.
            basis = [] if last is None else [f"--link-dest={last}"]
            options = ("-pt", "--ignore-times", *basis)
            files.rsync(self.host, meter, tree.path, draft, *options, names=names, what=what)
        else:
            files.archive(self.host, meter, tree.path, draft, names, inside=True, what=what)

    def activate(self, id: str) -> str | None:
        """Make a release the current one; answer which was before.

        The site's new workers come up in it from then on; those that there are stay in the old one.
        What was current before is the previous release then; unless this one was the previous one
        of that: then this one keeps its own, as after a rollback.

        Raises:
            BadReleaseId: Nothing is called that.
            FleetError: It was not made current; what was is so still.
        """
        answer = self.host.call(agent_releases.activate, self.root, check_id(id))
        self._refuse(answer, id)
        was: str | None = answer["was"]
        return was

    def rollback(self) -> str:
        """Make the one before the current release the current one; answer which.

        The release that is left is not the previous one then: another rollback leads further back.

        Raises:
            NoPreviousRelease: There is none.
            FleetError: It was not made current; what was is so still.
        """
        told = self._state()
        if told["previous"] is None:
            current = told["current"]
            said = f"release {current} is current, and" if current else "no release is current;"
            raise NoPreviousRelease(self.host.name, f"{said} nothing is known that was so before")
        self.activate(str(told["previous"]))
        return str(told["previous"])

    def current(self) -> str | None:
        """Answer which release is current; None if there is none."""
        current: str | None = self._state()["current"]
        return current

    def previous(self) -> str | None:
        """Answer which release a rollback leads to; None if there is none."""
        previous: str | None = self._state()["previous"]
        return previous

    def list(self) -> tuple[Release, ...]:
        """Answer all releases of the host, in the order in which they were staged."""
        told = self._state()
        return tuple(
            Release(
                each["id"],
                each["whole"],
                each["id"] == told["current"],
                each["id"] == told["previous"],
                each["staged"],
                each["files"],
                each["bytes"],
            )
            for each in told["releases"]
        )

    def remove_old(self, keep: int = 5) -> tuple[str, ...]:
        """Remove all but the *keep* newest releases, and answer which those were.

        The current one and its previous stay, and what was not staged here.
        """
        answer = self.host.call(agent_releases.remove_old, self.root, keep)
        self._refuse(answer, "")
        return tuple(answer["removed"])

    def _state(self) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self.host.call(agent_releases.state, self.root)
        self._refuse(answer, "")
        return answer

    def _refuse(self, answer: Mapping[str, Any], id: str) -> None:
        """Raise what the host's refusal means, if it is one."""
        host, kind = self.host.name, answer.get("refused")
        if kind == "busy":
            raise ReleaseBusy(host, f"release {id} is being staged by somebody else; wait for that")
        if kind == "differs":
            also = ", and it is current" if answer["current"] else ""
            sentence = f"there is another release {id}{also}; give this one another name"
            raise ReleaseDiffers(host, sentence)
        if kind == "missing":
            known = ", ".join(answer["known"]) or "none at all"
            raise NoSuchRelease(host, f"there is no release {id}; the last are: {known}")
        if kind == "not_whole":
            sentence = f"{answer['path']} was not staged by sitebus to its end; remove it"
            raise ReleaseNotWhole(host, sentence)
        if kind == "not_a_link":
            sentence = f"{answer['path']} is no link to a release; move it out of the way"
            raise NotALink(host, sentence)
        if kind == "changed":
            sentence = f"{answer['path']} has changed while release {id} was being sent; try again"
            raise ReleaseChanged(host, sentence)
        files.refuse(host, answer, f"release {id}" if id else self.root)
