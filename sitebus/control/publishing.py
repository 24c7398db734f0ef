"""A message from an operator to every process of a site, and what each of them answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sitebus.control.crew import Crew
from sitebus.control.jobs import Partly
from sitebus.control.rings import plain
from sitebus.errors import ChannelFailures, NoWorkerAnswer
from sitebus.process import Engine


def everywhere(
    engine: Engine,
    crew: Crew,
    channel: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    exported: bool,
) -> Any:
    """Publish in the supervisor and in every worker, and answer what listeners returned.

    It waits for the workers. Where somebody fails, the others are heard all the same.

    Args:
        engine: The supervisor's.
        crew: Its workers.
        channel: Where to.
        args: Values.
        kwargs: Named values.
        exported: Messages on the channel go to the workers by themselves, who answer nothing.

    Returns:
        ``supervisor``, a list, and ``workers``, by their number a list or ``{"error": "why"}``;
        None if their channel is exported.
    """
    answers = None if exported else crew.call(channel, *args, **kwargs)
    own: Any
    try:
        own = plain(engine.publish(channel, *args, **kwargs))
    except ChannelFailures as failures:
        own = _error(failures.exceptions[0])
    workers = (
        None
        if answers is None
        else {each: _told(answers[each]) for each in sorted(answers, key=int)}
    )
    result = {"supervisor": own, "workers": workers}
    told = {"supervisor": own, **{f"worker {n}": each for n, each in (workers or {}).items()}}
    failed = [f"{who}: {it['error']}" for who, it in told.items() if isinstance(it, Mapping)]
    return Partly(result, _sentence(failed)) if failed else result


def _sentence(failed: Sequence[str]) -> str:
    more = f", and {len(failed) - 1} more failed" if len(failed) > 1 else ""
    return f"{failed[0]}{more}"


def _told(answer: Any) -> Any:
    if isinstance(answer, NoWorkerAnswer):
        return {"error": answer.reason}
    return _error(answer) if isinstance(answer, BaseException) else plain(answer)


def _error(error: BaseException) -> dict[str, str]:
    return {"error": " ".join(f"{type(error).__name__}: {error}".split())}
