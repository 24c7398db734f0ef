"""Load the object that a text names: ``module:attr``, ``file.py:attr``, ``package.module``.

Decides what is at fault when that fails: the text (there is no such module, file or attribute) or
the code it names (which raised while it was imported; its own traceback is kept, without our
frames). What the object is, and what to do with it, is left to others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from types import ModuleType, TracebackType
from typing import Any, TypeVar

from sitebus.errors import (
    AppFileNotFound,
    AppImportError,
    AppNotFound,
    BadReference,
    NotAnApplication,
    nearest,
)

T = TypeVar("T")

#: Tried in this order when a reference names no attribute.
DEFAULT_NAMES = ("application", "app")

_OURS = os.path.dirname(__file__) + os.sep


def load(reference: str, *, default: str = "application|app", check: bool = True) -> object:
    """Import what *reference* names and answer the object.

    Args:
        reference: ``module:attr.sub``, ``path/to/file.py:attr``, or either without an attribute.
        default: The names to try, with ``|`` between them, when no attribute is given.
        check: Refuse an object that cannot be called.

    Raises:
        BadReference: The text has no such form.
        AppNotFound: There is no such module or attribute.
        AppFileNotFound: There is no such file.
        AppImportError: The named code itself failed.
        NotAnApplication: The object cannot be called.
    """
    place, attribute = split(reference)
    module = _load_file(place, reference) if is_file(place) else _load_module(place, reference)
    obj = _pick(module, attribute, default, reference)
    if check and not callable(obj):
        reason = f"it is of type {type(obj).__name__}, which cannot be called"
        raise NotAnApplication(repr(reference), reason)
    return obj


def call(reference: str, function: Callable[..., T], /, *given: Any, **settings: Any) -> T:
    """Call a stranger's *function* with what follows it, and answer what it answers.

    The *reference* is what somebody wrote to have it called, and stands in the message.

    Raises:
        AppImportError: The function raised, be it ``SystemExit``, ``KeyboardInterrupt`` or another
            exception that would end a process: no application may decide that.
    """
    try:
        return function(*given, **settings)
    except BaseException as error:  # the application's own code ran
        raise AppImportError(reference, error, traceback_of(error)) from error


def split(reference: str) -> tuple[str, str]:
    """Cut *reference* into the place (a module or a file) and the attribute, which may be ""."""
    text = reference.strip()
    # A Windows drive's colon is part of the path: only what follows the last one can be a name.
    place, colon, attribute = text.rpartition(":")
    if not colon or is_file(text):
        place, attribute = text, ""
    if not place:
        raise BadReference(reference, "expected module:attribute, or file.py:attribute")
    if colon and place != text and not attribute:
        raise BadReference(reference, "nothing follows the colon")
    if attribute and not all(part.isidentifier() for part in attribute.split(".")):
        raise BadReference(reference, f"{attribute!r} is not the name of an attribute")
    if not is_file(place):
        _check_module_name(place, reference)
    return place, attribute


def is_file(place: str, directory: str | os.PathLike[str] = "") -> bool:
    """Tell whether *place* names a Python file rather than a module.

    ``shop.wsgi`` is the module that Django makes, unless *directory* has a file of that name.
    """
    if place.endswith(".wsgi"):
        return "/" in place or os.sep in place or os.path.isfile(os.path.join(directory, place))
    return place.endswith((".py", ".pyw"))


def _check_module_name(place: str, reference: str) -> None:
    if all(part.isidentifier() for part in place.split(".")):
        return
    hint = "a file's name ends in .py" if os.sep in place else "expected module:attribute"
    raise BadReference(reference, f"{place!r} is not the name of a module ({hint})")


def _load_module(name: str, reference: str) -> ModuleType:
    import importlib

    try:
        return call(reference, importlib.import_module, name)
    except AppImportError as failure:
        error = failure.error
        if not isinstance(error, ModuleNotFoundError) or error.name is None:
            raise
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        missing = error.name
    raise AppNotFound(reference, call(reference, _missing_module, name, missing))


def _missing_module(name: str, missing: str) -> str:
    parent, _, last = missing.rpartition(".")
    module = sys.modules.get(parent)
    if module is not None and hasattr(module, last):
        return f"there is no module {missing!r}, but {parent!r} has that attribute: {parent}:{last}"
    near = nearest(missing, _sibling_modules(parent))
    hint = f"; did you mean {name.replace(missing, near, 1)!r}?" if near else ""
    return f"there is no module {missing!r}{hint}"


def _sibling_modules(parent: str) -> Iterable[str]:
    import pkgutil

    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    prefix = f"{parent}." if parent else ""
    return [prefix + info.name for info in pkgutil.iter_modules(path)]


def _load_file(place: str, reference: str) -> ModuleType:
    import importlib.machinery
    import importlib.util

    path = os.path.realpath(place)
    if not os.path.isfile(path):
        raise AppFileNotFound(reference, f"there is no file {os.path.abspath(place)}")
    name, known = _module_name(path)
    if known is not None:
        return known
    loader = importlib.machinery.SourceFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # given a loader, there always is one
    module = importlib.util.module_from_spec(spec)
    _add_to_path(os.path.dirname(path))
    sys.modules[name] = module
    try:
        call(reference, loader.exec_module, module)
    except AppImportError as failure:
        sys.modules.pop(name, None)
        if isinstance(failure.error, PermissionError) and failure.error.filename == path:
            raise AppFileNotFound(reference, f"the file {path} cannot be read") from None
        raise
    return module


def _module_name(path: str) -> tuple[str, ModuleType | None]:
    """The file's own name unless that is taken: two mounts may each have an ``app.py``."""
    stem = os.path.splitext(os.path.basename(path))[0]
    digest = f"{sum(path.encode(errors='surrogateescape')) & 0xFFFF:04x}"
    for name in (stem, f"{stem}_{digest}", *(f"{stem}_{digest}_{n}" for n in range(1, 1000))):
        known = sys.modules.get(name)
        if known is None and name not in sys.stdlib_module_names:
            return name, None
        file = getattr(known, "__file__", None)
        if isinstance(file, str) and os.path.realpath(file) == path:
            return name, known
    raise BadReference(path, "a thousand files of this name are loaded already")


