"""Biscuits at a guard: verified, asked about, and authorized by the application's Datalog.

    biscuits = Biscuits("ed25519/…", 'allow if right($path, $method), path($path), method($method)')

What is known of the request are the facts `time(…)` and, over HTTP, `method("GET")` and `path("/notes")`; who asks the
guard itself may give others. The revocation ids are asked about before the Datalog is: nothing of a revoked token runs.
Source: docs/protocol.md, "Biscuit"; docs/biscuit.md.
"""

from collections.abc import Mapping
from typing import Final

from countermand.enforce.decision import Code, Deny
from countermand.errors import ExpiredTokenError
from countermand.tokens.biscuit import Biscuit, RootKeys, parse_biscuit, verify_biscuit
from countermand.tokens.cache import VerifiedToken
from countermand.tokens.policy import Facts, Policy

_NOT_ALLOWED: Final = "the token does not allow this request"
_HINT: Final = "present a token whose checks hold for the request, and which the service's policy allows"


class Biscuits:
    """What a guard needs to know to accept Biscuits.

    `root_keys` are the issuer's public keys: `ed25519/…`, several with commas and with the ids that tokens name, or a
    mapping from the ids; they may be set anew at any time. `policy` is Datalog (see `Policy`). A Biscuit meets a
    required scope by a fact `scope("…")` in its authority block, and a limit on hops by how often it was attenuated; it
    belongs to no session, and has no delegation of ours.

    Raises:
        ConfigurationError: a key that is none, or a policy that cannot allow anything.
    """

    def __init__(
        self, root_keys: str | Mapping[int, str] | RootKeys, policy: str, *, revocation_facts: bool = False
    ) -> None:
        self.root_keys = root_keys
        self._policy = Policy(policy, revocation_facts=revocation_facts)

    @property
    def root_keys(self) -> RootKeys:
        """The public keys of whoever issues Biscuits."""
        return self._root_keys

    @root_keys.setter
    def root_keys(self, keys: str | Mapping[int, str] | RootKeys) -> None:
        self._root_keys = RootKeys.of(keys)

    @property
    def asks_for_the_request(self) -> bool:
        """Whether the policy names `method` or `path`, which not everybody can tell it."""
        return self._policy.asks_for_the_request

    def verify(self, token: str | bytes, known: VerifiedToken | None, now_s: float) -> VerifiedToken:
        """Return the token, verified; `known` is what it was before. Raises: TokenError."""
        keys = self._root_keys
        verified = known
        if verified is None or verified.keys != keys:
            facts = self._policy.facts_of_a_name
            biscuit = verify_biscuit(parse_biscuit(token), keys, authorizer_facts=facts)
            verified = VerifiedToken.of_biscuit(biscuit, keys)
        if not now_s < verified.ends_at_s:
            raise ExpiredTokenError("the token has expired")
        return verified

    def denial(self, biscuit: Biscuit, facts: Facts, now_s: float) -> Deny | None:
        """Return why the Datalog does not let a Biscuit do this now; None if it does. Raises: InvalidValueError."""
        refusal = self._policy.refusal(biscuit, facts, now_s)
        if refusal is not None:
            return Deny.of(Code.INSUFFICIENT_SCOPE, description=_NOT_ALLOWED, hint=_HINT, reason=refusal.value)
        return None
