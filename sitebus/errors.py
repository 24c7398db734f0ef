"""Every exception sitebus raises on purpose.

Each carries what happened as attributes, builds its one sentence in ``__str__``, and knows the
exit status (BSD ``sysexits.h``) of a process that ends because of it.
The command line prints the sentence and leaves with the status.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple, Self

#: Exit statuses, named as in ``sysexits.h``; ``os.EX_*`` does not exist on every platform.
EX_OK = 0
EX_USAGE = 64
EX_NOINPUT = 66
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_CANTCREAT = 73
EX_NOPERM = 77
EX_CONFIG = 78


class SitebusError(Exception):
    """The base of every error that is sitebus's own to report."""

    status: ClassVar[int] = EX_SOFTWARE


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Answer the known name that *name* was most likely meant to be, if one is near."""
    names = list(known)
    if not names:
        return None
    import difflib

    close = difflib.get_close_matches(name, names, n=1, cutoff=likeness)
    return close[0] if close else None


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


class ChannelFailures(ExceptionGroup[Exception]):
    """Everything that went wrong while one message was published on one channel.

    Every listener ran; each exception carries a note that names its listener.
    """

    status: ClassVar[int] = EX_SOFTWARE
    delimiter = "\n"

    def __new__(cls, channel: str, failures: Sequence[Exception]) -> Self:
        """Gather *failures*, at least one, that happened on *channel*."""
        self = super().__new__(cls, f"listeners of channel {channel!r} failed", failures)
        self.channel = channel
        return self

    channel: str

    def __init__(self, channel: str, failures: Sequence[Exception]) -> None:
        super().__init__(channel, failures)

    def derive(self, excs: Sequence[Exception], /) -> ChannelFailures:  # type: ignore[override]
        return ChannelFailures(self.channel, excs)

    def get_instances(self) -> list[Exception]:
        """Answer the exceptions, in the order in which they happened."""
        return list(self.exceptions)

    def __str__(self) -> str:
        return self.delimiter.join(map(repr, self.exceptions))


class UnknownChannel(SitebusError):
    """A listener names a channel that the bus does not have."""

    def __init__(self, channel: str, wanted_by: str, known: Iterable[str]) -> None:
        super().__init__(channel)
        self.channel = channel
        self.wanted_by = wanted_by
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = _did_you_mean(self.channel, self.known)
        return f"no channel named {self.channel!r} (wanted by {self.wanted_by}){hint}"


class Unreachable(SitebusError):
    """A command asked for a state that cannot be reached from the present one."""

    def __init__(self, target: object, state: object, reachable: Iterable[object]) -> None:
        super().__init__(target)
        self.target = target
        self.state = state
        self.reachable = tuple(reachable)

    def __str__(self) -> str:
        names = ", ".join(sorted(map(str, self.reachable)))
        way = f"from here it can reach {names}" if names else "nothing follows it; make a new bus"
        return f"cannot go to {self.target}: the bus is in {self.state}, and {way}"


class CommandCancelled(SitebusError):
    """A start was cut short because the bus was asked to stop or exit meanwhile."""

    def __init__(self, target: object, state: object) -> None:
        super().__init__(target)
        self.target = target
        self.state = state

    def __str__(self) -> str:
        return f"cut short by a later command: {self.target}; the bus is in {self.state}"


class WouldDeadlock(SitebusError):
    """A call would wait for work that can only be done by the thread that would wait."""

    def __init__(self, call: str, instead: str) -> None:
        super().__init__(call)
        self.call = call
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.call} would wait for the event loop it runs on; use {self.instead}"


class AlreadyRunning(SitebusError):
    """A site was to be served by an engine that serves one already, or has ended."""

    def __init__(self, call: str, state: object) -> None:
        super().__init__(call)
        self.call = call
        self.state = state

    def __str__(self) -> str:
        return (
            f"{self.call} was called while the engine is in {self.state}; a program that is also "
            'imported calls it only under if __name__ == "__main__"'
        )


class NotEnded(SitebusError):
    """A bus was to begin a new life before its old one was over."""

    def __init__(self, state: object, *, blocking: bool = False) -> None:
        super().__init__(state)
        self.state = state
        #: Whether it has exited, and only ``block()`` has still to return.
        self.blocking = blocking

    def __str__(self) -> str:
        what = "block() has not returned; let it" if self.blocking else "is not over; exit() it"
        return f"cannot renew the bus: its life, now {self.state}, {what} first"


class NotMainThread(SitebusError):
    """Something that only the main thread of a process can do was asked of another."""

    def __init__(self, call: str, thread: str) -> None:
        super().__init__(call)
        self.call = call
        self.thread = thread

    def __str__(self) -> str:
        return (
            f"{self.call} works only in the main thread, and was called in {self.thread!r}; "
            "call it there, or wait(...) for a state instead"
        )


class LoopEnded(SitebusError):
    """A coroutine was to run on the event loop of a bus that has exited."""

    def __str__(self) -> str:
        return "the bus has exited, and its event loop has ended; make a new bus"


class BadListener(SitebusError):
    """A listener's signature cannot take the messages of its channel."""

    def __init__(self, listener: str, channel: str, reason: str) -> None:
        super().__init__(listener)
        self.listener = listener
        self.channel = channel
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.listener} cannot listen on {self.channel!r}: {self.reason}"


