"""Changed source code, before it runs: is it Python at all, and is there bytecode of the old?

Python takes bytecode for current if the source has the same size and was modified in the same
second. Two saves within a second can leave it wrong for good.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterable
from types import CodeType

from sitebus.errors import TrialFailed
from sitebus.reload.opened import OPENED


def forget(paths: Iterable[str]) -> None:
    """Remove what was compiled from *paths*, at every level of optimisation."""
    for path in paths:
        for compiled in _compiled(path):
            with contextlib.suppress(OSError):
                os.unlink(compiled)


def check(paths: Iterable[str]) -> None:
    """Compile *paths*, without running anything or keeping the result.

    Raises:
        TrialFailed: One cannot be compiled; the error says where and why.
    """
    for path in paths:
        try:
            _compile(path)
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
            raise _refusal(path, error) from error


def is_outdated(path: str, modified: int, size: int, thoroughly: bool = False) -> bool:
    """Tell whether the bytecode of *path* was made from something else than what is there now.

    For a module that is imported, this means that it was changed since.

    Args:
        path: The source.
        modified: When that was modified, in seconds.
        size: How long it is.
        thoroughly: Compare the code itself, if size and time are the same.
    """
    if sys.dont_write_bytecode or not path.endswith(".py"):
        return False
    try:
        compiled = _read(importlib.util.cache_from_source(path))
    except (OSError, NotImplementedError):
        return False
    if compiled[:4] != importlib.util.MAGIC_NUMBER or compiled[4:8] != bytes(4):
        return False
    words = (modified & 0xFFFFFFFF, size & 0xFFFFFFFF)
    if compiled[8:16] != b"".join(word.to_bytes(4, "little") for word in words):
        return True
    return thoroughly and _is_of_other_code(path, compiled[16:])


def _is_of_other_code(path: str, body: bytes) -> bool:
    import marshal

    try:
        code = _compile(path)
        return code is not None and bool(marshal.loads(body) != code)
    except Exception:  # noqa: BLE001 - half written, or not to be compiled: another code in any case
        return True


def _compile(path: str) -> CodeType | None:
    try:
        source = _read(path)
    except OSError:
        return None  # gone: whether it is missed shows when it is imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code: CodeType = compile(source, path, "exec", dont_inherit=True)
    return code


def _read(path: str) -> bytes:
    with OPENED.unheard(), open(path, "rb") as file:
        return file.read()


def _compiled(path: str) -> list[str]:
    if not path.endswith(".py"):
        return []
    with contextlib.suppress(NotImplementedError):
        return [importlib.util.cache_from_source(path, optimization=o) for o in ("", "1", "2")]
    return []


def _refusal(path: str, error: BaseException) -> TrialFailed:
    import traceback

    text = "".join(traceback.format_exception_only(error)).strip()
    line = getattr(error, "lineno", None) or 0
    return TrialFailed(f"{type(error).__name__}: {_message(error)}", text, path, line, [path])


def _message(error: BaseException) -> str:
    return str(getattr(error, "msg", "") or error)
