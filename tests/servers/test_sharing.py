"""Who goes first, among processes that accept from the same doors."""

from __future__ import annotations

from sitebus.servers.sharing import BUSY_MOMENT, FEWEST, MOMENT, MOST, Share


def take(share: Share) -> int:
    """Take whom there are until others go first; answer how many those were."""
    taken = 0
    while share.is_ours():
        share.won()
        taken += 1
    return taken


def test_others_go_first_after_a_few() -> None:
    """Who is quickest does not get all of a burst."""
    share = Share()
    assert take(share) == FEWEST
    assert share.wait() == MOMENT
    share.end_wait()
    share.lost()
    assert take(share) == FEWEST


def test_more_are_taken_while_nobody_else_wants_them() -> None:
    """To wait for nobody would cost a lonely worker more and more."""
    share = Share()
    taken = []
    for _ in range(2 * MOST):
        taken.append(take(share))
        share.wait()
        share.end_wait()
        share.won()
    assert taken[:4] == [2, 2, 3, 4]
    assert taken[-1] == MOST - 1


def test_whom_nobody_could_serve_is_left_to_those_who_can() -> None:
    """Longer, as somebody may become free; and not again if nobody else could either."""
    hands = False
    share = Share(lambda: hands)
    assert not share.is_ours()
    assert share.wants_hands
    assert share.wait() == BUSY_MOMENT
    share.end_wait()
    share.won()
    assert take(share) == FEWEST
    hands = True
    assert not share.is_ours()
    assert share.wait() == MOMENT
    share.lost()
    hands = False
    assert not share.is_ours()
    assert share.wants_hands


def test_a_call_back_is_no_sign_of_the_others() -> None:
    """One thread is free for one more; the next one is still left to other processes."""
    share = Share(lambda: False)
    assert not share.is_ours()
    share.wait()
    share.end_wait(is_called=True)
    share.won()
    assert not share.is_ours()
    assert share.wants_hands
