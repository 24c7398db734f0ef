"""What crosses between a bus and other nodes: nothing that was not allowed by name or pattern.

Channels that are each process's own, such as ``stop``, never leave, and enter only from the nodes
that a command rule names: no pattern of an import means them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sitebus.config.channels import is_own
from sitebus.relay.patterns import Patterns


class Policy:
    """The rules of one node.

    Args:
        export: Patterns of channels whose messages may leave.
        import_: Patterns of channels on which any node's messages may enter.
        commands: By pattern of a channel the nodes whose messages may enter, whatever it is.
    """

    def __init__(
        self,
        export: Iterable[str] = (),
        import_: Iterable[str] = (),
        commands: Mapping[str, Iterable[str]] = {},
    ) -> None:
        self.export = Patterns(export)
        self.import_ = Patterns(import_)
        self.commands = {channel: frozenset(nodes) for channel, nodes in commands.items()}
        self._rules = [
            (Patterns((channel,)), channel, nodes) for channel, nodes in self.commands.items()
        ]

    @property
    def wants(self) -> Patterns:
        """The patterns of all channels on which something may enter."""
        return self.import_ | self.commands

    def may_leave(self, channel: str) -> bool:
        """Tell whether what is published on *channel* goes to other nodes."""
        return channel in self.export and not is_own(channel)

    def may_enter(self, channel: str, node: str) -> bool:
        """Tell whether what *node* sends on *channel* is published here."""
        own = is_own(channel)
        if channel in self.import_ and not own:
            return True
        # A pattern in a rule means no channel of the process's own: each is to be named.
        return any(
            node in nodes and (name == channel or (not own and channel in pattern))
            for pattern, name, nodes in self._rules
        )
