"""What an application sees of the relay, in whichever process of a site it is: ``engine.relay``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, overload

from sitebus.relay.calls import Answers
from sitebus.relay.envelope import check_name
from sitebus.relay.patterns import Patterns
from sitebus.relay.publisher import Publisher
from sitebus.relay.subscriber import Audience, Ear, Subscriber

if TYPE_CHECKING:
    from sitebus.relay.envelope import Envelope
    from sitebus.relay.peers import PeerPicture

#: Seconds.
PATIENCE = 5.0


class Face:
    """Tell other nodes something, hear what they say, and ask them.

    What is told and heard here does not touch the channels of the bus in this process; on other
    nodes a message is published on the bus if its channel is imported there.
    """

    _audience: Audience

    def publish(self) -> Publisher:
        """Answer what puts messages on channels of the relay."""
        return Publisher(self.put, self.flush)

    publisher = publish

    @overload
    def subscribe(self) -> None: ...

    @overload
    def subscribe(self, channels: str | Iterable[str]) -> Subscriber: ...

    def subscribe(self, channels: str | Iterable[str] | None = None) -> Subscriber | None:
        """Answer what gets the messages on *channels*, from here on.

        Without channels this is what every plugin has: it begins to listen on its bus.

        Args:
            channels: A channel, or a pattern such as ``cache.*``, or several of them.

        Raises:
            BadName: One of them is no pattern.
            TooManyWants: With these there are more than peers take.
        """
        if channels is not None:
            return self.subscriber(channels)
        self._begin()
        return None

    def subscriber(self, channels: str | Iterable[str]) -> Subscriber:
        """Do as `subscribe` does with channels."""
        wanted = Patterns((channels,) if isinstance(channels, str) else channels)
        for each in wanted:
            check_name("pattern", each)
        subscriber = self._audience.subscriber(wanted)
        self.join(subscriber)
        return subscriber

    def join(self, ear: Ear) -> None:
        """Have an ear hear what is sent on its channels."""
        self._audience.join(ear)

    def call(
        self,
        channel: str,
        /,
        *args: Any,
        timeout: float = PATIENCE,
        nodes: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> Answers:
        """Publish on *channel* on every other node, and gather what the listeners there answer.

        It returns when all have answered that import the channel. Behind a hub there may be others,
        of whom nothing is known: then it takes all of *timeout*, unless *nodes* says who they are.
        With *nodes* nobody else hears it.

        Args:
            channel: A channel that the other nodes import, or a command that they take.
            args: JSON, as all that travels.
            timeout: Seconds to wait for them all.
            nodes: Those that are asked; all that import the channel if left out.
            kwargs: Named values; JSON.

        Returns:
            By node, in order: the list of what its listeners returned, or the `RelayRemoteError`
            that it failed with, which is a `RelayNoAnswer` if it was silent.

        Raises:
            NotJson: It holds what JSON cannot say; a TypeError.
            MessageTooLarge: It has more than 256 kB of JSON.
            RelayStopped: The relay does not run.
            RelayRefused: The supervisor of this worker says why it cannot be.
            WouldDeadlock: This is the thread that answers would have to come in.
        """
        return self._call(channel, args, kwargs, timeout, None if nodes is None else tuple(nodes))

    def peers(self) -> tuple[PeerPicture, ...]:
        """Answer every other node that there is, or was, and how it stands."""
        raise NotImplementedError

    def answer(self, envelope: Envelope, value: Any) -> None:
        """Answer a call that a subscriber got, whose envelope has a ``call``.

        Raises:
            NotJson: *value* holds what JSON cannot say; a TypeError.
            MessageTooLarge: It has more than 256 kB of JSON.
            RelayStopped: The relay does not run.
        """
        raise NotImplementedError

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until what was sent before is out of here; tell whether it is in time."""
        raise NotImplementedError

    def _begin(self) -> None:
        raise NotImplementedError

    def put(self, channel: str, args: tuple[Any, ...]) -> None:
        """Send a message, as a publisher does."""
        raise NotImplementedError

    def _call(
        self,
        channel: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float,
        nodes: tuple[str, ...] | None,
    ) -> Answers:
        raise NotImplementedError
