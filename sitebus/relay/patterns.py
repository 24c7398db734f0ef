"""Sets of names of channels with a ``*`` in them, and which channels they mean.

A ``*`` stands for any run of characters, also for none and for dots; nothing else is special.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sitebus.listeners import Pattern

#: So many channels are remembered with their answers; then they are looked at anew.
_REMEMBERED = 4096


class Patterns:
    """A set of patterns, which does not change.

    Args:
        texts: Such as ``cache.*`` or ``config.reload``; one text may not be taken for several.
    """

    __slots__ = ("_answers", "_magic", "_plain", "texts")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        if isinstance(texts, str):
            raise TypeError(f"patterns are several texts, not one: write ({texts!r},)")
        self.texts = frozenset(texts)
        self._plain = frozenset(text for text in self.texts if "*" not in text)
        self._magic = tuple(Pattern(text) for text in sorted(self.texts - self._plain))
        self._answers: dict[str, bool] = {}

    def __contains__(self, channel: object) -> bool:
        """Tell whether one of them means *channel*."""
        if not isinstance(channel, str):
            return False
        answer = self._answers.get(channel)
        if answer is None:
            answer = channel in self._plain or any(each.matches(channel) for each in self._magic)
            if len(self._answers) >= _REMEMBERED:
                self._answers.clear()
            self._answers[channel] = answer
        return answer

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.texts))

    def __len__(self) -> int:
        return len(self.texts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Patterns) and self.texts == other.texts

    def __hash__(self) -> int:
        return hash(self.texts)

    def __repr__(self) -> str:
        return f"Patterns({sorted(self.texts)!r})"

    def __or__(self, others: Iterable[str]) -> Patterns:
        """Answer these and *others*."""
        return Patterns(self.texts.union(others))

    def __sub__(self, others: Iterable[str]) -> Patterns:
        """Answer these without *others*, compared as texts."""
        return Patterns(self.texts.difference(others))

    def __and__(self, others: Iterable[str]) -> Patterns:
        """Answer those that are also among *others*, compared as texts."""
        return Patterns(self.texts.intersection(others))


#: Means nothing.
NONE = Patterns()
