"""Tokens from a person's hands: whatever they are, they are taken apart or refused, and never repeated."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.cli.tokens import open_token
from countermand.errors import MalformedTokenError
from countermand.log.anchor import Kind
from countermand.tokens.mandate import mint
from tests.unit.mandates import CLAIMS, ES256, FOREIGN, JSON, b64, read, sign


@given(st.text() | st.binary().map(lambda data: b".".join([b64(data)] * 3).decode()))
def test_anything_at_all_is_opened_or_refused(text: str) -> None:
    with suppress(MalformedTokenError):
        open_token(text)


def test_a_refusal_repeats_nothing() -> None:
    for text in ("not a token", "a.b.c", f"{mint(CLAIMS, ES256)}.more", "x" * 20_000):
        with pytest.raises(MalformedTokenError) as refusal:
            open_token(text)
        assert text not in str(refusal.value)
        assert refusal.value.__cause__ is None


@given(JSON, JSON)
def test_any_json_in_it_is_opened_or_refused(header: object, claims: object) -> None:
    token = ".".join(b64(json.dumps(part).encode()).decode() for part in (header, claims, ""))
    with suppress(MalformedTokenError):
        open_token(token).anchors()


def test_the_anchors_are_those_by_which_a_guard_asks() -> None:
    token = mint(CLAIMS, ES256)
    opened = open_token(token)
    mandate = read(token)
    anchors = opened.anchors()
    assert anchors.path[2:] == mandate.anchors.path
    assert [(anchor.kind, anchor.id, anchor.issuer) for anchor in anchors.path[:2]] == [
        (Kind.KEY, ES256.kid, ""),
        (Kind.KEY, ES256.kid, CLAIMS.issuer),
    ]
    assert (anchors.rev, anchors.issued_at_s) == (CLAIMS.rev, CLAIMS.issued_at_s)


def test_a_token_without_a_key_has_the_anchors_of_its_claims() -> None:
    opened = open_token(sign(FOREIGN, ES256, {"alg": "ES256"}))
    assert {anchor.kind for anchor in opened.anchors().path} == {Kind.SUBJECT}


def test_a_key_that_no_entry_could_name_is_a_refusal() -> None:
    with pytest.raises(MalformedTokenError, match="cannot be withdrawn"):
        open_token(sign(FOREIGN, ES256, {"alg": "ES256", "kid": "a\nb"})).anchors()


def test_the_token_is_in_no_repr() -> None:
    token = mint(CLAIMS, ES256)
    assert token not in repr(open_token(token))
