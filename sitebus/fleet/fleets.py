"""A fleet: the hosts of one file, and what is asked of all of them at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from sitebus.closing import Closing
from sitebus.errors import FleetClosed, FleetError, MissingExtra
from sitebus.fleet import lanes, passwords, ways
from sitebus.fleet.calls import Pending
from sitebus.fleet.host import Host, is_standard
from sitebus.fleet.inventory import HostEntry, Inventory
from sitebus.fleet.lanes import Lanes
from sitebus.fleet.selects import Select
from sitebus.fleet.sources import agent_sources

if TYPE_CHECKING:
    from sitebus.fleet._mitogen import Link, Trust

T = TypeVar("T")

#: How many hosts are asked at the same time where each needs a thread.
AT_ONCE = 16
#: How long what runs on the hosts may take to end; seconds.
_FAREWELL = 3.0


def _library() -> ModuleType:
    """Answer the module that knows mitogen.

    Raises:
        MissingExtra: Mitogen is not installed.
    """
    try:
        from sitebus.fleet import _mitogen
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mitogen":
            raise
        raise MissingExtra("mitogen", "fleet") from error
    return _mitogen


class Fleet(Closing):
    """The hosts of one ``fleet.ini``, each connected when it is first asked for something.

    Attributes:
        inventory: What the file says.
        allow: The modules whose functions may be sent to hosts.
    """

    def __init__(
        self,
        inventory: Inventory,
        *,
        secrets: passwords.Passwords | None = None,
        allow: Sequence[str] = (),
        debug: bool = False,
        profile: bool = False,
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        self.inventory = inventory
        # The standard library is there already, and must not come from another Python.
        self.allow = tuple(each for each in allow if not is_standard(each))
        self._secrets = secrets or passwords.Passwords()
        self._debug = debug
        self._profile = profile
        self._log = None if log is None else os.fspath(log)
        self._end_log: Callable[[], None] | None = None
        self._trust: Trust | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._hosts = {name: self._host(entry) for name, entry in inventory.entries.items()}

    def _host(self, entry: HostEntry) -> Host:
        return Host(self, entry, Lanes(entry, lambda: self._connect(entry)))

    @property
    def path(self) -> Path:
        """The file."""
        return self.inventory.path

    def __repr__(self) -> str:
        return f"<Fleet {self.path} of {len(self._hosts)}>"

    def __getitem__(self, name: str) -> Host:
        if name not in self._hosts:
            self.inventory.select((name,))
            names = ", ".join(self.inventory.select((name,)))
            raise KeyError(f"{name} is a group of {names}; use fleet.hosts({name!r})")
        return self._hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts())

    def __len__(self) -> int:
        return len(self.hosts())

    def hosts(self, *names: str) -> tuple[Host, ...]:
        """Answer the hosts of these names and groups, in the order of the file; all without.

        Raises:
            UnknownHost: A name is neither a host's nor a group's.
        """
        return tuple(self._hosts[name] for name in self.inventory.select(names))

    # Connections.

    def check_open(self) -> None:
        """Raise `FleetClosed`, if it is closed."""
        if self._closed:
            raise FleetClosed(self.path)

    def _connect(self, entry: HostEntry) -> Link:
        password, become_password = self._secrets.of(entry)
        entries = self.inventory.entries
        steps = ways.steps(entry, entries, password, become_password)

        def through() -> Link | None:
            inside = ways.goes_inside(entry) and entry.via is not None
            return self[str(entry.via)].lanes.trunk() if inside else None

        return lanes.connect(self._trusted(), entry, steps, ways.jumps(entry, entries), through)

    def _trusted(self) -> Trust:
        with self._lock:
            self.check_open()
            if self._trust is None:
                self._trust = self._new_trust()
            return self._trust

    def _new_trust(self) -> Trust:
        library = _library()
        if self._log is not None:
            level = "DEBUG" if self._debug else "INFO"
            self._end_log = library.write_log(self._log, level)
        trust: Trust = library.Trust(
            agent_sources(),
            self.allow,
            hears_logs=self._log is not None,
            debug=self._debug,
            profile=self._profile,
        )
        return trust

    def connect(self, *names: str) -> dict[str, FleetError | None]:
        """Connect to hosts, 16 at a time; answer for each what stands in the way, or None."""

        def connect(host: Host) -> None:
            host.connect()

        return self.each(connect, *names)

    def close(self) -> None:
        """End everything on every host that was not asked to stay, and every connection."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        connected = [host for host in self._hosts.values() if host.is_connected]
        if connected:
            with ThreadPoolExecutor(AT_ONCE, "sitebus-fleet-end") as pool:
                list(pool.map(lambda host: host.lanes.close(_FAREWELL), connected))
        if self._trust is not None:
            self._trust.close()
        if self._pool is not None:
            self._pool.shutdown()
        if self._end_log is not None:
            self._end_log()

    # All at once.

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            self.check_open()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(AT_ONCE, "sitebus-fleet")
            return self._pool

    def each(self, work: Callable[[Host], T], *names: str) -> dict[str, T | FleetError]:
        """Do something here for each of some hosts, 16 at a time.

        A host's `FleetError` is its answer; any other exception is raised.
        """

        def one(host: Host) -> T | FleetError:
            try:
                return work(host)
            except FleetError as error:
                return error

        hosts = self.hosts(*names)
        answers = self._threads().map(one, hosts)
        return {host.name: answer for host, answer in zip(hosts, answers, strict=True)}

    def call_all(
        self,
        function: Callable[..., Any],
        *args: Any,
        names: Iterable[str] = (),
        timeout: float | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Run a function on each of some hosts, all without *names*, at the same time.

        Each answers by its name with its result, or the `FleetError` that it has come to.
        """
        hosts = self.hosts(*names)

        def begin(host: Host) -> Pending:
            return host.call_async(function, *args, timeout=timeout, **kwargs)

        # Those that need a new process for it do not wait for each other.
        quick = [host for host in hosts if host.is_ready_for(function)]
        slow = [host for host in hosts if host not in quick]
        calls = [*map(begin, quick), *(self._threads().map(begin, slow) if slow else ())]
        found = {call.host: each for call, each in zip(calls, self.gather(calls), strict=True)}
        return {host.name: found[host.name] for host in hosts}

    def select(
        self, calls: Iterable[Pending | Select] = (), timeout: float | None = None
    ) -> Select:
        """Answer an iterator of hosts' names with their results, or errors, as they come.

        Args:
            calls: What `Host.call_async` has answered, and other selects.
            timeout: How long to wait for each next one, before `TimeoutError` is raised.
        """
        return Select(_library().Choice, calls, timeout)

    def gather(self, calls: Iterable[Pending], timeout: float | None = None) -> list[Any]:
        """Answer the results of calls in their order; a `FleetError` where one has come to that.

        What has not come within *timeout* seconds is given up.
        """
        waited = list(calls)
        for call in waited:
            call.ends_within(timeout)
        with self.select(waited) as select:
            while select:
                select.next_call()
        return [call.outcome() for call in waited]

    async def aside(self, work: Callable[[], T]) -> T:
        """Do something in a thread, without holding up the loop."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(self._threads(), work)
