"""``fleet.ini``: which hosts there are, how they are reached, and what their site is.

It is read as a ``site.ini`` is, by the same reader: every mistake is told at once, with its file
and line, and every value knows where it was said.
What ``[fleet]`` and ``[site]`` say holds for every host, unless its own ``[host NAME]`` says
otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sitebus.config import DEFAULT, Configuration, Option, Override, Problem, Section, Table
from sitebus.config.kinds import (
    BOOLEAN,
    NAME,
    NAMES,
    PATH,
    TEXT,
    BadValue,
    Choice,
    Context,
    Duration,
    FilePath,
    Integer,
    Kind,
)
from sitebus.config.options import Row
from sitebus.config.reader import read as read_configuration
from sitebus.errors import UnknownHost, nearest

#: How a host is reached; what is not ssh or local is handed on to mitogen.
METHODS = (
    *("ssh", "local", "docker", "podman", "buildah"),
    *("kubectl", "lxc", "lxd", "incus", "jail", "setns"),
)

#: Only these variables set what the file does not: others are meant for the sites.
_PREFIX = "SITEBUS_FLEET__"

_FILE = FilePath("file")


class RemotePath(Kind[str]):
    """A path on a host, which is not looked for here."""

    expected = "a path on the host, such as /srv/shop or current/site.ini"
    metavar = "PATH"

    def parse(self, text: str, context: Context) -> str:
        """Take what can be a path."""
        if not text or "\0" in text:
            raise self.bad()
        return str(PurePosixPath(text))


class Root(RemotePath):
    """A directory on a host, by its whole path."""

    expected = "the whole path of a directory on the host, such as /srv/shop"

    def parse(self, text: str, context: Context) -> str:
        """Take what begins at the top."""
        path = super().parse(text, context)
        if not path.startswith("/"):
            raise self.bad()
        return path


class HostAddress(Kind[str]):
    """Where a host is, as the program that reaches it takes it."""

    expected = "the address or the name of a host, or of a container"
    metavar = "ADDRESS"

    def parse(self, text: str, context: Context) -> str:
        """Refuse what a program would take for an option."""
        if not text or text.startswith("-") or any(map(str.isspace, text)):
            raise self.bad()
        return text


class HealthPath(Kind[str]):
    """What to ask a site for to see whether it is well."""

    expected = "a path such as /healthz, or a URL"
    metavar = "PATH|URL"

    def parse(self, text: str, context: Context) -> str:
        """Take a path, or a URL of http."""
        if not text.startswith(("/", "http://", "https://")) or any(map(str.isspace, text)):
            raise self.bad()
        return text


REACHED = (
    Option("method", Choice(*METHODS), "ssh", "How a host is reached."),
    Option("user", NAME, None, "Who to log in as; ssh decides if unset."),
    Option("port", Integer(1, 65535), None, "The port of its sshd; ssh decides if unset."),
    Option("identity", _FILE, None, "The private key to log in with; ssh decides if unset."),
    Option("known_hosts", _FILE, None, "The keys that hosts must have; ssh's own files if unset."),
    Option("python", TEXT, None, "Its Python, 3.8 or later; python3 if unset."),
    Option("connect_timeout", Duration(0.1, 600.0), 10.0, "How long it may take to reach a host."),
    Option(
        "keepalive",
        Duration(2.0, 600.0),
        5.0,
        "After how long without a sign of life a host is lost.",
    ),
    Option("compression", BOOLEAN, False, "Whether ssh compresses what it carries."),
    Option("become", NAME, None, "Whom to become once logged in, such as root."),
    Option("become_method", Choice("sudo", "su", "doas"), "sudo", "By which program."),
    Option("via", NAME, None, "The host to go through, such as a bastion."),
    Option("password_file", _FILE, None, "A file, for nobody else's eyes, with ssh's password."),
    Option(
        "become_password_file", _FILE, None, "A file, for nobody else's eyes, with sudo's password."
    ),
    Option("container", TEXT, None, "Which container; the host's address if unset."),
    Option("image", TEXT, None, "The image to run a new container of, for docker."),
    Option("pod", TEXT, None, "Which pod, for kubectl; the host's address if unset."),
    Option("kind", NAME, None, "What kind of container, for setns, such as docker or lxc."),
)

SERVED = (
    Option("root", Root(), None, "The directory with releases, current and shared."),
    Option("ini", RemotePath(), "current/site.ini", "The site's file, relative to the root."),
    Option("socket", TEXT, None, "Its control socket: the whole path, or the name of the site."),
    Option("unit", NAME, None, "The unit of systemd that starts it."),
    Option("start", TEXT, None, "The command that starts it in the root, where there is no unit."),
    Option("health", HealthPath(), None, "What must answer well before a host counts as served."),
    Option("keep", Integer(1, 1000), 5, "How many releases a host keeps."),
)


_ADDRESS: Kind[str] = HostAddress()


def _host(name: str) -> Row:
    return Option(name, _ADDRESS, None, "A host's address.")


def _unset(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Answer the rows of one host, which says only what is different."""
    return tuple(Option(row.name, row.kind, None, row.help) for row in rows)


