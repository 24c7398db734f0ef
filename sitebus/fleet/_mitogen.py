"""The one module that knows mitogen, and how far to trust it.

What mitogen allows by default is too much for machines that serve strangers; here

* a host may ask for the modules that it is to run, and for no other: not for what this machine has
  installed, nor for files that lie beside it;
* hosts cannot talk to each other through this machine, nor have what is meant for another sent to
  them: a host speaks for the processes whose numbers it was given, and for no others;
* what hosts log is heard only where somebody asks for it;
* a host's key must be the one that is known, always;
* nothing is forked from a process that runs, which is where others' locks are held;
* what comes back is JSON, or bytes: no object is made of what a host says.

One `Trust` is one router of mitogen's, one thread, and the hosts of one fleet.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import mitogen.core  # type: ignore[import-untyped]
import mitogen.master  # type: ignore[import-untyped]
import mitogen.parent  # type: ignore[import-untyped]
import mitogen.select  # type: ignore[import-untyped]
import mitogen.utils  # type: ignore[import-untyped]

from sitebus.errors import ConnectFailed, HostLost
from sitebus.fleet.said import senseless, shaped
from sitebus.fleet.sources import PACKAGE

_LOG = logging.getLogger("mitogen.sitebus")

#: The module that is asked.
AGENT = f"{PACKAGE}.agent"

#: The largest thing that may come or go at once.
LARGEST = 32 << 20

#: How long the end of everything may take; seconds.
_FAREWELL = 5.0
#: How often one host may ask for a thousand more numbers for processes.
_MOST_BLOCKS = 1000
#: How long a new context may take to say what it is, once it is there; seconds.
_GREETING = 10.0


#: Brokers that may have to be ended with the process, since nobody has closed them.
_open: WeakSet[_Broker] = WeakSet()
_watching = threading.Lock()


def _watch(broker: _Broker) -> None:
    """End *broker* when the main thread has ended: its thread would keep the process for ever."""
    _open.add(broker)
    if _watching.acquire(blocking=False):
        threading.Thread(target=_end_all, name="sitebus fleet watcher", daemon=True).start()


def _end_all() -> None:
    threading.main_thread().join()
    for broker in tuple(_open):
        broker.shutdown()


class _Broker(mitogen.master.Broker):  # type: ignore[misc]
    shutdown_timeout = _FAREWELL

    def __init__(self) -> None:
        # Mitogen would watch the thread that this is made in, which may end long before, in one
        # that is no daemon: whoever waits for all of these before the process ends waits for ever.
        super().__init__(install_watcher=False)
        _watch(self)


class _Router(mitogen.master.Router):  # type: ignore[misc]
    broker_class = _Broker
    unidirectional = True
    max_message_size = LARGEST


class _ProfiledRouter(_Router):
    profiling = True


class Trust:
    """Connections that trust this process, and nobody else.

    Args:
        sources: The agent's modules: where each is, and what it says, by its name on hosts.
        allow: Other modules that hosts may ask for, with all that is in them.
        hears_logs: Whether what hosts log comes into the log here.
        debug: Whether hosts tell everything that mitogen does.
        profile: Whether mitogen writes profiles of its threads into ``/tmp``.
    """

    #: What `connect` raises; its text is what was said.
    connect_error = mitogen.core.StreamError

    def __init__(
        self,
        sources: Mapping[str, tuple[str, bytes]],
        allow: Iterable[str] = (),
        *,
        hears_logs: bool = False,
        debug: bool = False,
        profile: bool = False,
    ) -> None:
        self.router = (_ProfiledRouter if profile else _Router)()
        self.router.debug = debug
        self._numbers = itertools.count(1)
        for name, (path, source) in sources.items():
            self.router.responder.add_source_override(name, path, source, "." not in name)
        for name in (*sources, *allow):
            self.router.responder.whitelist_prefix(name)
        #: The numbers that were given to hosts for processes of theirs, and by which way.
        self._given: list[tuple[range, Any]] = []
        self._harden(hears_logs)

    def _harden(self, hears_logs: bool) -> None:
        def handle(number: int, function: Callable[[Any], None], policy: Any = None) -> None:
            self.router.add_handler(function, handle=number, policy=policy, overwrite=True)

        # It would import any package of this machine's that a host names, and send its files.
        handle(mitogen.core.GET_RESOURCE, self._refuse_resource)
        # It would let a host have what is sent to a process that another is about to have: the
        # numbers are easy to guess.
        handle(mitogen.core.ALLOCATE_ID, self._give_numbers)
        handle(mitogen.core.ADD_ROUTE, self._add_route, mitogen.parent.is_immediate_child)
        if not hears_logs:
            handle(mitogen.core.FORWARD_LOG, _ignore)

    def _give_numbers(self, message: Any) -> None:
        if message.is_dead:
            return
        stream = self.router.stream_by_id(message.src_id)
        if sum(owner is stream for _, owner in self._given) >= _MOST_BLOCKS:
            message.reply(mitogen.core.CallError("it has had numbers enough"))
            return
        first, end = self.router.id_allocator.allocate_block()
        self._given.append((range(first, end), stream))
        message.reply((first, end))

    def _add_route(self, message: Any) -> None:
        if message.is_dead:
            return
        number = message.data.partition(b":")[0]
        stream = self.router.stream_by_id(message.src_id)
        for given, owner in self._given:
            if number.isdigit() and int(number) in given and owner is stream:
                self.router.route_monitor._on_add_route(message)
                return
        _LOG.error("%s claims the number %r, which it was not given", stream, number[:20])

    def _refuse_resource(self, message: Any) -> None:
        stream = None if message.is_dead else self.router.stream_by_id(message.src_id)
        if stream is not None:
            name, resource = message.unpickle()
            none = mitogen.core.Message.pickled(
                (name, resource),
                None,
                dst_id=stream.protocol.remote_id,
                handle=mitogen.core.LOAD_RESOURCE,
            )
            stream.protocol.send(none)

    def connect(self, host: str, method: str, via: Link | None = None, **options: Any) -> Link:
        """Answer a new process on a host.

        Raises:
            connect_error: There is none; what mitogen and the programs it runs have said.
        """
        if via is not None:
            options["via"] = via.context
        if isinstance(options.get("password"), str):
            options["password"] = mitogen.core.Secret(options["password"])
        known = dict(self.router._context_by_id)
        try:
            context = getattr(self.router, method)(**options)
        except self.connect_error:
            raise
        except (mitogen.core.Error, LookupError, TypeError, ValueError, AttributeError) as error:
            # Of a host that is gone, or does not say what mitogen would, on the way to this one.
            raise self.connect_error(" ".join(str(error).split())) from None
        if via is not None and not self._is_its_own(context, via.context):
            with self.router._write_lock:
                self.router._context_by_id[context.context_id] = known.get(context.context_id)
            raise self.connect_error("it answers with a process that is not its own")
        return Link(self, host, context)

    def _is_its_own(self, context: Any, parent: Any) -> bool:
        """Tell whether a host names a process of its own; not one where another is asked then."""
        stream = self.router.stream_by_id(parent.context_id)
        number = context.context_id
        return any(owner is stream and number in given for given, owner in self._given)

    def number(self) -> int:
        """Answer one that nothing else has."""
        return next(self._numbers)

    def close(self) -> None:
        """End every process on every host, and what it has started."""
        self.router.broker.shutdown()
        self.router.broker.join()


class Link:
    """One process on a host.

    Attributes:
        told: What it says of itself.
        way: The processes that were made on the way to it, and are of no other use.
        loss: What is told of its end.
    """

    loss = "the link to it broke; what was under way there may be done or not"

    def __init__(self, trust: Trust, host: str, context: Any) -> None:
        self.trust = trust
        self.host = host
        self.context = context
        self.told: dict[str, Any] = {}
        self.way: tuple[Link, ...] = ()
        self._lost = threading.Event()
        mitogen.core.listen(context, "disconnect", self._lost.set)

    @property
    def is_lost(self) -> bool:
        """Whether it is known to have ended."""
        return self._lost.is_set()

    @property
    def lineage(self) -> tuple[int, ...]:
        """The numbers that mitogen has for it, and for those that it was reached through."""
        via = self.context.via
        rest = () if via is None else (via.context_id,)
        return (self.context.context_id, *rest)

    def greet(self, name: str) -> None:
        """Have it say what it is: ``hello``, or ``settle`` where strangers' functions will run.

        Raises:
            ConnectFailed: It does not, in time or at all.
        """
        feed = self.ask(name)
        try:
            self.told = shaped(self.host, _greeting, feed.get(_GREETING))
        except TimeoutError:
            sentence = "its Python has started, and says nothing; see whether it is overloaded"
            raise ConnectFailed(self.host, sentence) from None
        finally:
            feed.close()

    def ask(self, name: str, *args: Any) -> Feed:
        """Call a function of the agent's in its main thread."""
        feed = Feed(self)
        self._send(name, args, feed.handle)
        return feed

    def begin(self, name: str, module: str, function: str, text: str) -> Feed:
        """Call a function of any module in a thread of its own."""
        feed = Feed(self)
        self._send(name, (feed.sender, feed.number, module, function, text), feed.handle)
        return feed

    def tell(self, number: int, count: int) -> None:
        """Allow what was begun to send more; nothing more if *count* is 0."""
        self._send("tell", (number, count), None)

    def send(self, handle: int, data: bytes) -> None:
        """Send bytes to what was begun."""
        message = mitogen.core.Message.encoded(data, mitogen.core.Message.ENC_BIN, handle=handle)
        self.context.send(message)

    def finish(self, handle: int) -> None:
        """Say to what was begun that no bytes follow."""
        self.context.send(mitogen.core.Message.dead(reason="that is all", handle=handle))

    def _send(self, name: str, args: tuple[Any, ...], reply_to: int | None) -> None:
        # What mitogen takes for a function is told by these two names of it.
        function = SimpleNamespace(__module__=AGENT, __name__=name)
        message = self.context.default_call_chain.make_msg(function, *args)
        message.reply_to = reply_to
        self.context.send(message)

    def shut(self, timeout: float | None = None) -> None:
        """End it with all it has started; wait for that for *timeout* seconds, if asked to."""
        latch = self.context.shutdown(wait=False)
        if timeout is not None and not self.is_lost:
            with suppress(mitogen.core.TimeoutError):  # whoever reaches it ends it then
                latch.get(timeout=timeout)

    def end(self, timeout: float | None = None) -> None:
        """End it as `shut` does, and the way to it, whether or not it hears of that."""
        for each in (self, *self.way):
            if not each.is_lost:
                each.shut(timeout)
                each._cut()

    def _cut(self) -> None:
        stream = self.trust.router.stream_by_id(self.context.context_id)
        if self.context.via is None and stream is not None:
            self.trust.router.disconnect_stream(stream)


