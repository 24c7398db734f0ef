"""The options of the relay: which nodes there are, and what crosses between them.

That a relay beyond this machine has keys is checked here, before anything is opened: a mistake in
the file must not be found out by a stranger.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from sitebus.config.channels import CHANNELS, LIFECYCLE, is_own
from sitebus.config.configuration import DEFAULT, Configuration, Problem, Settings
from sitebus.config.kinds import (
    BOOLEAN,
    BadValue,
    Context,
    Duration,
    FilePath,
    Integer,
    Kind,
    Listing,
)
from sitebus.config.options import Option, Section
from sitebus.config.texts import cut
from sitebus.errors import BadAddress, BadRelayAddress, nearest
from sitebus.listeners import Pattern
from sitebus.sockets.addresses import Address

T = TypeVar("T")

#: How many messages may wait for a peer, unless the file says otherwise.
HIGH_WATER = 10_000

#: As the files of keys are called.
_NODE = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
_COMMAND = "command"


class NodeName(Kind[str]):
    """What a node is called, and its key's file."""

    expected = "a name of letters, digits, dots, hyphens and underscores, such as web1"
    metavar = "NAME"

    def parse(self, text: str, context: Context) -> str:
        """Check the spelling."""
        if not re.fullmatch(_NODE, text):
            raise self.bad()
        return text


class RelayAddress(Kind[str]):
    """Where nodes meet."""

    expected = "an address such as tcp://127.0.0.1:5555 or unix:/run/relay.sock"
    metavar = "ADDRESS"

    def __init__(self, lowest_port: int = 0) -> None:
        self.lowest_port = lowest_port

    def parse(self, text: str, context: Context) -> str:
        """Bring it into the one form; a socket's path is relative to the file that names it."""
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest and not rest.startswith("//"):
            return f"unix:{rest if rest.startswith('@') else FilePath().parse(rest, context)}"
        if kind != "tcp" or not rest.startswith("//"):
            raise self.bad()
        host, colon, port = rest[2:].rpartition(":")
        try:
            address = Address.parse(f"{host}:{port}")
        except BadAddress as error:
            raise BadValue(f"{error.reason}; write {self.expected.partition('such as ')[2]}") from (
                error
            )
        if not (host and colon) or address.kind != "tcp" or address.port < self.lowest_port:
            raise self.bad()
        return f"tcp://{address}"


class PeerEntry(NamedTuple):
    """A node to connect to.

    Attributes:
        name: whose key it must have; None where there are no keys.
        address: where it is.
    """

    name: str | None
    address: str


class Peer(Kind[PeerEntry]):
    """A node to connect to: its address, and before it the name that it must have."""

    expected = "a peer such as web2=tcp://10.0.0.2:5555 or unix:/run/relay.sock"
    metavar = "[NAME=]ADDRESS"

    def parse(self, text: str, context: Context) -> PeerEntry:
        """Read the name and the address."""
        name, equals, address = text.partition("=")
        if not equals or ":" in name:
            name, address = "", text
        if name and not re.fullmatch(_NODE, name):
            raise self.bad()
        try:
            return PeerEntry(name or None, RelayAddress(1).parse(address, context))
        except BadValue as error:
            raise self.bad() if str(error).startswith("expected") else error from None

    def format(self, value: PeerEntry) -> str:
        """Write it as it is read."""
        return f"{value.name}={value.address}" if value.name else value.address


def relay_address(text: str) -> str:
    """Answer an address in the one form, as a program says it.

    Raises:
        BadRelayAddress: It is none.
    """
    return _read(RelayAddress(), text)


def peer_entry(peer: str | PeerEntry) -> PeerEntry:
    """Answer a node to connect to, as a program says it.

    Raises:
        BadRelayAddress: It is none.
    """
    return peer if isinstance(peer, PeerEntry) else _read(Peer(), peer)


def _read(kind: Kind[T], text: str) -> T:
    try:
        return kind.parse(text, Context(Path()))
    except BadValue as error:
        raise BadRelayAddress(text, str(error)) from None


