"""One host of a fleet: what can be asked of it."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sitebus.errors import FleetError, NoSite, NotForwarded, NotPlain
from sitebus.fleet import agent, agent_run
from sitebus.fleet.calls import Call, Duplex, End, Pending, Stream
from sitebus.fleet.engine import HostEngine
from sitebus.fleet.inventory import HostEntry
from sitebus.fleet.lanes import Lanes
from sitebus.fleet.sources import PACKAGE

if TYPE_CHECKING:
    from sitebus.fleet._mitogen import Link
    from sitebus.fleet.fleets import Fleet
    from sitebus.fleet.releases import Releases

_ROOM = "sitebus.fleet"
_OURS = f"{_ROOM}.agent"
#: How much longer than a command the host may take to say that it was killed; seconds.
_MARGIN = 5.0
#: How long it may take to start a command that stays; seconds.
_LAUNCH = 30.0


class Completed(NamedTuple):
    """What became of a command.

    Attributes:
        lost: How many bytes it wrote before those that were kept.
    """

    status: int
    out: str
    err: str
    lost: int


class Fetched(NamedTuple):
    """What a URL has answered."""

    status: int
    body: str
    seconds: float


class CheckReport(NamedTuple):
    """Whether a host can be driven.

    Attributes:
        facts: What it is; empty if it cannot be reached.
        site: What the site says of its release; None if there is none.
        problems: What stands in the way, a sentence each.
    """

    host: str
    ok: bool
    facts: dict[str, Any]
    site: dict[str, Any] | None
    problems: tuple[str, ...]


class Function(NamedTuple):
    """A function as a host is told of it."""

    module: str
    name: str
    is_ours: bool

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return self.name if self.is_ours else f"{self.module}.{self.name}"


def function_of(function: Callable[..., Any], allow: Sequence[str]) -> Function:
    """Answer how a host is told of a function.

    Raises:
        NotForwarded: It cannot be found by a name there, or its module is not to be sent.
    """
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise NotForwarded(repr(function)[:60], "it is no function", "name a function of a module")
    shown = f"{module}.{name}"
    if "<" in name:
        raise NotForwarded(shown, "it has no name there", "define it at the top of a module")
    owner = getattr(function, "__self__", None)
    if owner is not None and not inspect.isclass(owner) and not inspect.ismodule(owner):
        reason = "it belongs to an object, which stays here"
        raise NotForwarded(shown, reason, "use a function, or a method of a class")
    if module.startswith(_OURS):
        return Function(PACKAGE + module.removeprefix(_ROOM), name, True)
    allowed = any(module == each or module.startswith(f"{each}.") for each in allow)
    if not allowed and not is_standard(module):
        top = module.partition(".")[0]
        remedy = f"open the fleet with allow=({top!r},)"
        raise NotForwarded(shown, f"module {module} is not one that hosts may be given", remedy)
    return Function(module, name, False)


def is_standard(module: str) -> bool:
    """Tell whether every Python has a module."""
    return module.partition(".")[0] in sys.stdlib_module_names


def packed(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Answer arguments as they travel.

    Raises:
        NotPlain: JSON cannot say them.
    """
    what = f"what {function} is called with"
    try:
        text = json.dumps([args, kwargs])
    except (TypeError, ValueError, RecursionError) as error:
        raise NotPlain(what, str(error)) from None
    if len(text) > agent.LONGEST:
        raise NotPlain(what, f"it is {len(text) >> 20} MB long; use push, or send it in parts")
    return text


