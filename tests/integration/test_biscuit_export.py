"""The list of revoked Biscuits for other verifiers: whole or broken off, of one moment, told by its tag."""

import asyncio
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import update

from countermand.authority import export, tables
from countermand.authority.ledger import DAY_MS, HOUR_MS
from countermand.errors import DisputedError
from countermand.log.anchor import Kind
from countermand.log.revocation_id import twins
from tests.integration.admin import Admin, administering
from tests.integration.biscuits import plain_id, twin_ids
from tests.integration.problems import refused
from tests.integration.rooms import NOW_MS, Rooms
from tests.looking import looking_into, writing
from tests.running import Running, authority_running

pytestmark = pytest.mark.anyio

PATH = "/v1/biscuit/revoked"


async def _listed(rooms: Rooms) -> list[str]:
    listed = await rooms.service.export.newest()
    return [form async for page in rooms.service.export.pages(listed) for form in page]


async def _tag(rooms: Rooms) -> str:
    return (await rooms.service.export.newest()).tag


async def test_every_form_of_every_id_is_a_line(running: Running) -> None:
    async with administering(running) as admin:
        assert (await admin.http.get(PATH)).content == b""
        plain, (canonical, twin) = plain_id(), twin_ids()
        await admin.revoke("biscuit", plain.upper())
        await admin.revoke("biscuit", twin)
        await admin.revoke("session", await admin.session(await admin.application()))
        response = await admin.http.get(PATH)
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text == f"{plain}\n{canonical}\n{twin}\n"
    assert response.headers["cache-control"] == "private, no-cache"


async def test_who_has_the_list_is_told_so_until_there_is_another(running: Running) -> None:
    async with administering(running) as admin:
        await admin.revoke("biscuit", plain_id())
        tag = (await admin.http.get(PATH)).headers["etag"]
        assert tag.startswith('"')
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*", f'"a,b" ,{tag}'):
            for method in ("GET", "HEAD"):
                response = await admin.http.request(method, PATH, headers={"if-none-match": known})
                assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", tag)
        for other in ("", "other", '"other"', tag[:-2] + '"', tag.strip('"')):
            assert (await admin.http.get(PATH, headers={"if-none-match": other})).status_code == 200
        await admin.revoke("session", await admin.session(await admin.application()))
        assert (await admin.http.get(PATH)).headers["etag"] == tag, "what is no Biscuit changes nothing of it"
        await admin.revoke("biscuit", plain_id())
        response = await admin.http.get(PATH, headers={"if-none-match": tag})
        assert (response.status_code, len(response.text.split())) == (200, 2)


async def test_head_tells_the_tag_and_nothing_of_the_list(admin: Admin) -> None:
    await admin.revoke("biscuit", plain_id())
    head, whole = await admin.http.head(PATH), await admin.http.get(PATH)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == whole.headers["etag"]
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert "content-length" not in head.headers


async def test_another_authority_has_other_tags(tmp_path: Path, admin: Admin) -> None:
    async with authority_running(tmp_path) as other, administering(other) as their:
        assert (await their.http.get(PATH)).headers["etag"] != (await admin.http.get(PATH)).headers["etag"]


@pytest.mark.parametrize("count", [199, 200, 201])
async def test_the_order_is_that_of_the_ledger_and_no_page_is_lost_or_told_twice(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(export, "PAGE", 100)
    ids = [plain_id() for _ in range(count)]
    await rooms.append_biscuits(ids)
    assert await _listed(rooms) == ids
    assert await _listed(rooms) == ids


async def test_one_that_was_revoked_twice_is_one_line(rooms: Rooms) -> None:
    first, second = plain_id(), plain_id()
    await rooms.append_biscuits([first, second], expires_at_ms=NOW_MS + 2 * DAY_MS)
    await rooms.service.revoking.revoke(Kind.BISCUIT, first)
    assert await _listed(rooms) == [first, second]
    rooms.clock.advance(3 * DAY_MS)
    assert await _listed(rooms) == [first]


async def test_what_has_expired_is_left_out_once_its_hour_is_over_and_the_tag_says_so(rooms: Rooms) -> None:
    ids = list(twin_ids())
    assert NOW_MS % HOUR_MS == 0
    await rooms.append_biscuits(ids[:1], expires_at_ms=NOW_MS + HOUR_MS + 1)
    tag = await _tag(rooms)
    rooms.clock.advance(HOUR_MS - 1)
    assert await _tag(rooms) == tag
    rooms.clock.advance(HOUR_MS)
    assert await _listed(rooms) == list(twins(ids[0])), "it expired, in this very hour"
    rooms.clock.advance(1)
    assert await _tag(rooms) != tag
    assert await _listed(rooms) == []


async def test_a_list_is_of_one_moment_whatever_is_revoked_while_it_is_read(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE", 2)
    ids = [plain_id() for _ in range(5)]
    await rooms.append_biscuits(ids)
    seen: list[str] = []
    async for page in rooms.service.export.pages(await rooms.service.export.newest()):
        seen += page
        await rooms.service.revoking.revoke(Kind.BISCUIT, plain_id())
        rooms.clock.advance(HOUR_MS)
    assert seen == ids


async def test_a_ledger_in_dispute_gives_no_list(running: Running) -> None:
    async with administering(running) as admin:
        await admin.revoke("biscuit", plain_id())
        tag = (await admin.http.get(PATH)).headers["etag"]
        async with looking_into(running.data) as look:
            await look.execute("UPDATE head SET disputed_at_ms = 1")
        for headers in ({}, {"if-none-match": tag}):
            refused(await admin.http.get(PATH, headers=headers), 503, "disputed")


async def test_a_list_that_cannot_be_read_whole_breaks_off_and_has_no_end(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE", 1)
    async with administering(running) as admin:
        for _ in range(3):
            await admin.revoke("biscuit", plain_id())
        read, pages = export._page, 0

        async def disputed(*arguments: object) -> object:
            nonlocal pages
            pages += 1
            if pages == 2:
                raise DisputedError
            return await read(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(export, "_page", disputed)
        with pytest.raises(httpx2.RemoteProtocolError):
            await admin.http.get(PATH)


@pytest.mark.parametrize("head", [{"seq": 1}, {"seq": 3, "generation": 2}], ids=["forgot", "was recovered"])
async def test_a_ledger_that_forgot_while_it_was_read_is_noticed(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, head: dict[str, int]
) -> None:
    monkeypatch.setattr(export, "PAGE", 1)
    await rooms.append_biscuits([plain_id(), plain_id()])
    pages = rooms.service.export.pages(await rooms.service.export.newest())
    await anext(pages)
    async with writing(rooms.database) as connection:
        await connection.execute(update(tables.head).values(head))
    with pytest.raises(DisputedError):
        await anext(pages)


async def test_many_may_read_at_once(admin: Admin) -> None:
    await admin.revoke("biscuit", plain_id())
    answers = await asyncio.gather(*(admin.http.get(PATH) for _ in range(20)))
    assert len({answer.content for answer in answers}) == 1
