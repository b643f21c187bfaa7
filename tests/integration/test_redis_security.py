"""Redis behind ACLs: the rights that the guide prints are enough, none is too much, and nothing else gets through."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import redis
import redis.exceptions

from countermand.errors import CountermandError, RefusedError, StoreError
from countermand.log.checkpoint import CHECKPOINT_BYTES, Pin
from countermand.log.keyset import sign_keyset
from countermand.log.ports import Written
from countermand.log.wire import REVOCATION_STREAM
from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.memory import InMemoryRevocationStore
from countermand.stores.redis import RedisRevocationStore
from countermand.transport.redis import Keys, RedisLog, RedisLogWriter, open_writer
from tests.integration.planes import publishing
from tests.redis_guide import AclUser, acl_users
from tests.redis_server import RedisServer, server_of_version
from tests.running import until
from tests.signer import LOG_ID, OTHER_KEY

KEYS: Final = Keys.of()
MARK: Final = "caracal:revoked:sessions:ses-1"
DEAD: Final = f"{REVOCATION_STREAM}.dead"
OTHER: Final = "of another program"
SIGNED: Final = bytes(CHECKPOINT_BYTES)
KEYSET: Final = sign_keyset(Pin.of(LOG_ID, OTHER_KEY.public_key(), version=1), OTHER_KEY)
KEY: Final = b"a key of at least sixteen bytes"
RELAY, REPLICA, CONSUMER, READER, WRITER = (
    "countermand-relay",
    "countermand-replica",
    "revocation-consumer",
    "revocation-reader",
    "revocation-writer",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A server, and the users that the guide would make on one of its version."""

    server: RedisServer
    version: str
    admin: Any

    @property
    def users(self) -> dict[str, AclUser]:
        return acl_users(self.version)

    def clear(self) -> None:
        """Forget everything, but for a key of another program."""
        self.admin.flushall()
        self.admin.script_flush()
        self.admin.acl_log_reset()
        self.admin.set(OTHER, "1")

    def let_in(self, user: AclUser) -> None:
        self.admin.execute_command("ACL", "SETUSER", user.name, *user.rules)

    def url(self, user: AclUser) -> str:
        return f"redis://{user.name}:{user.password}@127.0.0.1:{self.server.port}/0"

    def client(self, user: AclUser) -> Any:
        return redis.Redis.from_url(self.url(user))

    def denied(self) -> list[str]:
        """What was refused since `clear`, but for what redis-py does without."""
        return [line["object"] for line in self.admin.acl_log() if line["object"] != "client"]

    def held(self) -> dict[bytes, bytes]:
        """Everything that is there."""
        return {key: self.admin.dump(key) for key in self.admin.scan_iter()}