class Host:
    """One host; connected when it is first asked for something.

    Attributes:
        name: What the fleet's file calls it.
        entry: What that says of it.
        fleet: The fleet it belongs to.
        lanes: Its processes.
    """

    def __init__(self, fleet: Fleet, entry: HostEntry, lanes: Lanes) -> None:
        self.fleet = fleet
        self.entry = entry
        self.name = entry.name
        self.lanes = lanes
        self.engine = HostEngine(self)

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.entry.address}>"

    # The connection.

    def connect(self) -> dict[str, Any]:
        """Connect, if need be; answer what the process there says of itself.

        Raises:
            ConnectFailed: There is no way; a subclass says why.
        """
        return dict(self._trunk().told)

    @property
    def lineage(self) -> tuple[int, ...]:
        """The numbers that mitogen has for its process and those on the way, for its log."""
        return self._trunk().lineage

    @property
    def is_connected(self) -> bool:
        """Whether it is, as far as is known."""
        return self.lanes.is_connected

    def is_ready_for(self, function: Callable[..., Any]) -> bool:
        """Whether a function can be run at once, in a process that is there."""
        ours = str(getattr(function, "__module__", "")).startswith(_OURS)
        return self.is_connected and (ours or self.lanes.has_spare)

    def disconnect(self) -> None:
        """End what runs there, unless it was asked to stay; whoever asks next connects again."""
        self.lanes.close(_MARGIN)

    def _trunk(self) -> Link:
        self.fleet.check_open()
        return self.lanes.trunk()

    # Functions.

    def call(
        self, function: Callable[..., Any], *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Run a function there, and answer its result.

        It is one of a module that the fleet was opened with, or of the standard library. If it
        takes longer than *timeout* seconds, it is given up, and its process is replaced.

        Raises:
            NotForwarded: The function is not one that can be run there.
            NotPlain: JSON cannot say its arguments.
            FleetError: It was not run, or raised an exception.
        """
        return self.call_async(function, *args, timeout=timeout, **kwargs).result()

    def call_async(
        self, function: Callable[..., Any], *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Pending:
        """Have a function run there, and answer at once; raises as `call` does, but no FleetError.

        A host that cannot be reached is one whose result is that.
        """
        return self._pending(function, args, kwargs, timeout, None)

    def _pending(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        timeout: float | None,
        shape: Callable[[Any], Any] | None,
    ) -> Pending:
        meant = function_of(function, self.fleet.allow)
        text = packed(meant.shown, args, kwargs)
        try:
            feed, over = self._begin(meant, text, "begin", alone=True)
        except FleetError as error:
            return Pending(self.name, meant.shown, None, _nothing, error=error)
        return Pending(self.name, meant.shown, feed, over, timeout=timeout, shape=shape)

    async def acall(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - what is given up is on the host
        **kwargs: Any,
    ) -> Any:
        """Run a function there without holding up the loop; as `call` otherwise."""
        pending = await self.fleet.aside(
            lambda: self.call_async(function, *args, timeout=timeout, **kwargs)
        )
        return await pending.aresult()

    def ask(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,
        shape: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Run a function of the agent's there; what it answers may be given a shape here."""
        return self._pending(function, args, {}, timeout, shape).result()

    def stream(
        self,
        function: Callable[..., Any],
        *args: Any,
        shape: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> Stream:
        """Run a generator function there, and answer what it yields, as it does.

        Raises:
            FleetError: It was not begun.
        """
        meant = function_of(function, self.fleet.allow)
        text = packed(meant.shown, args, kwargs)
        feed, over = self._begin(meant, text, "begin", alone=False)
        return Stream(self.name, meant.shown, feed, over, shape)

    def duplex(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Duplex:
        """Run a function there whose first argument is a wire, which carries bytes both ways.

        Raises:
            FleetError: It was not begun.
        """
        meant = function_of(function, self.fleet.allow)
        text = packed(meant.shown, args, kwargs)
        feed, over = self._begin(meant, text, "connect", alone=False)
        return Duplex(self.name, meant.shown, feed, over)

    def _begin(self, meant: Function, text: str, how: str, *, alone: bool) -> tuple[Any, Any]:
        self.fleet.check_open()
        if meant.is_ours:
            feed = self.lanes.trunk().begin(how, meant.module, meant.name, text)
            return feed, self.lanes.ended_aside
        lane = self.lanes.lane()
        if alone:
            feed = lane.ask("alone", meant.module, meant.name, text)
        else:
            feed = lane.begin(how, meant.module, meant.name, text)

        def over(how: End) -> None:
            self.lanes.ended_alone(lane, how)

        return feed, over

    # Commands.

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        limit: int = 1 << 20,
    ) -> Completed:
        """Run a command there to its end, with no shell.

        It reads *input*, and is killed after *timeout* seconds. Of what it writes, the last
        *limit* bytes are kept.

        Raises:
            CallTimeout: It was killed.
            RemoteError: There is no such command.
        """
        given = _words(argv), cwd, _env(env), input, timeout, limit
        patience = None if timeout is None else timeout + _MARGIN
        done: Completed = self.ask(agent_run.execute, *given, timeout=patience, shape=_completed)
        return done

    def exec_stream(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
    ) -> Stream:
        """Run a command there; answer what it writes, as it does.

        Each is a pair: ``out`` or ``err`` and text, and at last ``status`` and a number. Closing
        the stream kills the command.
        """
        given = _words(argv), cwd, _env(env), input
        return self.stream(agent_run.follow, *given, shape=_written)

    def launch(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        log: str | None = None,
    ) -> int:
        """Start a command that stays when the fleet is closed; answer its process.

        What it writes is added to the file *log* there, and is lost without.

        Raises:
            RemoteError: There is no such command, or it has ended at once.
        """
        given = _words(argv), cwd, _env(env), log
        pid: int = self.ask(agent_run.launch, *given, timeout=_LAUNCH, shape=int)
        return pid

    # The host.

    def facts(self, timeout: float | None = 15.0) -> dict[str, Any]:
        """Answer what it is, and how it does: Python, user, load, room on the disk."""
        found: dict[str, Any] = self.ask(
            agent_run.facts, self.entry.root, timeout=timeout, shape=dict
        )
        return found

    def fetch(self, url: str, timeout: float = 5.0) -> Fetched:
        """Answer what a URL says, asked for from there; a path is asked of the site."""
        addresses = self.engine.status()["addresses"] if url.startswith("/") else []
        given = url, timeout, addresses
        fetched: Fetched = self.ask(
            agent_run.fetch, *given, timeout=timeout + _MARGIN, shape=_fetched
        )
        return fetched

    def check(self) -> CheckReport:
        """Answer whether it can be driven, and if not, what stands in the way."""
        try:
            facts = self.facts()
        except FleetError as error:
            return CheckReport(self.name, False, {}, None, (error.sentence,))
        problems = []
        site: dict[str, Any] | None = None
        try:
            site = self.engine.version()
        except NoSite:
            if self.entry.unit is None and self.entry.start is None:
                problems.append("no site runs, and the file says neither unit nor start")
        except FleetError as error:
            problems.append(error.sentence)
        return CheckReport(self.name, not problems, facts, site, tuple(problems))

    # Files and releases.

    def push(self, path: Any, dest: str, **options: Any) -> Any:
        """Bring a file or a directory there; see `sitebus.fleet.files`."""
        from sitebus.fleet import files

        return files.push(self, path, dest, **options)

    @property
    def releases(self) -> Releases:
        """The releases of the site there.

        Raises:
            FleetError: The file does not say where they are.
        """
        from sitebus.fleet.releases import Releases

        if self.entry.root is None:
            raise FleetError(self.name, "no root is known; say root = DIRECTORY in [site]")
        return Releases(self, self.entry.root)


def _words(argv: Sequence[str]) -> Sequence[str]:
    # Which a string is as well, whose letters are no command; the agent refuses it.
    return argv if isinstance(argv, str) else list(argv)


def _completed(said: Mapping[str, Any]) -> Completed:
    lost, status = int(said["lost"]), int(said["status"])
    return Completed(status, str(said["out"]), str(said["err"]), lost)


def _written(said: Sequence[Any]) -> tuple[str, Any]:
    name, what = said
    return str(name), int(what) if name == "status" else str(what)


def _fetched(said: Mapping[str, Any]) -> Fetched:
    return Fetched(int(said["status"]), str(said["body"]), float(said["seconds"]))


def _env(env: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if env is None else dict(env)


def _nothing(how: End) -> None:
    """Nothing is to be done for what never began."""


__all__ = ["Call", "CheckReport", "Completed", "Fetched", "Host"]
