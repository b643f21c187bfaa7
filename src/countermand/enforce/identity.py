"""Who acts, as headers: what a gateway or a proxy tells the service behind it.

Every header is always there, empty where there is nothing to say: whoever copies them overwrites whatever a client sent
under the same name. Values are visible ASCII; anything else, and the percent sign, is percent-encoded UTF-8. Only the
scopes have spaces, between them.
"""

import re
import string
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from countermand.tokens.cache import Holder
from countermand.tokens.mandate import Mandate

if TYPE_CHECKING:  # an extra
    from countermand.tokens.biscuit import Biscuit

PREFIX: Final = "x-countermand-"
_SAFE: Final = string.punctuation.replace("%", "")
_PLAIN: Final = re.compile(r"[\x21-\x24\x26-\x7e]*")

_VALUES: Final[Mapping[str, Callable[[Mandate], str]]] = {
    "subject": lambda mandate: _written(mandate.subject),
    "client-id": lambda mandate: _written(mandate.client_id),
    "scope": lambda mandate: " ".join(map(_written, sorted(mandate.scopes))),
    "session-id": lambda mandate: _written(mandate.session_id),
    "root-session-id": lambda mandate: _written(mandate.root_session_id),
    "agent-session-id": lambda mandate: _written(mandate.agent_session_id),
    "delegation-edge-id": lambda mandate: _written(mandate.delegation_edge_id),
    "hop-count": lambda mandate: str(mandate.hop_count),
    "token-id": lambda mandate: _written(mandate.token_id),
    "expires-at": lambda mandate: str(int(mandate.expires_at_s)),
}

_OF_BISCUIT: Final[Mapping[str, Callable[["Biscuit"], str]]] = {
    "subject": lambda biscuit: _written(biscuit.subject),
    "scope": lambda biscuit: " ".join(map(_written, sorted(biscuit.scopes))),
    "hop-count": lambda biscuit: str(biscuit.hop_count),
    "token-id": lambda biscuit: biscuit.token_id,
    "expires-at": lambda biscuit: "" if biscuit.expires_at_s is None else str(biscuit.expires_at_s),
}

NOBODY: Final[Mapping[str, str]] = MappingProxyType(dict.fromkeys((PREFIX + name for name in _VALUES), ""))
"""The headers of a request that is nobody's; their names are all that there are."""


def identity(holder: Holder) -> dict[str, str]:
    """Return the headers that say who acts, by their lower-case names."""
    if isinstance(holder, Mandate):
        return {PREFIX + name: value(holder) for name, value in _VALUES.items()}
    return {**NOBODY, **{PREFIX + name: value(holder) for name, value in _OF_BISCUIT.items()}}


def _written(text: str | None) -> str:
    text = text or ""
    return text if _PLAIN.fullmatch(text) else quote(text, safe=_SAFE)  # to quote takes ten times as long
