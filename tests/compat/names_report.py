"""Print, as JSON, what the modules named in the arguments offer: names, parameters, methods."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from types import ModuleType
from typing import Any


def names_of(module: ModuleType) -> dict[str, Any]:
    found = {}
    for name, value in vars(module).items():
        at_home = getattr(value, "__module__", None) == module.__name__
        plain = isinstance(value, (int, float))
        if not name.startswith("_") and (at_home or plain):
            found[name] = describe(value)
    return found


def describe(value: Any) -> dict[str, Any]:
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return {}
    try:
        signature = inspect.signature(value)
    except ValueError:
        return {}
    parameters = [
        (each.name, each.kind.name, each.default is not each.empty)
        for each in signature.parameters.values()
    ]
    own = vars(value).items() if inspect.isclass(value) else ()
    methods = [name for name, each in own if not name.startswith("_") and callable(each)]
    return {"parameters": parameters, "methods": methods}


if __name__ == "__main__":
    report = {name: names_of(importlib.import_module(name)) for name in sys.argv[1:]}
    print(json.dumps(report))
