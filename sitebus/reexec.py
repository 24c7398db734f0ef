"""The command line this process was started with, and running it again in place.

`Command.of_this_process` says what would be run, `Command.check` whether it still can be, before
anything stops, and `execute` runs it: same process, same terminal, and of the descriptors only
the standard streams and those handed down.

No signal is lost on the way.
Blocked ones stay pending over an exec, but only while *every* thread blocks them; another thread
of the old image would take and forget one.
So besides blocking them in the main thread, `execute` has Python's C handler note each one in a
pipe that survives, and `release_signals`, called by the new image once its own handlers are
installed, raises those again.
(What is left is a thread that the exec itself ends between taking a signal and noting it: a few
instructions, in a time of about 0.1 ms.)
Signals that are ignored stay ignored: so ``nohup`` asked.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from sitebus.errors import CannotRestart, NotMainThread

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


def _present_directory() -> str:
    """Answer the working directory, by the name the shell gave it if that is still true.

    With ``current -> releases/41`` the next restart shall follow the link to release 42.
    """
    try:
        real = os.getcwd()
    except OSError:
        return ""  # removed; only a restart would need it
    with contextlib.suppress(KeyError, OSError):
        named = os.environ["PWD"]
        if os.path.isabs(named) and os.path.samefile(named, real):
            return named
    return real


#: Where the process was when sitebus was imported: relative paths of its command line start here.
STARTED_IN = _present_directory()

#: Set for the new image: its pid, the pipe with the note, and the signals to release.
HELD = "SITEBUS_HELD_SIGNALS"

#: Those an operator sends, and that would end a process which has no handler for them yet.
CONTROL_SIGNALS = tuple(
    getattr(signal, name)
    for name in (
        *("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"),
        *("SIGTTIN", "SIGTTOU"),
    )
    if hasattr(signal, name)
)


class Program(NamedTuple):
    """What an interpreter's command line asks it to run."""

    kind: Literal["script", "module", "code", "stdin"]
    name: str = ""

    @classmethod
    def of(cls, argv: tuple[str, ...]) -> Program:
        """Find the program among the interpreter's own options in *argv*."""
        words = iter(argv[1:])
        for word in words:
            if word == "--":
                return cls._script(next(words, "-"))
            if not word.startswith("-") or word == "-":
                return cls._script(word)
            if word == "--check-hash-based-pycs":
                next(words, None)
            elif not word.startswith("--"):
                found = cls._option(word[1:], words)
                if found is not None:
                    return found
        return cls("stdin")

    @classmethod
    def _script(cls, word: str) -> Program:
        return cls("stdin") if word == "-" else cls("script", word)

    @classmethod
    def _option(cls, letters: str, words: Iterator[str]) -> Program | None:
        """Read letters of one word, as in ``-bm`` or ``-Wignore``; a value may be the next word."""
        for at, letter in enumerate(letters, 1):
            if letter in "cmWX":
                value = letters[at:] or next(words, "")
                kinds: dict[str, Literal["code", "module"]] = {"c": "code", "m": "module"}
                return cls(kinds[letter], value) if letter in kinds else None
        return None


def interpreter_options(argv: Iterable[str]) -> tuple[str, ...]:
    """Answer the options for the interpreter itself in *argv*: what stands before its program."""
    found: list[str] = []
    words = iter(tuple(argv)[1:])
    for word in words:
        if word in ("-", "--") or not word.startswith("-"):
            break
        at = min((word.find(letter) for letter in "cm" if letter in word[1:]), default=0)
        if not word.startswith("--") and at and not set(word[1:at]) & set("WX"):
            found += [word[:at]] * (at > 1)
            break
        found.append(word)
        if word == "--check-hash-based-pycs" or re.fullmatch(r"-[^-WX]*[WX]", word):
            found.append(next(words, ""))
    return tuple(found)


