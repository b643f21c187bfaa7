"""Biscuits are ended by the token itself: verified first, one block of it for operators, the last for its holder."""

import asyncio
from contextlib import suppress
from typing import Any, Final

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from countermand.authority.biscuits import QUIET_MS, Biscuits
from countermand.authority.ledger import DAY_MS, HOUR_MS
from countermand.authority.presenting import REASON
from countermand.errors import TokenError
from countermand.log.anchor import Kind
from countermand.tokens.biscuit import RootKeys, parse_biscuit, verify_biscuit
from countermand.tokens.mandate import LEEWAY_S
from tests.integration.admin import Admin, administering
from tests.integration.biscuits import OTHER, ROOT, attenuated, ids_of, malleated, mint, plain_id
from tests.integration.exchanging import Client, new_client
from tests.integration.problems import refused, refused_by_oauth
from tests.integration.rooms import NOW_MS, Rooms
from tests.running import Running

pytestmark = pytest.mark.anyio

PATH: Final = "biscuit/revocations"
AT_MS: Final = NOW_MS + 30 * DAY_MS
DATED: Final = "check if time($time), $time < 2027-02-14T08:00:00Z;"
"""What passes until then, 30 days after the rooms' clock."""
NOT_GOOD: Final = {
    "forged": (lambda: mint(key=OTHER), "bad_token_signature"),
    "no Biscuit": (lambda: "x" * 40, "malformed_token"),
    "cut short": (lambda: mint()[:-40], "malformed_token"),
    "too long": (lambda: "A" * 20_000, "malformed_token"),
}


@pytest.fixture
async def holder(admin: Admin, http: httpx2.AsyncClient) -> Client:
    return await new_client(admin, http)


async def _entries(admin: Admin, id_: str) -> list[Any]:
    found = await admin.read(f"revocations?kind=biscuit&id={id_}")
    return list(found["items"])


@pytest.mark.parametrize(("block", "place"), [(None, 2), (2, 2), (1, 1), (0, 0)])
async def test_an_operator_revokes_the_block_that_it_names_or_else_the_last(
    admin: Admin, block: int | None, place: int
) -> None:
    token = mint("right(1);", "check if true;", "check if true;")
    made = await admin.make(PATH, token=token, block=block, reason="leaked")
    assert (made["kind"], made["id"], made["reason"]) == ("biscuit", ids_of(token)[place], "leaked")
    for other in set(range(3)) - {place}:
        assert await _entries(admin, ids_of(token)[other]) == []
    again = await admin.post(PATH, token=token, block=block)
    assert (again.status_code, again.json()["seq"]) == (200, made["seq"])


async def test_a_block_that_the_token_does_not_have_is_refused(admin: Admin) -> None:
    response = await admin.post(PATH, token=mint(), block=1)
    assert refused(response, 422, "invalid_value") == "the token has no such block: its last is 0"


@pytest.mark.parametrize(("make", "code"), NOT_GOOD.values(), ids=NOT_GOOD)
async def test_what_is_no_token_of_the_issuer_revokes_nobody_and_why_is_said(
    admin: Admin, make: Any, code: str
) -> None:
    before = await admin.seq()
    for dry_run in (True, False):
        refused(await admin.post(PATH, token=make(), dry_run=dry_run), 422, code)
    assert await admin.seq() == before


async def test_without_root_keys_that_is_said(running: Running) -> None:
    async with administering(running) as admin:
        for dry_run in (True, False):
            response = await admin.post(PATH, token=mint(), dry_run=dry_run)
            assert "COUNTERMAND_BISCUIT_KEYS" in refused(response, 422, "unknown_token_key")
        assert (await admin.post("revocations", kind="biscuit", id=plain_id())).status_code == 201


async def test_a_dry_run_revokes_nobody(admin: Admin) -> None:
    token, before = mint(), await admin.seq()
    response = await admin.post(PATH, token=token, dry_run=True)
    assert (response.status_code, response.json()["seq"]) == (200, before)
    assert await admin.seq() == before


