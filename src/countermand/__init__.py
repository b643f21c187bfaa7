"""Countermand makes a token stop working: everywhere, now, provably.

`countermand.connect(url, issuer=…, audience=…)` returns the guard that protects a service.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from countermand.wiring import connect

__all__ = ["connect"]


def __getattr__(name: str) -> Any:
    """Import `connect` when it is asked for: whoever needs one room does not load the house."""
    if name == "connect":
        from countermand.wiring import connect  # noqa: PLC0415 - see above

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
