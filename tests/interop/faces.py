"""What a module shows of itself: constants, functions' arguments and their defaults. It needs nothing but Python."""

import inspect
from importlib import import_module
from typing import Any


def describe(module: str) -> dict[str, Any]:
    """Return what each public name of `module` is: a value, or by method `[argument, default]`, as JSON can hold it."""
    found = import_module(module)
    return {name: _describe(getattr(found, name)) for name in found.__all__}


def _describe(value: Any) -> Any:
    if not inspect.isclass(value):
        return value
    names = [name for name, _ in inspect.getmembers(value, inspect.isfunction) if name[0] != "_"]
    if not getattr(value, "_is_protocol", False):
        names.append("__init__")
    return {name: _arguments(getattr(value, name)) for name in names}


def _arguments(method: Any) -> list[list[Any]]:
    parameters = inspect.signature(method).parameters.values()
    return [[one.name, "required" if one.default is one.empty else one.default] for one in parameters]