async def test_who_waits_gets_a_receipt_and_who_tries_cannot_wait(admin: Admin) -> None:
    response = await admin.http.post(f"/v1/{PATH}?wait=0.05", json={"token": mint()})
    assert response.json()["receipt"]["seq"] == response.json()["seq"]
    response = await admin.http.post(f"/v1/{PATH}?wait=0.05", json={"token": mint(), "dry_run": True})
    refused(response, 422, "invalid_value")


async def test_a_repeated_request_is_done_once(admin: Admin) -> None:
    body, headers = {"token": mint()}, {"idempotency-key": plain_id()[:32]}
    first, again = [await admin.http.post(f"/v1/{PATH}", json=body, headers=headers) for _ in range(2)]
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_malleated_token_is_the_one_that_it_was(admin: Admin) -> None:
    token, twin = malleated()
    made = await admin.make(PATH, token=twin)
    again = await admin.post(PATH, token=token)
    assert (again.status_code, again.json()["seq"]) == (200, made["seq"])


# Holders


async def test_a_holder_ends_what_it_presents_and_no_ancestor(admin: Admin, holder: Client) -> None:
    token = mint("right(1);", "check if true;")
    await holder.end(token)
    family, last = ids_of(token)
    [entry] = await _entries(admin, last)
    assert entry["reason"] == REASON
    assert await _entries(admin, family) == []


async def test_ending_it_again_or_what_derives_from_it_appends_nothing(admin: Admin, holder: Client) -> None:
    token = mint()
    await holder.end(token)
    before = await admin.seq()
    await asyncio.gather(*(holder.end(token) for _ in range(4)))
    await holder.end(attenuated(token))
    assert await admin.seq() == before


@pytest.mark.parametrize("make", [make for make, _ in NOT_GOOD.values()], ids=NOT_GOOD)
async def test_what_is_not_good_is_answered_like_what_is_and_ends_nobody(
    admin: Admin, holder: Client, make: Any
) -> None:
    before = await admin.seq()
    await holder.end(make())
    assert await admin.seq() == before


async def test_nobody_ends_a_biscuit_without_an_applications_credential(admin: Admin, http: httpx2.AsyncClient) -> None:
    token, before = mint(), await admin.seq()
    refused_by_oauth(await http.post("/oauth2/revoke", data={"token": token}), 401, "invalid_client")
    refused_by_oauth(await admin.http.post("/oauth2/revoke", data={"token": token}), 401, "invalid_client")
    assert await admin.seq() == before


async def test_an_authority_without_root_keys_says_that_it_ends_no_biscuit(running: Running) -> None:
    async with administering(running) as admin:
        holder = await new_client(admin, admin.http)
        for token in (mint(), "x" * 40):
            refused_by_oauth(await holder.ask_to_end(token), 400, "unsupported_token_type")
        await holder.end("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl")
        assert await admin.seq() == 0


