"""The authority's database is restored from an older backup, or runs twice: nothing that was revoked lives again."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from countermand.cli.client import AuthorityClient
from countermand.errors import BadAnswerError, RollbackError
from countermand.log.anchor import Rev
from tests.backups import back_up, put_back
from tests.databases import DATABASES
from tests.faults.resource import (
    PASSED,
    REVOKED,
    UNAVAILABLE,
    Subject,
    guard_of,
    protected,
    subject_of,
)
from tests.integration.commands import in_a_thread, typed
from tests.redis_server import RedisServer
from tests.running import ServerProcess, until

pytestmark = pytest.mark.anyio

MAX_STALENESS_S: Final = 3.0


async def recover(server: ServerProcess, *options: str) -> dict[str, Any]:
    """Run `countermand ledger recover`; return what it says."""
    done = await in_a_thread("ledger", "recover", "--json", "--data-dir", server.data.path, *options)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def refuses_to_revoke(client: AuthorityClient, subject: Subject) -> None:
    with pytest.raises(BadAnswerError, match="countermand ledger recover"):
        await client.revoke("session", subject.session_id)


async def is_dead(client: AuthorityClient, subject: Subject) -> None:
    """No mandate is to be had on its session any more."""
    with pytest.raises(BadAnswerError, match="has ended"):
        await client.issue_mandate(subject.session_id, "https://notes.example")


@pytest.mark.parametrize(
    "keep",
    [pytest.param(False, id="everything cut off"), pytest.param(True, id="--keep-sessions", marks=pytest.mark.proof)],
)
async def test_after_a_restore_signing_stops_until_what_was_lost_is_taken_up_again(tmp_path: Path, keep: bool) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        async with (
            ServerProcess(tmp_path, "--redis", redis.url) as server,
            AuthorityClient.open(server.client_settings()) as client,
            protected(guard_of(server, max_staleness_s=MAX_STALENESS_S)) as by_http,
            protected(guard_of(server, url=redis.url, max_staleness_s=MAX_STALENESS_S)) as by_redis,
        ):
            good, before, after = [await subject_of(client, name) for name in ("good", "before", "after")]
            await client.revoke("session", before.session_id)
            back_up(server.data, tmp_path / "backup.db")
            unknown = await subject_of(client, "opened after the backup")
            for subject in (after, unknown):
                await client.revoke("session", subject.session_id, "after the backup")
            for resource in (by_http, by_redis):
                await resource.comes_to(good.token, PASSED)
                for subject in (before, after, unknown):
                    await resource.comes_to(subject.token, REVOKED)

            server.kill()
            put_back(tmp_path / "backup.db", server.data)
            await server.start()
            await refuses_to_revoke(client, good)
            with pytest.raises(BadAnswerError, match="countermand ledger recover"):
                await client.issue_mandate(after.session_id, "https://notes.example")
            assert (await client.tree(good.session_id))["nodes"], "what only reads is answered"
            for resource in (by_http, by_redis):
                await resource.comes_to(good.token, UNAVAILABLE)
                for subject in (before, after, unknown):
                    assert await resource.call(subject.token) == REVOKED, "what is held stays held"

            found = await recover(server, "--dry-run")
            assert (found["generation"], found["seq"], found["lost"], found["missing"], found["begun"]) == (
                1,
                1,
                2,
                0,
                2,
            )
            await refuses_to_revoke(client, good)
            recovered = await recover(server, *["--keep-sessions"] * keep)
            later = {"is_cut_off": not keep, "witnesses": recovered["witnesses"]}  # a replica may report meanwhile
            assert recovered == found | later
            assert all(one["contradicts"] for one in recovered["witnesses"])
            assert (await recover(server))["begun"] is None, "a second time there is nothing to recover"

            async with (
                protected(guard_of(server)) as new_by_http,
                protected(guard_of(server, url=redis.url)) as new_by_redis,
            ):
                fresh = await subject_of(client, "opened after the recovery")
                for resource in (by_http, by_redis, new_by_http, new_by_redis):
                    await resource.comes_to(fresh.token, PASSED)
                    await resource.comes_to(good.token, PASSED if keep else REVOKED)
                    for subject in (before, after, unknown):
                        assert await resource.call(subject.token) == REVOKED
                    assert resource.revokes(after.session_id)
                    assert resource.position()[0] == Rev(2, 3 + 2 + (not keep))
                await is_dead(client, before)
                await is_dead(client, after)
                await client.revoke("session", fresh.session_id)
                for resource in (by_http, by_redis, new_by_http, new_by_redis):
                    await resource.comes_to(fresh.token, REVOKED)


async def test_replicas_at_a_keyset_of_after_the_backup_go_on_without_a_new_pin(tmp_path: Path) -> None:
    """The register of keys is restored with the ledger, and without the new key's file nobody there knows of that."""
    with RedisServer(tmp_path / "redis") as redis:
        async with (
            ServerProcess(tmp_path, "--redis", redis.url) as server,
            AuthorityClient.open(server.client_settings()) as client,
            protected(guard_of(server, max_staleness_s=MAX_STALENESS_S)) as by_http,
            protected(guard_of(server, url=redis.url, max_staleness_s=MAX_STALENESS_S)) as by_redis,
        ):
            good, after = await subject_of(client, "good"), await subject_of(client, "after")
            back_up(server.data, tmp_path / "backup.db")
            (stolen,) = [key for key in (await client.signing_keys())["keys"] if key["purpose"] == "checkpoint"]
            await client.withdraw_signing_key(stolen["id"], "stolen")
            pin = (await client.signing_keys())["pin"]
            await client.revoke("session", after.session_id, "after the backup")
            for resource in (by_http, by_redis):
                await resource.comes_to(after.token, REVOKED)
                await resource.comes_to(good.token, PASSED)

            server.kill()
            put_back(tmp_path / "backup.db", server.data)
            (file,) = server.data.keys.glob("checkpoint-*.pem")
            file.rename(tmp_path / file.name)
            await server.start()
            command = ("ledger", "recover", "--data-dir", server.data.path)
            refused = await typed(*command)
            assert refused.returncode != 0
            assert f"put {file.name} into" in refused.stderr
            tried = await typed(*command, "--dry-run")
            assert f"the authority cannot without {file.name}" in tried.stdout
            (tmp_path / file.name).rename(file)
            done = await typed(*command, "--keep-sessions")
            assert "keyset 1 that witnesses hold was taken up again" in done.stdout.splitlines()

            assert (await client.signing_keys())["pin"] == pin
            await until(lambda: server.data.pin.read_text().strip() == pin, "the pin of new replicas names it")
            fresh = await subject_of(client, "opened after the recovery")
            for resource in (by_http, by_redis):
                await resource.comes_to(good.token, PASSED)
                assert await resource.call(after.token) == REVOKED
                await resource.comes_to(fresh.token, PASSED)
            await client.revoke("session", fresh.session_id)
            for resource in (by_http, by_redis):
                await resource.comes_to(fresh.token, REVOKED)
                assert resource.position()[0] == Rev(2, 3)


