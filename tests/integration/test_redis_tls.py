"""Redis by TLS: all of it works, from the authority to the documented store; and what does not hold is refused."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from countermand.cli.client import AuthorityClient
from countermand.errors import StoreError, UnreachableError
from countermand.log.checkpoint import CHECKPOINT_BYTES
from countermand.log.wire import REVOCATION_STREAM
from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.redis import RedisRevocationStore
from countermand.stores.runner import ConsumerThread
from countermand.transport.redis import Keys, RedisLog, open_writer
from tests.certificates import CertificateAuthority
from tests.faults.resource import PASSED, REVOKED, UNAVAILABLE, guard_of, protected, subject_of
from tests.integration.planes import publishing
from tests.redis_guide import acl_users
from tests.redis_server import Certificate, RedisServer, TlsRedisServer
from tests.running import ServerProcess, until

pytestmark = pytest.mark.anyio

KEYS: Final = Keys.of()
SECRET: Final = "hunter2"
SOMEBODY: Final = f"somebody:{SECRET}"
LIMIT_S: Final = 6.0
"""For five who ask at once: each gives up on a connection after 2 s, on a machine that does something else."""
BRIEF: Final = {"socket_timeout": 1, "socket_connect_timeout": 1}
"""For documented clients: how long they wait by themselves is tested elsewhere."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> CertificateAuthority:
    return CertificateAuthority(folder, "ours")


@dataclass(frozen=True, slots=True)
class Scene:
    """Servers that are well and not, somebody who never answers, and certificates for clients."""

    good: TlsRedisServer
    asking: TlsRedisServer
    expired: TlsRedisServer
    elsewhere: TlsRedisServer
    plain: RedisServer
    silent_port: int
    client: Certificate
    stranger: Certificate


@pytest.fixture(scope="module")
def scene(authority: CertificateAuthority, folder: Path) -> Iterator[Scene]:
    good = authority.issue("server")
    client = authority.issue("client", hosts=())
    expired = authority.issue("expired", lasts=timedelta(days=-1))
    elsewhere = authority.issue("elsewhere", hosts=("redis.example",))
    stranger = CertificateAuthority(folder, "of a stranger").issue("stranger")
    with ExitStack() as stack:

        def serve(name: str, certificate: Certificate, *, asks: bool = False) -> TlsRedisServer:
            return stack.enter_context(TlsRedisServer(folder / name, certificate, asks=asks))

        plain = stack.enter_context(RedisServer(folder / "plain"))
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        yield Scene(
            serve("good", good),
            serve("asking", good, asks=True),
            serve("expired", expired),
            serve("elsewhere", elsewhere),
            plain,
            silent.getsockname()[1],
            client,
            stranger,
        )


# What works


GOOD_URLS: Final[dict[str, Callable[[Scene], str]]] = {
    "by address": lambda scene: scene.good.url_of("127.0.0.1"),
    "by name": lambda scene: scene.good.url_of("localhost"),
    "TLS 1.3 at least": lambda scene: scene.good.url_of("localhost", ssl_min_version=772),
    "with a certificate of our own": lambda scene: scene.asking.url_of("localhost", **_shown(scene.client)),
    "another name, unchecked": lambda scene: scene.elsewhere.url_of("localhost", ssl_check_hostname=False),
}


def _shown(certificate: Certificate) -> dict[str, Any]:
    return {"ssl_certfile": certificate.certificate, "ssl_keyfile": certificate.key}


