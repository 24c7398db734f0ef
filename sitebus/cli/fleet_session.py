"""One call of ``sitebus-fleet``: the fleet it is for, what it prints, and what it ends with."""

from __future__ import annotations

import getpass
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sitebus.cli import fleet_tables as tables
from sitebus.cli.console import Console
from sitebus.cli.fleet_arguments import PROGRAM, Arguments
from sitebus.errors import AccessDenied, FleetError, RemoteError, SiteDenied, UsageError
from sitebus.fleet import Fleet, Host, journal
from sitebus.fleet import open as open_fleet
from sitebus.fleet.conductor import UNREACHED
from sitebus.fleet.crowd import Ended, together

OK, FAILED, USAGE, UNREACHABLE, DENIED = 0, 1, 2, 3, 4

#: How often somebody may mistype a password.
_TRIES = 3

T = TypeVar("T")


class Session:
    """A call.

    Attributes:
        arguments: What it asks for.
        out: Where what is found goes.
        err: Where sentences go about what is not as it should be.
        fleet: The hosts.
    """

    def __init__(self, arguments: Arguments, out: Console, err: Console) -> None:
        self.arguments = arguments
        self.out = out
        self.err = err
        self.allow: tuple[str, ...] = ()
        self.fleet = self._open()
        self._lock = threading.Lock()

    def _open(self, password: str | None = None, become_password: str | None = None) -> Fleet:
        options = self.options
        return open_fleet(
            file_of(options.fleet),
            allow=self.allow,
            debug=options.debug and options.mitogen_log is not None,
            log=options.mitogen_log,
            password=password,
            become_password=become_password,
        )

    @property
    def options(self) -> Any:
        """The arguments of the command."""
        return self.arguments.options

    @property
    def is_json(self) -> bool:
        """Whether JSON is wanted."""
        return bool(self.options.json)

    @property
    def journals(self) -> Path:
        """Where past rolls are written down."""
        said = self.fleet.inventory.journal
        return said or journal.default_folder() / self.fleet.inventory.name

    def let(self, module: str) -> None:
        """Have hosts be given a module."""
        self.fleet.close()
        self.allow = (module,)
        self.fleet = self._open()

    def hosts(self, *names: str) -> tuple[Host, ...]:
        """Answer the hosts that are meant, asking for passwords if they are needed to get there.

        Args:
            names: These; those of the command line if left out.

        Raises:
            UnknownHost: A name is neither a host's nor a group's.
            UsageError: There is none.
        """
        hosts = self.fleet.hosts(*(names or self.arguments.names))
        if not hosts:
            raise UsageError(f"no host is meant; {self.fleet.path} names none in [hosts]")
        if sys.stdin.isatty() and sys.stderr.isatty():
            return self._let_in(hosts)
        return hosts

    def _let_in(self, hosts: tuple[Host, ...]) -> tuple[Host, ...]:
        given: dict[str, str] = {}
        for _ in range(_TRIES):
            found = self.fleet.connect(*(host.name for host in hosts))
            refused = [each for each in found.values() if isinstance(each, AccessDenied)]
            # One of each kind: who has several passwords says them in files.
            wanted = {each.wants: each for each in refused if each.wants}
            given |= {kind: self._password(kind, error) for kind, error in wanted.items()}
            if not wanted or "" in given.values():
                break
            self.fleet.close()
            self.fleet = self._open(given.get("ssh"), given.get("become"))
            hosts = tuple(self.fleet[host.name] for host in hosts)
        return hosts

    def _password(self, kind: str, error: AccessDenied) -> str:
        """Ask for a password; nothing is the answer of who has none."""
        self.err.write(str(error))
        program = "ssh" if kind == "ssh" else self.fleet[error.host].entry.become_method
        return getpass.getpass(f"password for {program}: ")

    # What is printed.

    def print(self, told: Any) -> None:
        """Print a line of JSON; as `write` otherwise."""
        self.write(json.dumps(told))

    def write(self, text: str) -> None:
        """Print a line; may be called by several threads.

        Raises:
            BrokenPipeError: Nobody reads it any more.
        """
        with self._lock:
            print(text, file=self.out.stream, flush=True)

    def show(self, told: Any, lines: Callable[[], Iterable[str]]) -> None:
        """Print an answer: as JSON, or for people."""
        if self.is_json:
            self.out.write(json.dumps(told, indent=2))
        else:
            self.out.write("\n".join(lines()))

    def complain(self, error: BaseException) -> None:
        """Print what went wrong."""
        self.err.write(f"{PROGRAM}: {' '.join(str(error).split())}")
        self.trace(error)

    def trace(self, error: BaseException) -> None:
        """Print the traceback that a host has sent, if tracebacks are wanted."""
        if self.options.debug and isinstance(error, RemoteError) and error.remote_traceback:
            self.err.write(error.remote_traceback.rstrip())

    # What is done.

    def each(self, hosts: Iterable[Host], work: Callable[[Host], T]) -> Iterator[Ended[T]]:
        """Do something for each host at once; answer what it came to, as it comes.

        Anything but a `FleetError` is a bug, and raised.
        """
        for ended in together({host.name: partial(work, host) for host in hosts}):
            if ended.error is not None and not isinstance(ended.error, FleetError):
                raise ended.error
            yield ended

    def gather(self, hosts: tuple[Host, ...], work: Callable[[Host], T]) -> dict[str, T | Any]:
        """Do something for each host at once; answer by name what it came to, or its error."""
        found = {ended.name: ended.error or ended.value for ended in self.each(hosts, work)}
        return {host.name: found[host.name] for host in hosts}


def file_of(said: str | None) -> str:
    """Answer which file is meant."""
    return said or os.environ.get("SITEBUS_FLEET") or "fleet.ini"


def told(error: BaseException) -> dict[str, Any]:
    """Answer an error as JSON."""
    return {"error": tables.sentence(error), "kind": type(error).__name__}


def status_of(found: Mapping[str, Any]) -> int:
    """Answer the exit status for what was found of each host, errors among it."""
    errors = [each for each in found.values() if isinstance(each, Exception)]
    if not errors:
        return OK
    if len(errors) == len(found) and all(isinstance(e, (AccessDenied, SiteDenied)) for e in errors):
        return DENIED
    return UNREACHABLE if any(isinstance(e, UNREACHED) for e in errors) else FAILED
