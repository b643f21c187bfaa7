"""The claims of a mandate: from and to JSON, every type checked, and every id by which the token can be revoked.

What is not there is None; what is there and of the wrong type, null and the empty text included, is a refusal. Nothing
in a path is ever skipped: an id that we cannot read is one that we could not reject.
Source: docs/protocol.md, "Mandate"; RFC 7519 §4.1 and RFC 9068 §2.2 for the names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from countermand.errors import MalformedError, MalformedTokenError
from countermand.log.anchor import MAX_PATH, Anchor, Anchors, Kind, Rev
from countermand.tokens.encoding import parse_json

Claims: TypeAlias = dict[str, object]

MAX_INSTANT_S: Final = 2**53  # above it a float no longer holds every second
MAX_COUNT: Final = 2**63 - 1  # what the ledger's database holds

_DELEGATION: Final = Kind.DELEGATION
_FLAT: Final = {
    "sid": Kind.SESSION,
    "root_sid": Kind.SESSION,
    "agent_session_id": Kind.AGENT,
    "delegation_edge_id": _DELEGATION,
}
_OF_ISSUER: Final = {"sub": Kind.SUBJECT, "client_id": Kind.APPLICATION, "jti": Kind.TOKEN}
_REQUIRED: Final = frozenset({"iss", "sub"})
_TEXTS: Final = ("iss", *_FLAT, *_OF_ISSUER, "zone_id", "use", "sub_type")
_PATH_KINDS: Final = {kind.text: kind for kind in Kind if kind is not Kind.CUTOFF}  # a cutoff is nobody's ancestor


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """A token whose signature, issuer, audience and time held. Times are seconds since 1970, UTC.

    `rev` is None in a foreign token: it stands in all of ours. `anchors` is all by which the token can be revoked.
    `key_id` names the key that signed it. `claims` is the whole payload; its nested values are not to be changed.
    """

    issuer: str
    subject: str
    audience: tuple[str, ...]
    expires_at_s: float
    issued_at_s: float
    token_id: str | None
    client_id: str | None
    scopes: frozenset[str]
    zone_id: str | None
    use: str | None
    sub_type: str | None
    session_id: str | None
    root_session_id: str | None
    agent_session_id: str | None
    delegation_edge_id: str | None
    delegation_path: tuple[str, ...]
    hop_count: int
    key_id: str | None
    rev: Rev | None
    anchors: Anchors
    claims: Mapping[str, object] = field(repr=False, compare=False)

    def all_anchors(self) -> Anchors:
        """Return the anchors and the key, as ours and as its issuer's: whoever has the key chooses all the rest.

        Raises:
            MalformedTokenError: the key's id is not one that the ledger could hold.
        """
        if self.key_id is None:
            return self.anchors
        try:
            keys = [Anchor(Kind.KEY, self.key_id, issuer) for issuer in ("", self.issuer)]
        except MalformedError as error:
            raise MalformedTokenError(f"the token names a key that cannot be withdrawn: {error}") from None
        return Anchors((*keys, *self.anchors.path), self.anchors.issued_at_s, self.anchors.rev)


@dataclass(frozen=True, slots=True)
class Hop:
    """One delegation: the edge, and the application and agent session that it came from."""

    application_id: str
    agent_session_id: str
    delegation_edge_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MandateClaims:
    """What a new mandate says. Times are whole seconds since 1970, UTC.

    `delegation_chain` goes from root to leaf, as does `path`: every ancestor once, each an anchor without an issuer.
    """

    issuer: str
    subject: str
    audience: tuple[str, ...]
    issued_at_s: int
    expires_at_s: int
    token_id: str
    client_id: str
    scopes: frozenset[str]
    sub_type: Literal["user", "application"]
    session_id: str
    root_session_id: str
    path: tuple[Anchor, ...]
    rev: Rev
    agent_session_id: str | None = None
    delegation_edge_id: str | None = None
    delegation_chain: tuple[Hop, ...] = ()
    zone_id: str = "default"
    use: str = "resource"

    @property
    def delegation_path(self) -> tuple[str, ...]:
        """The edges of the chain."""
        return tuple(hop.delegation_edge_id for hop in self.delegation_chain)

    def to_json(self) -> Claims:
        """Return the claims as they stand in the token; an agent or an edge that is not there leaves no claim."""
        acting = {"agent_session_id": self.agent_session_id, "delegation_edge_id": self.delegation_edge_id}
        return {
            "iss": self.issuer,
            "sub": self.subject,
            "aud": self.audience[0] if len(self.audience) == 1 else list(self.audience),
            "exp": self.expires_at_s,
            "iat": self.issued_at_s,
            "jti": self.token_id,
            "client_id": self.client_id,
            "scope": " ".join(sorted(self.scopes)),
            "zone_id": self.zone_id,
            "use": self.use,
            "sub_type": self.sub_type,
            "sid": self.session_id,
            "root_sid": self.root_session_id,
            **{name: id_ for name, id_ in acting.items() if id_ is not None},
            "delegation_path": list(self.delegation_path),
            "delegation_chain": [_hop_json(hop) for hop in self.delegation_chain],
            "hop_count": len(self.delegation_chain),
            "path": [str(anchor) for anchor in self.path],
            "rev": [self.rev.generation, self.rev.seq],
        }


def _hop_json(hop: Hop) -> dict[str, str]:
    return {
        "application_id": hop.application_id,
        "agent_session_id": hop.agent_session_id,
        "delegation_edge_id": hop.delegation_edge_id,
    }


def parse_claims(payload: bytes) -> Claims:
    """Return the object that a token's payload is. Raises: MalformedTokenError."""
    try:
        claims = parse_json(payload)
    except ValueError:
        raise MalformedTokenError("the token's claims are not JSON that we accept") from None  # a cause could quote it
    if not isinstance(claims, dict):
        raise MalformedTokenError("the token's claims are not an object")
    return claims


