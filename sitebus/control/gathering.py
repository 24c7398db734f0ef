"""The checks of all workers as those of one site: a supervisor has none of the application's.

The site can answer as long as one worker can, so a check is well while it is well somewhere; how
many say otherwise is told beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sitebus.control.checks import Check
from sitebus.control.crew import Crew
from sitebus.control.health import REPORT

#: How much of the time there is for everything is for the checks themselves.
_SHARE = 0.9


def ask(crew: Crew, timeout: float, exclude: Sequence[str]) -> list[Check]:
    """Answer what the checks of all workers say, within *timeout* seconds."""
    try:
        answers = crew.call(REPORT, timeout * _SHARE, list(exclude), timeout=timeout)
    # It goes through links to processes that may be in any state.
    except Exception as error:  # noqa: BLE001
        return [Check("answers", ok=False, detail=f"{type(error).__name__}: {error}")]
    return list(gathered(answers, timeout))


def gathered(answers: Mapping[str, Any], timeout: float) -> Iterator[Check]:
    """Make one check of those of each name; *answers* has lists of results, or errors."""
    told = {worker: _checks(answer) for worker, answer in answers.items()}
    silent = [worker for worker, checks in told.items() if checks is None]
    if silent:
        some = len(silent) < len(told)
        detail = f"{len(silent)} of {len(told)} workers did not answer within {timeout:.3g} s"
        yield Check("answers", some, detail)
    by_name: dict[str, list[Check]] = {}
    for checks in told.values():
        for check in checks or ():
            by_name.setdefault(check.name, []).append(check)
    yield from map(_one, by_name.values())


def _one(checks: list[Check]) -> Check:
    slowest = max(check.seconds for check in checks)
    failed = [check for check in checks if not check.ok]
    if not failed:
        return checks[0]._replace(seconds=slowest)
    detail = f"{len(failed)} of {len(checks)} workers: {failed[0].detail}".removesuffix(": ")
    return Check(checks[0].name, len(failed) < len(checks), detail, slowest)


def _checks(answer: Any) -> list[Check] | None:
    """Answer what one worker told; None if it told nothing that can be understood."""
    if isinstance(answer, BaseException):
        return None
    try:
        return [
            Check(str(name), bool(ok), str(detail), float(seconds))
            for result in answer
            for name, ok, detail, seconds in result
        ]
    except (TypeError, ValueError):
        return None
