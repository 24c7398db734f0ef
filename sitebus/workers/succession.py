"""How the workers go from one image of the supervisor to the next, and serve on meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from typing import Any

from sitebus.control.aggregate import Aggregate
from sitebus.control.metrics import REGISTRY
from sitebus.relay import Poller
from sitebus.workers.estate import Heirloom
from sitebus.workers.keeper import Keeper
from sitebus.workers.pool import Pool
from sitebus.workers.voice import INFO, Voice


def adopt(
    keeper: Keeper, voice: Voice, told: Mapping[str, Any], left: Iterable[Heirloom]
) -> Aggregate | None:
    """Go on with the workers that the image before this one has left, if that can be.

    Returns:
        What they and those before them have counted; None if they are of no use.
    """
    try:
        policy = keeper.pool.policy
        pool = Pool.from_json(told["pool"], time.monotonic(), policy, random.random)
        aggregate = Aggregate.from_json(told["metrics"])
    except (KeyError, TypeError, ValueError):
        # Of another version. They finish what they serve, and leave.
        for each in left:
            each.close()
        return None
    keeper.pool = pool
    lost = {each.serial for each in pool.snapshot()} - {0}
    for each in left:
        keeper.take(keeper.nursery.adopt(each))
        lost.discard(each.serial)
    for serial in lost:
        keeper.lose(serial)
    voice.log(f"Going on with {len(keeper.hands)} workers", INFO)
    keeper.tick()
    return aggregate


def bequeath(
    keeper: Keeper, poller: Poller, aggregate: Aggregate
) -> tuple[dict[str, Any], list[Heirloom]]:
    """Leave the workers to the next image; they notice nothing.

    Returns:
        What is to be told of them, and each.
    """
    for hand in [each for each in keeper.hands.values() if each.is_cut_off]:
        hand.process.end()
        keeper.bury(hand)
    keeper.freeze()
    now = time.monotonic()
    for hand in keeper.hands.values():
        # Said already, but maybe not heard yet: who has no process is not carried over.
        keeper.pool.spawned(hand.serial, hand.process.pid, now)
    pool = keeper.pool.to_json(now)
    told = {"pool": pool, "metrics": aggregate.to_json(REGISTRY.families())}
    heirlooms = []
    for hand in keeper.hands.values():
        poller.unwatch(hand.process.fileno())
        heirlooms.append(hand.detach())
    keeper.hands.clear()
    keeper.gone.set()
    return told, heirlooms