def is_on_this_machine(address: str) -> bool:
    """Tell whether nobody on another machine can connect to an address."""
    if not address.startswith("tcp://"):
        return True
    from ipaddress import ip_address

    host = Address.parse(address.removeprefix("tcp://")).host
    if host == "localhost":
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


_DIRECTORY = FilePath("directory")

_RULE = Section(
    "relay",
    (
        Option(
            "channels",
            CHANNELS,
            (),
            "what they may send: start, stop, exit, restart, graceful, log, or any other channel.",
            required=True,
        ),
        Option("from", Listing(NodeName()), (), "the nodes that may send it.", required=True),
    ),
    "What other nodes may have this site do; without such a rule they may nothing.",
    argument=_COMMAND,
    default_name=None,
)


def member(name: str) -> Section | None:
    """Answer the section of a ``[relay command]``, of which there are several if they are named."""
    is_rule = name.partition(" ")[0] == _COMMAND
    return _RULE._replace(argument=name, member=member) if is_rule else None


def _heading(name: str) -> str:
    """Read what follows ``relay`` in a heading."""
    if name and member(name) is None:
        near = nearest(name[:60], [_COMMAND])
        hint = f" - did you mean [relay {near}]?" if near else "; there is [relay command]"
        raise ValueError(f"there is no section [relay {cut(name)}]{hint}")
    return name


RELAY = Section(
    "relay",
    (
        Option(
            "node",
            NodeName(),
            None,
            "What this node is called among the others, the host's name if it is not said.",
        ),
        Option(
            "bind",
            Listing(RelayAddress()),
            (),
            "Where other nodes may connect, such as tcp://127.0.0.1:5555 or unix:/run/relay.sock.",
        ),
        Option(
            "peers",
            Listing(Peer()),
            (),
            "The nodes to connect to, such as web2=tcp://10.0.0.2:5555; each two are to be "
            "connected once, whoever begins.",
        ),
        Option(
            "keys",
            _DIRECTORY,
            None,
            "The directory with this node's key pair and its peers' public keys, as sitebus-ctl "
            "relay keygen makes it; needed beyond this machine.",
        ),
        Option(
            "export",
            CHANNELS,
            (),
            "Channels, or patterns of them, whose messages other nodes hear.",
        ),
        Option(
            "import",
            CHANNELS,
            (),
            "Channels, or patterns of them, on which other nodes' messages are heard.",
        ),
        Option("hub", BOOLEAN, False, "Pass on what one peer sends to the others that want it."),
        Option("hubs", Listing(NodeName()), (), "The peers that pass on what others sent."),
        Option(
            "retain",
            CHANNELS,
            (),
            "Channels, or patterns of them, whose last message a node that comes late gets too.",
        ),
        Option(
            "high_water",
            Integer(1, 10_000_000),
            HIGH_WATER,
            "How many messages may wait for a peer; what is more is dropped, and told.",
        ),
        Option(
            "heartbeat",
            Duration(0.05, 60.0),
            1.0,
            "How often peers hear that this node is there; after three times that they do without.",
        ),
    ),
    "One bus across several sites; it is on where bind or peers is set.",
    argument=_COMMAND,
    default_name="",
    heading=_heading,
    member=member,
    members=(_COMMAND,),
)


def settings_of(configuration: Configuration) -> Settings | None:
    """Answer ``[relay]`` if the relay is on."""
    for each in configuration.several("relay"):
        if not each.name and (each.get("bind") or each.get("peers")):
            return each
    return None


def commands_of(configuration: Configuration) -> dict[str, tuple[str, ...]]:
    """Answer which nodes may send on which channels by a ``[relay command]`` rule."""
    found: dict[str, tuple[str, ...]] = {}
    for rule in _rules(configuration):
        for channel in rule.get("channels", ()):
            found[channel] = (*found.get(channel, ()), *rule.get("from", ()))
    return found