class Command(NamedTuple):
    """A command line that can be run again."""

    executable: str
    argv: tuple[str, ...]
    directory: str

    @classmethod
    def of_this_process(cls) -> Command:
        """Answer what started this process, with all interpreter options, ``-m`` and ``-c``."""
        executable = sys.executable or ""
        if getattr(sys, "frozen", False):
            return cls(executable, (executable, *sys.argv[1:]), STARTED_IN)
        argv = tuple(sys.orig_argv)
        # A bare "python" would be looked for on the PATH again, to find the virtual environment
        # by it, and the PATH may have changed.
        if argv and "/" not in argv[0]:
            argv = (executable, *argv[1:])
        return cls(executable, argv, STARTED_IN)

    def check(self) -> None:
        """Make sure, while everything still runs, that this can be run.

        Raises:
            CannotRestart: It cannot; the error says why.
        """
        reason = _why_not(self)
        if reason is not None:
            raise CannotRestart(self.argv, reason)


class Legacy(Protocol):
    """What is left to the new image: see `sitebus.sockets.HandDown`."""

    @property
    def fds(self) -> Collection[int]: ...
    @property
    def environ(self) -> Mapping[str, str]: ...


def execute(
    command: Command,
    legacy: Legacy | None = None,
    still_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Replace this process by *command*, in the main thread; everything should have stopped.

    Whoever is run has the control signals blocked until it calls `release_signals`.

    Args:
        command: What to run.
        legacy: The descriptors and the environment of the new image; ``os.environ`` if left out.
        still_wanted: Asked at the last moment, when no handler of this image can be called any
            more: a signal may have changed the plan. Only if it says no does the call return.

    Raises:
        NotMainThread: Called in another thread.
        CannotRestart: It did not work; directory, descriptors and signals are as they were.
    """
    if threading.current_thread() is not threading.main_thread():
        raise NotMainThread("reexec.execute()", threading.current_thread().name)
    command.check()
    environ = dict(os.environ if legacy is None else legacy.environ)
    with contextlib.ExitStack() as undo:
        try:
            note = _hold_signals(undo, environ)
            if not still_wanted():
                return
            _flush()
            _enter(command.directory, undo)
            _close_on_exec({0, 1, 2, note, *(legacy.fds if legacy else ())}, undo)
            os.execve(command.executable, command.argv, environ)
        except (OSError, ValueError) as error:
            reason = f"{command.executable} could not be executed ({error})"
            raise CannotRestart(command.argv, reason) from error


def release_signals(environ: MutableMapping[str, str] | None = None) -> None:
    """Let those signals come that were held over an exec, and the ones that came meanwhile.

    To be called in the main thread once handlers are installed, and before there are other threads
    or children: they would inherit the block.
    Does nothing in a process that was not started by `execute`.
    """
    environ = os.environ if environ is None else environ
    words = environ.pop(HELD, "").split()
    if not words:
        return
    owner, note, *held = map(int, words)
    # A child started too early has the block and the variable, but not the pipe.
    for number in _drain(note).intersection(held) if owner == os.getpid() else ():
        os.kill(owner, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, held)


def _drain(note: int) -> set[int]:
    with contextlib.suppress(OSError), open(note, "rb", buffering=0) as noted:
        os.set_blocking(note, False)
        return set(noted.read(1 << 16) or b"")
    return set()


def _hold_signals(undo: contextlib.ExitStack, environ: dict[str, str]) -> int:
    """Block the control signals and note those that other threads take; answer the note's pipe."""
    note, pen = os.pipe()
    undo.callback(os.close, note)
    undo.callback(os.close, pen)
    os.set_blocking(pen, False)
    noted = signal.set_wakeup_fd(pen, warn_on_full_buffer=False)
    undo.callback(signal.set_wakeup_fd, noted, warn_on_full_buffer=False)
    late: list[int] = []
    undo.callback(_send_again, late)
    # Noted before they are blocked: until then the main thread takes them too.
    for number in CONTROL_SIGNALS:
        _catch(number, late, undo)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, CONTROL_SIGNALS)
    undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
    os.set_inheritable(note, True)
    held = [int(number) for number in CONTROL_SIGNALS if number not in before]
    environ[HELD] = " ".join(map(str, (os.getpid(), note, *held)))
    return note