@pytest.fixture(scope="module", params=["6.2", "7+"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    program = server_of_version(request.param)
    with (
        RedisServer(tmp_path_factory.mktemp("redis"), program=program) as server,
        server.client(decode_responses=False) as admin,
    ):
        yield Scene(server, request.param, admin)


@pytest.fixture
def scene(shared: Scene) -> Scene:
    shared.clear()
    return shared


# What each user is for


def publish(url: str) -> None:
    """Do all that the relay does."""

    async def run() -> None:
        async with open_writer(url, KEYS) as writer:
            place: Written | None = await writer.look()
            for _ in range(2):
                assert place is not None
                place = await writer.append([{"session_id": "ses-1"}], SIGNED, place)
            assert place is not None
            assert place.is_whole
            await writer.put_keysets(KEYSET)
            await writer.put_snapshot(bytes(300))
            await writer.trim(1)

    asyncio.run(run())


def follow(url: str) -> None:
    """Do all that a replica does."""

    async def run() -> None:
        log = RedisLog(url, KEYS)
        batches = log.follow(0)
        assert list((await anext(batches)).keysets) == [KEYSET]
        assert list((await anext(batches)).checkpoints) == [SIGNED]
        assert b"".join([chunk async for chunk in log.snapshot()]) == bytes(300)

    asyncio.run(run())


def relay_works(scene: Scene, user: AclUser) -> None:
    """Publish, and read again what a restored ledger would lack."""
    publish(scene.url(user))
    follow(scene.url(user))


def replica_works(scene: Scene, user: AclUser) -> None:
    publish(scene.server.url)
    follow(scene.url(user))


def reader_works(scene: Scene, user: AclUser) -> None:
    scene.admin.set(MARK, "1", px=60_000)
    store = RedisRevocationStore(scene.client(user), fail_closed=False)
    assert (store.is_revoked("ses-1"), store.is_revoked("ses-2")) == (True, False)
    assert store.are_revoked(["ses-1", "ses-2"]) == [True, False]
    assert store.failures == 0


def writer_works(scene: Scene, user: AclUser) -> None:
    store = RedisRevocationStore(scene.client(user))
    store.mark_revoked("ses-1", 60_000)
    store.mark_revoked("ses-1", 1)
    assert scene.admin.pttl(MARK) > 30_000


def consumer_works(scene: Scene, user: AclUser) -> None:
    """Create the group, apply a message, bury one, claim, and tell the lag."""
    marked = InMemoryRevocationStore()
    consumer = RedisRevocationConsumer(scene.client(user), marked, "one")
    consumer.poll()
    for fields in ({"session_id": "ses-1"}, {"reason": "without an anchor"}):
        scene.admin.xadd(REVOCATION_STREAM, fields)
    consumer.poll()
    assert (consumer.applied, consumer.dead_lettered, consumer.failures) == (1, 1, 0)
    assert (marked.is_revoked("ses-1"), scene.admin.xlen(DEAD), consumer.lag()) == (True, 1, 0)


WORK: Final[dict[str, Callable[[Scene, AclUser], None]]] = {
    RELAY: relay_works,
    REPLICA: replica_works,
    CONSUMER: consumer_works,
    READER: reader_works,
    WRITER: writer_works,
}


def works(scene: Scene, user: AclUser) -> bool:
    scene.clear()
    scene.let_in(user)
    try:
        WORK[user.name](scene, user)
    except (CountermandError, AssertionError):
        return False
    return True


def test_every_user_of_the_guide_is_tested_here(scene: Scene) -> None:
    assert set(scene.users) == set(WORK)


@pytest.mark.parametrize("name", WORK)
def test_the_rights_in_the_guide_are_enough(scene: Scene, name: str) -> None:
    user = scene.users[name]
    scene.let_in(user)

    WORK[name](scene, user)

    assert scene.denied() == []


@pytest.mark.parametrize("name", WORK)
def test_none_of_the_rights_in_the_guide_is_too_much(scene: Scene, name: str) -> None:
    user = scene.users[name]
    assert works(scene, user)
    poorer = [(right, each) for position, right in enumerate(user.rights) for each in user.without(position)]
    assert [right for right, each in poorer if works(scene, each)] == []


def test_one_client_for_consumer_and_store_takes_the_rights_of_three(scene: Scene) -> None:
    parts = [scene.users[name].rights for name in (CONSUMER, READER, WRITER)]
    rules: list[str] = []
    for part in parts:
        own = [right for right in part if not right.startswith("(")]
        selectors = [right for right in part if right.startswith("(")]
        rules += [f"({' '.join(own)})", *selectors] if scene.version == "7+" else own
    user = AclUser("both", ("reset", "on", ">a-password", *rules))
    scene.let_in(user)
    store = RedisRevocationStore(scene.client(user), fail_closed=False)
    consumer = RedisRevocationConsumer(scene.client(user), store, "one")
    scene.admin.xadd(REVOCATION_STREAM, {"session_id": "ses-1"})
    scene.admin.xadd(REVOCATION_STREAM, {"reason": "without an anchor"})

    assert consumer.poll() == (2, 0.0)

    assert store.are_revoked(["ses-1", "ses-2"]) == [True, False]
    assert (scene.admin.xlen(DEAD), store.failures, scene.denied()) == (1, 0, [])


def test_redis_py_introduces_itself_without_a_refusal_where_the_guide_says_how(scene: Scene) -> None:
    user = scene.users[REPLICA]
    extra = () if scene.version == "7+" else ("+client|setinfo", "+client|maint_notifications")
    scene.let_in(AclUser(user.name, (*user.rules, *extra)))

    replica_works(scene, user)

    assert scene.admin.acl_log() == []


# What nobody of them may

ANYWHERE: Final[Sequence[tuple[str, ...]]] = (
    *(("FLUSHALL",), ("FLUSHDB",), ("SWAPDB", "0", "1"), ("SELECT", "1"), ("SHUTDOWN", "NOSAVE")),
    *(("CONFIG", "GET", "*"), ("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "RESETSTAT")),
    *(("KEYS", "*"), ("SCAN", "0"), ("RANDOMKEY",), ("DBSIZE",), ("INFO",), ("LATENCY", "RESET")),
    *(("ACL", "LIST"), ("ACL", "SETUSER", "default", "off"), ("ACL", "WHOAMI"), ("CLIENT", "KILL", "TYPE", "normal")),
    *(("REPLICAOF", "NO", "ONE"), ("SCRIPT", "FLUSH"), ("PUBLISH", "a", "b"), ("MONITOR",), ("CLIENT", "PAUSE", "1")),
    *(("GET", OTHER), ("SET", OTHER, "2"), ("DEL", OTHER), ("XADD", OTHER, "*", "a", "b"), ("TYPE", OTHER)),
    *(("MGET", MARK, OTHER), ("XTRIM", OTHER, "MAXLEN", "0"), ("EXISTS", OTHER), ("GETRANGE", OTHER, "0", "-1")),
    *(
        (verb, key)
        for verb in ("DEL", "UNLINK", "PERSIST")
        for key in (KEYS.stream, KEYS.checkpoints, KEYS.snapshot, KEYS.keysets, MARK)
    ),
    *(("RENAME", KEYS.stream, OTHER), ("PEXPIRE", KEYS.snapshot, "1"), ("PEXPIRE", MARK, "1")),
    *(
        ("XDEL", KEYS.stream, "0-1"),
        ("XSETID", KEYS.stream, "9-9"),
        ("XGROUP", "DESTROY", KEYS.stream, "resource-revocation"),
    ),
    *(
        ("APPEND", KEYS.snapshot, "x"),
        ("SETRANGE", KEYS.snapshot, "0", "x"),
        ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ),
)
NO_LOG: Final[Sequence[tuple[str, ...]]] = (
    *(("XADD", key, "*", "a", "b") for key in (KEYS.stream, KEYS.checkpoints)),
    *(("XTRIM", key, "MAXLEN", "0") for key in (KEYS.stream, KEYS.checkpoints)),
    *(("SET", key, "x") for key in (KEYS.snapshot, KEYS.keysets)),
)
NO_MARKS: Final[Sequence[tuple[str, ...]]] = (("SET", MARK, "1"), ("SET", MARK, "1", "PX", "1"))
FORBIDDEN: Final[dict[str, Sequence[tuple[str, ...]]]] = {
    RELAY: NO_MARKS,
    REPLICA: (*NO_LOG, *NO_MARKS, ("EVALSHA", "0" * 40, "0"), ("SCRIPT", "LOAD", "return 1")),
    CONSUMER: (*NO_LOG[1:], *NO_MARKS, ("GET", MARK), ("EVALSHA", "0" * 40, "0")),
    READER: (*NO_LOG, *NO_MARKS, ("EVALSHA", "0" * 40, "0"), ("SCRIPT", "LOAD", "return 1")),
    WRITER: (*NO_LOG, ("GET", MARK), ("SCRIPT", "LOAD", "return 1")),
}


def is_refused(client: Any, command: tuple[str, ...]) -> bool:
    try:
        client.execute_command(*command)
    except redis.exceptions.NoPermissionError:
        return True
    except redis.ResponseError as error:  # a script was run, and what it called was refused
        return command[0] == "EVAL" and "can't run this command" in str(error)
    return False


@pytest.mark.parametrize("name", WORK)
def test_whatever_else_a_user_tries_is_refused_and_changes_nothing(scene: Scene, name: str) -> None:
    user = scene.users[name]
    publish(scene.server.url)
    scene.admin.set(MARK, "1")
    scene.let_in(user)
    before = scene.held()
    tried = [*ANYWHERE, *FORBIDDEN[name]]
    if name == CONSUMER and scene.version == "7+":
        tried.append(NO_LOG[0])

    with scene.client(user) as client:
        assert [command for command in tried if not is_refused(client, command)] == []

    assert scene.held() == before


@pytest.mark.parametrize("name", [REPLICA, READER])
def test_who_only_reads_has_no_command_that_writes(scene: Scene, name: str) -> None:
    known = scene.admin.command()
    assert {command: "readonly" in known[command]["flags"] for command in scene.users[name].commands} == dict.fromkeys(
        scene.users[name].commands, True
    )


@pytest.mark.parametrize(
    "call",
    ["'FLUSHALL'", "'CONFIG', 'GET', '*'", "'SET', KEYS[1], '2'", "'DEL', KEYS[2]", "'XADD', KEYS[1], '*', 'a', 'b'"],
)
@pytest.mark.parametrize("name", [RELAY, WRITER])
def test_a_script_may_no_more_than_its_user(scene: Scene, name: str, call: str) -> None:
    publish(scene.server.url)
    scene.let_in(scene.users[name])
    script = f"return redis.call({call})"
    before = scene.held()

    sha = scene.admin.script_load(script)
    with scene.client(scene.users[name]) as client, pytest.raises(redis.ResponseError):
        client.evalsha(sha, 2, OTHER, KEYS.stream)

    assert scene.held() == before


# What is said of a refusal

NOBODY: Final = AclUser("somebody", ("reset", "on", ">a-password"))
STRANGER: Final = AclUser("somebody", ("reset", "on", ">another-password"))


async def look(writer: RedisLogWriter) -> object:
    return await writer.look()


ASKING: Final[dict[str, Callable[[RedisLogWriter], Any]]] = {
    "look": look,
    "append": lambda writer: writer.append([{"a": "b"}], SIGNED, Written("")),
    "put_keysets": lambda writer: writer.put_keysets(b"x"),
    "put_snapshot": lambda writer: writer.put_snapshot(b"x"),
    "trim": lambda writer: writer.trim(1),
}


def refusal_of(ask: Callable[[RedisLogWriter], Any], url: str) -> CountermandError:
    async def run() -> None:
        async with open_writer(url, KEYS) as writer:
            await ask(writer)

    with pytest.raises(CountermandError) as caught:
        asyncio.run(run())
    return caught.value


def tells_a_name(text: str) -> bool:
    names = ("somebody", "a-password", "another-password", "caracal", "127.0.0.1", MARK, KEYS.stream)
    return any(name in text for name in names)


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize("user", [NOBODY, STRANGER], ids=["without a right", "with a wrong password"])
def test_the_relay_hears_that_it_was_refused_and_nobody_reads_a_name(
    scene: Scene, user: AclUser, ask: Callable[[RedisLogWriter], Any]
) -> None:
    scene.let_in(NOBODY)
    error = refusal_of(ask, scene.url(user))
    assert isinstance(error, RefusedError)
    assert error.code == "refused"
    assert not tells_a_name(str(error))


@pytest.mark.parametrize("missing", ["+xadd", "+type"])
def test_a_right_that_is_missing_within_the_script_stops_publishing_and_nobody_reads_a_name(
    scene: Scene, missing: str
) -> None:
    rights = [right for right in scene.users[RELAY].rights if right != missing]
    scene.let_in(AclUser(NOBODY.name, (*NOBODY.rules, *rights)))
    error = refusal_of(ASKING["append"], scene.url(NOBODY))
    assert error.code == "refused"
    assert not tells_a_name(str(error))
    assert scene.admin.keys() == [OTHER.encode()]


@pytest.mark.parametrize("user", [NOBODY, STRANGER], ids=["without a right", "with a wrong password"])
@pytest.mark.parametrize("ask", [lambda log: log.follow(0), lambda log: log.snapshot()], ids=["follow", "snapshot"])
def test_a_replica_hears_that_it_was_refused_and_nobody_reads_a_name(
    scene: Scene, user: AclUser, ask: Callable[[RedisLog], Any]
) -> None:
    scene.let_in(NOBODY)
    with pytest.raises(RefusedError) as caught:
        asyncio.run(_first(ask(RedisLog(scene.url(user), KEYS))))
    assert not tells_a_name(str(caught.value))


async def _first(items: Any) -> None:
    await anext(items)


@pytest.mark.parametrize("user", [NOBODY, STRANGER], ids=["without a right", "with a wrong password"])
def test_a_store_and_a_consumer_say_that_they_were_refused_and_no_name(
    scene: Scene, user: AclUser, caplog: pytest.LogCaptureFixture
) -> None:
    scene.let_in(NOBODY)
    store = RedisRevocationStore(scene.client(user))
    consumer = RedisRevocationConsumer(scene.client(user), store, "one", stream_hmac_key=KEY)

    assert store.is_revoked("ses-1") is True
    assert consumer.poll()[1] > 0
    errors: list[str] = []
    for call in (lambda: store.mark_revoked("ses-1"), lambda: store.are_revoked(["ses-1"]), consumer.ensure_group):
        with pytest.raises(StoreError) as caught:
            call()
        errors.append(str(caught.value))

    assert len(caplog.messages) == 2
    assert [text for text in (*errors, *caplog.messages) if tells_a_name(text)] == []


@pytest.mark.anyio
async def test_an_authority_whose_user_has_too_few_rights_says_so_once_and_tells_no_name(
    scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene.let_in(NOBODY)
    async with publishing(tmp_path, scene.url(NOBODY)) as (_, relay):
        await until(lambda: len(scene.denied()) > 0 and relay.way.error == "refused", "it was refused")
        scene.let_in(AclUser(NOBODY.name, (*NOBODY.rules, *scene.users[RELAY].rights)))
        await until(lambda: relay.way.error is None, "it publishes with the rights that it was given")
    assert [text for text in caplog.messages if tells_a_name(text)] == []
    assert len([text for text in caplog.messages if text.startswith("the log is not published: redis refused")]) == 1
