"""Real keys and real signed bytes, for the tests of tokens."""

import base64
import json
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from countermand.log.anchor import Anchor, Kind, Rev, own_id
from countermand.tokens.jwks import KeySet
from countermand.tokens.mandate import Hop, Mandate, MandateClaims, SigningKey, parse_mandate, verify

ISSUER = "https://issuer.example"
AUDIENCE = "https://api.example"
NOW_S = 1_700_000_000

ES256 = SigningKey.generate("ES256")
OTHER_ES256 = SigningKey.generate("ES256")
ED25519 = SigningKey.generate("Ed25519")
RS256 = SigningKey.generate("RS256")
BY_ALGORITHM = {key.algorithm: key for key in (ES256, ED25519, RS256)}
KEYS = KeySet((ES256.verifying_key(), ED25519.verifying_key(), RS256.verifying_key()))

SESSION, ROOT, AGENT, EDGE, PARENT_EDGE, GRANT, APPLICATION, TOKEN = (
    own_id(kind, bytes((number,)) * 16)
    for number, kind in enumerate(
        (
            Kind.SESSION,
            Kind.SESSION,
            Kind.AGENT,
            Kind.DELEGATION,
            Kind.DELEGATION,
            Kind.GRANT,
            Kind.APPLICATION,
            Kind.TOKEN,
        )
    )
)

CLAIMS = MandateClaims(
    issuer=ISSUER,
    subject="alice",
    audience=(AUDIENCE,),
    issued_at_s=NOW_S,
    expires_at_s=NOW_S + 900,
    token_id=TOKEN,
    client_id=APPLICATION,
    scopes=frozenset({"read", "write"}),
    sub_type="user",
    session_id=SESSION,
    root_session_id=ROOT,
    path=(Anchor(Kind.SESSION, ROOT), Anchor(Kind.SESSION, SESSION), Anchor(Kind.GRANT, GRANT)),
    rev=Rev(1, 42),
)
DELEGATED = replace(
    CLAIMS,
    agent_session_id=AGENT,
    delegation_edge_id=EDGE,
    delegation_chain=(Hop("app-1", "agt-1", PARENT_EDGE), Hop("app-2", "agt-2", EDGE)),
)
FOREIGN = {"iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "exp": NOW_S + 900, "iat": NOW_S}


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sign(payload: dict[str, Any] | bytes, key: SigningKey = ES256, header: dict[str, Any] | bytes | None = None) -> str:
    """A token whose signature holds, whatever it says."""
    if header is None:
        header = {"alg": key.algorithm, "kid": key.kid}
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signing_input = b".".join(map(b64, parts))
    return (signing_input + b"." + b64(key.sign(signing_input))).decode()


def read(token: str | bytes, keys: KeySet = KEYS, now_s: float = NOW_S) -> Mandate:
    return verify(parse_mandate(token), keys, issuer=ISSUER, audience=AUDIENCE, now_s=now_s)


def claims_json(**changes: Any) -> dict[str, Any]:
    return CLAIMS.to_json() | changes


def without(name: str) -> dict[str, Any]:
    return {other: value for other, value in CLAIMS.to_json().items() if other != name}


def json_of(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)

    return st.recursive(st.none() | st.booleans() | st.integers() | leaves, nest, max_leaves=10)


JSON = json_of(st.floats(allow_nan=False, allow_infinity=False) | st.text())
LOOSE_JSON = json_of(st.floats() | st.text(st.characters()))
"""What `json` writes and reads beyond the standard: NaN, Infinity and halves of surrogate pairs."""