class Feed:
    """What comes from one thing that was asked for.

    Attributes:
        number: What the host calls it.
        receiver: Mitogen's end of it.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.number = link.trust.number()
        self.receiver = mitogen.core.Receiver(link.trust.router, respondent=link.context)

    @property
    def handle(self) -> int:
        """Where answers go."""
        return int(self.receiver.handle)

    @property
    def sender(self) -> Any:
        """What a host sends with."""
        return self.receiver.to_sender()

    def get(self, timeout: float | None = None) -> str | bytes | None:
        """Answer the next thing that was said; None for the word that it has begun.

        Raises:
            TimeoutError: There is none in time.
            HostLost: There will be none.
            RemoteError: It makes no sense.
            ConnectFailed: The agent is no good there.
        """
        try:
            message = self.receiver.get(timeout=timeout, throw_dead=False)
        except mitogen.core.TimeoutError:
            raise TimeoutError from None
        except mitogen.core.ChannelError:
            raise HostLost(self.link.host, "the call was given up here") from None
        return self.read(message)

    def read(self, message: Any) -> str | bytes | None:
        """Answer what a message says; raises as `get` does."""
        if message.is_dead:
            raise HostLost(self.link.host, self.link.loss)
        if message.enc == mitogen.core.Message.ENC_BIN:
            return bytes(message.data)
        try:
            said = message.unpickle()
        except mitogen.core.CallError as error:
            reason = " ".join(str(error).split())[:300]
            sentence = f"its Python cannot run the agent: {reason}; say another python in the file"
            raise ConnectFailed(self.link.host, sentence) from None
        except Exception:  # noqa: BLE001 - a stranger's bytes may be wrong in any way
            raise senseless(self.link.host) from None
        return said if isinstance(said, str) else None

    def close(self) -> None:
        """Hear nothing more."""
        try:
            self.receiver.close()
        except KeyError:
            # Of one that was lost, mitogen has forgotten the handler before.
            self.receiver.handle = None
            self.receiver.close()


class Choice:
    """Several feeds, and other choices, of which the next that has something is taken."""

    def __init__(self) -> None:
        self.select = mitogen.select.Select(oneshot=False)

    def add(self, what: Feed | Choice) -> None:
        """Take one more.

        Raises:
            ValueError: It is in a choice already, or this one in it.
        """
        try:
            self.select.add(what.receiver if isinstance(what, Feed) else what.select)
        except mitogen.select.Error as error:
            raise ValueError(str(error)) from None

    def remove(self, what: Feed | Choice) -> None:
        """Forget one."""
        try:
            self.select.remove(what.receiver if isinstance(what, Feed) else what.select)
        except mitogen.select.Error:
            pass  # it was forgotten before

    def get(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Answer the receiver that has something next, and its message; or neither.

        Raises:
            TimeoutError: None has in time.
        """
        try:
            event = self.select.get_event(timeout=timeout)
        except mitogen.core.TimeoutError:
            raise TimeoutError from None
        except mitogen.core.ChannelError:
            return None, None  # of one that was given up meanwhile
        return event.source, event.data

    def close(self) -> None:
        """Forget them all."""
        self.select.close()


def _greeting(said: Any) -> dict[str, Any]:
    told = json.loads(said)
    return {**told, "pid": int(told["pid"]), "executable": str(told["executable"])}


def write_log(path: str, level: str = "INFO") -> Callable[[], None]:
    """Have mitogen's messages written to a file; answer what ends that."""
    logger = logging.getLogger("mitogen")
    before = logger.level
    # It tells what functions are called with: for nobody else's eyes.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(mitogen.utils.log_get_formatter())
    logger.addHandler(handler)
    logger.setLevel(level)

    def end() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()

    return end


def _ignore(message: Any) -> None:
    """Do nothing with what a host sends."""


def _leave_interrupts_alone() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# On a terminal, Ctrl-C is told to ssh as well as to us, who may still have something to end in
# order by way of it. A session of its own would keep ssh from the terminal that mitogen gives it.
if mitogen.parent._preexec_hook is None:
    mitogen.parent._preexec_hook = _leave_interrupts_alone

# Its errors are told as ours; what it logs is for those who ask for it.
logging.getLogger("mitogen").addHandler(logging.NullHandler())

__all__ = ["AGENT", "Choice", "Feed", "Link", "Trust", "write_log"]
