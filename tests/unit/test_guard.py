"""The guard's decision: every code, the order of the checks, and that what cannot be known is denied."""

import asyncio
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.enforce.decision import HTTP_STATUS, Allow, Code, Deny, Requirements
from countermand.errors import KeysError
from countermand.log.anchor import Anchor, Kind
from countermand.log.verdict import CLEAR, Revoked, Unknown
from countermand.log.wire import flat_id
from countermand.tokens.jwks import KeySet, StaticKeys
from countermand.tokens.keys import VerifyingKey
from countermand.tokens.mandate import MAX_TOKEN_BYTES
from tests.unit.guarded import (
    DELEGATED_TEXT,
    FOREIGN_TEXT,
    SECRETS,
    TOKEN_TEXT,
    UNREACHABLE,
    Answers,
    Following,
    Keys,
    Store,
    denied,
    guard,
    revoked,
)
from tests.unit.mandates import (
    AGENT,
    APPLICATION,
    EDGE,
    ES256,
    FOREIGN,
    GRANT,
    ISSUER,
    JSON,
    NOW_S,
    OTHER_ES256,
    PARENT_EDGE,
    ROOT,
    SESSION,
    TOKEN,
    claims_json,
    sign,
)

pytestmark = pytest.mark.anyio

STALE = Unknown("stale")
REVOKED = Revoked(Anchor(Kind.SESSION, SESSION), 7)
NO_SESSION = sign(FOREIGN)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def required(**options: Any) -> Requirements:
    return Requirements.of(**options)


async def test_a_good_token_may_act_with_its_mandate() -> None:
    decision = await guard().decide(TOKEN_TEXT)

    assert isinstance(decision, Allow)
    assert decision.mandate.subject == "alice"
    assert decision.mandate.scopes == {"read", "write"}


async def test_the_same_token_as_bytes_may_act() -> None:
    assert isinstance(await guard().decide(TOKEN_TEXT.encode()), Allow)


async def test_a_denial_is_false_where_a_truth_value_is_asked() -> None:
    assert await guard().decide(TOKEN_TEXT)
    assert not await guard().decide(None)


def test_the_table_of_codes_is_the_documented_one() -> None:
    assert {code.value: status for code, status in HTTP_STATUS.items()} == {
        "missing_token": 401,
        "invalid_token": 401,
        "session_revoked": 401,
        "insufficient_scope": 403,
        "session_required": 403,
        "delegation_required": 403,
        "hop_count_exceeded": 403,
        "revocation_unavailable": 503,
        "keys_unavailable": 503,
    }


@pytest.mark.parametrize(("code", "status"), HTTP_STATUS.items())
def test_every_denial_says_what_is_wrong_and_what_to_do(code: Code, status: int) -> None:
    deny = Deny.of(code)

    assert deny.status == status
    assert deny.description
    assert deny.hint
    assert deny.may_pass_later is (status == 503)


@pytest.mark.parametrize("token", [None, "", b""])
async def test_no_token_is_missing_token_and_names_the_scopes_to_get(token: str | bytes | None) -> None:
    deny = denied(await guard().decide(token, required(required_scopes=["write", "read"])))

    assert deny.code is Code.MISSING_TOKEN
    assert deny.scopes == ("read", "write")


INVALID = {
    "not a token": ("nonsense", "malformed_token"),
    "too long": ("a" * (MAX_TOKEN_BYTES + 1), "malformed_token"),
    "not ASCII": ("ä.ö.ü", "malformed_token"),
    "half of a surrogate pair": ("\ud800", "malformed_token"),
    "the signature of another key": (sign(claims_json(), OTHER_ES256, {"alg": "ES256", "kid": ES256.kid}), None),
    "an unknown key": (sign(claims_json(), OTHER_ES256), "unknown_token_key"),
    "another issuer": (sign(claims_json(iss="https://other.example")), "wrong_issuer"),
    "another audience": (sign(claims_json(aud="https://other.example")), "wrong_audience"),
    "expired": (sign(claims_json(exp=NOW_S - 11)), "expired_token"),
    "issued in the future": (sign(claims_json(iat=NOW_S + 11)), "expired_token"),
    "no path": (sign(claims_json(path=None)), "malformed_token"),
}


