"""How a text is shown in a message: short enough, and without its secrets."""

from __future__ import annotations

import re

MASK = "********"
_LONGEST = 60
#: Where one URL of a list ends and the next begins.
_BETWEEN_URLS = r"(?<=[,;'\"])(?=[A-Za-z][\w+.-]*://)"
_USER = r"://[^\s:/]*:"


def cut(text: str) -> str:
    """Answer a text short enough for a message."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def short(text: str) -> str:
    """Answer a text short enough for a message, in quotes."""
    return repr(cut(text))


def masked(text: str) -> str:
    """Answer *text* without the passwords of the URLs in it, which are secrets anywhere."""
    if "@" not in text or "://" not in text:
        return text
    return re.sub(r"\S+", lambda word: _masked_word(word[0]), text)


def _masked_word(word: str) -> str:
    return "".join(map(_masked_url, re.split(_BETWEEN_URLS, word)))


def _masked_url(text: str) -> str:
    # Up to the last one: a password that nobody quoted may have an @ or a slash itself.
    at = text.rfind("@")
    user = re.search(_USER, text[: max(at, 0)])
    return f"{text[: user.end()]}{MASK}{text[at:]}" if user else text
