"""What docs/redis.md says is so: its blocks run, its numbers are measured, its failures were tried.

Its users and rights are held by tests/integration/test_redis_security.py.
"""

import ast
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import redis

import countermand
from caracalai_revocation_redis import RedisRevocationConsumer, RedisRevocationStore
from countermand.authority import owed, publication
from countermand.errors import StoreError
from countermand.log.anchor import Kind, own_id
from countermand.log.hmac import stream_signature
from countermand.log.snapshot import HEADER_BYTES
from countermand.log.wire import REVOCATION_STREAM, signed_messages, to_fields
from countermand.replica.replica import MAX_STALENESS_S, WARN_STALENESS_S
from countermand.settings import MIN_HMAC_BYTES, AuthoritySettings
from countermand.stores.client import MAX_WAIT_S
from countermand.transport.redis import QUIET_S, Keys, RedisLog, open_writer
from countermand.transport.redis_client import ANSWER_S, BLOCK_MS, CONNECT_S
from tests.certificates import CertificateAuthority
from tests.integration.planes import Plane, plane, publishing
from tests.redis_guide import GUIDE, acl_users, blocks
from tests.redis_server import RedisServer, TlsRedisServer, server_of_version
from tests.running import until
from tests.signer import Signer

pytestmark = pytest.mark.anyio

ROOT: Final = Path(__file__).parents[2]
KEYS: Final = Keys.of()
HMAC_KEY: Final = bytes(range(32))
MEASURED: Final = 2_000
DEADLINE_S: Final = 20.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as running:
        yield running


# Its links, its log lines, its numbers


def test_every_link_leads_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line[3:]).lower().replace(" ", "-") for line in GUIDE.splitlines() if line[:3] == "## "
    }
    links = re.findall(r"\]\(([^)]+)\)", GUIDE)
    assert {link[1:] for link in links if link.startswith("#")} == headings
    files = [link.partition("#")[0] for link in links if not link.startswith("#")]
    assert [file for file in files if not (ROOT / "docs" / file).exists()] == []


def test_every_line_to_watch_for_is_one_that_we_log() -> None:
    section = GUIDE.partition("## What to watch")[2].partition("`thread.health()`")[0]
    lines = re.findall(r"`(\w+(?: [\w ]+)+)`", section)
    assert len(lines) == 11
    code = "".join(path.read_text("utf-8") for path in (ROOT / "src" / "countermand").rglob("*.py"))
    works = re.findall(r'outage\("([a-z ]+)"\)', code)
    known = code.replace("%s fails", " ".join(f"{work} fails" for work in works))
    known = known.replace("the replica is %s", "the replica is stale the replica is refused")
    assert [line for line in lines if line not in known] == []


SAID: Final[dict[str, object]] = {
    "The stream holds 25 hours": publication.KEPT_MS == 25 * 3_600_000,
    "After 25 hours": publication.KEPT_MS == 25 * 3_600_000,
    "90,000 checkpoints": publication.KEPT_MS // 1000 == 90_000,
    "one pass after the other, and a pause of 5 s": owed.AGAIN_MS == 5_000,
    "2,500 a second": owed.TRICKLE / owed.TRICKLE_S == 2_500,
    "Twelve hours is how often": owed.REFRESH_MS == 12 * 3_600_000,
    "noticed after 2.5 s": QUIET_S == 2.5,
    "warn after 5 s": WARN_STALENESS_S == 5,
    "`max_staleness`, 30 s": MAX_STALENESS_S == 30,
    "one wait of at most 4 s": MAX_WAIT_S == 4,
    "16 bytes at least": MIN_HMAC_BYTES == 16,
    "after 2 s at the most": CONNECT_S == 2,
    "after 6 s without an answer": ANSWER_S + BLOCK_MS / 1000 == 6,
}


@pytest.mark.parametrize("words", SAID)
def test_a_number_is_the_one_in_the_code(words: str) -> None:
    assert words in " ".join(GUIDE.split())
    assert SAID[words]