async def test_that_a_root_key_is_not_known_is_logged_once_in_a_while(
    rooms: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    keys = RootKeys.parse(f"1={ROOT.public_key!r}")
    biscuits = Biscuits(
        rooms.database,
        rooms.ledger,
        rooms.heartbeat,
        lambda token: verify_biscuit(parse_biscuit(token), keys),
        rooms.clock,
    )
    unknown = mint(key_id=2)
    for advance_ms in (0, 0, QUIET_MS):
        rooms.clock.advance(advance_ms)
        await biscuits.end(unknown, REASON)
        await biscuits.end(mint(key=OTHER, key_id=1), REASON)
    assert len(caplog.messages) == 2
    assert all("COUNTERMAND_BISCUIT_KEYS" in line and unknown[20:60] not in line for line in caplog.messages)
    await biscuits.end(mint(key_id=1), REASON)
    assert (await rooms.head()).rev.seq == 1


@given(data=st.data())
@settings(max_examples=60, deadline=None)
async def test_a_token_with_any_character_changed_ends_nobody_else(shared: Running, data: st.DataObject) -> None:
    token = mint("right(1);", "check if true;")
    place = data.draw(st.integers(0, len(token) - 1))
    char = data.draw(st.sampled_from("Ab0-_=").filter(lambda char: char != token[place]))
    biscuits = shared.authority.service.biscuits
    with suppress(TokenError):
        done = await biscuits.revoke_token(token[:place] + char + token[place + 1 :])
        assert done.id == ids_of(token)[-1], "no part of what was signed was changed: padding, or its like"


# How long an entry is kept


async def test_an_entry_lasts_as_one_that_is_made_an_hour_before_the_token_ends(rooms: Rooms) -> None:
    made = await rooms.service.biscuits.revoke_token(mint(DATED))
    entry = await rooms.service.reading.entry(made.seq)
    async with rooms.database.read() as connection:
        assert entry.expires_at_ms == await rooms.ledger.expiry(connection, AT_MS - HOUR_MS)
    assert entry.expires_at_ms > AT_MS + LEEWAY_S * 1000 + HOUR_MS
    again = await rooms.service.biscuits.revoke_token(mint("right(1);"))
    assert (await rooms.service.reading.entry(again.seq)).expires_at_ms is None


@pytest.mark.parametrize("last", ["9999-12-31T22:59:49Z", "9999-12-31T22:59:51Z", "9999-12-31T23:59:59Z"])
async def test_an_entry_whose_end_has_no_name_is_never_forgotten_and_can_be_read(admin: Admin, last: str) -> None:
    token = mint(f"check if time($time), $time < {last};")
    made = await admin.make(PATH, token=token)
    for entry in (await admin.read(f"revocations/{made['seq']}"), *await _entries(admin, ids_of(token)[-1])):
        assert entry["expires_at"] in {None, "9999-12-31T23:59:59Z"}


async def test_an_entry_lasts_no_shorter_than_any_other(rooms: Rooms) -> None:
    made = await rooms.service.biscuits.revoke_token(mint("check if time($time), $time < 2027-01-15T09:00:00Z;"))
    async with rooms.database.read() as connection:
        least_ms = await rooms.ledger.expiry(connection, NOW_MS)
    assert (await rooms.service.reading.entry(made.seq)).expires_at_ms == least_ms


async def test_the_check_of_a_later_block_says_nothing_of_the_family(rooms: Rooms) -> None:
    token = mint("right(1);", DATED)
    last = await rooms.service.biscuits.revoke_token(token)
    family = await rooms.service.biscuits.revoke_token(token, 0)
    reading = rooms.service.reading
    assert (await reading.entry(last.seq)).expires_at_ms is not None
    assert (await reading.entry(family.seq)).expires_at_ms is None


async def test_a_bare_id_makes_for_ever_what_would_have_been_forgotten(rooms: Rooms) -> None:
    biscuits, token = rooms.service.biscuits, mint(DATED)
    [id_] = ids_of(token)
    first = await biscuits.revoke_token(token)
    rooms.clock.advance(60_000)
    assert (await biscuits.revoke_token(token)).seq == first.seq, "it lasts as long as it must"
    second = await rooms.service.revoking.revoke(Kind.BISCUIT, id_)
    assert (second.seq, second.is_new) == (2, True)
    assert (await rooms.service.reading.entry(2)).expires_at_ms is None
    assert (await biscuits.revoke_token(token)).seq == 2
    assert (await rooms.service.revoking.revoke(Kind.BISCUIT, id_)).seq == 2


async def test_what_has_expired_needs_no_entry_and_what_is_in_its_leeway_does(rooms: Rooms) -> None:
    token = mint(DATED)
    rooms.clock.advance(30 * DAY_MS + LEEWAY_S * 1000 + 1)
    await rooms.service.presenting.end("anybody", token)
    assert (await rooms.head()).rev.seq == 0
    rooms.clock.advance(-1)
    await rooms.service.presenting.end("anybody", token)
    assert (await rooms.head()).rev.seq == 1


async def test_an_ancestors_entry_is_enough_for_a_holder_only_if_it_lasts_as_long(rooms: Rooms) -> None:
    token = mint("right(1);", "check if true;")
    family, last = ids_of(token)
    await rooms.append_biscuits([family], expires_at_ms=NOW_MS + DAY_MS)
    await rooms.service.presenting.end("anybody", token)
    assert (await rooms.service.reading.entry(2)).id == last
