"""Biscuits are revoked by bare ids: every form of an id is one Biscuit, and its entry is never forgotten."""

import asyncio

import pytest

from countermand.log.anchor import Kind
from tests.integration.admin import Admin
from tests.integration.biscuits import plain_id, twin_ids
from tests.integration.problems import refused
from tests.running import Running

pytestmark = pytest.mark.anyio


async def test_a_bare_id_makes_an_entry_that_never_expires_and_making_it_again_makes_none(admin: Admin) -> None:
    id_ = plain_id()
    made = await admin.revoke("biscuit", id_, reason="leaked")
    assert (made["kind"], made["id"], made["issuer"], made["reason"]) == ("biscuit", id_, "", "leaked")
    assert made["is_new"]
    assert (await admin.read(f"revocations/{made['seq']}"))["expires_at"] is None
    again = await admin.post("revocations", kind="biscuit", id=id_, bare=True)
    assert (again.status_code, again.json()["seq"], again.json()["is_new"]) == (200, made["seq"], False)
    assert await admin.seq() == made["seq"]


async def test_every_form_of_an_id_is_one_biscuit_and_the_ledger_holds_the_canonical_one(admin: Admin) -> None:
    canonical, twin = twin_ids()
    made = await admin.revoke("biscuit", twin.upper())
    assert made["id"] == canonical
    for form in (canonical, twin, canonical.upper(), twin.upper()):
        again = await admin.post("revocations", kind="biscuit", id=form)
        assert (again.status_code, again.json()["seq"]) == (200, made["seq"])
        found = await admin.read(f"revocations?kind=biscuit&id={form}")
        assert [entry["seq"] for entry in found["items"]] == [made["seq"]]
    assert await admin.seq() == made["seq"]


@pytest.mark.parametrize(
    "id_",
    ["", "00", "zz" * 64, "00" * 63, "00" * 65, " " + "00" * 64, "00" * 64 + "\n", "ses_" + "0" * 32, "ü" * 128],
)
async def test_what_is_no_id_is_refused_in_words_and_ends_nobody(admin: Admin, id_: str) -> None:
    before = await admin.seq()
    for dry_run in (True, False):
        response = await admin.post("revocations", kind="biscuit", id=id_, dry_run=dry_run)
        assert "signature" in refused(response, 422, "invalid_value")
    assert await admin.seq() == before


async def test_an_id_of_a_biscuit_has_no_issuer(admin: Admin) -> None:
    response = await admin.post("revocations", kind="biscuit", id=plain_id(), issuer="https://other.example")
    assert refused(response, 422, "invalid_value") == "the revocation id of a Biscuit has no issuer"


async def test_a_dry_run_of_a_bare_id_says_that_nothing_is_counted_and_ends_nobody(admin: Admin) -> None:
    before = await admin.seq()
    response = await admin.post("revocations", kind="biscuit", id=plain_id(), dry_run=True)
    assert response.status_code == 200
    assert (response.json()["seq"], response.json()["reach"]["counts"]) == (before, {})
    assert await admin.seq() == before


async def test_many_at_once_make_one_entry(shared: Running, admin: Admin) -> None:
    forms, before = twin_ids(), await admin.seq()
    revoking = shared.authority.service.revoking
    made = await asyncio.gather(*(revoking.revoke(Kind.BISCUIT, form) for form in forms * 4))
    assert {one.seq for one in made} == {before + 1}
    assert sum(one.is_new for one in made) == 1
    assert await admin.seq() == before + 1