class Interrupted(SitebusError):
    """A wait was cut short because the process was told to leave at once."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"waiting for {self.what} was cut short: the process is leaving"


class BadAddress(SitebusError):
    """Something is no address to listen on."""

    status = EX_CONFIG

    def __init__(self, text: str, reason: str, remedy: str) -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        text = self.text if self.text.startswith("(") else repr(self.text)
        return f"cannot listen on {text}: {self.reason}; write {self.remedy}"


class Holder(NamedTuple):
    """Another process that has what we wanted."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"pid {self.pid}, {self.command}" if self.command else f"pid {self.pid}"


class BindError(SitebusError):
    """A listening socket could not be had; *errno* is set if it was the system that refused."""

    status = EX_UNAVAILABLE

    def __init__(
        self,
        address: str,
        reason: str,
        remedy: str,
        *,
        errno: int | None = None,
        holder: Holder | None = None,
    ) -> None:
        super().__init__(address)
        self.address = address
        self.reason = reason
        self.remedy = remedy
        self.errno = errno
        self.holder = holder

    def __str__(self) -> str:
        return f"cannot listen on {self.address}: {self.reason}; {self.remedy}"


class BindNotPermitted(BindError):
    """This user may not listen there."""

    status = EX_NOPERM


class BadInheritance(SitebusError):
    """What was said about the descriptors passed to this process is not so."""

    status = EX_CONFIG

    def __init__(self, variable: str, value: str, reason: str) -> None:
        super().__init__(variable)
        self.variable = variable
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"cannot take the sockets passed by {self.variable}={self.value}: {self.reason}; "
            f"{self._remedy}"
        )

    @property
    def _remedy(self) -> str:
        if self.variable.startswith("LISTEN_"):
            return "start from the socket unit again, or unset LISTEN_PID"
        return f"unset {self.variable}"


class CannotRestart(SitebusError):
    """This process cannot start its own command line again; it goes on as it is."""

    def __init__(self, command: Sequence[str], reason: str) -> None:
        super().__init__(reason)
        self.command = tuple(command)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot restart: {self.reason}"


class TrialFailed(SitebusError):
    """The program to restart as failed when it was tried in a child; the old one goes on.

    Attributes:
        reason: The last line of what it said.
        text: What more it said: a traceback, mostly; empty if the reason was all.
        file: Where the mistake is, if what it said tells; empty if not.
        line: The line there.
        files: Every file that it named.
    """

    def __init__(
        self, reason: str, text: str, file: str = "", line: int = 0, files: Iterable[str] = ()
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.text = text
        self.file = file
        self.line = line
        self.files = frozenset(files)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file else ""
        reason = self.reason.removeprefix(place)
        return f"{place}{reason} (not restarted: the old code goes on serving)"


class CannotRead(SitebusError):
    """A file that was named is not there, or is no file that can be read."""

    status = EX_NOINPUT

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(path)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.reason}"


class NoDirectory(SitebusError):
    """The directory that this process is in was removed."""

    status = EX_NOINPUT

    def __str__(self) -> str:
        return "the current directory is not there any more; go to another one, or use --chdir"


class MayNotRead(CannotRead):
    """A file that was named is not for this user to read."""

    status = EX_NOPERM


class ForeignFile(SitebusError):
    """A configuration file is written for another program."""

    status = EX_CONFIG

    def __init__(self, path: object, line: int, heading: str) -> None:
        super().__init__(path)
        self.path = path
        self.line = line
        self.heading = heading

    def __str__(self) -> str:
        return (
            f"{self.path}:{self.line}: [{self.heading}] makes this a PasteDeploy file, which "
            "cannot be served as it is; write a site.ini whose [mount /] names the application as "
            "app = module:attribute"
        )