@pytest.mark.parametrize(("token", "reason"), INVALID.values(), ids=INVALID.keys())
async def test_a_bad_token_is_invalid_token_and_the_log_learns_why(token: str, reason: str | None) -> None:
    deny = denied(await guard().decide(token))

    assert deny.code is Code.INVALID_TOKEN
    assert deny.reason == (reason or "bad_token_signature")


async def test_the_guards_clock_decides_what_is_expired() -> None:
    assert denied(await guard(clock_s=lambda: NOW_S + 910).decide(TOKEN_TEXT)).reason == "expired_token"
    assert isinstance(await guard(clock_s=lambda: NOW_S + 909).decide(TOKEN_TEXT), Allow)


EVERY_ANCHOR = (SESSION, ROOT, AGENT, EDGE, PARENT_EDGE, GRANT, APPLICATION, TOKEN)


@pytest.mark.parametrize("id_", EVERY_ANCHOR)
async def test_every_anchor_of_the_path_and_the_claims_ends_the_token(id_: str) -> None:
    deny = denied(await guard(revoked(id_)).decide(DELEGATED_TEXT))

    assert deny.code is Code.SESSION_REVOKED
    assert deny.reason.endswith(f":{id_}")


async def test_a_session_that_is_not_in_the_token_ends_nothing() -> None:
    assert isinstance(await guard(revoked("ses_" + "ff" * 16)).decide(DELEGATED_TEXT), Allow)


async def test_the_id_of_a_foreign_token_is_asked_for_with_its_issuer() -> None:
    token = sign({**FOREIGN, "jti": "1"})

    assert isinstance(await guard(revoked("1")).decide(token), Allow)
    deny = denied(await guard(revoked(flat_id(Anchor(Kind.TOKEN, "1", ISSUER)))).decide(token))
    assert deny.code is Code.SESSION_REVOKED


@pytest.mark.parametrize("marked", ["sitzung-ä", flat_id(Anchor(Kind.SESSION, "sitzung-ä"))])
async def test_a_session_that_is_not_ascii_is_found_as_it_is_and_as_it_is_published(marked: str) -> None:
    deny = denied(await guard(revoked(marked)).decide(sign({**FOREIGN, "sid": "sitzung-ä"})))

    assert deny.code is Code.SESSION_REVOKED


async def test_a_session_named_like_the_subject_does_not_end_the_subject() -> None:
    assert isinstance(await guard(revoked("alice")).decide(TOKEN_TEXT), Allow)


@pytest.mark.parametrize("token", [TOKEN_TEXT, FOREIGN_TEXT], ids=["ours", "foreign"])
@pytest.mark.parametrize("issuer", ["", ISSUER])
async def test_a_withdrawn_key_ends_every_token_that_it_signed(token: str, issuer: str) -> None:
    withdrawn = flat_id(Anchor(Kind.KEY, ES256.kid, issuer))

    assert denied(await guard(revoked(withdrawn)).decide(token)).code is Code.SESSION_REVOKED


async def test_a_key_without_a_name_verifies_what_names_no_key() -> None:
    nameless = StaticKeys(KeySet((VerifyingKey(None, ES256.private.public_key()),)))

    assert isinstance(await guard(keys=nameless).decide(sign(claims_json(), header={"alg": "ES256"})), Allow)


