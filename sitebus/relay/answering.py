"""What another node has this site do: publish, answer, or obey a command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from sitebus.errors import ChannelFailures, SitebusError
from sitebus.listeners import ERROR
from sitebus.process import Engine
from sitebus.relay import calls
from sitebus.relay.envelope import Envelope
from sitebus.relay.exports import Exports

#: Told to the bus by their names, since publishing on their channels alone would do half of it.
_COMMANDS: Mapping[str, Callable[[Engine], object]] = {
    "start": lambda bus: bus.start(stay=True),
    "stop": lambda bus: bus.stop(),
    "exit": lambda bus: bus.exit(),
    "restart": lambda bus: bus.restart(),
    "graceful": lambda bus: bus.graceful(),
}
#: After these nobody is there to answer.
_LAST = ("exit", "restart")

#: How long the workers of this site may take to answer; seconds.
PATIENCE = 5.0

Answer = Callable[[Mapping[str, Any]], object]


class Answering:
    """Act for other nodes, on the bus of this site.

    Args:
        bus: The bus.
        exports: What must not send back what is published here.
    """

    def __init__(self, bus: Engine, exports: Exports) -> None:
        self._bus = bus
        self._exports = exports

    def publish(self, envelope: Envelope) -> None:
        """Publish what came; what listeners raise was logged."""
        self._exports.publish(envelope.ch, envelope.args, envelope.kw)

    def answer(self, envelope: Envelope, tell: Answer) -> None:
        """Publish what came in every process of this site, and tell what listeners return."""
        try:
            found = self._ask(envelope)
        except ChannelFailures as failures:
            first = failures.exceptions[0]
            tell(calls.error(f"{type(first).__name__}: {first}"))
            return
        except SitebusError as error:  # there are no workers just now
            tell(calls.error(str(error)))
            return
        except BaseException as error:  # a listener has called sys.exit()
            tell(calls.error(repr(error)))
            raise
        try:
            tell(calls.result(found))
        except (TypeError, ValueError, SitebusError) as error:
            tell(calls.error(f"what was answered cannot be sent: {error}"))

    def _ask(self, envelope: Envelope) -> list[Any]:
        workers = self._bus.workers
        if workers is None:
            return self._exports.ask(envelope.ch, envelope.args, envelope.kw)
        with self._exports.coming(envelope.ch):
            found: list[Any] = workers.ask(envelope.ch, envelope.args, envelope.kw, PATIENCE)
        return found

    def obey(self, envelope: Envelope, tell: Answer) -> None:
        """Do what a command says, in a thread of its own: it may take long, and end this one."""
        work = threading.Thread(
            target=self._obey, args=(envelope, tell), name="sitebus relay command", daemon=True
        )
        work.start()

    def _obey(self, envelope: Envelope, tell: Answer) -> None:
        command = envelope.ch
        self._bus.log(f"Bus {command}: {envelope.src} asked for it")
        if command in _LAST:
            tell(calls.result([]))
        try:
            _COMMANDS[command](self._bus)
        # Whatever listeners raise: it is logged here, and told there.
        except Exception as error:  # noqa: BLE001
            self._bus.log(f"{command}, which another node asked for, failed: {error}", ERROR)
            told = calls.error(f"{type(error).__name__}: {error}")
        else:
            told = calls.result([])
        if command not in _LAST:
            tell(told)

    @staticmethod
    def is_command(channel: str) -> bool:
        """Tell whether a channel is a command to the bus, and no mere message."""
        return channel in _COMMANDS