def _add_to_path(directory: str) -> None:
    # As for a script: the modules beside the file can be imported from it.
    if directory not in sys.path:
        sys.path.insert(0, directory)


def _pick(module: ModuleType, attribute: str, default: str, reference: str) -> object:
    if attribute:
        return _attribute(module, attribute, reference)
    names = default.split("|") if default else list(DEFAULT_NAMES)
    for name in names:
        if name in vars(module):
            return vars(module)[name]
    public = [name for name in vars(module) if not name.startswith("_")]
    near = next((found for name in names if (found := nearest(name, public))), None)
    hint = f"; did you mean {module.__name__}:{near}?" if near else "; name the attribute after ':'"
    wanted = " nor ".join(repr(name) for name in names)
    raise AppNotFound(reference, f"{module.__name__!r} has neither {wanted}{hint}")


def _attribute(module: ModuleType, attribute: str, reference: str) -> object:
    obj: object = module
    place = module.__name__
    for name in attribute.split("."):
        try:
            # It may be a property, or the module may have a __getattr__.
            obj = call(reference, getattr, obj, name)
        except AppImportError as failure:
            if not isinstance(failure.error, AttributeError):
                raise
            reason = call(reference, _missing_attribute, obj, place, name)
            raise AppNotFound(reference, reason) from None
        place = f"{place}.{name}"
    return obj


def _missing_attribute(obj: object, place: str, name: str) -> str:
    near = nearest(name, [known for known in dir(obj) if not known.startswith("__")])
    hint = f"; did you mean {near!r}?" if near else ""
    return f"{place!r} has no attribute {name!r}{hint}"


def traceback_of(error: BaseException) -> str:
    """Answer *error*'s traceback from where the application's own code begins."""
    import traceback

    shown = traceback.TracebackException.from_exception(error)
    own = _beyond_machinery(error.__traceback__)
    shown.stack = traceback.StackSummary.extract(traceback.walk_tb(own))
    return "".join(shown.format())


def _beyond_machinery(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and _is_machinery(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return frames


def _is_machinery(filename: str) -> bool:
    """Tell whether it is a file of ours, of importlib's, or of what looks at signatures."""
    import importlib
    import inspect

    if filename in (importlib.__file__, inspect.__file__):
        return True
    return filename.startswith((_OURS, "<frozen importlib"))