@pytest.mark.parametrize(
    ("options", "token", "code"),
    [
        ({"required_scopes": ["admin", "read"]}, TOKEN_TEXT, Code.INSUFFICIENT_SCOPE),
        ({"require_session": True}, NO_SESSION, Code.SESSION_REQUIRED),
        ({"require_delegation": True}, TOKEN_TEXT, Code.DELEGATION_REQUIRED),
        ({"max_hops": 1}, DELEGATED_TEXT, Code.HOP_COUNT_EXCEEDED),
        ({"max_hops": 0}, sign({**FOREIGN, "delegation_edge_id": "e"}), Code.HOP_COUNT_EXCEEDED),
        ({"max_hops": 1}, sign({**FOREIGN, "delegation_path": ["d", "e"], "hop_count": 0}), Code.HOP_COUNT_EXCEEDED),
    ],
)
async def test_what_is_required_and_not_met_is_denied(options: dict[str, Any], token: str, code: Code) -> None:
    of_the_guard = denied(await guard(requirements=required(**options)).decide(token))
    of_the_route = denied(await guard().decide(token, required(**options)))

    assert of_the_guard.code is of_the_route.code is code
    assert of_the_guard.scopes == tuple(sorted(options.get("required_scopes", ())))


async def test_a_token_that_meets_every_requirement_may_act() -> None:
    every = required(required_scopes=["read"], require_session=True, require_delegation=True, max_hops=2)

    assert isinstance(await guard(requirements=every).decide(DELEGATED_TEXT), Allow)


@pytest.mark.parametrize("swapped", [False, True])
async def test_the_strictest_of_guard_and_route_wins(swapped: bool) -> None:
    strict = required(required_scopes=["read"], require_session=True, max_hops=1, max_staleness_s=10)
    loose = required(required_scopes=["write"], require_delegation=True, max_hops=5, max_staleness_s=20)
    ours, routes = (loose, strict) if swapped else (strict, loose)
    revocations = Answers(CLEAR)
    both = guard(revocations, requirements=ours)

    assert both.combine(routes) == required(
        required_scopes=["read", "write"],
        require_session=True,
        require_delegation=True,
        max_hops=1,
        max_staleness_s=10,
    )
    assert denied(await both.decide(DELEGATED_TEXT, routes)).code is Code.HOP_COUNT_EXCEEDED
    assert revocations.asked[0][1] == 10


async def test_without_a_bound_of_staleness_the_replicas_own_holds() -> None:
    revocations = Answers(CLEAR)

    await guard(revocations).decide(TOKEN_TEXT)

    assert revocations.asked[0][1] is None


EXPIRED = sign(claims_json(exp=NOW_S - 11))
MORE_SCOPE = required(required_scopes=["admin"])


@pytest.mark.parametrize(
    ("verdict", "token", "code"),
    [
        (REVOKED, TOKEN_TEXT, Code.SESSION_REVOKED),
        (STALE, TOKEN_TEXT, Code.REVOCATION_UNAVAILABLE),
        (REVOKED, EXPIRED, Code.INVALID_TOKEN),
        (STALE, EXPIRED, Code.INVALID_TOKEN),
        (CLEAR, TOKEN_TEXT, Code.INSUFFICIENT_SCOPE),
        (STALE, None, Code.MISSING_TOKEN),
    ],
)
async def test_the_token_is_judged_first_then_its_revocation_then_its_scopes(
    verdict: object, token: str | None, code: Code
) -> None:
    assert denied(await guard(Answers(verdict)).decide(token, MORE_SCOPE)).code is code


async def test_scopes_come_before_session_before_delegation_before_hops() -> None:
    codes = []
    token = sign({**FOREIGN, "delegation_path": ["d"]})
    every = {"required_scopes": ["a"], "require_session": True, "require_delegation": True, "max_hops": 0}
    for name in list(every):
        codes.append(denied(await guard().decide(token, required(**every))).code.value)
        del every[name]

    assert codes == ["insufficient_scope", "session_required", "delegation_required", "hop_count_exceeded"]


@pytest.mark.parametrize("verdict", [None, True, False, "clear", OSError("gone"), asyncio.Event()])
async def test_revocations_that_fail_or_answer_nonsense_let_nothing_pass(verdict: object) -> None:
    deny = denied(await guard(Answers(verdict)).decide(TOKEN_TEXT))

    assert (deny.code, deny.reason) == (Code.REVOCATION_UNAVAILABLE, "check_error")


async def test_a_malformed_token_costs_no_look_up_of_keys() -> None:
    keys = Keys()

    assert denied(await guard(keys=keys).decide("a.b.c")).code is Code.INVALID_TOKEN
    assert keys.asked == []