@pytest.mark.parametrize("make", GOOD_URLS.values(), ids=GOOD_URLS)
async def test_what_holds_is_let_through(scene: Scene, make: Callable[[Scene], str]) -> None:
    url = make(scene)
    async with open_writer(url, KEYS) as writer:
        assert await writer.append([], bytes(CHECKPOINT_BYTES), await writer.look()) is not None
        await writer.put_snapshot(b"a snapshot")
    batch = await anext(RedisLog(url, KEYS).follow(0))
    assert list(batch.checkpoints)[-1] == bytes(CHECKPOINT_BYTES)
    assert [chunk async for chunk in RedisLog(url, KEYS).snapshot()] == [b"a snapshot"]
    with redis.Redis.from_url(url) as client:
        store = RedisRevocationStore(client)
        store.mark_revoked("ses-1")
        assert store.are_revoked(["ses-1", "ses-2"]) == [True, False]
        client.xadd(REVOCATION_STREAM, {"session_id": "ses-2"})
        assert RedisRevocationConsumer(client, store, "one", group=f"of {make}").poll_once() > 0
        assert store.is_revoked("ses-2")
        client.flushall()


async def test_by_tls_and_with_the_rights_of_the_guide_a_revocation_reaches_everybody(
    authority: CertificateAuthority, scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users = acl_users("7+")
    lines = [f"user {user.name} {' '.join(user.rules)}" for user in users.values()]
    acl = tmp_path / "users.acl"
    acl.write_text("\n".join(["user default off", "user admin on >a-password ~* &* +@all", *lines]) + "\n")

    def url(name: str) -> str:
        return server.url_of("localhost", f"{name}:{users[name].password}", **_shown(scene.client))

    with TlsRedisServer(tmp_path / "redis", authority.issue("own"), "--aclfile", str(acl), asks=True) as server:
        store = RedisRevocationStore(redis.Redis.from_url(url("revocation-writer")))
        reader = RedisRevocationStore(redis.Redis.from_url(url("revocation-reader")), fail_closed=False)
        consumer = RedisRevocationConsumer(redis.Redis.from_url(url("revocation-consumer")), store, "one")
        async with (
            ServerProcess(tmp_path, "--redis", url("countermand-relay")) as process,
            AuthorityClient.open(process.client_settings()) as client,
            protected(guard_of(process, url=url("countermand-replica"))) as resource,
            protected(guard_of(process, url=server.url_of("localhost", SOMEBODY))) as uncertified,
        ):
            with ConsumerThread(consumer):
                good, bad = await subject_of(client, "good"), await subject_of(client, "bad")
                await resource.comes_to(bad.token, PASSED)
                await client.revoke("session", bad.session_id)
                await resource.comes_to(bad.token, REVOKED)
                await until(lambda: reader.is_revoked(bad.session_id), "the documented store knows it")
                assert await resource.call(good.token) == PASSED
                assert reader.is_revoked(good.session_id) is False
                assert await uncertified.call(good.token) == UNAVAILABLE
                assert uncertified.replica.status().error == "unreachable"
        with server.client(username="admin", password="a-password") as admin:
            assert admin.acl_log() == []
        printed = process.log.read_text()
        said = printed + caplog.text
        assert [word for word in ("rediss:", "PASSWORD", SECRET, str(server.port)) if word in said] == []


# What does not hold

FAULTS: Final[dict[str, Callable[[Scene], str]]] = {
    "an authority that we do not trust": lambda scene: scene.good.url_of(
        "localhost", SOMEBODY, ssl_ca_certs=scene.stranger.authority
    ),
    "no authority, but the system's": lambda scene: f"rediss://{SOMEBODY}@localhost:{scene.good.port}/0",
    "an expired certificate": lambda scene: scene.expired.url_of("localhost", SOMEBODY),
    "a certificate for another name": lambda scene: scene.elsewhere.url_of("localhost", SOMEBODY),
    "a certificate for another address": lambda scene: scene.elsewhere.url_of("127.0.0.1", SOMEBODY),
    "no certificate of our own": lambda scene: scene.asking.url_of("localhost", SOMEBODY),
    "a stranger's certificate of our own": lambda scene: scene.asking.url_of(
        "localhost", SOMEBODY, **_shown(scene.stranger)
    ),
    "no TLS on our side": lambda scene: f"redis://{SOMEBODY}@localhost:{scene.good.port}/0",
    "no TLS on the other side": lambda scene: (
        f"rediss://{SOMEBODY}@localhost:{scene.plain.port}/0?ssl_ca_certs={scene.good.certificate.authority}"
    ),
    "nobody who answers": lambda scene: (
        f"rediss://{SOMEBODY}@127.0.0.1:{scene.silent_port}/0?ssl_ca_certs={scene.good.certificate.authority}"
    ),
}


async def read(url: str) -> None:
    await anext(RedisLog(url, KEYS).follow(0))


async def load(url: str) -> None:
    await anext(RedisLog(url, KEYS).snapshot())


async def write(url: str) -> None:
    async with open_writer(url, KEYS) as writer:
        await writer.look()


async def ask(url: str) -> None:
    with redis.Redis.from_url(url, **BRIEF) as client:
        await asyncio.to_thread(RedisRevocationStore(client).are_revoked, ["ses-1"])


async def consume(url: str) -> None:
    with redis.Redis.from_url(url, **BRIEF) as client:
        consumer = RedisRevocationConsumer(client, RedisRevocationStore(client), "one")
        await asyncio.to_thread(consumer.ensure_group)


TRANSPORT: Final = (read, load, write)
DOCUMENTED: Final = (ask, consume)


async def outcome(work: Callable[[str], Any], url: str) -> Exception | None:
    try:
        await work(url)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is judged
        return error
    return None


def everything_said(error: BaseException | None) -> str:
    """What a traceback would print."""
    said = ""
    while error is not None:
        said += f"{error!r} {error}\n"
        error = error.__cause__ or error.__context__
    return said


@pytest.mark.parametrize("make", FAULTS.values(), ids=FAULTS)
async def test_what_does_not_hold_is_refused_soon_by_an_error_without_a_secret(
    scene: Scene, make: Callable[[Scene], str]
) -> None:
    url, start_s = make(scene), time.monotonic()

    errors = await asyncio.gather(*(outcome(work, url) for work in (*TRANSPORT, *DOCUMENTED)))

    assert time.monotonic() - start_s < LIMIT_S
    assert [type(error) for error in errors] == [UnreachableError] * len(TRANSPORT) + [StoreError] * len(DOCUMENTED)
    assert [error for error in errors if SECRET in everything_said(error)] == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("an authority that we do not trust", "self-signed certificate"),
        ("an expired certificate", "certificate has expired"),
        ("a certificate for another name", "certificate is not valid for 'localhost'"),
    ],
)
async def test_the_error_says_what_of_a_certificate_does_not_hold(scene: Scene, fault: str, words: str) -> None:
    errors = await asyncio.gather(*(outcome(work, FAULTS[fault](scene)) for work in TRANSPORT))
    assert [str(error) for error in errors if words not in str(error)] == []


@pytest.mark.parametrize("make", FAULTS.values(), ids=FAULTS)
async def test_a_store_over_tls_that_does_not_hold_revokes_everything_or_as_it_was_told_nothing(
    scene: Scene, make: Callable[[Scene], str], caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(make(scene), **BRIEF) as client:
        stores = [RedisRevocationStore(client, fail_closed=closed) for closed in (True, False)]
        answers = [asyncio.to_thread(store.is_revoked, "ses-1") for store in stores]
        assert await asyncio.gather(*answers) == [True, False]
    assert SECRET not in caplog.text


async def test_where_tls_does_not_hold_an_authority_says_so_once_and_tells_no_secret(
    scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with publishing(tmp_path, FAULTS["an authority that we do not trust"](scene)) as (_, relay):
        await until(lambda: relay.way.error == "unreachable", "it cannot publish")
    assert [text for text in caplog.messages if "the log is not published" in text] == caplog.messages
    assert len(caplog.messages) == 1
    assert [word for word in ("somebody:", SECRET, "rediss:") if word in caplog.text] == []
