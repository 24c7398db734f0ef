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
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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

T = TypeVar("T")

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


class State(NamedTuple):
    """What a host has, and which of it is current, and was before that."""

    current: str | None
    previous: str | None
    releases: tuple[Release, ...]


class Begun(NamedTuple):
    """Where a release goes on a host, and what of it there is not."""

    draft: str
    last: str | None
    missing: tuple[int, ...]
    rsync: bool


def _begun(count: int) -> Callable[[Mapping[str, Any]], Begun | None]:
    """Answer what reads a host's answer about a release with so many entries."""

    def read(told: Mapping[str, Any]) -> Begun | None:
        if told["there"]:
            return None
        missing = tuple(map(int, told["missing"]))
        if not all(0 <= number < count for number in missing):
            raise ValueError("an entry that there is not")
        last = None if told["last"] is None else str(told["last"])
        return Begun(str(told["draft"]), last, missing, told["rsync"] is True)

    return read


def _state(told: Mapping[str, Any]) -> State:
    current, previous = _id_or_none(told["current"]), _id_or_none(told["previous"])
    releases = tuple(
        Release(
            str(each["id"]),
            bool(each["whole"]),
            each["id"] == current,
            each["id"] == previous,
            None if each["staged"] is None else float(each["staged"]),
            None if each["files"] is None else int(each["files"]),
            None if each["bytes"] is None else int(each["bytes"]),
        )
        for each in told["releases"]
    )
    return State(current, previous, releases)


def _id_or_none(told: object) -> str | None:
    return None if told is None else str(told)


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
        about = id, tree.digest, rows
        begun = self._ask(agent_releases.begin, *about, id=id, shape=_begun(len(rows)))
        count = sum(each.kind != "d" for each in tree.entries)
        if begun is None:
            return Staged(id, count, tree.size, 0, True)
        meter = Meter(sum(tree.entries[number].size for number in begun.missing), progress)
        try:
            self._send(tree, begun, meter, how, id)
            self._ask(agent_releases.finish, *about, begun.missing, id=id, shape=dict)
        except BaseException:
            with suppress(FleetError):
                self.host.call(agent_releases.abandon, self.root, id)
            raise
        meter.end()
        return Staged(id, count, tree.size, meter.sent, False)

    def _ask(
        self, function: Callable[..., Any], *args: Any, id: str, shape: Callable[[Any], T]
    ) -> T:
        """Have the agent do something; answer what it says in a shape."""

        def read(answer: Mapping[str, Any]) -> T:
            self._refuse(answer, id)
            return shape(answer)

        found: T = self.host.ask(function, self.root, *args, shape=read)
        return found

    def _send(
        self,
        tree: Tree,
        begun: Begun,
        meter: Meter,
        how: How,
        id: str,
    ) -> None:
        if not begun.missing:
            return
        names = [tree.entries[number].path for number in begun.missing]
        host, place, what = self.host, (tree.path, begun.draft), f"release {id}"
        if files.by_rsync(host, how, begun.rsync):
            # They are known to differ, whatever size and time say; what they were like helps.
            basis = [] if begun.last is None else [f"--link-dest={begun.last}"]
            options = ("-pt", "--ignore-times", *basis)
            files.rsync(host, meter, *place, *options, names=names, what=what)
        else:
            files.archive(host, meter, *place, names, inside=True, what=what)

    def activate(self, id: str) -> str | None:
        """Make a release the current one; answer which was before.

        The site's new workers come up in it from then on; those that there are stay in the old one.
        What was current before is the previous release then; unless this one was the previous one
        of that: then this one keeps its own, as after a rollback.

        Raises:
            BadReleaseId: Nothing is called that.
            FleetError: It was not made current; what was is so still.
        """
        return self._ask(
            agent_releases.activate, check_id(id), id=id, shape=lambda it: _id_or_none(it["was"])
        )

    def rollback(self) -> str:
        """Make the one before the current release the current one; answer which.

        The release that is left is not the previous one then: another rollback leads further back.

        Raises:
            NoPreviousRelease: There is none.
            FleetError: It was not made current; what was is so still.
        """
        current, previous, _ = self._state()
        if previous is None:
            said = f"release {current} is current, and" if current else "no release is current;"
            raise NoPreviousRelease(self.host.name, f"{said} nothing is known that was so before")
        self.activate(previous)
        return previous

    def current(self) -> str | None:
        """Answer which release is current; None if there is none."""
        return self._state().current

    def previous(self) -> str | None:
        """Answer which release a rollback leads to; None if there is none."""
        return self._state().previous

    def list(self) -> tuple[Release, ...]:
        """Answer all releases of the host, in the order in which they were staged."""
        return self._state().releases

    def remove_old(self, keep: int = 5) -> tuple[str, ...]:
        """Remove all but the *keep* newest releases, and answer which those were.

        The current one and its previous stay, and what was not staged here.
        """
        return self._ask(
            agent_releases.remove_old, keep, id="", shape=lambda it: tuple(map(str, it["removed"]))
        )

    def _state(self) -> State:
        return self._ask(agent_releases.state, id="", shape=_state)

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