async def stops(client: AuthorityClient, what: str) -> None:
    """Wait until an authority refuses to revoke."""

    async def refuses() -> bool:
        try:
            await client.cut_off("subject:nobody")
        except BadAnswerError as error:
            return "countermand ledger recover" in str(error)
        return False

    await until(refuses, what)


@pytest.mark.proof
async def test_of_two_authorities_from_one_backup_the_second_stops_until_it_succeeds_the_first(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        (tmp_path / "twin").mkdir()
        twin = ServerProcess(tmp_path / "twin", "--redis", redis.url)
        async with (
            ServerProcess(tmp_path, "--redis", redis.url) as first,
            AuthorityClient.open(first.client_settings()) as client,
            protected(guard_of(first, url=redis.url)) as resource,
        ):
            one, other = await subject_of(client, "one"), await subject_of(client, "other")
            await client.revoke("session", (await subject_of(client, "before")).session_id)
            shutil.copytree(first.data.path, twin.data.path, ignore=shutil.ignore_patterns("countermand.db*"))
            await DATABASES.lay(twin.data)
            back_up(first.data, tmp_path / "backup.db")
            put_back(tmp_path / "backup.db", twin.data)
            async with twin as second, AuthorityClient.open(second.client_settings()) as second_client:
                await second_client.revoke("session", other.session_id, "at the second, and published by it")
                await resource.comes_to(other.token, REVOKED)
                await stops(client, "the first has seen that there is another")
                assert await resource.call(one.token) == PASSED

                found = await recover(first, "--keep-sessions")
                assert (found["lost"], found["missing"], found["begun"]) == (1, 0, 2)
                await client.revoke("session", one.session_id, "at the first, which goes on")
                await resource.comes_to(one.token, REVOKED)
                assert resource.position()[0].generation == 2
                await is_dead(client, other)
                await stops(second_client, "the second has seen that it was succeeded")


@pytest.mark.proof
async def test_two_that_both_revoked_lose_neither_revocation(tmp_path: Path) -> None:
    """Each has an entry of its own at one number; the one that was published is the witness's."""
    with RedisServer(tmp_path / "redis") as redis:
        (tmp_path / "twin").mkdir()
        twin = ServerProcess(tmp_path / "twin")
        async with (
            ServerProcess(tmp_path, "--redis", redis.url) as first,
            AuthorityClient.open(first.client_settings()) as client,
            protected(guard_of(first, url=redis.url)) as resource,
        ):
            one, other, good = [await subject_of(client, name) for name in ("one", "other", "good")]
            shutil.copytree(first.data.path, twin.data.path, ignore=shutil.ignore_patterns("countermand.db*"))
            await DATABASES.lay(twin.data)
            back_up(first.data, tmp_path / "backup.db")
            put_back(tmp_path / "backup.db", twin.data)
            await client.revoke("session", one.session_id, "at the first")
            await resource.comes_to(one.token, REVOKED)
            first.kill()
            async with twin as second, AuthorityClient.open(second.client_settings()) as second_client:
                await second_client.revoke("session", other.session_id, "at the second, which knows no witness")
                await second.terminate()
                second.options = ("--redis", redis.url)
                await second.start()
                await stops(second_client, "the second has asked the witness")
                found = await recover(second, "--keep-sessions")
                assert (found["seq"], found["lost"], found["missing"]) == (1, 1, 0)
                for subject in (one, other):
                    await resource.comes_to(subject.token, REVOKED)
                    await is_dead(second_client, subject)
                await until(lambda: resource.position()[0] == Rev(2, 2), "the replica follows")
                await resource.comes_to(good.token, PASSED)


@pytest.mark.proof
async def test_without_a_witness_replicas_refuse_as_a_rollback_until_another_generation_is_forced(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("countermand.replica.report.EVERY_S", 3600.0)  # a report would be a witness
    async with (
        AuthorityClient.open(server.client_settings()) as client,
        protected(guard_of(server, max_staleness_s=MAX_STALENESS_S)) as resource,
    ):
        good, after = await subject_of(client, "good"), await subject_of(client, "after")
        back_up(server.data, tmp_path / "backup.db")
        await client.revoke("session", after.session_id)
        await resource.comes_to(after.token, REVOKED)
        server.kill()
        put_back(tmp_path / "backup.db", server.data)
        await server.start()
        await resource.comes_to(good.token, UNAVAILABLE)
        assert await resource.call(after.token) == REVOKED
        await until(lambda: resource.replica.status().error == RollbackError.code, "the replica says why")
        await client.issue_mandate(after.session_id, "https://notes.example")  # nobody here knows better

        assert (await recover(server))["begun"] is None
        assert (await recover(server, "--force"))["begun"] == 2
        fresh = await subject_of(client, "opened after the recovery")
        await resource.comes_to(fresh.token, PASSED)
        assert resource.position()[0] == Rev(2, 1)
        for subject in (good, after):
            assert await resource.call(subject.token) == REVOKED
        await is_dead(client, after)


async def test_a_witness_that_is_away_keeps_nobody_from_starting_and_is_heard_when_it_comes(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        async with (
            ServerProcess(tmp_path, "--redis", redis.url) as server,
            AuthorityClient.open(server.client_settings()) as client,
            protected(guard_of(server, url=redis.url)) as resource,
        ):
            back_up(server.data, tmp_path / "backup.db")
            after = await subject_of(client, "after")
            await client.revoke("session", after.session_id)
            await resource.comes_to(after.token, REVOKED)
            server.kill()
            put_back(tmp_path / "backup.db", server.data)
            with redis.frozen():
                await server.start()
                await client.revoke("session", (await subject_of(client, "meanwhile")).session_id)
            await stops(client, "the relay has seen what was published")
            assert resource.revokes(after.session_id)
