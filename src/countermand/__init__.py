"""Countermand makes a token stop working: everywhere, now, provably.

`countermand.connect(url, issuer=…, audience=…)` returns the guard that protects a service. `countermand.guard(store,
…)` returns the same with any revocation store behind it, `countermand.Biscuits(…)` is what it needs to accept Biscuits.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from countermand.errors import ConfigurationError

if TYPE_CHECKING:
    from countermand.enforce.biscuits import Biscuits as Biscuits
    from countermand.wiring import connect, guard, static_revocations

# Without Biscuits: they need an extra, and whoever imports all may not have it
__all__ = ["connect", "guard", "static_revocations"]

_ROOMS: Final = {
    "Biscuits": "enforce.biscuits",
    **dict.fromkeys(("connect", "guard", "static_revocations"), "wiring"),
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: whoever needs one room does not load the house."""
    if name in _ROOMS:
        try:
            return getattr(import_module(f"countermand.{_ROOMS[name]}"), name)
        except ModuleNotFoundError as error:
            if error.name != "biscuit_auth":
                raise
            raise ConfigurationError("biscuit-python is not installed: pip install 'countermand[biscuit]'") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