def shared(configuration: Configuration) -> tuple[str, ...]:
    """Answer the patterns of channels on which all processes of the site take part in the relay."""
    told = settings_of(configuration)
    if told is None:
        return ()
    commands = (each for each in commands_of(configuration) if not is_own(each))
    return tuple(dict.fromkeys((*told.get("export", ()), *told.get("import", ()), *commands)))


def _rules(configuration: Configuration) -> Iterator[Settings]:
    return (each for each in configuration.several("relay") if each.name)


def _on_if_anything_is_said(configuration: Configuration) -> Iterator[Problem]:
    """A relay without an address does nothing, and nobody would know."""
    if settings_of(configuration) is not None:
        return
    for each in configuration.several("relay"):
        if each.name:
            yield Problem(
                each.origin, f"{each.title} is of no use without bind or peers in [relay]"
            )
            continue
        said = (value for value in each.details if value.origin != DEFAULT)
        for value in said:
            if value.row.name not in ("bind", "peers"):
                message = f"{value.row.name} is of no use without bind or peers"
                yield Problem(value.origin, message)


def _own_channels_stay(configuration: Configuration) -> Iterator[Problem]:
    """What a site does, or is, it is not told by whoever may say that a page has changed."""
    for each in configuration.several("relay"):
        for key in ("export", "import", "retain") if not each.name else ():
            for name in each.get(key, ()):
                if is_own(name):
                    origin = each.value(key).origin
                    yield Problem(origin, f"{key}: {name} is each site's own{_instead(name)}")
    for rule in _rules(configuration):
        for name in rule.get("channels", ()):
            if is_own(name) and name not in _COMMANDABLE:
                can = ", ".join(sorted(_COMMANDABLE))
                message = f"channels: {name} is no command; there are {can}, and other channels"
                yield Problem(rule.value("channels").origin, message)
            elif "*" in name and any(map(Pattern(name).matches, LIFECYCLE)):
                message = f"channels: {name} would be any command; name each"
                yield Problem(rule.value("channels").origin, message)


#: What another node may have a site do.
_COMMANDABLE = frozenset(("start", "stop", "exit", "restart", "graceful", "log", "main"))


def _instead(name: str) -> str:
    if name in _COMMANDABLE:
        return "; who may send it is said by channels and from in [relay command]"
    return "; name channels of the application"


#: Why commands need keys where no system says who connects.
ANYBODY = "anybody on this machine could call itself a node that may give commands"

_NO_KEYS = (
    " is beyond this machine, and without keys anybody could read along and join in; make some "
    "with sitebus-ctl relay keygen, and say keys = their directory"
)


_NO_NAMES = f", and {ANYBODY}; make some with sitebus-ctl relay keygen, or use unix:/run/relay.sock"


def _keys_beyond_this_machine(configuration: Configuration) -> Iterator[Problem]:
    """What is sent over a network without keys, anybody can read and say."""
    told = settings_of(configuration)
    if told is None or "keys" not in told:
        return
    if told["keys"] is None:
        peers = [(peer.address, "peers") for peer in told.get("peers", ())]
        for address, key in [(each, "bind") for each in told.get("bind", ())] + peers:
            if not is_on_this_machine(address):
                yield Problem(told.value(key).origin, f"{key}: {address}{_NO_KEYS}")
            elif address.startswith("tcp:"):
                for rule in _rules(configuration):
                    yield Problem(rule.origin, f"{rule.title}: {address} has no keys{_NO_NAMES}")
                break
        return
    for peer in told.get("peers", ()):
        if peer.name is None and peer.address.startswith("tcp:"):
            message = f"peers: whose key must {peer.address} have? write NAME={peer.address}"
            yield Problem(told.value("peers").origin, message)


def _hubs_listen(configuration: Configuration) -> Iterator[Problem]:
    """A hub that nobody can connect to passes nothing on."""
    told = settings_of(configuration)
    if told is not None and told.get("hub") and not told.get("bind", True):
        yield Problem(told.value("hub").origin, "hub is of no use without bind")


CHECKS = (_on_if_anything_is_said, _own_channels_stay, _keys_beyond_this_machine, _hubs_listen)
