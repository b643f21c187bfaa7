"""What the authority mints: exactly the documented claims, for no longer than the session, at a known place."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from countermand.authority.model import IssuedMandate, SubjectType
from countermand.errors import InvalidValueError, NotActiveError
from countermand.log.anchor import Kind, Rev, kind_of
from countermand.tokens.jwks import parse_jwks
from countermand.tokens.mandate import Mandate, parse_mandate, verify
from countermand.transport.http import fetch_keys
from tests.integration.rooms import AUDIENCE, ISSUER, NOW_MS, HeldClock, Rooms, rooms_open
from tests.running import Running

pytestmark = pytest.mark.anyio


def _claims(token: str) -> dict[str, Any]:
    """What the token says, read without any of our own code."""
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


def _read(rooms: Rooms, mandate: IssuedMandate) -> Mandate:
    return verify(
        parse_mandate(mandate.token),
        rooms.service.minting.key_set,
        issuer=ISSUER,
        audience=AUDIENCE,
        now_s=rooms.clock.wall_ms / 1000,
    )


async def test_a_mandate_says_exactly_what_is_documented(rooms: Rooms) -> None:
    await rooms.append(3)
    application = await rooms.service.opening.create_application("notes")
    session = await rooms.service.opening.open_session(application.id, "zoë", SubjectType.USER, 3600)
    mandate = await rooms.service.minting.issue(session.id, [AUDIENCE], ["write", "read"])
    claims = _claims(mandate.token)
    token_id = claims.pop("jti")
    assert kind_of(token_id) is Kind.TOKEN
    assert claims == {
        "iss": ISSUER,
        "sub": "zoë",
        "aud": AUDIENCE,
        "iat": NOW_MS // 1000,
        "exp": NOW_MS // 1000 + 900,
        "client_id": application.id,
        "scope": "read write",
        "zone_id": "default",
        "use": "resource",
        "sub_type": "user",
        "sid": session.id,
        "root_sid": session.id,
        "delegation_path": [],
        "delegation_chain": [],
        "hop_count": 0,
        "path": [f"application:{application.id}", "subject:zoë", f"session:{session.id}"],
        "rev": [1, 3],
    }
    assert mandate.expires_in_s == 900


async def test_a_mandate_is_accepted_under_the_keys_that_are_published(running: Running) -> None:
    application = await running.client.create_application("notes")
    session = await running.client.open_session(application["id"], "alice")
    token = await running.client.issue_mandate(session["id"], AUDIENCE)
    keys = parse_jwks(await fetch_keys(running.url))
    now_s = _claims(token)["iat"]
    mandate = verify(parse_mandate(token), keys, issuer=running.url, audience=AUDIENCE, now_s=now_s)
    assert (mandate.subject, mandate.session_id) == ("alice", session["id"])
    assert mandate.key_id == running.authority.service.minting.key_set.keys[0].kid


async def test_several_audiences_and_a_service_as_subject(rooms: Rooms) -> None:
    application = await rooms.service.opening.create_application("notes")
    session = await rooms.service.opening.open_session(application.id, "worker", SubjectType.APPLICATION, 3600)
    claims = _claims((await rooms.service.minting.issue(session.id, [AUDIENCE, "https://b.example"], [])).token)
    assert (claims["aud"], claims["scope"], claims["sub_type"]) == ([AUDIENCE, "https://b.example"], "", "application")


async def test_no_two_mandates_have_one_id(rooms: Rooms) -> None:
    session = await rooms.session()
    ids = [_claims((await rooms.service.minting.issue(session.id, [AUDIENCE], [])).token)["jti"] for _ in range(20)]
    assert len(set(ids)) == 20


async def test_a_mandate_minted_before_a_revocation_has_a_lower_rev_than_its_entry_and_one_after_has_not(
    rooms: Rooms,
) -> None:
    doomed, other = await rooms.session(), await rooms.session()
    before = _read(rooms, await rooms.service.minting.issue(other.id, [AUDIENCE], []))
    entry = await rooms.service.revoking.revoke(Kind.SESSION, doomed.id)
    after = _read(rooms, await rooms.service.minting.issue(other.id, [AUDIENCE], []))
    at = Rev(entry.generation, entry.seq)
    assert before.anchors.rev is not None
    assert after.anchors.rev is not None
    assert before.anchors.rev < at <= after.anchors.rev


@pytest.mark.parametrize("offset_ms", [0, 1, 500, 999])
@pytest.mark.parametrize("lifetime_s", [1, 60, 899, 900, 901, 86_400])
async def test_a_mandate_never_outlives_its_session(tmp_path: Path, lifetime_s: int, offset_ms: int) -> None:
    async with rooms_open(tmp_path, clock=HeldClock(NOW_MS + offset_ms)) as rooms:
        session = await rooms.session(lifetime_s)
        mandate = await rooms.service.minting.issue(session.id, [AUDIENCE], [])
        claims = _claims(mandate.token)
        assert claims["exp"] * 1000 <= session.expires_at_ms
        assert mandate.expires_in_s == claims["exp"] - claims["iat"] == min(900, lifetime_s)
        _read(rooms, mandate)

        rooms.clock.advance(lifetime_s * 1000 - 999)  # less than a whole second is left
        for wait_ms in (0, 998, 1, 1):
            rooms.clock.advance(wait_ms)
            with pytest.raises(NotActiveError, match=r"has ended|ends within a second"):
                await rooms.service.minting.issue(session.id, [AUDIENCE], [])


async def test_a_shorter_life_is_what_the_policy_says(tmp_path: Path) -> None:
    async with rooms_open(tmp_path, mandate_s=60) as rooms:
        session = await rooms.session()
        mandate = await rooms.service.minting.issue(session.id, [AUDIENCE], [])
        claims = _claims(mandate.token)
        assert mandate.expires_in_s == claims["exp"] - claims["iat"] == 60


async def test_a_revoked_session_mints_nothing_at_the_very_moment(rooms: Rooms) -> None:
    session = await rooms.session()
    await rooms.service.revoking.revoke(Kind.SESSION, session.id)
    with pytest.raises(NotActiveError):
        await rooms.service.minting.issue(session.id, [AUDIENCE], [])


@pytest.mark.parametrize(
    ("audience", "scopes"),
    [
        ([], []),
        ([""], []),
        (["\ud800"], []),
        (["a\n"], []),
        (["x" * 257], []),
        (["a"] * 17, []),
        (["a"], [""]),
        (["a"], ["two words"]),
        (["a"], ['"']),
        (["a"], ["\\"]),
        (["a"], ["ü"]),
        (["a"], ["a"] * 65),
    ],
)
async def test_what_cannot_stand_in_a_mandate_is_refused(rooms: Rooms, audience: list[str], scopes: list[str]) -> None:
    session = await rooms.session()
    with pytest.raises(InvalidValueError):
        await rooms.service.minting.issue(session.id, audience, scopes)


async def test_the_largest_that_is_allowed_is_minted_and_accepted(rooms: Rooms) -> None:
    application = await rooms.service.opening.create_application("x" * 256)
    session = await rooms.service.opening.open_session(application.id, "é" * 128, SubjectType.USER, 3600)
    audience = [AUDIENCE, *(f"{n:0250}" for n in range(15))]
    scopes = [f"{n:080}" for n in range(64)]
    mandate = _read(rooms, await rooms.service.minting.issue(session.id, audience, scopes))
    assert (len(mandate.audience), len(mandate.scopes)) == (16, 64)
