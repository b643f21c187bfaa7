"""JSON, read strictly: one text for one value.

It raises ValueError alone, for the caller to name what was refused.
Source: RFC 8259 (JSON); RFC 7519 §4 (unique names).
"""

import json
import math
from collections.abc import Iterable
from typing import Final

MAX_DEPTH: Final = 16
"""Levels of arrays and objects: a mandate has 3, a key set 4. Deeper ones only wait for code that recurses."""


def parse_json(data: bytes) -> object:
    """Return the value of one JSON text in UTF-8.

    Raises:
        ValueError: anything else; so are a name given twice, a number that is not finite, half of a surrogate pair, and
            nesting deeper than MAX_DEPTH.
    """
    try:
        value = _DECODER.decode(data.decode())
        if b"\\u" in data:  # only an escape can bring in half of a pair
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    return value


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item) if isinstance(child, dict | list)]
    if level:
        raise ValueError("nested too deep")


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _unique(members: list[tuple[str, object]]) -> dict[str, object]:
    names = dict(members)
    if len(names) != len(members):
        raise ValueError("a name is given twice")
    return names


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
