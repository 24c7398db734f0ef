"""A server library's own options, such as ``uvicorn.http = h11``, read by the library's own words.

What there is to say, and of which type, comes from the signature of what the library is configured
with; a text becomes a value of that type. What sitebus decides itself is refused, with the reason.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sitebus.config.kinds import FREE_TEXT, BadValue, Context, Kind
from sitebus.config.options import Option, Row, Section, is_secret_name
from sitebus.errors import BadServerOption, SitebusError, UnknownNativeOption

_YES = {"1", "yes", "true", "on"}
_NO = {"0", "no", "false", "off"}
_MANY = (list, tuple, set, frozenset)


class Library(Protocol):
    """What an adapter tells of its library."""

    library: str

    @classmethod
    def checked(cls, native: Mapping[str, Any]) -> dict[str, Any]: ...


class NativeKind(Kind[Any]):
    """The text of one option of an adapter's library, read as the library takes it."""

    def __init__(self, adapter: Library, name: str) -> None:
        self.adapter = adapter
        self.name = name

    def parse(self, text: str, context: Context) -> Any:
        """Read *text*; raises BadValue with the reason if the library does not take it."""
        try:
            return self.adapter.checked({self.name: text})[self.name]
        except SitebusError as error:
            raise BadValue(str(error)) from error


def section(known: Section, adapter: Any) -> Section:
    """Answer the section of a server with the settings of its *adapter*, native ones included."""
    library = getattr(adapter, "library", "")

    def others(key: str) -> Row | None:
        prefix, dot, name = key.partition(".")
        if dot and prefix in known.families and prefix != library:
            # One file may be tried with several adapters.
            return Option(key, FREE_TEXT, "", f"Of no use without adapter = {prefix}.")
        if not library or not dot or prefix != library:
            return None
        said = f"An option of {library} itself."
        return Option(key, NativeKind(adapter, name), None, said, secret=is_secret_name(key))

    return known.with_rows(getattr(adapter, "OPTIONS", ()))._replace(others=others)


class Native(NamedTuple):
    """One option of a library: the type it takes, and what it is if nobody says."""

    kind: Any
    default: Any = None


def of_signature(configure: Callable[..., Any]) -> dict[str, Native]:
    """Answer the options that *configure*, a class or a function, takes by name."""
    parameters = inspect.signature(configure).parameters.values()
    said = _hints(configure)
    return {
        each.name: Native(said.get(each.name, each.annotation), each.default)
        for each in parameters
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD, each.POSITIONAL_ONLY)
    }


def of_attributes(kind: type) -> dict[str, Native]:
    """Answer the options of a library that takes them as attributes of a *kind*."""
    said = _hints(kind)
    properties = {name for name, each in inspect.getmembers(kind) if isinstance(each, property)}
    names = {name for name in {*said, *vars(kind), *properties} if not name.startswith("_")}
    return {
        name: Native(said.get(name, inspect.Parameter.empty), getattr(kind, name, None))
        for name in names
        if not inspect.isroutine(getattr(kind, name, None))
    }


def read(
    library: str,
    given: Mapping[str, Any],
    known: Mapping[str, Native],
    reserved: Mapping[str, str],
) -> dict[str, Any]:
    """Answer the options in *given*, texts among them, as the library takes them.

    Args:
        library: Its name, for messages.
        given: What somebody said; what is no text is taken as it is.
        known: What the library takes.
        reserved: What sitebus decides, and what to say instead.

    Raises:
        UnknownNativeOption: There is no such option.
        BadServerOption: There is, but not for everybody, or not with this value.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        full = f"{library}.{name}"
        if name in reserved:
            raise BadServerOption(full, value, reserved[name])
        if name not in known:
            raise UnknownNativeOption(library, name, sorted(known.keys() - reserved.keys()))
        option = known[name]
        values[name] = _read(full, value, option) if isinstance(value, str) else value
    return values


def _read(full: str, text: str, option: Native) -> Any:
    kinds = _kinds(option)
    for kind in kinds:
        try:
            return _as(kind, text.strip())
        except (ValueError, TypeError):
            continue
    said = sorted({_name(kind) for kind in kinds if _name(kind)})
    wanted = " or ".join(said) if said else "something that only code can give"
    raise BadServerOption(full, text, f"it takes {wanted}")


def _kinds(option: Native) -> list[Any]:
    """The types to try, the narrowest first: every text is a text."""
    kind = option.kind
    if kind in (inspect.Parameter.empty, Any):
        default = option.default
        unknown = default is inspect.Parameter.empty or default is None
        kind = str if unknown else type(default)
    kinds = list(_alternatives(kind))
    order: dict[Any, int] = {bool: 1, int: 2, float: 3, str: 9}
    return sorted(kinds, key=lambda each: order.get(each, 0 if each is type(None) else 5))


def _alternatives(kind: Any) -> Iterable[Any]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        for each in typing.get_args(kind):
            yield from _alternatives(each)
    else:
        yield kind


def _as(kind: Any, text: str) -> Any:
    """Answer *text* as a *kind*; raises ValueError if it is none."""
    origin = typing.get_origin(kind) or kind
    if kind is type(None):
        if text.lower() not in ("", "none"):
            raise ValueError(text)
        return None
    if origin is typing.Literal:
        return _as_one_of(typing.get_args(kind), text)
    if origin is bool:
        return _as_bool(text)
    if origin in _MANY or getattr(origin, "__name__", "") in ("Sequence", "Iterable", "Collection"):
        return _as_many(kind, text)
    if origin is Path or getattr(origin, "__name__", "") == "PathLike":
        return Path(text)
    if isinstance(origin, type) and issubclass(origin, (int, float, str)):
        return origin(text)
    raise TypeError(kind)


def _as_one_of(allowed: tuple[Any, ...], text: str) -> Any:
    for each in allowed:
        if str(each) == text:
            return each
    raise ValueError(text)


def _as_bool(text: str) -> bool:
    if text.lower() not in _YES | _NO:
        raise ValueError(text)
    return text.lower() in _YES


def _as_many(kind: Any, text: str) -> Any:
    inner = [each for each in typing.get_args(kind) if each is not Ellipsis] or [str]
    made = typing.get_origin(kind) or kind
    parts = [part for part in text.replace(",", " ").split() if part]
    values = [_as(inner[0], part) for part in parts]
    return made(values) if made in _MANY else values


def _name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    if kind is type(None):
        return "none"
    names = {bool: "yes or no", int: "a whole number", float: "a number", str: "text"}
    if kind in names:
        return names[kind]
    origin = typing.get_origin(kind) or kind
    if origin in _MANY or getattr(origin, "__name__", "") in ("Sequence", "Iterable", "Collection"):
        return "several values, with commas between them"
    return ""


def _hints(configure: Any) -> dict[str, Any]:
    subject = configure
    if isinstance(configure, type) and "__init__" in vars(configure):
        subject = vars(configure)["__init__"]
    try:
        return typing.get_type_hints(subject)
    except Exception:  # noqa: BLE001 - annotations may name what is imported for types only
        return {}