def _catch(number: signal.Signals, late: list[int], undo: contextlib.ExitStack) -> None:
    """Have *number* noted, and neither end the process nor reach the old image's handler."""
    present = signal.getsignal(number)
    if present is not signal.SIG_IGN and present is not None:
        signal.signal(number, lambda _number, _frame: late.append(number))
        undo.callback(signal.signal, number, present)


def _send_again(late: list[int]) -> None:
    for number in late:
        os.kill(os.getpid(), number)


def _enter(directory: str, undo: contextlib.ExitStack) -> None:
    with contextlib.suppress(OSError):
        undo.callback(os.chdir, os.getcwd())
    os.chdir(directory)


def _close_on_exec(kept: Collection[int], undo: contextlib.ExitStack) -> None:
    """Have the exec close every open descriptor but the *kept* ones."""
    for fd in _open_descriptors():
        # Python's own are so already; an application or a C library may have decided otherwise.
        if fd not in kept and _is_inheritable(fd):
            with contextlib.suppress(OSError):  # another thread has closed it meanwhile
                os.set_inheritable(fd, False)
                undo.callback(_make_inheritable, fd)


def _make_inheritable(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.set_inheritable(fd, True)


def _open_descriptors() -> list[int]:
    # The limit is no measure of what is open: in a container it can be 2**30.
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return [int(name) for name in os.listdir(folder)]
    return []


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False  # the descriptor of the listing itself


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # It may be None, closed, or a pipe that nobody reads.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


def _why_not(command: Command) -> str | None:
    """Answer the first reason why *command* cannot be run."""
    executable, argv, directory = command.executable, command.argv, command.directory
    if os.name != "posix":
        return "this platform has no exec that keeps the process; start it again yourself"
    if not executable:
        return "the interpreter is not known (it is embedded in another program)"
    if not argv or not argv[0]:
        return "the command line is empty (Python is embedded in another program)"
    if any("\0" in word for word in (executable, *argv)):
        return "the command line has a NUL in it"
    if not (os.path.isfile(executable) and os.access(executable, os.X_OK)):
        return f"{executable} is not there any more, or not executable"
    if not os.path.isdir(directory):
        return f"the directory it was started in, {directory or 'unknown'}, is not there any more"
    if not os.access(directory, os.X_OK):
        return f"the directory it was started in, {directory}, may not be entered any more"
    return None if getattr(sys, "frozen", False) else _why_no_program(Program.of(argv), directory)


def _why_no_program(program: Program, directory: str) -> str | None:
    if program.kind == "stdin" or "idlelib.run" in sys.modules:
        return "the program did not come from a file, a module or -c, and cannot be read again"
    if program.kind == "script" and not _can_run(os.path.join(directory, program.name)):
        return f"the program {program.name} is not there any more, or not readable"
    if program.kind == "module" and not _can_find(program.name, [directory, *sys.path]):
        return f"no module {program.name!r} to run can be found"
    return None


def _can_run(path: str) -> bool:
    if os.path.isdir(path):
        path = os.path.join(path, "__main__.py")
        return os.access(path, os.R_OK) or os.access(path + "c", os.R_OK)
    return os.access(path, os.R_OK)


def _can_find(module: str, path: list[str]) -> bool:
    """Tell whether ``-m`` would find *module*, importing nothing of what leads to it."""
    import importlib

    importlib.invalidate_caches()
    names = module.split(".")
    where: Iterable[str] | None = path
    for at in range(1, len(names) + 1):
        spec = _spec(".".join(names[:at]), where)
        if spec is None:
            return False
        where = spec.submodule_search_locations
        if where is None:
            return at == len(names)
    return _spec(f"{module}.__main__", where) is not None


def _spec(name: str, path: Iterable[str] | None) -> ModuleSpec | None:
    for finder in tuple(sys.meta_path):
        # Finders are anybody's; one that fails here would have failed the first start, too.
        with contextlib.suppress(Exception):
            spec = finder.find_spec(name, path)  # type: ignore[arg-type]
            if spec is not None:
                return spec
    return None
