"""Tokens that were verified, so that one which comes again costs no signature.

Only that a token is genuine is remembered, never that it may act. Its time is compared on each use, and it counts only
under the same keys that verified it. Whether it was revoked is not known here, and is asked each time.
Source: docs/protocol.md, "Mandate" and "Biscuit".
"""

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self, TypeAlias, Union

from countermand.log.anchor import Anchors
from countermand.tokens.jwks import KeySet
from countermand.tokens.mandate import LEEWAY_S, Mandate

if TYPE_CHECKING:  # an extra
    from countermand.tokens.biscuit import Biscuit, RootKeys

MAX_ENTRIES: Final = 8_192
MAX_BYTES: Final = 8 * 2**20
"""Of token text. All that is remembered takes about five times that: at these bounds some 50 MB. What the library keeps
of Biscuits takes up to twenty times that, where somebody means it to: 160 MB."""

Holder: TypeAlias = Union[Mandate, "Biscuit"]
"""Who acts, as a verified token says."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """What was verified: `holder`, under `keys`. `anchors` is all that is asked about it, a mandate's key included.

    From `begins_at_s` to before `ends_at_s` it is within its time, the leeway included; in seconds since 1970, UTC.
    `key_id` names the key that signed a mandate.
    """

    holder: Holder
    anchors: Anchors
    keys: "KeySet | RootKeys" = field(repr=False, compare=False)
    begins_at_s: float
    ends_at_s: float
    key_id: str | None = None

    @classmethod
    def of(cls, mandate: Mandate, keys: KeySet) -> Self:
        """Return the token that `verify` has accepted as a mandate."""
        not_before = mandate.claims.get("nbf", 0)
        later = not_before if isinstance(not_before, int | float) else 0  # `verify` has refused any other
        begins_at_s = max(mandate.issued_at_s, later) - LEEWAY_S
        return cls(mandate, mandate.all_anchors(), keys, begins_at_s, mandate.expires_at_s + LEEWAY_S, mandate.key_id)

    @classmethod
    def of_biscuit(cls, biscuit: "Biscuit", keys: "RootKeys") -> Self:
        """Return the token that `verify_biscuit` has accepted. Its own checks know no leeway."""
        ends_at_s = math.inf if biscuit.expires_at_s is None else biscuit.expires_at_s
        return cls(biscuit, biscuit.anchors(), keys, -math.inf, ends_at_s)

    def is_good(self, keys: "KeySet | RootKeys", now_s: float) -> bool:
        """Whether the token would be accepted again at `now_s`, if these are the issuer's keys now.

        What an issuer has withdrawn is missing in its keys now, and is found out.
        """
        return (keys is self.keys or keys == self.keys) and self.begins_at_s <= now_s < self.ends_at_s


class VerifiedTokens:
    """The tokens that one guard verified last. Any thread may use it. The first in is the first out."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._tokens: OrderedDict[str | bytes, VerifiedToken] = OrderedDict()  # a dict is slow to find its first
        self._bytes = 0
        self.renew()

    def renew(self) -> None:
        """Begin anew in a child: a thread that writes may not be there, and never end."""
        self._writing = threading.Lock()

    def __len__(self) -> int:
        return len(self._tokens)

    def get(self, token: str | bytes) -> VerifiedToken | None:
        """Return what is remembered of `token`. Whether it is still good is for `is_good` to say."""
        return self._tokens.get(token)

    def add(self, token: str | bytes, verified: VerifiedToken) -> None:
        """Remember what `verify` accepted, in place of what was remembered of the same token."""
        with self._writing:
            self._drop(token)
            self._tokens[token] = verified
            self._bytes += len(token)
            while len(self._tokens) > self._max_entries or self._bytes > self._max_bytes:
                self._drop(next(iter(self._tokens)))

    def forget_key(self, key_id: str) -> None:
        """Forget every token that this key signed.

        One that is being verified meanwhile may still come in. It acts no more for that: its key is asked about too.
        """
        with self._writing:
            for token in [token for token, known in self._tokens.items() if known.key_id == key_id]:
                self._drop(token)

    def _drop(self, token: str | bytes) -> None:
        if self._tokens.pop(token, None) is not None:
            self._bytes -= len(token)
