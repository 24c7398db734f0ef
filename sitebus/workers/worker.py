"""A worker process from inside: told over its link what it is, it serves, and ends with the link.

It is the site as one process would serve it, on sockets that the supervisor has bound, and with a
bus of its own. The messages of that bus go up; what belongs to the whole site comes down. Whoever
holds the other end need not say goodbye: the end of the link is the end of the supervisor, and the
worker finishes what it serves and leaves.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from sitebus.config import relay
from sitebus.control.metrics import REGISTRY
from sitebus.errors import ChannelFailures, CommandCancelled, SitebusError, TrialFailed
from sitebus.listeners import ERROR, WARNING
from sitebus.plugins import Plugin, listens
from sitebus.plugins.signals import SignalHandler, told
from sitebus.process import Engine
from sitebus.relay import Link, Poller
from sitebus.relay.dispatch import Dispatcher, Losses
from sitebus.relay.exports import FIRST, Exports
from sitebus.relay.frames import size_of
from sitebus.relay.room import check_room
from sitebus.servers import SiteServer
from sitebus.sockets import connections
from sitebus.workers.abandoning import Abandoned
from sitebus.workers.freshness import forget_what_is_new
from sitebus.workers.inside import MOST_TEXT, Loaded, prepare, put_together, refusal, take_sockets
from sitebus.workers.probe import Prober
from sitebus.workers.pulse import Pulse
from sitebus.workers.shipping import Shipper
from sitebus.workers.sighting import Sighting
from sitebus.workers.uplink import LogUplink

if TYPE_CHECKING:
    from sitebus.config import Configuration
    from sitebus.mounts import Site

#: How long the first message may take; seconds.
BOOT_PATIENCE = 30.0
#: How long the last messages may take.
FLUSH = 1.0
#: How long a worker without a supervisor may take beyond its drain, before it is ended from outside
#: of Python; seconds.
GRACE = 5.0
#: What operators send is for the supervisor; a terminal sends it to everybody.
ACTIONS = {
    "SIGTERM": "exit",
    "SIGINT": "ignore",
    "SIGHUP": "ignore",
    "SIGUSR1": "graceful",
    "SIGUSR2": "ignore",
    "SIGQUIT": "dump",
}

Message = Mapping[str, Any]


class Worker:
    """One life of a worker.

    Args:
        engine: The process's bus.
        site: What its applications are mounted on.
        sock: This end of the link.
        loaded: The site, if it was put together before this process was forked.
    """

    def __init__(
        self, engine: Engine, site: Site, sock: socket.socket, loaded: Loaded | None = None
    ) -> None:
        self.engine = engine
        self.site = site
        self._poller = Poller("sitebus link")
        self._dispatcher = Dispatcher("sitebus relay", self._failed)
        self._losses = Losses(self._dispatcher.post, self._tell_loss)
        self._boot: Message | None = None
        self._booted = threading.Event()
        self._loaded = loaded
        self._exports = Exports(engine, (), self._export)
        self._drain_timeout = 30.0
        self._began = time.time()
        self._measured = False
        self._is_ready = self._told_to_leave = False
        self._sighting: Sighting | None = None
        self._hears: dict[str, Callable[[Message, int | None], object]] = {
            "boot": self._hear_boot,
            "drain": self._hear_drain,
            "hurry": lambda *_: engine.hurry(),
            "graceful": lambda *_: self._dispatcher.post(engine.graceful),
            "publish": self._hear_publish,
            "call": self._hear_call,
            "kept": self._hear_kept,
            "reload": self._hear_reload,
            "sight": self._hear_sight,
            "stacks": lambda told, _: self.send("stacks", re=told["re"], text=self._stacks()),
        }
        self.link = Link(sock, self._poller, self._hear, self._link_ended)
        self._shipper = Shipper(self.link, self._dispatcher)

    def run(self, boot: Message | None = None) -> int:
        """Serve until told to end, and answer the exit status.

        Args:
            boot: What it is; None if that comes over the link.
        """
        if boot is not None:
            self._hear_boot(boot, None)
        self._poller.start()
        self._dispatcher.start()
        if not self._booted.wait(BOOT_PATIENCE) or self._boot is None:
            return 0  # whoever was to say what to do is gone
        try:
            return self._serve(self._boot)
        except CommandCancelled:
            return 0
        except Exception as error:  # noqa: BLE001 - strangers' code; whatever it is, it is told
            message = refusal(error)
            if self._sighting is not None:
                self._sighting.tell()
            self.link.send(message)
            return int(message["status"])
        finally:
            if self._sighting is not None:
                self._sighting.stop()
            self._dispatcher.stop(FLUSH)
            self.link.close(FLUSH)
            self._poller.stop()

    def send(self, what: str, fd: int | None = None, **values: Any) -> bool:
        """Send a message up; tell whether it will arrive."""
        return self.link.send({"is": what, **values}, fd)

    # The life.

    def _serve(self, boot: Message) -> int:
        signals = SignalHandler(self.engine, actions=ACTIONS)
        signals.subscribe()
        self._drain_timeout = boot["drain_timeout"]
        if boot["reload"]:
            self._sighting = Sighting(self.engine, self._poller, self.send, libraries=boot["warm"])
            self._sighting.start()
            Abandoned(self.engine).subscribe()
        if self._loaded is None:
            configuration = prepare(self.engine, boot)
            lenient = bool(boot["lenient"])
            self._loaded = put_together(self.engine, self.site, configuration, lenient=lenient)
        else:
            take_sockets(self.engine, boot)
        assembled, tally = self._loaded
        if assembled.face is not None and boot["release"]:
            # What a page came from may not be who tells it what is new.
            assembled.face.streams.boot = boot["release"]
        bridge = assembled.bridge
        assert isinstance(bridge, LogUplink)
        bridge.link = self.link
        told = assembled.configuration.one("workers")
        prober = Prober(self.engine, assembled.site, told["probe"], self._refuse)
        shared = relay.shared(assembled.configuration)
        # The same that has published what came until now: what is under way is not sent back.
        self._exports.name((*told["export"], *shared))
        guests: list[Plugin] = [prober, self._exports]
        guests += self._relayed(assembled.configuration)
        guests.append(Leaving(self.engine, self._leaves, self._left))
        pulse = Pulse(
            self.engine,
            tally,
            self._in_flight,
            self._poller,
            self._beat,
        )
        health = assembled.configuration.one("health")
        self._measured = bool(health["bind"]) and health["metrics"]
        try:
            for guest in guests:
                guest.subscribe()
            assembled.start()
            pulse.start(boot["idle_beat"])
            bridge.ready()
            self._is_ready = True
            if self._sighting is not None:
                self._sighting.ready()
            self.send("ready", mounts=assembled.mount_lines())
            self._dispatcher.post(lambda: forget_what_is_new(self._began))
            return self._block()
        finally:
            pulse.stop()
            for guest in guests:
                guest.unsubscribe()
            assembled.close()

    def _relayed(self, configuration: Configuration) -> Iterator[Plugin]:
        """Answer this worker's part in the relay, if the site has one."""
        settings = relay.settings_of(configuration)
        if settings is None:
            return
        from sitebus.workers.relaying import WorkerRelay

        most = settings["high_water"]
        found = WorkerRelay(self.engine, self.send, lambda: self._losses.add("this process"), most)
        self._hears["relay.heard"] = lambda told, _: found.hear(told)
        self._hears["relay.answered"] = lambda told, _: found.hear_answer(told)
        yield found

    def _refuse(self, error: Exception) -> None:
        """Hear that a probe has failed; where nothing serves it was to."""
        assert self._loaded is not None
        assembled = self._loaded.assembly
        if assembled.face is None or not assembled.face.cold:
            assembled.refuse(error)

    def _in_flight(self) -> int:
        """Answer how many requests are being answered."""
        return sum(mount.in_flight for mount in self.site.mounts)

    def _block(self) -> int:
        status = self.engine.block()
        self._shipper.flush()
        self._tell_metrics()
        if self.engine.stragglers:
            # They had their time, and were named; the interpreter would wait for them for ever.
            self._dispatcher.stop(FLUSH)
            self.link.close(FLUSH)
            _flush_streams()
            os._exit(status)
        return status

    # What is heard; in the poller's thread, which runs nobody's listeners.

    def _hear(self, message: Message, fd: int | None) -> None:
        heard = self._hears.get(str(message.get("is")))
        if heard is not None:
            heard(message, fd)

    def _hear_boot(self, message: Message, fd: int | None) -> None:
        self._boot = message
        self._booted.set()

    def _leaves(self) -> None:
        """The bus stops: if nobody has told it to, the supervisor should know that it is meant."""
        if self._is_ready and not self._told_to_leave:
            self.send("draining")
            self.engine.call_in_main(self.engine.exit)

    def _left(self) -> None:
        """Servers have stopped: if a request has outlasted them, its thread may hold anything."""
        if self._in_flight():
            self.send("left_behind")

    def _hear_drain(self, message: Message, fd: int | None) -> None:
        engine = self.engine
        self._told_to_leave = True
        if message["successor"]:
            engine.relieved = True
            engine.sockets.forward = self._shipper.ship
        self._leave(float(message["timeout"]))

    def _leave(self, timeout: float) -> None:
        for server in self._servers():
            server.drain_timeout = timeout
        self.engine.stop_timeout = max(self.engine.stop_timeout, timeout + GRACE)
        self.engine.call_in_main(self.engine.exit)

    def _beat(self, beat: Mapping[str, Any]) -> None:
        self.send("beat", **beat)
        self._tell_metrics()

    def _tell_metrics(self) -> None:
        if self._measured:
            self.send("metrics", snapshot=REGISTRY.snapshot())

    def _servers(self) -> list[SiteServer]:
        if self._loaded is None:
            return []
        return [each for each in self._loaded.assembly.servers if isinstance(each, SiteServer)]

    def _hear_publish(self, message: Message, fd: int | None) -> None:
        args, kwargs = message["args"], message["kwargs"]
        publish = self._exports.publish
        work = partial(publish, message["channel"], args, kwargs)
        if not self._dispatcher.offer(work, size_of(message)):
            self._losses.add("this process")

    def _hear_call(self, message: Message, fd: int | None) -> None:
        self._dispatcher.post(lambda: self._answer(message))

    def _hear_kept(self, message: Message, fd: int | None) -> None:
        if fd is not None:
            kept = os.dup(fd)
            self._dispatcher.post(lambda: self._adopt(kept))

    def _hear_reload(self, message: Message, fd: int | None) -> None:
        channel = str(message["channel"])
        values = message.get("values", ())
        if "error" in message:
            told = message["error"]
            values = [TrialFailed(told["reason"], told["text"], told["file"], told["line"])]
        self._dispatcher.offer(lambda: self._exports.publish(channel, values, {}))

    def _hear_sight(self, message: Message, fd: int | None) -> None:
        if self._sighting is not None:
            self._sighting.again()

    def _link_ended(self, link: Link) -> None:
        """The supervisor has gone: finish what is being served, and end whatever happens."""
        self._booted.set()
        self.engine.interrupt()
        # It needs no lock that a stuck thread may hold; nor what an application has put in the
        # place of its standard error, which may be no file.
        with suppress(OSError, ValueError, RuntimeError, AttributeError):
            # One that is still coming up has nothing to finish.
            deadline = GRACE + (self._drain_timeout if self._is_ready else 0)
            faulthandler.dump_traceback_later(deadline, exit=True, file=_errors())

    # What is done about it; in the dispatcher's thread.

    def _adopt(self, fd: int) -> None:
        engine = self.engine
        if engine.relieved:
            self.send("kept", fd)  # too late for us; somebody else will have them
            return
        engine.sockets.receive(connections.unpack(fd))
        for server in self._servers():
            server.take_over()
        engine.sockets.close_idle()

    def _answer(self, message: Message) -> None:
        re = message["re"]
        try:
            told = message["channel"], message["args"], message["kwargs"]
            found = self._exports.ask(*told)
            self.send("answer", re=re, result=found)
        except ChannelFailures as failures:
            first = failures.exceptions[0]
            said = f"{type(first).__name__}: {first}"
            self.send("answer", re=re, error=said[:MOST_TEXT])
        except (TypeError, ValueError, SitebusError) as error:
            self.send("answer", re=re, error=f"what was answered cannot be sent: {error}")
        except BaseException as error:  # a listener has called sys.exit()
            self.send("answer", re=re, error=repr(error))
            raise

    def _export(self, channel: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self.engine.relay is not None:
            check_room(channel, args, kwargs)
        if not self.send("publish", channel=channel, args=list(args), kwargs=dict(kwargs)):
            self._losses.add("the supervisor")

    def _tell_loss(self, who: str, count: int) -> None:
        self.engine.log(f"{who} has missed {count} messages: it is too slow for them", WARNING)
        self._exports.publish("relay.drop", (who, count), {})

    def _failed(self, error: BaseException) -> None:
        self.engine.log(f"Error in the relay: {error}", ERROR, traceback=error)

    def _stacks(self) -> str:
        own = threading.get_ident()
        return told(each for each in self.engine.threads() if each.ident != own)[:MOST_TEXT]


class Leaving(Plugin):
    """Tell when the bus begins to stop, and to exit, before anything of it does."""

    def __init__(
        self, bus: Engine, leaves: Callable[[], object], left: Callable[[], object]
    ) -> None:
        super().__init__(bus)
        self.leaves = leaves
        self.left = left

    @listens("stop", priority=FIRST)
    def stop(self) -> None:
        """Say so."""
        self.leaves()

    @listens("exit", priority=FIRST)
    def exit(self) -> None:
        """Say so."""
        self.left()


def _errors() -> TextIO:
    """Answer where a process without anybody else can say its last."""
    if sys.__stderr__ is not None:
        return sys.__stderr__
    return open(os.devnull, "w")


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()