def said_bytes(what: str) -> float:
    (number,) = re.findall(rf"^\| {re.escape(what)} \| ([\d.]+) \|$", GUIDE, re.MULTILINE)
    return float(number)


@pytest.mark.parametrize("version", ["6.2", "7+"])
async def test_what_takes_how_much_memory_is_measured(version: str, tmp_path: Path) -> None:
    with RedisServer(tmp_path, program=server_of_version(version)) as server, server.client() as client:
        plain = await per_message(server, client, [], "")
        signed = await per_message(server, client, [HMAC_KEY], "")
        twice = await per_message(server, client, [HMAC_KEY, HMAC_KEY[::-1]], "")
        reasoned = await per_message(server, client, [HMAC_KEY], "x" * 100)
        assert {
            "a revocation on the stream, without `_sig`": plain,
            "with `_sig`": signed,
            "for each further HMAC key": twice - signed,
            "for each byte of the reason": (reasoned - signed) / 100,
            "a checkpoint": per_checkpoint(client),
            "a mark of a documented store": per_mark(client),
            "an entry in the snapshot, of an id of ours": per_record(),
        } == {what: pytest.approx(said_bytes(what), rel=0.2) for what in WHAT}


WHAT: Final = (
    "a revocation on the stream, without `_sig`",
    "with `_sig`",
    "for each further HMAC key",
    "for each byte of the reason",
    "a checkpoint",
    "a mark of a documented store",
    "an entry in the snapshot, of an id of ours",
)


async def per_message(server: RedisServer, client: Any, keys: list[bytes], reason: str) -> float:
    client.flushall()
    signer = Signer()
    async with open_writer(server.url, KEYS) as writer:
        place = await writer.look()
        for start in range(0, MEASURED, 500):
            messages = [
                message
                for seq in range(start + 1, start + 501)
                for message in signed_messages(REVOCATION_STREAM, entry_fields(signer, seq, reason), keys)
            ]
            appended = await writer.append(messages, None, place)
            assert appended is not None
            place = appended
    return float(client.memory_usage(KEYS.stream, samples=0) / MEASURED)


def entry_fields(signer: Signer, seq: int, reason: str) -> dict[str, str]:
    expires_ms = 1_900_000_000_000
    candidate = signer.append(
        Kind.SESSION, own_id(Kind.SESSION, secrets.token_bytes(16)), reason=reason, expires_at_ms=expires_ms
    )
    return {**to_fields(candidate.previous, candidate.entry), "outbox_id": f"entry-{seq}"}


def per_checkpoint(client: Any) -> float:
    for _ in range(MEASURED):
        client.xadd(KEYS.checkpoints, {"cm_checkpoint": secrets.token_urlsafe(185)})
    return float(client.memory_usage(KEYS.checkpoints, samples=0) / MEASURED)


def per_mark(client: Any) -> float:
    client.flushall()
    before = client.info("memory")["used_memory"]
    RedisRevocationStore(client).mark_all([own_id(Kind.SESSION, secrets.token_bytes(16)) for _ in range(20_000)])
    return float((client.info("memory")["used_memory"] - before) / 20_000)


def per_record() -> float:
    signer = Signer()
    for seq in range(MEASURED):
        entry_fields(signer, seq, "")
    return (len(signer.snapshot()) - HEADER_BYTES) / MEASURED


# Its blocks


def test_every_block_is_looked_at_here() -> None:
    assert [text.splitlines()[0] for text in blocks("python")] == ["import os", "import os", "while True:"]
    assert len(blocks("console")) == 2
    assert GUIDE.count("```") == 2 * (3 + 2 + 3)


def test_urls_of_sentinels_and_clusters_are_understood_as_the_guide_writes_them() -> None:
    for url in re.findall(r"--redis '([^']+)'", blocks("console")[1]):
        RedisLog(url.replace("…", "secret"), KEYS)


def test_an_authority_takes_the_url_of_the_first_block() -> None:
    ((name, url),) = re.findall(r"export (\w+)='([^']+)'", blocks("console")[0])
    settings = AuthoritySettings.read(data_dir=None, host="", port=0, environ={name: url})
    assert settings.redis_url == url
    RedisLog(url, KEYS)
    user = acl_users("6.2")[str(urlsplit(url).username)]
    assert urlsplit(url).password == user.password