class BadLogConfig(SitebusError):
    """The logging module cannot use a file that was meant for it."""

    status = EX_CONFIG

    def __init__(self, path: object, error: Exception, traceback_text: str = "") -> None:
        super().__init__(path)
        self.path = path
        self.error = error
        #: Where it failed, if that is in code which the file names.
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        # The logging module says which part could not be made, and only its cause says why.
        told: list[str] = []
        each: BaseException | None = self.error
        while each is not None:
            told.append(" ".join(f"{type(each).__name__}: {each}".split()))
            each = each.__cause__
        return f"cannot set logging up from {self.path}: {'; '.join(dict.fromkeys(told))}"


class ConfigErrors(SitebusError):
    """Everything that is wrong with a configuration, each with the place where it was said."""

    status = EX_CONFIG
    #: More are not told: the file is of another kind.
    most = 100

    def __init__(self, problems: Iterable[object]) -> None:
        self.problems = tuple(problems)
        super().__init__(*self.problems)

    def __str__(self) -> str:
        told = [str(problem) for problem in self.problems[: self.most]]
        rest = len(self.problems) - len(told)
        return "\n".join([*told, f"... and {rest} more problems"] if rest else told)


class StartFailed(SitebusError):
    """A listener that is not ours kept the bus from starting; the bus logged its traceback."""

    def __init__(self, error: Exception, traceback_text: str = "") -> None:
        super().__init__(error)
        self.error = error
        #: The traceback without our frames, where somebody has a use for it.
        self.traceback_text = traceback_text

    @property
    def reason(self) -> str:
        """What the listener raised, and which it is."""
        where = "".join(f" ({note})" for note in getattr(self.error, "__notes__", ())[:1])
        return f"{type(self.error).__name__}: {self.error}{where}"

    def __str__(self) -> str:
        return f"the site could not start: {self.reason}"


class UsageError(SitebusError):
    """The command line asks for something that it cannot have."""

    status = EX_USAGE

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class ServerMissing(SitebusError, ValueError):
    """An adapter was started that has no server to run."""

    def __init__(self, adapter: str) -> None:
        super().__init__(adapter)
        self.adapter = adapter

    def __str__(self) -> str:
        return f"{self.adapter} has no HTTP server to start; set its httpserver first"


class ServerEnded(SitebusError):
    """A server's ``start`` returned when it should have been serving."""

    def __init__(self, server: str, when: str) -> None:
        super().__init__(server)
        self.server = server
        self.when = when

    def __str__(self) -> str:
        return f"the {self.server} ended {self.when}; its start() must serve until stop() is called"


class CannotAccept(SitebusError, OSError):
    """A server has its listening sockets, and the system lets nobody in through them."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(reason.errno, reason.strerror)
        self.reason = reason

    def __str__(self) -> str:
        text = f"cannot accept connections: {self.reason.strerror or self.reason}"
        if self.errno in (errno.EMFILE, errno.ENFILE):
            text += "; allow more open files (ulimit -n, or LimitNOFILE= in a systemd unit)"
        return text


class PortNotFreed(SitebusError):
    """A server that binds by itself says it has stopped, and its port is still taken."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return (
            f"the server on {self.host}:{self.port} was stopped but something still listens there; "
            "its stop() must return when its socket is closed"
        )


class UnknownServer(SitebusError):
    """No server adapter has this name."""

    status = EX_CONFIG

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(name)
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = _did_you_mean(self.name, self.known) or f"; there is {', '.join(self.known)}"
        return f"no server adapter is named {self.name!r}{hint}"


class BadServerOption(SitebusError):
    """A server's option has a value that it cannot have."""

    status = EX_CONFIG

    def __init__(self, option: str, value: object, reason: str) -> None:
        super().__init__(option)
        self.option = option
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return f"server option {self.option} cannot be {self.value!a:.80}: {self.reason}"


class UnknownNativeOption(SitebusError):
    """A server library has no option of that name."""

    status = EX_CONFIG

    def __init__(self, library: str, name: str, known: Iterable[str]) -> None:
        super().__init__(name)
        self.library = library
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = _did_you_mean(self.name, self.known)
        if not self.known:
            hint = f"; the adapter {self.library!r} takes none"
        return f"{self.library} has no option {self.name!r}{hint}"


