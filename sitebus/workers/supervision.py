"""From a configuration to a supervisor: sockets, what belongs to one process, and the workers.

The counterpart of `sitebus.assembly` for a site of several processes. It reads what the
configuration says and imports nothing of the user's: an application that cannot be imported, or
that harms the process it is in, never harms this one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sitebus import assembly
from sitebus.assembly import parts
from sitebus.assembly.environment import set_umask
from sitebus.config import Configuration, relay
from sitebus.config.channels import is_of_workers
from sitebus.control import watching
from sitebus.errors import CommandCancelled
from sitebus.plugins import OF_SUPERVISOR, Plugin, listens
from sitebus.process import Engine, Priority
from sitebus.relay.configured import from_configuration as relayed
from sitebus.workers import cpus
from sitebus.workers.launch import Launch, Terms
from sitebus.workers.policy import Policy
from sitebus.workers.reloading import WorkersReloader
from sitebus.workers.supervisor import Supervisor
from sitebus.workers.terminal import TerminalKeeper

if TYPE_CHECKING:
    from sitebus.sockets import Listener

#: Seconds between the beats of all idle workers together, so that a large site rests as well.
REST = 2.5


class Binder(Plugin):
    """Bind every server's sockets while that is permitted, and keep them for the workers."""

    def __init__(self, bus: Engine, configuration: Configuration) -> None:
        super().__init__(bus)
        self.configuration = configuration
        #: Each with the scheme of its server.
        self.bound: list[tuple[str, Listener]] = []

    @listens("start", priority=Priority.BIND)
    @listens("trial", priority=Priority.BIND)
    def start(self) -> None:
        """Bind them.

        Raises:
            BindError: One cannot be had.
        """
        self.bound.clear()
        for settings in self.configuration.servers:
            scheme = "http" if settings["tls_cert"] is None else "https"
            for bind in settings["bind"]:
                for address in self.bus.sockets.expand(bind):
                    listener = self.bus.sockets.bind(address, backlog=settings["backlog"])
                    self.bound.append((scheme, listener))

    @listens("started")
    def started(self) -> None:
        """Close what was passed to this process and nobody binds."""
        for passed in self.bus.sockets.close_unclaimed():
            self.bus.log(f"closed {passed}, which was passed to this process and nobody binds", 30)


class Supervision:
    """A site of several processes, put together: what runs it, and what a banner says of it."""

    def __init__(self, configuration: Configuration, engine: Engine, launch: Launch) -> None:
        self.configuration = configuration
        self.engine = engine
        self.bridge = parts.bridge(configuration, engine)
        self.binder = Binder(engine, configuration)
        told = configuration.one("workers")
        self.supervisor = Supervisor(
            engine,
            policy(configuration),
            Terms.here(
                launch,
                told["drain_timeout"],
                max(5.0, REST * number(configuration)),
                reload=is_reloaded(configuration),
                warm=configuration.one("reload")["warm"] and is_reloaded(configuration),
                release=self._release,
            ),
            lambda: [listener for _, listener in self.binder.bound],
            name=configuration.site["name"],
            exports=exported(configuration),
            news=("relay.*", *filter(is_of_workers, told["export"])),
            inplace=told["graceful"] == "inplace",
            preload=told["preload"],
        )
        self.launch = launch
        self.reloader: WorkersReloader | None = None
        self._subscribed: list[Any] = []

    def subscribe(self) -> None:
        """Have every part listen on the bus."""
        for part in self._parts():
            self._subscribed.append(part)
            parts.subscribe(part)

    def _parts(self) -> Iterator[Any]:
        yield self.bridge
        yield self.binder
        yield from watching.plugins(
            self.engine,
            self.configuration.one("health"),
            None,
            families=self.supervisor.families,
        )
        yield from parts.built_in_plugins(self.configuration, self.engine, OF_SUPERVISOR)
        from sitebus.control import from_configuration

        for each in relayed(self.configuration, self.engine):
            from sitebus.workers.relaying import Desk

            Desk(self.supervisor, each)
            yield each
        yield from from_configuration(self.configuration, self.engine, self.supervisor.metrics)
        yield self.supervisor
        if is_reloaded(self.configuration):
            keeper = TerminalKeeper(self.engine)
            self.supervisor.hear("left_behind", lambda hand, message: keeper.restore())
            yield keeper
            self.reloader = WorkersReloader(
                self.engine,
                self.supervisor,
                self.configuration,
                self.launch,
                **parts.reloader_settings(self.configuration, self.engine),
            )
            yield self.reloader

    def _release(self) -> str:
        return "" if self.reloader is None else self.reloader.release

    def run(self) -> int:
        """Start, block until the site has ended, and answer the exit status.

        Raises:
            SitebusError: it could not start; nothing is left of it.
        """
        try:
            try:
                self.engine.start()
            except CommandCancelled:
                pass  # a signal came first; what it asked for is done
            except Exception as error:  # any listener's, strangers among them
                raise assembly.told(error) from error
            return self.engine.block()
        finally:
            self.close()

    def close(self) -> None:
        """Take every part off the bus, and give the log's file back."""
        from sitebus.plugins import logs

        while self._subscribed:
            self._subscribed.pop().unsubscribe()
        logs.unconfigure()

    def urls(self) -> tuple[str, ...]:
        """Answer where the site answers, real ports included."""
        bound = ((scheme, listener.address) for scheme, listener in self.binder.bound)
        return tuple(
            address.url(scheme) if address.kind == "tcp" else str(address)
            for scheme, address in bound
        )

    def mount_lines(self) -> list[tuple[str, str, str]]:
        """Answer place, target and framework of each mount, as a worker has it."""
        return self.supervisor.mounts()


def exported(configuration: Configuration) -> tuple[str, ...]:
    """Answer the patterns of channels whose messages all processes of the site hear."""
    return (*configuration.one("workers")["export"], *relay.shared(configuration))


def number(configuration: Configuration) -> int:
    """Answer how many workers the configuration asks for; 0 if this process serves."""
    count = configuration.one("workers")["count"]
    if count == 0 and is_reloaded(configuration):
        return 1
    return cpus.count() if count == "auto" else int(count)


def is_reloaded(configuration: Configuration) -> bool:
    """Answer whether workers are replaced when their code changes."""
    told = configuration.one("reload")
    return bool(told["enabled"] and told["supervised"] and can_supervise())


def can_supervise() -> bool:
    """Answer whether there can be workers: a process must be told from others by a descriptor."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def policy(configuration: Configuration) -> Policy:
    """Answer what the configuration says of the workers' lives."""
    told = configuration.one("workers")
    named = {name: told[name] for name in Policy._fields if name in told}
    if named["boot_timeout"] and is_reloaded(configuration):
        # New code has at least the time that it has where a child tries it.
        trial = configuration.one("reload")["try_timeout"]
        named["boot_timeout"] = max(named["boot_timeout"], trial)
    return Policy(**{**named, "count": number(configuration)})


def supervise(configuration: Configuration, engine: Engine, launch: Launch) -> Supervision:
    """Put a supervisor together on *engine*; `Supervision.run` serves.

    Raises:
        SitebusError: a part is missing or fails to be made; nothing listens on the bus then.
    """
    supervision = Supervision(configuration, engine, launch)
    set_umask(configuration)
    try:
        if is_reloaded(configuration):
            # Handlers may be code that changes; workers have them.
            parts.plain_log_handlers(configuration)
        else:
            parts.log_handlers(configuration)
        supervision.subscribe()
    except BaseException:
        supervision.close()
        raise
    return supervision
