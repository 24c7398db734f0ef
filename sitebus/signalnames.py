"""The signals of this platform by name, and which of them a process can answer."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from sitebus.errors import CannotCatch, UnknownSignal


def _numbers() -> dict[str, int]:
    """Every name that a signal has here; one number may have several."""
    named = {name: int(each) for name, each in signal.Signals.__members__.items()}
    numbers = {name: number for name, number in named.items() if name.startswith("SIG")}
    first = numbers.get("SIGRTMIN", 0)
    for number in signal.valid_signals() - set(numbers.values()):
        numbers[f"SIGRTMIN+{number - first}" if number > first > 0 else f"SIG{number}"] = number
    return numbers


#: Every name; where a number has several, the first one is what `signal` calls it.
NUMBERS: Mapping[str, int] = _numbers()

#: Each number's name; the first of several.
NAMES: Mapping[int, str] = {
    number: next(name for name, each in NUMBERS.items() if each == number)
    for number in sorted(NUMBERS.values())
}

#: Signals of other platforms: to have a handler for one is no mistake, and has no effect here.
_ANYWHERE = (
    *("SIGALRM", "SIGBREAK", "SIGBUS", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGEMT", "SIGHUP"),
    *("SIGINFO", "SIGIO", "SIGLOST", "SIGPOLL", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGRTMAX"),
    *("SIGRTMIN", "SIGSTKFLT", "SIGSYS", "SIGTHR", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU"),
    *("SIGURG", "SIGUSR1", "SIGUSR2", "SIGVTALRM", "SIGWINCH", "SIGXCPU", "SIGXFSZ"),
)
ELSEWHERE = frozenset(_ANYWHERE).difference(NUMBERS)

_UNASKED = "the system acts on it without asking the process; use another signal"
_FAULT = (
    "it tells of a fault in the program, which would only happen again; "
    "python -X faulthandler shows where"
)
_NOT_ANSWERED = {
    **dict.fromkeys(("SIGKILL", "SIGSTOP"), _UNASKED),
    **dict.fromkeys(("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL"), _FAULT),
}


def aliases(number: int) -> tuple[str, ...]:
    """Answer every name of a signal: SIGIO is SIGPOLL, too."""
    return tuple(name for name, each in NUMBERS.items() if each == number)


def can_be_answered(name: str) -> bool:
    """Tell whether a process can do anything about the signal of that name."""
    return name not in _NOT_ANSWERED


def number_of(name: str | int) -> int:
    """Answer the number of the signal of that name, or that number, if it can be answered.

    Raises:
        UnknownSignal: There is none here.
        CannotCatch: No process can answer it.
    """
    if isinstance(name, int):
        if name not in NAMES:
            raise UnknownSignal(str(name), NUMBERS)
        name = NAMES[name]
    if name not in NUMBERS:
        raise UnknownSignal(name, NUMBERS, elsewhere=name in ELSEWHERE)
    if name in _NOT_ANSWERED:
        raise CannotCatch(name, _NOT_ANSWERED[name])
    return NUMBERS[name]