class ServerNotInstalled(SitebusError):
    """The library that a server adapter needs cannot be imported."""

    def __init__(self, name: str, missing: str) -> None:
        super().__init__(name)
        self.name = name
        self.missing = missing

    def __str__(self) -> str:
        return (
            f"the server adapter {self.name!r} needs {self.missing}, which is not installed; "
            f"run: pip install 'sitebus[{self.name}]'"
        )


class BadCertificate(SitebusError):
    """The files of a certificate can be read but are of no use."""

    status = EX_CONFIG

    def __init__(self, certificate: object, key: object, reason: str) -> None:
        super().__init__(certificate)
        self.certificate = certificate
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        files = f"{self.certificate}"
        if self.key != self.certificate:
            files += f" and key {self.key}"
        return f"cannot use certificate {files}: {self.reason}"


def status_of(error: BaseException) -> int:
    """Answer the exit status a process should have that ends because of *error*."""
    if isinstance(error, SystemExit):
        return _status_of_exit(error)
    if isinstance(error, KeyboardInterrupt):
        return EX_OK
    if isinstance(error, BaseExceptionGroup):
        return status_of(error.exceptions[0])
    status = getattr(error, "status", EX_SOFTWARE)
    return status if isinstance(error, SitebusError) and isinstance(status, int) else EX_SOFTWARE


def _status_of_exit(error: SystemExit) -> int:
    """As the interpreter does: None is 0, a number is itself, anything else is 1."""
    if error.code is None:
        return EX_OK
    return error.code & 0xFF if isinstance(error.code, int) else 1


class BadPrefix(SitebusError):
    """A mount's path prefix is not in its one normal form."""

    status = EX_CONFIG

    def __init__(self, prefix: object, reason: str) -> None:
        super().__init__(prefix)
        self.prefix = prefix
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot mount at {self.prefix!r}: {self.reason}"


class BadHost(SitebusError):
    """A mount's host or port is not one that a request could have."""

    status = EX_CONFIG

    def __init__(self, host: object, reason: str) -> None:
        super().__init__(host)
        self.host = host
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot mount on host {self.host!r}: {self.reason}"


class BadMountOption(SitebusError):
    """A mount's option has a value that it cannot have."""

    status = EX_CONFIG

    def __init__(self, option: str, value: object, allowed: Iterable[str]) -> None:
        super().__init__(option)
        self.option = option
        self.value = value
        self.allowed = tuple(allowed)

    def __str__(self) -> str:
        hint = _did_you_mean(str(self.value), self.allowed)
        return f"mount option {self.option}={self.value!r} is not one of {self.allowed}{hint}"


class DuplicateMount(SitebusError):
    """Two mounts want the same host, port and prefix."""

    status = EX_CONFIG

    def __init__(self, place: str, new: str, old: str) -> None:
        super().__init__(place)
        self.place = place
        self.new = new
        self.old = old

    def __str__(self) -> str:
        return (
            f"two mounts want {self.place}: {self.old} has it and {self.new} was asked for; "
            "mount one elsewhere, or pass replace=True to put the new one in its place"
        )


class NotAnApplication(SitebusError):
    """An object cannot be served, whatever interface it is taken for."""

    status = EX_CONFIG

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what)
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what} is not an application: {self.reason}"


class UnclearInterface(SitebusError):
    """An object could be an application of more than one kind."""

    status = EX_CONFIG

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return (
            f"cannot tell which interface {self.what} has; "
            "say it: wsgi: or factory: before the reference, or interface= in code"
        )


class WrongInterface(SitebusError):
    """An application was said to have one interface, and certainly has another."""

    status = EX_CONFIG

    def __init__(self, what: str, said: str, found: str, framework: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.said = said
        self.found = found
        self.framework = framework

    def __str__(self) -> str:
        known = f"is {self.framework} and " if self.framework else ""
        return (
            f"{self.what} was said to speak {_spelt(self.said)}, but it {known}"
            f"speaks {_spelt(self.found)}; say that, or leave it to be found out"
        )


def _spelt(interface: str) -> str:
    return {"wsgi": "WSGI", "asgi3": "ASGI", "asgi2": "ASGI 2"}.get(interface, interface)


class InterfaceNotServed(SitebusError):
    """An application has an interface that this face of the site does not speak."""

    status = EX_CONFIG

    def __init__(self, what: str, interface: str, instead: str) -> None:
        super().__init__(what)
        self.what = what
        self.interface = interface
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.what} is of interface {self.interface}; {self.instead}"


