"""What was decided can be found again: an id in every answer, and one record for each decision, without a token."""

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countermand.enforce.asgi import GuardMiddleware, Message, Scope
from countermand.enforce.decision import Code, Requirements
from countermand.enforce.trace import REQUEST_ID_KEY, JsonLines, Outcome, Record
from countermand.errors import KeysError, MalformedError
from countermand.log.anchor import Kind
from countermand.log.verdict import CLEAR, Unknown
from tests.clocks import held
from tests.unit.guarded import (
    ID_HEADER,
    SECRETS,
    TOKEN_TEXT,
    Answers,
    HeldLog,
    Keys,
    Served,
    Streaming,
    guard,
    http,
    revoked,
    websocket,
)
from tests.unit.mandates import JSON, NOW_S, SESSION, TOKEN

pytestmark = pytest.mark.anyio

HOSTILE = [
    b"",
    b"a\nb",
    b"a\r\nset-cookie: x",
    b"a" * 65,
    b"a" * 10_000,
    "ü".encode(),
    b"\xff",
    b"two words",
    b"-dash",
    b'"{}',
    b"\x1b[2J",
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Written(logging.Handler):
    """What a service writes that attaches the formatter."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def decisions(self) -> list[dict[str, Any]]:
        return [json.loads(line)["decision"] for line in self.lines]

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(one["outcome"], one["request_id"]) for one in self.decisions]


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> Iterator[Written]:
    handler, logger = Written(), logging.getLogger("countermand.decision")
    caplog.set_level(logging.DEBUG, logger.name)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


async def answered(app: Any, scope: Scope, *ids: bytes) -> list[Message]:
    scope["headers"] += [(b"X-Request-Id", id_) for id_ in ids]
    served = Served(app, scope)
    await served.ended()
    return served.sent


def ids_of(message: Message) -> list[bytes]:
    return [value for name, value in message["headers"] if name.lower() == b"x-request-id"]


class Noting:
    """An app that notes the id of its request, and answers with an id of its own."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        del receive
        self.ids.append(scope[REQUEST_ID_KEY])
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Request-ID", b"its-own")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("scope", [http, websocket])
async def test_an_answer_and_the_app_have_the_id_that_the_caller_gave(scope: Any, written: Written) -> None:
    app = Noting()
    sent = await answered(guard().asgi(app), scope(), b"job-1.a_B")
    assert (ids_of(sent[0]), app.ids, written.told) == ([b"job-1.a_B"], ["job-1.a_B"], [("allowed", "job-1.a_B")])


async def test_a_refusal_has_it_too_and_its_body_does_not(written: Written) -> None:
    sent = await answered(guard(revoked(SESSION)).asgi(Noting()), http(), b"job-1")
    assert (sent[0]["status"], ids_of(sent[0])) == (401, [b"job-1"])
    assert sorted(json.loads(sent[1]["body"])) == ["error", "error_description", "error_hint"]
    assert written.told == [("denied", "job-1")]


@pytest.mark.parametrize("ids", [[], *[[hostile] for hostile in HOSTILE], [b"one", b"other"]], ids=repr)
async def test_an_id_that_is_no_short_word_is_replaced_and_reaches_no_log(ids: list[bytes], written: Written) -> None:
    app = Noting()
    sent = await answered(guard().asgi(app), http(), *ids)
    assert ids_of(sent[0]) == [ID_HEADER[1]]
    assert app.ids == [ID_HEADER[1].decode()] == [one["request_id"] for one in written.decisions]
    assert len(written.lines) == 1
    assert written.lines[0].isascii()
    assert len(written.lines[0]) < 1_000
    assert written.lines[0].isprintable()


async def test_each_request_gets_another_id(written: Written) -> None:
    numbers = iter(range(2))
    app = guard(random=lambda count: next(numbers).to_bytes(count)).asgi(Noting())
    assert [ids_of((await answered(app, http()))[0]) for _ in range(2)] == [[b"0" * 32], [b"0" * 31 + b"1"]]
    assert len({id_ for _, id_ in written.told}) == 2


async def test_a_guard_behind_a_guard_keeps_the_id(written: Written) -> None:
    numbers = iter(range(1, 3))
    inner = guard(random=lambda count: next(numbers).to_bytes(count)).asgi(Noting())
    sent = await answered(guard().asgi(inner), http())
    assert ids_of(sent[0]) == [ID_HEADER[1]]
    assert written.told == [("allowed", ID_HEADER[1].decode())] * 2


async def test_what_else_lies_in_the_place_of_an_id_is_no_id() -> None:
    scope = http(**{REQUEST_ID_KEY: "a\nb"})
    assert ids_of((await answered(guard().asgi(Noting()), scope))[0]) == [ID_HEADER[1]]


@held
async def test_a_record_says_what_ended_the_token_and_how_old_the_knowledge_was(written: Written) -> None:
    log = HeldLog()
    log.revoke(Kind.SESSION, SESSION)
    log.passed_ms += 4_200
    await log.guard().decide(TOKEN_TEXT, Requirements.of(max_staleness_s=20), request_id="job-1")
    assert written.decisions == [
        {
            "request_id": "job-1",
            "outcome": "denied",
            "at_ms": log.now_ms(),
            "code": "session_revoked",
            "status": 401,
            "reason": f"session:{SESSION}",
            "anchor_kind": "session",
            "anchor_id": SESSION,
            "seq": 1,
            "staleness_ms": 4_200,
            "max_staleness_s": 20,
            "token_id": TOKEN,
            "session_id": SESSION,
        }
    ]


@held
async def test_a_record_says_that_and_for_how_long_the_replica_has_not_heard(written: Written) -> None:
    log = HeldLog()
    log.passed_ms += 42_000
    await log.guard().decide(TOKEN_TEXT)
    (record,) = written.decisions
    assert (record["status"], record["reason"], record["staleness_ms"]) == (503, "stale", 42_000)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"required_scopes": ["write", "admin"]}, "required_scopes=admin write"),
        ({"require_delegation": True}, "require_delegation"),
    ],
)
async def test_a_record_says_which_requirement_was_not_met(options: Any, reason: str, written: Written) -> None:
    await guard().decide(TOKEN_TEXT, Requirements.of(**options))
    (record,) = written.decisions
    assert (record["status"], record["reason"]) == (403, reason)