async def test_an_unknown_key_is_asked_for_before_its_token_is_refused() -> None:
    keys = Keys()

    deny = denied(await guard(keys=keys).decide(sign(claims_json(), OTHER_ES256)))

    assert (deny.code, deny.reason) == (Code.INVALID_TOKEN, "unknown_token_key")
    assert keys.asked == [OTHER_ES256.kid]


@pytest.mark.parametrize("failure", [KeysError("none"), UNREACHABLE, OSError("gone"), ValueError()])
async def test_keys_that_cannot_be_had_are_no_verdict_on_the_token(failure: Exception) -> None:
    deny = denied(await guard(keys=Keys(failure)).decide(TOKEN_TEXT))

    assert (deny.code, deny.reason) == (Code.KEYS_UNAVAILABLE, "keys_unavailable")


async def test_a_guard_runs_its_background_while_it_is_entered() -> None:
    background = Following()

    async with guard(background=background) as entered:
        states = [background.running]
        assert isinstance(await entered.decide(TOKEN_TEXT), Allow)
    states.append(background.running)

    assert states == [True, False]
    assert background.starts == 1


async def test_the_first_decision_starts_a_background_that_nobody_started() -> None:
    background = Following()

    warmed = guard(background=background)
    assert isinstance(await warmed.decide(TOKEN_TEXT), Allow)
    assert background.running
    assert isinstance(await warmed.decide(TOKEN_TEXT), Allow)
    assert background.asked == 1


async def test_a_background_that_has_stopped_is_started_by_the_next_decision() -> None:
    background = Following()
    warmed = guard(background=background)
    for _ in range(2):
        assert isinstance(await warmed.decide(TOKEN_TEXT), Allow)
        background.running = False

    assert background.starts == 2


async def test_a_background_that_does_not_start_lets_nothing_pass_that_is_not_known_to_be_revoked() -> None:
    background = Following()
    background.failure = OSError("gone")

    deny = denied(await guard(background=background).decide(TOKEN_TEXT))
    assert (deny.code, deny.reason) == (Code.REVOCATION_UNAVAILABLE, "not_following")
    deny = denied(await guard(revoked(SESSION), background=background).decide(TOKEN_TEXT))
    assert deny.code is Code.SESSION_REVOKED
    background.failure = None
    assert isinstance(await guard(background=background).decide(TOKEN_TEXT), Allow)


@given(st.text(st.characters()) | st.binary())
def test_no_text_and_no_bytes_ever_pass_or_raise(token: str | bytes) -> None:
    assert isinstance(asyncio.run(guard().decide(token)), Deny)


@given(st.integers(0, len(TOKEN_TEXT) - 1), st.characters())
def test_a_good_token_with_one_other_character_never_passes(position: int, character: str) -> None:
    token = TOKEN_TEXT[:position] + character + TOKEN_TEXT[position + 1 :]

    assert isinstance(asyncio.run(guard().decide(token)), Allow if token == TOKEN_TEXT else Deny)


@given(JSON)
def test_whatever_the_issuer_signs_raises_nothing(payload: Any) -> None:
    assert isinstance(asyncio.run(guard().decide(sign(json.dumps(payload).encode()))), Deny)


async def test_no_part_of_a_token_is_logged_or_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def fail(sid: str) -> bool:
        raise OSError(sid, TOKEN_TEXT)

    guards = [
        guard(),
        guard(revoked(SESSION)),
        guard(Store(fail)),
        guard(Answers(ValueError(TOKEN_TEXT))),
        guard(keys=Keys(OSError(TOKEN_TEXT))),
        guard(requirements=MORE_SCOPE),
    ]
    tokens = [TOKEN_TEXT, DELEGATED_TEXT, FOREIGN_TEXT, TOKEN_TEXT[:-4], f"{TOKEN_TEXT}.x", sign(claims_json(path=[7]))]
    told = [repr(await each.decide(token)) for each in guards for token in tokens]

    assert len(caplog.records) >= len(guards)
    for text in (*told, caplog.text):
        assert not [secret for secret in SECRETS if secret in text]