class BadReference(SitebusError):
    """The text that should say where an application is says nothing that could be one."""

    status = EX_CONFIG

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(reference)
        self.reference = reference
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read {self.reference!r}: {self.reason}"


class AppNotFound(SitebusError):
    """A reference names a module or an attribute that does not exist."""

    status = EX_CONFIG

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(reference)
        self.reference = reference
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot load {self.reference!r}: {self.reason}"


class AppFileNotFound(AppNotFound):
    """A reference names a file or a directory that does not exist or cannot be read."""

    status = EX_NOINPUT


class AppImportError(SitebusError):
    """The application's own code failed while it was imported or made."""

    status = EX_SOFTWARE

    def __init__(self, reference: str, error: BaseException, traceback_text: str) -> None:
        super().__init__(reference)
        self.reference = reference
        self.error = error
        #: The traceback as the application's author wants it: none of our frames.
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        kind = type(self.error).__name__
        message = str(self.error).strip()
        return f"loading {self.reference!r} failed with {kind}{': ' if message else ''}{message}"


class CannotWriteLog(SitebusError):
    """A log file cannot be opened for appending."""

    status = EX_CANTCREAT

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(path)
        self.path = path
        self.error = error

    def __str__(self) -> str:
        reason = (self.error.strerror or str(self.error)).lower()
        return f"cannot write the log {self.path!r}: {reason}"


class ResponseBroken(SitebusError, ConnectionResetError):
    """A response that is already partly sent cannot be finished, so its connection must break.

    Servers take a ``ConnectionResetError`` for a client that went away: they close the connection
    without a second report and carry on.
    """

    def __init__(self, mount: str) -> None:
        import errno

        super().__init__(errno.ECONNRESET, f"the application at {mount} broke off its response")
        self.mount = mount

    def __str__(self) -> str:
        return f"the application at {self.mount} broke off its response"


class ResponseRefused(SitebusError):
    """The server would not take an application's status or headers."""

    def __init__(self, mount: str, error: BaseException) -> None:
        super().__init__(mount)
        self.mount = mount
        self.error = error

    def __str__(self) -> str:
        return f"the server refused the response of the application at {self.mount}: {self.error}"


class NotAPlugin(SitebusError):
    """What a [plugin] section names did not make something that can be subscribed."""

    status = EX_CONFIG

    def __init__(self, section: str, reference: str, made: str) -> None:
        super().__init__(section)
        self.section = section
        self.reference = reference
        self.made = made

    def __str__(self) -> str:
        return (
            f"{self.section}: {self.reference!r} answered {self.made}, which is no plugin; "
            "a plugin has the methods subscribe() and unsubscribe()"
        )


class CannotPrint(SitebusError):
    """What a command was to print could not be written to standard output."""

    status = EX_CANTCREAT

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        reason = (self.error.strerror or str(self.error)).lower()
        return f"cannot write to standard output: {reason}"


class BadLogFormat(SitebusError):
    """The format of a log line asks for what a message does not have."""

    status = EX_CONFIG

    def __init__(self, format: str, error: Exception) -> None:
        super().__init__(format)
        self.format = format
        self.error = error

    def __str__(self) -> str:
        return (
            f"cannot use the log format {self.format!r} ({type(self.error).__name__}: "
            f"{self.error}); it may have timestamp, bus, message and level, as %(message)s"
        )


class NoLogFile(SitebusError, ValueError):
    """A logger for a file has none."""

    status = EX_USAGE

    def __str__(self) -> str:
        return "FileLogger was given no file; it needs a filename or an open file"