async def test_a_token_that_was_not_verified_says_nothing_of_itself(written: Written) -> None:
    for guarded, token in ((guard(), "a.b.c"), (guard(), None), (guard(keys=Keys(KeysError("none"))), TOKEN_TEXT)):
        await guarded.decide(token, request_id="job-1")
    assert [record.keys() & {"token_id", "session_id", "staleness_ms"} for record in written.decisions] == [set()] * 3
    assert [record["code"] for record in written.decisions] == ["invalid_token", "missing_token", "keys_unavailable"]


async def test_two_authorization_headers_are_a_record_too(written: Written) -> None:
    scope = http()
    scope["headers"] *= 2
    await answered(guard().asgi(Noting()), scope, b"job-1")
    assert [(one["request_id"], one["reason"]) for one in written.decisions] == [("job-1", "two_headers")]


async def test_denials_are_at_info_and_what_passes_is_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for guarded in (guard(), guard(revoked(SESSION))):
        await guarded.decide(TOKEN_TEXT)
    levels = [record.levelno for record in caplog.records if record.name == "countermand.decision"]
    assert levels == [logging.DEBUG, logging.INFO]


@pytest.mark.parametrize(("level", "asked"), [(logging.WARNING, 0), (logging.INFO, 1), (logging.DEBUG, 3)])
async def test_what_nobody_wants_to_know_is_not_asked(level: int, asked: int, caplog: pytest.LogCaptureFixture) -> None:
    class Dated(Answers):
        dated = 0

        def staleness_ms(self) -> int:
            self.dated += 1
            return 1

    caplog.set_level(level, "countermand.decision")
    answers = Dated(CLEAR)
    guarded = guard(answers)
    await guarded.decide(TOKEN_TEXT)
    await answered(guarded.asgi(Noting()), http())
    answers.verdict = Unknown("stale")
    await guarded.decide(TOKEN_TEXT)
    assert answers.dated == asked


async def test_revocations_that_cannot_say_how_old_they_are_fail_no_decision(written: Written) -> None:
    class Broken(Answers):
        def staleness_ms(self) -> int:
            raise OSError("hunter2")

    assert await guard(Broken(CLEAR)).decide(TOKEN_TEXT)
    assert "staleness_ms" not in written.decisions[0]
    assert "hunter2" not in str(written.lines)


