"""Tokens that were verified, so that one which comes again costs no signature.

Only that a token is genuine is remembered, never that it may act. Its time is compared on each use, and it counts only
under the same keys that verified it. Whether it was revoked is not known here, and is asked each time.
Source: docs/protocol.md, "Mandate".
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from countermand.log.anchor import Anchors
from countermand.tokens.jwks import KeySet
from countermand.tokens.mandate import LEEWAY_S, Mandate

MAX_ENTRIES: Final = 8_192
MAX_BYTES: Final = 8 * 2**20
"""Of token text. All that is remembered takes about five times that: at these bounds some 50 MB."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """What was verified: `mandate`, under `keys`. `anchors` is all that is asked about it, the signing key included.

    `begins_at_s` is the later of `iat` and `nbf`, less the leeway; `ends_at_s` is `exp` with it, the first moment at
    which the token is not good any more. Both in seconds since 1970, UTC. `key_id` names the key that signed it.
    """

    mandate: Mandate
    anchors: Anchors
    keys: KeySet = field(repr=False, compare=False)
    key_id: str | None = field(init=False)
    begins_at_s: float = field(init=False)
    ends_at_s: float = field(init=False)

    def __post_init__(self) -> None:
        not_before = self.mandate.claims.get("nbf", 0)
        later = not_before if isinstance(not_before, int | float) else 0  # `verify` has refused any other
        object.__setattr__(self, "key_id", self.mandate.key_id)
        object.__setattr__(self, "begins_at_s", max(self.mandate.issued_at_s, later) - LEEWAY_S)
        object.__setattr__(self, "ends_at_s", self.mandate.expires_at_s + LEEWAY_S)

    def is_good(self, keys: KeySet, now_s: float) -> bool:
        """Whether `verify` would accept the token again at `now_s`, if these are the issuer's keys now.

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