def _name(text: str) -> str:
    try:
        return NAME.parse(text, Context(Path()))
    except BadValue as error:
        raise ValueError(f"{text[:60]!r} cannot name a host or a group: {error}") from error


FLEET = Section(
    "fleet",
    (
        Option("name", TEXT, None, "What the fleet is called; its file's name if unset."),
        Option("canaries", NAME, None, "The group whose hosts are first in every roll."),
        Option("journal", PATH, None, "The directory of journals; one of this user's if unset."),
        *REACHED,
    ),
    "The fleet as a whole, and how its hosts are reached.",
)
SITE = Section("site", SERVED, "The site that each host has.")
HOSTS = Section("hosts", (), "Each host's name, and its address.", exact_keys=True, others=_host)
HOST = Section(
    "host",
    (
        Option("serves", BOOLEAN, True, "Whether it has the site: others are only gone through."),
        *_unset((*REACHED, *SERVED)),
    ),
    "What is different about one host.",
    argument="NAME",
    default_name=None,
    heading=_name,
    opened_by="method",
)
GROUP = Section(
    "group",
    (Option("hosts", NAMES, None, "its hosts, and other groups.", required=True),),
    "Several hosts under one name.",
    argument="NAME",
    default_name=None,
    heading=_name,
    opened_by="hosts",
)

TABLE = Table((FLEET, SITE, HOSTS, HOST, GROUP))


class HostEntry(NamedTuple):
    """What the file says of one host.

    Attributes:
        serves: Whether it has the site: others are only gone through.
    """

    name: str
    address: str
    serves: bool
    method: str
    user: str | None
    port: int | None
    identity: Path | None
    known_hosts: Path | None
    python: str | None
    connect_timeout: float
    keepalive: float
    compression: bool
    become: str | None
    become_method: str
    via: str | None
    password_file: Path | None
    become_password_file: Path | None
    container: str | None
    image: str | None
    pod: str | None
    kind: str | None
    root: str | None
    ini: str
    socket: str | None
    unit: str | None
    start: str | None
    health: str | None
    keep: int

    @property
    def where(self) -> dict[str, Any]:
        """Which site of the host's is meant, as the agent is told."""
        if self.socket is not None:
            return {"socket": self.socket}
        return {} if self.root is None else {"ini": str(PurePosixPath(self.root, self.ini))}


class Inventory:
    """What a ``fleet.ini`` says.

    Attributes:
        configuration: Every setting with its origin; ``explain()`` prints it.
        entries: The hosts by name, in the order of the file.
        groups: The hosts of each group by name, in the order of the file.
    """

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.entries: dict[str, HostEntry] = {
            name: _entry(configuration, name, address)
            for name, address in configuration.one("hosts").extras.items()
        }
        said = {each.name: each["hosts"] for each in configuration.several("group")}
        self.groups = {name: self._members(said, name) for name in said}

    @property
    def path(self) -> Path:
        """The file."""
        return self.configuration.path or Path()

    @property
    def name(self) -> str:
        """What the fleet is called."""
        return str(self.configuration.one("fleet")["name"] or self.path.stem)

    @property
    def canaries(self) -> tuple[str, ...]:
        """The hosts that are first in every roll."""
        group = self.configuration.one("fleet")["canaries"]
        return () if group is None else self.groups[group]

    @property
    def journal(self) -> Path | None:
        """The directory of journals, if the file says one."""
        found: Path | None = self.configuration.one("fleet")["journal"]
        return found

    def _members(self, said: Mapping[str, tuple[str, ...]], name: str) -> tuple[str, ...]:
        meant = set(_hosts_of(said, name))
        return tuple(each for each in self.entries if each in meant)

    def select(self, names: Iterable[str]) -> tuple[str, ...]:
        """Answer the hosts that are meant by names of hosts and groups; all if there are none.

        Raises:
            UnknownHost: A name is neither.
        """
        wanted: set[str] = set()
        asked = [word for each in names for word in each.replace(",", " ").split()]
        for each in asked:
            if each not in self.entries and each not in self.groups and each != "all":
                raise UnknownHost(each, self.path, (*self.entries, *self.groups))
            wanted |= {each} & self.entries.keys() or set(self.groups.get(each, self.select(())))
        return tuple(
            name
            for name, entry in self.entries.items()
            if (name in wanted if asked else entry.serves)
        )

    def explain(self) -> str:
        """Answer the whole file as it could be written, each value with its origin."""
        return self.configuration.explain()