class CannotDaemonize(SitebusError):
    """The process cannot go on as a daemon; it is still the one that was started."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot become a daemon: {self.reason}; {self.remedy}"


class PidFileInUse(SitebusError):
    """The process that a pid file belongs to still runs."""

    status = EX_UNAVAILABLE

    def __init__(self, path: str, holder: Holder, alive: bool = True) -> None:
        super().__init__(path)
        self.path = path
        self.holder = holder
        self.alive = alive

    def __str__(self) -> str:
        if self.alive:
            state = f"already running as {self.holder}; stop it first, or name another pid file"
        else:
            former = self.holder if self.holder.pid else "its former owner"
            state = (
                f"{former} has ended, and what it left running keeps the file locked; "
                "end its children first"
            )
        return f"cannot take the pid file {self.path!r}: {state}"


class CannotWritePidFile(SitebusError):
    """A pid file cannot be made; nothing is left of the attempt."""

    status = EX_CANTCREAT

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot write the pid file {self.path!r}: {self.reason}"


class UnknownAccount(SitebusError):
    """There is no user, or no group, of this name."""

    status = EX_CONFIG

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(name)
        self.kind = kind
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = _did_you_mean(self.name, self.known)
        return f"there is no {self.kind} {self.name!r}{hint or '; write a name or a number'}"


class CannotDropPrivileges(SitebusError):
    """A user and a group to run as do not say enough, or cannot run the site."""

    status = EX_CONFIG

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot drop privileges: {self.reason}; {self.remedy}"


class MayNotSwitch(SitebusError):
    """This process may not become another user."""

    status = EX_NOPERM

    def __init__(self, wanted: str, present: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted
        self.present = present

    def __str__(self) -> str:
        return (
            f"cannot run as {self.wanted}: this process is {self.present}, which may not become "
            "somebody else; start it as root, or as the user it shall run as"
        )


class PrivilegesKept(SitebusError):
    """Privileges were dropped, and the process could have had them back."""

    def __init__(self, wanted: str, left: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted
        self.left = left

    def __str__(self) -> str:
        return (
            f"cannot run safely as {self.wanted}: the process {self.left}; "
            "start it without ambient capabilities and securebits"
        )


class UnknownSignal(SitebusError, ValueError):
    """There is no signal of this name, or number, on this platform."""

    status = EX_CONFIG

    def __init__(self, name: str, known: Iterable[str], *, elsewhere: bool = False) -> None:
        super().__init__(name)
        self.name = name
        self.known = tuple(known)
        self.elsewhere = elsewhere

    def __str__(self) -> str:
        import sys

        if self.elsewhere:
            return f"there is no {self.name} on this platform ({sys.platform}); leave it out"
        return f"there is no signal {self.name}{_did_you_mean(self.name, self.known)}"


class CannotCatch(SitebusError, ValueError):
    """A signal exists, and no process can answer it."""

    status = EX_CONFIG

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot answer {self.name}: {self.reason}"


class UnknownAction(SitebusError, ValueError):
    """A signal was to be answered with something that nobody knows how to do."""

    status = EX_CONFIG

    def __init__(self, signal: str, action: str, known: Iterable[str]) -> None:
        super().__init__(action)
        self.signal = signal
        self.action = action
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = _did_you_mean(self.action, self.known)
        return (
            f"cannot answer {self.signal} with {self.action!r}{hint or ';'} "
            f"{'(' if hint else 'write '}one of {', '.join(self.known)}{')' if hint else ''}"
        )


class NotOnThisPlatform(SitebusError):
    """Something works only where the operating system has it."""

    status = EX_CONFIG

    def __init__(self, what: str, needs: str, instead: str) -> None:
        super().__init__(what)
        self.what = what
        self.needs = needs
        self.instead = instead

    def __str__(self) -> str:
        return f"{self.what} works only on {self.needs}; here, {self.instead}"


class InstalledTooLate(SitebusError):
    """A library was to run on this bus, and has been imported with one of its own."""

    def __init__(self, library: str, call: str) -> None:
        super().__init__(library)
        self.library = library
        self.call = call

    def __str__(self) -> str:
        return (
            f"{self.library} has been imported already, and holds on to a bus of its own; "
            f"call {self.call} before the first import of {self.library}"
        )


class MissingExtra(SitebusError):
    """A library that one of sitebus's extras brings is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(library)
        self.library = library
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.library} is not installed; run: pip install 'sitebus[{self.extra}]'"


class CannotWatch(SitebusError):
    """The system has no more watches to give for files that may change."""

    def __init__(self, directories: int, error: Exception) -> None:
        super().__init__(directories)
        self.directories = directories
        self.error = error

    def __str__(self) -> str:
        # The library goes on about every path.
        reason = str(self.error).partition(" about [")[0].rstrip(".")
        many = f"{self.directories} directories" if self.directories else "any directory"
        limit = {
            errno.ENOSPC: "fs.inotify.max_user_watches",
            errno.EMFILE: "fs.inotify.max_user_instances, or the limit of open files",
        }.get(
            getattr(self.error, "errno", None) or 0,
            "fs.inotify.max_user_watches or fs.inotify.max_user_instances",
        )
        return f"the system does not watch {many} for us ({reason}); raise {limit}"