@held
async def test_knowledge_from_a_clock_that_is_ahead_of_ours_is_not_younger_than_new(written: Written) -> None:
    log = HeldLog()
    log.passed_ms += 900
    log.publish()
    log.passed_ms -= 900
    await log.guard().decide(TOKEN_TEXT)
    (record,) = written.decisions
    assert record["staleness_ms"] >= 0
    assert Record.parse(record).outcome is Outcome.ALLOWED


@held
async def test_what_befalls_a_stream_is_told_with_the_id_of_its_request(written: Written) -> None:
    log = HeldLog()
    scope = http()
    scope["headers"].append((b"x-request-id", b"job-1"))
    served = Served(log.guard().asgi(Streaming()), scope)
    await asyncio.sleep(32)
    log.publish()
    await asyncio.sleep(1)
    log.revoke(Kind.SESSION, SESSION)
    await served.ended()
    assert written.told == [(outcome, "job-1") for outcome in ("allowed", "held", "released", "cut")]
    _, holding, _, cut = written.decisions
    assert holding["reason"] == "stale"
    assert holding["staleness_ms"] > 29_000
    assert (cut["anchor_id"], cut["seq"], cut["token_id"]) == (SESSION, 1, TOKEN)
    assert cut["at_ms"] >= NOW_S * 1000 + 33_000


@held
async def test_a_client_that_leaves_is_no_decision(written: Written) -> None:
    log = HeldLog()
    served = Served(log.guard().asgi(Streaming(2)), http())
    await served.ended()
    assert [outcome for outcome, _ in written.told] == ["allowed"]


async def test_no_record_holds_a_token_or_a_part_of_one(written: Written) -> None:
    for guarded in (guard(), guard(revoked(SESSION)), guard(Answers(Unknown("stale"))), guard(issuer="https://other")):
        await answered(guarded.asgi(Noting()), http())
        await answered(GuardMiddleware(Noting(), guarded, Requirements.of(max_hops=0)), http(TOKEN_TEXT + "x"))
    assert len(written.lines) == 8
    assert not [secret for secret in SECRETS if secret in "".join(written.lines)]


TEXTS = st.text(st.characters(codec="utf-8"), max_size=50)


@given(
    st.builds(
        Record,
        request_id=TEXTS,
        outcome=st.sampled_from(Outcome),
        at_ms=st.integers(0, 2**47),
        code=st.sampled_from(Code).map(str),
        status=st.none() | st.integers(0, 999),
        reason=TEXTS,
        anchor_id=TEXTS,
        seq=st.none() | st.integers(1, 2**40),
        max_staleness_s=st.none() | st.floats(2, 1e6) | st.integers(3, 9),
    )
)
def test_a_record_is_one_line_of_ascii_and_is_read_as_it_was(record: Record) -> None:
    told = logging.LogRecord("x", logging.INFO, "x", 1, "%s", (record.reason,), None)
    told.decision = record.to_fields()
    line = JsonLines().format(told)
    assert line.isascii()
    assert line.isprintable()
    assert Record.parse(json.loads(line)["decision"]) == record


NAMES = st.sampled_from(sorted(Record.__dataclass_fields__))


@given(st.dictionaries(NAMES | st.text(), JSON | st.sampled_from(Outcome).map(str) | st.integers()))
def test_any_fields_at_all_are_a_record_or_refused(fields: dict[str, object]) -> None:
    with suppress(MalformedError):
        record = Record.parse(fields)
        assert Record.parse(record.to_fields()) == record


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "lost"},
        {"outcome": None},
        {"at_ms": None},
        {"at_ms": True},
        {"at_ms": -1},
        {"at_ms": 10**15},
        {"at_ms": 1.5},
        {"status": "401"},
        {"max_staleness_s": float("nan")},
        {"reason": 1},
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_refused(change: dict[str, object]) -> None:
    good: dict[str, object] = {"outcome": "denied", "at_ms": 1}
    assert Record.parse(good) == Record(outcome=Outcome.DENIED, at_ms=1)
    with pytest.raises(MalformedError):
        Record.parse(good | change)


def test_a_line_of_anything_else_is_json_too_with_its_traceback() -> None:
    error = OSError("x")
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "it\nbroke", None, (OSError, error, None))
    line = JsonLines().format(record)
    assert (json.loads(line)["message"], "\n" in line) == ("it\nbroke", False)
    assert "OSError: x" in json.loads(line)["exception"]