def read(
    path: str | os.PathLike[str],
    *,
    overrides: Iterable[Override] = (),
    environ: Mapping[str, str] | None = None,
) -> Inventory:
    """Read a ``fleet.ini``.

    Raises:
        CannotRead: It is not there.
        ConfigErrors: This is all that is wrong with it.
    """
    found = dict(os.environ if environ is None else environ)
    ours = {
        name: text
        for name, text in found.items()
        if not (name.startswith("SITEBUS_") and "__" in name) or name.startswith(_PREFIX)
    }
    configuration = read_configuration(
        path, TABLE, overrides=overrides, environ=ours, checks=CHECKS
    )
    return Inventory(configuration)


def _entry(configuration: Configuration, name: str, address: str) -> HostEntry:
    own = {each.name: each for each in configuration.several("host")}.get(name)
    said: dict[str, Any] = {"serves": own is None or own["serves"]}
    for kind, rows in (("fleet", REACHED), ("site", SERVED)):
        common = configuration.one(kind)
        for row in rows:
            different = own is not None and own.value(row.name).origin is not DEFAULT
            said[row.name] = own[row.name] if own and different else common[row.name]
    said["via"] = _via(configuration, name)
    return HostEntry(name=name, address=address, **said)


def _via(configuration: Configuration, name: str) -> str | None:
    """Answer whom a host is reached through; whom all others go through is reached without."""
    common: str | None = configuration.one("fleet").get("via")
    for each in configuration.several("host"):
        if each.name == name and each.get("via") is not None:
            return str(each["via"])
    return None if common == name else common


def _hosts_of(said: Mapping[str, Iterable[str]], name: str) -> Iterator[str]:
    """Answer the hosts of a group, and of the groups in it, some several times."""
    seen, left = {name}, [name]
    while left:
        for each in said.get(left.pop(), ()):
            if each not in said:
                yield each
            elif each not in seen:
                seen.add(each)
                left.append(each)


# What the file may not say.


def _some_hosts(configuration: Configuration) -> Iterator[Problem]:
    """A fleet without hosts would do everything that is asked of it at once."""
    hosts = configuration.one("hosts")
    if not hosts.extras:
        yield Problem(hosts.origin, "[hosts] names no host; write a line NAME = ADDRESS for each")
    for name in hosts.extras:
        if name == "all" or "," in name:
            yield Problem(hosts.value(name).origin, f"{name!r} cannot name a host; use another")


def _known_hosts_only(configuration: Configuration) -> Iterator[Problem]:
    """A section for a host that is not there was meant for another."""
    hosts = configuration.one("hosts").extras
    for each in configuration.several("host"):
        if each.name not in hosts:
            yield Problem(each.origin, f"[hosts] has no {each.name!r}{_hint(each.name, hosts)}")


def _known_members(configuration: Configuration) -> Iterator[Problem]:
    """A group of hosts that are not there is smaller than it seems."""
    hosts = configuration.one("hosts").extras
    groups = [each.name for each in configuration.several("group")]
    for each in configuration.several("group"):
        if each.name in (*hosts, "all"):
            yield Problem(each.origin, f"{each.name!r} is the name of a host; name the group anew")
        for name in each.get("hosts") or ():
            if name not in hosts and name not in groups:
                hint = _hint(name, [*hosts, *groups])
                origin = each.value("hosts").origin
                yield Problem(origin, f"hosts: there is no host or group {name!r}{hint}")


def _known_canaries(configuration: Configuration) -> Iterator[Problem]:
    """Without its canaries a roll would begin with everybody."""
    fleet = configuration.one("fleet")
    group = fleet.get("canaries")
    groups = [each.name for each in configuration.several("group")]
    if group is not None and group not in groups:
        message = f"canaries: there is no [group {group}]{_hint(group, groups)}"
        yield Problem(fleet.value("canaries").origin, message)


def _reachable(configuration: Configuration) -> Iterator[Problem]:
    """Whom a host is reached through must be a host, and not itself in the end."""
    hosts = configuration.one("hosts").extras
    said = (configuration.one("fleet"), *configuration.several("host"))
    strange = [each for each in said if each.get("via") not in (None, *hosts)]
    for each in strange:
        via = each["via"]
        message = f"via: [hosts] has no {via!r}{_hint(via, hosts)}"
        yield Problem(each.value("via").origin, message)
    if not strange:
        yield from _circles(configuration)


def _circles(configuration: Configuration) -> Iterator[Problem]:
    hosts = configuration.one("hosts")
    vias = {name: _via(configuration, name) for name in hosts.extras}
    for name in vias:
        path = [name]
        while (via := vias[path[-1]]) is not None:
            path.append(via)
            if via in path[:-1]:
                message = f"via: {name} is reached through itself ({' -> '.join(path)})"
                yield Problem(hosts.value(name).origin, message)
                break


def _hint(name: str, known: Iterable[str]) -> str:
    near = nearest(name[:60], known)
    return f" - did you mean {near!r}?" if near else ""


CHECKS = (_some_hosts, _known_hosts_only, _known_members, _known_canaries, _reachable)
