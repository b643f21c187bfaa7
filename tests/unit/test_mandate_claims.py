"""What a mandate says: minted, read back, and every claim of the wrong type refused under a signature that holds."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import InvalidValueError, MalformedTokenError, TokenError
from countermand.log.anchor import Anchor, Kind, Rev, own_id
from countermand.tokens.mandate import ALGORITHMS, MAX_TOKEN_BYTES, mint
from tests.unit.mandates import (
    AGENT,
    APPLICATION,
    AUDIENCE,
    BY_ALGORITHM,
    CLAIMS,
    DELEGATED,
    ED25519,
    EDGE,
    ES256,
    FOREIGN,
    GRANT,
    ISSUER,
    LOOSE_JSON,
    NOW_S,
    PARENT_EDGE,
    ROOT,
    SESSION,
    TOKEN,
    claims_json,
    read,
    sign,
    without,
)

# What is minted


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_minted_verifies_and_says_the_same(algorithm: str) -> None:
    key = BY_ALGORITHM[algorithm]
    mandate = read(mint(DELEGATED, key))
    assert (mandate.issuer, mandate.subject, mandate.audience) == (ISSUER, "alice", (AUDIENCE,))
    assert (mandate.issued_at_s, mandate.expires_at_s) == (NOW_S, NOW_S + 900)
    assert (mandate.token_id, mandate.client_id) == (TOKEN, APPLICATION)
    assert mandate.scopes == {"read", "write"}
    assert (mandate.zone_id, mandate.use, mandate.sub_type) == ("default", "resource", "user")
    assert (mandate.session_id, mandate.root_session_id) == (SESSION, ROOT)
    assert (mandate.agent_session_id, mandate.delegation_edge_id) == (AGENT, EDGE)
    assert (mandate.delegation_path, mandate.hop_count) == ((PARENT_EDGE, EDGE), 2)
    assert (mandate.key_id, mandate.rev) == (key.kid, Rev(1, 42))


def test_a_minted_header_names_type_algorithm_and_key() -> None:
    header = json.loads(base64.urlsafe_b64decode(mint(CLAIMS, ES256).split(".")[0] + "=="))
    assert header == {"alg": "ES256", "typ": "at+jwt", "kid": ES256.kid}


def test_a_minted_payload_has_the_documented_names_and_no_null() -> None:
    assert dict(read(mint(CLAIMS, ES256)).claims) == {
        "iss": ISSUER,
        "sub": "alice",
        "aud": AUDIENCE,
        "exp": NOW_S + 900,
        "iat": NOW_S,
        "jti": TOKEN,
        "client_id": APPLICATION,
        "scope": "read write",
        "zone_id": "default",
        "use": "resource",
        "sub_type": "user",
        "sid": SESSION,
        "root_sid": ROOT,
        "delegation_path": [],
        "delegation_chain": [],
        "hop_count": 0,
        "path": [f"session:{ROOT}", f"session:{SESSION}", f"grant:{GRANT}"],
        "rev": [1, 42],
    }


def test_a_minted_chain_has_its_three_members() -> None:
    claims = read(mint(DELEGATED, ES256)).claims
    assert claims["delegation_chain"] == [
        {"application_id": "app-1", "agent_session_id": "agt-1", "delegation_edge_id": PARENT_EDGE},
        {"application_id": "app-2", "agent_session_id": "agt-2", "delegation_edge_id": EDGE},
    ]
    assert (claims["agent_session_id"], claims["delegation_edge_id"]) == (AGENT, EDGE)


def test_the_anchors_are_the_path_and_then_each_other_id_once() -> None:
    mandate = read(mint(DELEGATED, ES256))
    assert mandate.anchors.path == (
        *CLAIMS.path,
        Anchor(Kind.AGENT, AGENT),
        Anchor(Kind.DELEGATION, EDGE),
        Anchor(Kind.DELEGATION, PARENT_EDGE),
        Anchor(Kind.SUBJECT, "alice"),
        Anchor(Kind.APPLICATION, APPLICATION),
        Anchor(Kind.TOKEN, TOKEN),
    )
    assert (mandate.anchors.issued_at_s, mandate.anchors.rev) == (NOW_S, Rev(1, 42))


def test_a_path_of_64_is_minted_and_read_and_one_of_65_is_neither() -> None:
    path = tuple(Anchor(Kind.AGENT, own_id(Kind.AGENT, bytes((number,)) * 16)) for number in range(65))
    assert read(mint(replace(CLAIMS, path=path[:64]), ES256)).anchors.path[:64] == path[:64]
    with pytest.raises(InvalidValueError):
        mint(replace(CLAIMS, path=path), ES256)
    with pytest.raises(MalformedTokenError):
        read(sign(claims_json(path=[str(anchor) for anchor in path])))


@pytest.mark.parametrize(
    "changes",
    [
        {"path": (Anchor(Kind.TOKEN, "t1", issuer="https://elsewhere.example"),)},
        {"path": (Anchor(Kind.CUTOFF, "all"),)},
        {"expires_at_s": NOW_S},
        {"audience": ()},
        {"subject": ""},
        {"subject": "half \ud800"},
        {"subject": "x" * 513},
        {"session_id": "line\nbreak"},
        {"zone_id": "\udfff"},
        {"rev": Rev(1, -1)},
        {"audience": ("x" * MAX_TOKEN_BYTES,)},
    ],
)
def test_nothing_is_minted_that_could_not_be_verified(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        mint(replace(CLAIMS, **changes), ES256)


# Claims


TEXTS = ("iss", "sub", "jti", "client_id", "zone_id", "use", "sub_type", "sid", "root_sid")
ACTING = ("agent_session_id", "delegation_edge_id")
NAMES_OF_ANCHORS = ("sub", "jti", "client_id", "sid", "root_sid", *ACTING)
NOT_COUNT: list[Any] = [None, -1, True, 1.0, "1", 2**63, [1]]
NOT_IN_A_PATH = ("", ":", "session", "session:", ":x", "Session:x", " session:x", "planet:x", "cutoff:all")
REFUSED: list[tuple[tuple[str, ...], list[Any]]] = [
    ((*TEXTS, *ACTING), [None, 1, True, "", [], {}, ["x"]]),
    (NAMES_OF_ANCHORS, ["x" * 513, "x\u2028y", "x\ny", "\udfff"]),
    (("aud",), [None, 1, "", [], [AUDIENCE, 1], [AUDIENCE, ""], {AUDIENCE: 1}]),
    (("exp", "iat", "nbf"), [None, "1700000000", True, [], -1, 2**53 + 1, 10**400, {"x": 1}]),
    (("scope",), [None, 1, ["read"], "\udfff"]),
    (("hop_count",), NOT_COUNT),
    (("rev",), [[wrong, 1] for wrong in NOT_COUNT] + [[1, wrong] for wrong in NOT_COUNT]),
    (("rev",), [None, 1, "1,2", [], [1], [1, 2, 3], {"generation": 1, "seq": 2}]),
    (("path",), [None, "session:x", {"session": "x"}, [None], [1], [["session:x"]]]),
    (("path",), [["session:ok", wrong] for wrong in NOT_IN_A_PATH]),
    (("path",), [["session:\n"], ["session:\ud800"], ["session:" + "x" * 513]]),
    (("delegation_path",), [None, "e", [1], [""], [None], ["e"] * 65, ["\x00"]]),
    (("delegation_chain",), [None, {}, ["e"], [{"application_id": 1}], [{}] * 65]),
    (("anything",), ["\udfff", float("nan"), float("-inf")]),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for names, all_ in REFUSED for name in names for value in all_]
)
def test_a_claim_of_the_wrong_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(MalformedTokenError):
        read(sign(claims_json(**{name: value})))


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "iat", "path"])
def test_a_claim_that_is_required_cannot_be_left_out(name: str) -> None:
    with pytest.raises(MalformedTokenError):
        read(sign(without(name)))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"1",
        b"null",
        b"{",
        b"\xff",
        json.dumps(claims_json())[:-1].encode() + b',"iss":"%b"}' % ISSUER.encode(),
        json.dumps(claims_json())[:-1].encode() + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        json.dumps(claims_json())[:-1].encode() + b',"x":' + b'{"y":' * 16 + b"1" + b"}" * 16 + b"}",
        json.dumps(claims_json())[:-1].encode() + b',"x":' + b"9" * 5000 + b"}",
        b"[" * 11_000,
    ],
)
def test_a_signed_payload_that_is_no_object_of_ours_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedTokenError):
        read(sign(payload))


def test_a_claim_may_nest_as_deep_as_any_that_we_know() -> None:
    payload = json.dumps(claims_json())[:-1].encode() + b',"x":' + b"[" * 15 + b"]" * 15 + b"}"
    assert "x" in read(sign(payload)).claims


def test_a_foreign_token_needs_no_path_and_its_names_carry_their_issuer() -> None:
    mandate = read(sign(FOREIGN | {"jti": TOKEN, "client_id": APPLICATION, "sid": SESSION, "delegation_path": [EDGE]}))
    assert mandate.rev is None
    assert mandate.anchors.rev is None
    assert mandate.anchors.path == (
        Anchor(Kind.SESSION, SESSION),
        Anchor(Kind.DELEGATION, EDGE),
        Anchor(Kind.SUBJECT, "alice", ISSUER),
        Anchor(Kind.APPLICATION, APPLICATION, ISSUER),
        Anchor(Kind.TOKEN, TOKEN, ISSUER),
    )
    ours = {Anchor(Kind.TOKEN, TOKEN).key, Anchor(Kind.SUBJECT, "alice").key, Anchor(Kind.APPLICATION, APPLICATION).key}
    assert ours.isdisjoint(mandate.anchors.keys)


def test_a_foreign_token_without_optional_claims_has_none_of_them() -> None:
    mandate = read(sign(FOREIGN))
    assert mandate.token_id is mandate.client_id is mandate.zone_id is mandate.use is mandate.sub_type is None
    assert mandate.session_id is mandate.root_session_id is mandate.agent_session_id is None
    assert mandate.delegation_edge_id is None
    assert (mandate.delegation_path, mandate.hop_count, mandate.scopes) == ((), 0, frozenset())
    assert mandate.anchors.path == (Anchor(Kind.SUBJECT, "alice", ISSUER),)


def test_a_foreign_path_is_read_whole_or_refused() -> None:
    assert Anchor(Kind.GRANT, GRANT) in read(sign(FOREIGN | {"path": [f"grant:{GRANT}"]})).anchors.path
    with pytest.raises(MalformedTokenError):
        read(sign(FOREIGN | {"path": [f"grant:{GRANT}", "planet:x"]}))


def test_the_edges_count_as_hops_where_a_token_gives_no_number() -> None:
    assert read(sign(FOREIGN | {"delegation_path": ["e1", "e2"]})).hop_count == 2


def test_an_id_in_a_path_may_hold_colons_and_any_letters() -> None:
    assert read(sign(claims_json(path=["subject:urn:x:日本"]))).anchors.path[0] == Anchor(Kind.SUBJECT, "urn:x:日本")


def test_the_claims_cannot_be_changed() -> None:
    claims = read(mint(CLAIMS, ES256)).claims
    with pytest.raises(TypeError):
        claims["sub"] = "mallory"  # type: ignore[index]


@given(st.sampled_from([*CLAIMS.to_json(), "nbf", "agent_session_id", "delegation_edge_id"]), LOOSE_JSON)
def test_any_claim_is_read_as_it_stands_or_refused_by_our_own_errors(name: str, value: object) -> None:
    payload = claims_json(**{name: value})
    try:
        mandate = read(sign(payload))
    except TokenError:
        return
    assert mandate.claims == payload


@given(st.binary(max_size=200))
def test_any_signed_payload_is_refused_by_our_own_errors(payload: bytes) -> None:
    with pytest.raises(MalformedTokenError):
        read(sign(payload, ED25519))