def test_a_service_connects_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    code = blocks("python")[0]
    ((user, password, place),) = re.findall(r"# rediss://([\w-]+):(\w+)@(\S+)…", code)
    assert acl_users("6.2")[user].password == password
    monkeypatch.setenv("REPLICA_REDIS_URL", f"rediss://{user}:{password}@{place}")
    monkeypatch.setenv("ISSUER", "https://authority.example")
    monkeypatch.setenv("COUNTERMAND_PIN", str(Signer().pin))
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the guide is ours
    assert isinstance(
        names["guard"],
        type(countermand.connect(os.environ["REPLICA_REDIS_URL"], issuer="https://a.example", audience="a")),
    )


def test_a_consumer_runs_as_shown_with_the_users_of_the_guide(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.client() as admin:
        users = acl_users("6.2" if admin.info("server")["redis_version"].startswith("6") else "7+")
        for name in ("revocation-consumer", "revocation-writer"):
            admin.execute_command("ACL", "SETUSER", name, *users[name].rules)
            url = f"redis://{name}:{users[name].password}@127.0.0.1:{server.port}/0"
            monkeypatch.setenv(f"{name.partition('-')[2].upper()}_REDIS_URL", url)
        monkeypatch.setenv("STREAM_HMAC_KEYS", f"{secrets.token_hex(32)},{HMAC_KEY.hex()}")
        monkeypatch.setenv("INSTANCE_ID", "one")
        names: dict[str, Any] = {}
        exec(blocks("python")[1], names)  # noqa: S102 - the guide is ours
        fields = {"session_id": "ses-1"}
        admin.xadd(REVOCATION_STREAM, {**fields, "_sig": stream_signature(HMAC_KEY, REVOCATION_STREAM, fields)})
        store = RedisRevocationStore(admin)
        deadline_s = time.monotonic() + DEADLINE_S
        while not store.is_revoked("ses-1") and time.monotonic() < deadline_s:
            time.sleep(0.01)
        health = names["thread"].health()
        assert names["thread"].stop()
        assert store.is_revoked("ses-1")
        assert (health.running, health.dead_lettered, health.failures) == (True, 0, 0)


def test_the_loop_is_the_documented_one() -> None:
    (loop,) = ast.parse(blocks("python")[2]).body
    assert ast.unparse(loop) == "while True:\n    consumer.poll_once()"


# Its settings


def test_evicting_what_is_volatile_un_revokes_in_silence(tmp_path: Path) -> None:
    options = ("--maxmemory", "3mb", "--maxmemory-policy", "volatile-ttl")
    with RedisServer(tmp_path, *options) as server, server.client() as client:
        store = RedisRevocationStore(client)
        ids = [f"session-{number}" for number in range(20_000)]
        for start in range(0, len(ids), 200):
            store.mark_all(ids[start : start + 200])
        assert sum(store.are_revoked(ids)) < len(ids)
        assert store.failures == 0


@pytest.mark.parametrize("appends", ["yes", "no"])
def test_a_restart_keeps_marks_only_where_redis_appends(tmp_path: Path, appends: str) -> None:
    with RedisServer(tmp_path, "--appendonly", appends, "--appendfsync", "always") as server:
        RedisRevocationStore(server.client()).mark_revoked("ses-1")
        server.restart()
        assert RedisRevocationStore(server.client()).is_revoked("ses-1") is (appends == "yes")


def test_an_idle_connection_that_the_server_closed_costs_no_error(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--timeout", "1") as server, server.client() as client, server.client() as admin:
        store = RedisRevocationStore(client, fail_closed=False)
        assert store.is_revoked("ses-1") is False
        deadline_s = time.monotonic() + DEADLINE_S
        while len(admin.client_list()) > 1 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert len(admin.client_list()) == 1
        assert store.is_revoked("ses-1") is False
        assert store.failures == 0


async def test_the_authorities_of_the_system_are_trusted_beside_the_given_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, given = CertificateAuthority(tmp_path, "ours"), CertificateAuthority(tmp_path, "given")
    with TlsRedisServer(tmp_path / "redis", ours.issue("server")) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(ours.file))  # as if it were installed on this machine
        async with open_writer(server.url_of("localhost", ssl_ca_certs=given.file), KEYS) as writer:
            assert (await writer.look()).end == ""


# What happens when


async def test_a_full_redis_stops_publishing_and_with_memory_again_it_goes_on(tmp_path: Path) -> None:
    async with plane(tmp_path) as running:
        ids = await running.revoke(2)
        await running.caught_up()
        client = running.redis.client()
        client.config_set("maxmemory", 1)
        late = await running.revoke(1)
        await until(lambda: running.relay.way.error == "bad_answer", "the authority says that it cannot publish")
        assert running.revokes(ids)
        client.config_set("maxmemory", 0)
        await running.caught_up()
        assert running.revokes(ids + late)


def test_on_a_full_redis_a_message_stays_pending_until_it_can_be_marked(server: RedisServer) -> None:
    with server.client() as client:
        store = RedisRevocationStore(client)
        consumer = RedisRevocationConsumer(client, store, "one")
        client.xadd(REVOCATION_STREAM, {"session_id": "ses-1"})
        consumer.poll()
        client.xadd(REVOCATION_STREAM, {"session_id": "ses-2"})
        client.config_set("maxmemory", 1)
        with pytest.raises(StoreError):
            store.mark_revoked("ses-3")
        consumer.poll()
        assert store.are_revoked(["ses-1", "ses-2"]) == [True, False]
        client.config_set("maxmemory", 0)
        deadline_s = time.monotonic() + DEADLINE_S
        while not store.is_revoked("ses-2") and time.monotonic() < deadline_s:
            consumer.poll_once()
        assert store.is_revoked("ses-2")
        assert consumer.dead_lettered == 0


async def test_a_second_loss_within_a_minute_is_mended_when_it_is_over(
    tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed, "AGAIN_MS", 1_500)
    with server.client(decode_responses=True) as client:
        async with publishing(tmp_path, server.url) as (rooms, first):
            ids = set(await Plane(rooms, server, first).revoke(3))
            await until(lambda: named(client) == ids, "they are published")
        async with publishing(tmp_path, server.url):  # above whose snapshot nothing lies
            for _ in range(3):
                client.flushall()
                await until(lambda: named(client) == ids, "they are published again")


async def test_after_a_failover_that_lost_writes_replicas_and_consumers_get_them_again(tmp_path: Path) -> None:
    async with plane(tmp_path) as running:
        ids = await running.revoke(5)
        await running.caught_up()
        running.redis.client().save()  # what the other one had
        ids += await running.revoke(5)
        await running.caught_up()
        running.redis.restart()
        ids += await running.revoke(1)
        await running.caught_up()
        assert running.revokes(ids)
        client = running.redis.client(decode_responses=True)
        await until(lambda: named(client) >= set(ids), "every message is there again")


def named(client: "redis.Redis") -> set[str]:
    messages: Any = client.xrange(KEYS.stream)
    return {fields["session_id"] for _, fields in messages}


def test_in_a_rotation_a_consumer_of_one_key_buries_what_the_other_signs(server: RedisServer) -> None:
    new = HMAC_KEY[::-1]
    with server.client() as client:
        for message in signed_messages(REVOCATION_STREAM, {"session_id": "ses-1"}, [HMAC_KEY, new]):
            client.xadd(REVOCATION_STREAM, dict(message))
        counts: dict[str, tuple[int, int]] = {}
        for name, keys in (("old", HMAC_KEY), ("new", new), ("both", [HMAC_KEY, new])):
            consumer = RedisRevocationConsumer(
                client, RedisRevocationStore(client), name, group=name, stream_hmac_key=keys
            )
            consumer.poll()
            counts[name] = (consumer.applied, consumer.dead_lettered)
        assert counts == {"old": (1, 1), "new": (1, 1), "both": (2, 0)}