class BadMessage(SitebusError):
    """An ASGI application sent what it must not send, or not now."""

    def __init__(self, sent: str, expected: str) -> None:
        super().__init__(sent)
        self.sent = sent
        self.expected = expected

    def __str__(self) -> str:
        return f"the application sent {self.sent}; {self.expected}"


class LifespanFailed(SitebusError):
    """An application did not come up, or did not end as it should, by its own lifespan."""

    def __init__(self, name: str, reason: str, did: str = "did not start") -> None:
        super().__init__(name)
        self.name = name
        self.reason = reason
        self.did = did
        #: The traceback that the application gave as its reason, if it did.
        self.traceback_text = ""

    def __str__(self) -> str:
        return f"the application at {self.name} {self.did}: {self.reason}"


class ClientFault(SitebusError):
    """A request fails by what its client does or leaves undone, which is nobody's news."""

    @staticmethod
    def is_why(error: BaseException) -> bool:
        """Tell whether *error* is one, or was raised from one."""
        cause: BaseException | None = error
        for _ in range(8):
            if cause is None or isinstance(cause, ClientFault):
                break
            # Not what it was raised beside: that may be the application's own mistake.
            cause = cause.__cause__
        return isinstance(cause, ClientFault)


class ClientGone(ClientFault, ConnectionResetError):
    """The client left before its request was read, or its response was sent."""

    def __init__(self, undone: str) -> None:
        import errno

        super().__init__(errno.ECONNRESET, undone)
        self.undone = undone

    def __str__(self) -> str:
        return f"the client left before {self.undone}"


class BodyTooLarge(ClientFault, OSError):
    """A request's body is larger than the site takes."""

    def __init__(self, most: int) -> None:
        import errno

        super().__init__(errno.EFBIG, "request body too large")
        self.most = most

    def __str__(self) -> str:
        return f"the request's body is larger than the {self.most} bytes that are taken"


class BodyTooSlow(ClientFault, TimeoutError):
    """A request's body comes more slowly than the site waits for it."""

    def __init__(self, received: int) -> None:
        import errno

        super().__init__(errno.ETIMEDOUT, "request body too slow")
        self.received = received

    def __str__(self) -> str:
        return f"the rest of the request's body did not come in time, after {self.received} bytes"


class BadChunks(ClientFault, OSError):
    """A request's body says that it comes in chunks, and does not."""

    def __init__(self, what: str) -> None:
        import errno

        super().__init__(errno.EPROTO, what)
        self.what = what

    def __str__(self) -> str:
        return f"the request's body cannot be read: {self.what}"


class WrongLength(SitebusError):
    """A response's body is not as long as its Content-Length says."""

    def __init__(self, promised: int, given: int) -> None:
        super().__init__(promised, given)
        self.promised = promised
        self.given = given

    def __str__(self) -> str:
        what = "more than that" if self.given > self.promised else f"{self.given} bytes"
        return f"the application promised a Content-Length of {self.promised} and gave {what}"


class LeftByException(SitebusError):
    """An application tried to end the process, or its thread, instead of answering a request."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        return f"the application raised {self.error!r} where a response was expected"


class UnknownRelease(SitebusError):
    """A library that is used from inside is installed in a release that is not known."""

    def __init__(self, library: str, known: str, reason: str) -> None:
        super().__init__(library)
        self.library = library
        self.known = known
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the installed {self.library} is not one that sitebus can use ({self.reason}); "
            f"run: pip install '{self.library}{self.known}'"
        )


class BadNetwork(SitebusError, ValueError):
    """A text that should say whom to believe names no address and no network."""

    status = EX_CONFIG

    def __init__(self, text: str, reason: str, remedy: str = "10.0.0.0/8, ::1, unix or *") -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot use {self.text!r} as a network: {self.reason}; write {self.remedy}"


class BadClientAuthority(SitebusError):
    """The file that should tell by whom client certificates are signed is of no use."""

    status = EX_CONFIG

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(path)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot check client certificates by {self.path}: {self.reason}"


class BadProxyHeader(SitebusError):
    """A connection did not begin with the PROXY header that it should begin with."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"cannot read the PROXY header of a connection: {self.reason}; only a proxy that "
            "sends PROXY protocol v1 or v2 may connect here"
        )