def read_mandate(claims: Claims, key_id: str | None) -> Mandate:
    """Return what `claims` say, once all else about the token was verified. Raises: MalformedTokenError."""
    texts = {name: text(claims, name) for name in _TEXTS if name in claims or name in _REQUIRED}
    rev = _rev(claims)
    delegation_path = _delegation_path(claims)
    issued_at_s = instant(claims, "iat")
    return Mandate(
        issuer=texts["iss"],
        subject=texts["sub"],
        audience=audience_of(claims),
        expires_at_s=instant(claims, "exp"),
        issued_at_s=issued_at_s,
        token_id=texts.get("jti"),
        client_id=texts.get("client_id"),
        scopes=_scopes(claims),
        zone_id=texts.get("zone_id"),
        use=texts.get("use"),
        sub_type=texts.get("sub_type"),
        session_id=texts.get("sid"),
        root_session_id=texts.get("root_sid"),
        agent_session_id=texts.get("agent_session_id"),
        delegation_edge_id=texts.get("delegation_edge_id"),
        delegation_path=delegation_path,
        hop_count=_count(claims.get("hop_count", len(delegation_path))),
        key_id=key_id,
        rev=rev,
        anchors=Anchors(_anchors(claims, texts, delegation_path, foreign=rev is None), issued_at_s, rev),
        claims=MappingProxyType(claims),
    )


def _anchors(
    claims: Claims, texts: Mapping[str, str], delegation_path: tuple[str, ...], *, foreign: bool
) -> tuple[Anchor, ...]:
    """The path in order, then whatever the other claims name beyond it, each once.

    The four documented claims and the edges stay in the flat namespace, as documented. What else a foreign issuer names
    carries its name: nobody can meet our ids by choosing the same.
    """
    home = texts["iss"] if foreign else ""
    named = _path(claims, required=not foreign)
    named += [(kind, texts[name], "") for name, kind in _FLAT.items() if name in texts]
    named += [(_DELEGATION, edge, "") for edge in delegation_path]
    named += [(kind, texts[name], home) for name, kind in _OF_ISSUER.items() if name in texts]
    try:
        return tuple([Anchor(kind, id_, issuer) for kind, id_, issuer in dict.fromkeys(named)])
    except MalformedError as error:
        raise MalformedTokenError(f"the token names what cannot be revoked: {error}") from None


def _path(claims: Claims, *, required: bool) -> list[tuple[Kind, str, str]]:
    if "path" not in claims and not required:
        return []
    path: list[tuple[Kind, str, str]] = []
    for item in _list(claims.get("path"), "path"):
        kind, _, id_ = item.partition(":") if isinstance(item, str) else ("", "", "")
        if kind not in _PATH_KINDS:
            raise MalformedTokenError("the token's path holds what is no ancestor that we know")
        path.append((_PATH_KINDS[kind], id_, ""))
    return path


def _delegation_path(claims: Claims) -> tuple[str, ...]:
    for hop in _list(claims.get("delegation_chain", []), "delegation_chain"):
        if not isinstance(hop, dict) or not all(isinstance(value, str) for value in hop.values()):
            raise MalformedTokenError("the claim delegation_chain is not a list of objects of texts")
    return _texts(_list(claims.get("delegation_path", []), "delegation_path"), "delegation_path")


def _list(value: object, name: str) -> list[object]:
    if not isinstance(value, list) or len(value) > MAX_PATH:
        raise MalformedTokenError(f"the claim {name} is not a list of at most {MAX_PATH}")
    return value


def _texts(values: list[object], name: str) -> tuple[str, ...]:
    texts = tuple([value for value in values if isinstance(value, str) and value])
    if len(texts) != len(values):
        raise MalformedTokenError(f"the claim {name} is not a list of texts")
    return texts


def text(claims: Claims, name: str) -> str:
    """Return a claim that is a text and not empty. Raises: MalformedTokenError."""
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise MalformedTokenError(f"the claim {name} is not a text")
    return value


def audience_of(claims: Claims) -> tuple[str, ...]:
    """Return `aud`, one text or a list of them (RFC 7519 §4.1.3). Raises: MalformedTokenError."""
    value = claims.get("aud")
    audience = _texts(value if isinstance(value, list) else [value], "aud")
    if not audience:
        raise MalformedTokenError("the claim aud names nobody")
    return audience


def instant(claims: Claims, name: str) -> float:
    """Return a claim in seconds since 1970 (RFC 7519 §2, NumericDate). Raises: MalformedTokenError."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_INSTANT_S:
        raise MalformedTokenError(f"the claim {name} is not a time")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise MalformedTokenError("a count in the token is not a whole number from 0")
    return value


def _scopes(claims: Claims) -> frozenset[str]:
    value = claims.get("scope", "")
    if not isinstance(value, str):
        raise MalformedTokenError("the claim scope is not a text")
    return frozenset(value.split(" ")) - {""}  # RFC 6749 §3.3: spaces alone divide it


def _rev(claims: Claims) -> Rev | None:
    if "rev" not in claims:
        return None
    value = claims["rev"]
    if not isinstance(value, list) or len(value) != 2:
        raise MalformedTokenError("the claim rev is not [generation, seq]")
    return Rev(_count(value[0]), _count(value[1]))
