"""Biscuits at the guard: its questions in their order, refusals, what a request says, root keys, what is in flight."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

import countermand
from countermand.enforce.asgi import BISCUIT_KEY, MANDATE_KEY, Receive, Scope, Send
from countermand.enforce.biscuits import Biscuits
from countermand.enforce.decision import Allow, Code, Deny, Requirements
from countermand.enforce.guard import Guard
from countermand.errors import ConfigurationError, InvalidValueError, UnknownTokenKeyError
from countermand.log.anchor import Kind
from countermand.log.revocation_id import canonical_id
from countermand.log.verdict import CLEAR, Revoked, Unknown
from countermand.stores.memory import InMemoryRevocationStore
from countermand.tokens.biscuit import MAX_ROOT_KEYS, RootKeys, parse_biscuit, verify_biscuit
from countermand.tokens.work import AUTHORIZER_TEXT
from tests.biscuits import (
    OTHER_ROOT,
    ROOT,
    ROOT_KEY,
    SECP_ROOT,
    SECP_ROOT_KEY,
    Ed25519,
    compiled,
    sign,
    text_of,
    twin,
)
from tests.clocks import held
from tests.unit import guarded, wsgi_served
from tests.unit.biscuit_guards import CONTENTS, POLICY, TOKEN, TOKEN_TEXT, accepting, verified
from tests.unit.guarded import Answers, HeldLog, Log, Served, Streaming, denied
from tests.unit.mandates import NOW_S

pytestmark = pytest.mark.anyio

OTHER_KEY = text_of(OTHER_ROOT)
IDS = verified(TOKEN).revocation_ids
NOW = datetime.fromtimestamp(NOW_S, UTC)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def saying(*codes: str, **options: Any) -> str:
    return str(sign(compiled(*codes), **options))


def said(token: object) -> tuple[str, list[str], int | None]:
    """Whom the token names, its scopes, and when it says that it was issued."""
    biscuit = verified(token)
    return biscuit.subject, sorted(biscuit.scopes), biscuit.issued_at_s


def required(**options: Any) -> Requirements:
    return Requirements.of(**options)


def at(seconds: int) -> str:
    """An instant in Datalog, so many seconds from now."""
    return datetime.fromtimestamp(NOW_S + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# What is asked, and when


async def test_a_good_biscuit_may_act_as_whom_its_authority_says() -> None:
    decision = await accepting().decide(TOKEN_TEXT)

    assert isinstance(decision, Allow)
    assert (decision.holder, decision.holder.hop_count) == (verified(TOKEN), 2)
    assert said(TOKEN) == ("alice", ["read"], None)
    with pytest.raises(TypeError):
        _ = decision.mandate


async def test_the_ids_are_asked_about_at_once_and_root_first() -> None:
    revocations = Answers(CLEAR)
    await accepting(revocations).decide(TOKEN_TEXT, required(max_staleness_s=10))

    ((anchors, max_staleness_s),) = revocations.asked
    assert [(anchor.kind, anchor.id) for anchor in anchors.path] == [(Kind.BISCUIT, id_) for id_ in IDS]
    assert (anchors.rev, max_staleness_s) == (None, 10)


class Listening(Biscuits):
    """Biscuits that note for whom the Datalog was asked."""

    asked = 0

    def denial(self, *about: Any) -> Deny | None:
        self.asked += 1
        return super().denial(*about)


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Revoked(verified(TOKEN).anchors().path[1], 7), Code.SESSION_REVOKED),
        (Unknown("stale"), Code.REVOCATION_UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("before", [False, True], ids=["first sight", "seen before"])
async def test_nothing_of_a_token_runs_that_is_revoked_or_of_which_that_is_not_known(
    verdict: object, code: Code, before: bool
) -> None:
    revocations, biscuits = Answers(CLEAR), Listening(ROOT_KEY, POLICY)
    guard = guarded.guard(revocations, keys=None, issuer="", biscuits=biscuits)
    if before:
        assert isinstance(await guard.decide(TOKEN_TEXT), Allow)
        biscuits.asked = 0
    revocations.verdict = verdict

    assert denied(await guard.decide(TOKEN_TEXT)).code is code
    assert denied(await guard.decide(TOKEN_TEXT, required(required_scopes=["admin"]))).code is code
    assert biscuits.asked == 0


async def test_what_is_required_comes_before_the_datalog() -> None:
    biscuits = Listening(ROOT_KEY, 'allow if user("bob")')
    guard = guarded.guard(keys=None, issuer="", biscuits=biscuits)
    deny = denied(await guard.decide(TOKEN_TEXT, required(required_scopes=["admin"])))

    assert (deny.code, deny.scopes, biscuits.asked) == (Code.INSUFFICIENT_SCOPE, ("admin",), 0)


MANY = "".join(f"n({number});" for number in range(40))
ENDLESS = MANY + "pair($a, $b) <- n($a), n($b);"
"""Over 1,000 facts."""
REFUSALS: dict[str, tuple[str | None, str, Code, str]] = {
    "no token": (None, POLICY, Code.MISSING_TOKEN, ""),
    "an empty one": ("", POLICY, Code.MISSING_TOKEN, ""),
    "no base64": ("%", POLICY, Code.INVALID_TOKEN, "malformed_token"),
    "no biscuit": ("AAAA", POLICY, Code.INVALID_TOKEN, "malformed_token"),
    "another issuer's": (str(sign(CONTENTS, OTHER_ROOT)), POLICY, Code.INVALID_TOKEN, "bad_token_signature"),
    "a mandate": (guarded.TOKEN_TEXT, POLICY, Code.INVALID_TOKEN, "unknown_token_key"),
    "expired": (
        saying('user("alice")', f"check if time($t), $t < {at(0)}"),
        POLICY,
        Code.INVALID_TOKEN,
        "expired_token",
    ),
    "a check of the token": (
        saying('user("alice")', 'check if user("bob")'),
        POLICY,
        Code.INSUFFICIENT_SCOPE,
        "checks_failed",
    ),
    "a check of the policy": (
        TOKEN_TEXT,
        'check if user("bob"); allow if true',
        Code.INSUFFICIENT_SCOPE,
        "checks_failed",
    ),
    "no policy": (TOKEN_TEXT, 'allow if user("bob")', Code.INSUFFICIENT_SCOPE, "no_policy_allows"),
    "a policy that denies": (
        TOKEN_TEXT,
        'deny if user("alice"); allow if true',
        Code.INSUFFICIENT_SCOPE,
        "no_policy_allows",
    ),
    "a policy that allows, and a check": (
        saying('user("alice")', "check if false"),
        "allow if true",
        Code.INSUFFICIENT_SCOPE,
        "checks_failed",
    ),
    "a policy without an end": (
        saying(f'user("alice"); {MANY}'),
        "pair($a, $b) <- n($a), n($b); allow if true",
        Code.INSUFFICIENT_SCOPE,
        "datalog_limits",
    ),
    "a sum without an end": (
        saying('user("alice"); check if 9223372036854775807 + 1 > 0'),
        "allow if true",
        Code.INSUFFICIENT_SCOPE,
        "datalog_fault",
    ),
    "a function that nobody has": (
        saying('user("alice"); check if true.extern::nobody()'),
        "allow if true",
        Code.INSUFFICIENT_SCOPE,
        "datalog_fault",
    ),
}


@pytest.mark.parametrize(("token", "policy", "code", "reason"), REFUSALS.values(), ids=REFUSALS)
async def test_each_refusal_has_its_code_and_the_log_learns_why(
    token: str | None, policy: str, code: Code, reason: str
) -> None:
    deny = denied(await accepting(policy=policy).decide(token))
    assert (deny.code, deny.reason) == (code, reason)


async def test_a_denial_by_the_datalog_quotes_nothing_of_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = saying('user("alice"); card("4111 1111")', 'check if card("another secret")')
    decision = await accepting().decide(secret)

    assert denied(decision).reason == "checks_failed"
    told = f"{caplog.text}{decision!r}{[vars(record) for record in caplog.records]!r}"
    assert "checks_failed" in told
    assert not [part for part in ("4111", "another secret", "card", secret[:40]) if part in told]


# Requirements


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"required_scopes": ["write", "read"]}, Code.INSUFFICIENT_SCOPE),
        ({"require_session": True}, Code.SESSION_REQUIRED),
        ({"require_delegation": True}, Code.DELEGATION_REQUIRED),
        ({"max_hops": 1}, Code.HOP_COUNT_EXCEEDED),
    ],
)
async def test_what_is_required_and_a_biscuit_does_not_meet_is_denied(options: dict[str, Any], code: Code) -> None:
    of_the_guard = denied(await accepting(requirements=required(**options)).decide(TOKEN_TEXT))
    of_the_route = denied(await accepting().decide(TOKEN_TEXT, required(**options)))
    assert of_the_guard.code is of_the_route.code is code


async def test_scopes_and_hops_are_what_a_biscuit_can_meet() -> None:
    every = required(required_scopes=["read"], max_hops=2)
    assert isinstance(await accepting(requirements=every).decide(TOKEN_TEXT), Allow)


# What the authority says, and nobody else


async def test_who_attenuates_a_token_adds_no_user_no_scope_and_no_time_of_issue() -> None:
    text = saying('user("alice"); scope("read")', f'user("root"); scope("admin"); issued_at({at(-1)}); scope("read")')

    assert said(text) == ("alice", ["read"], None)
    assert denied(await accepting().decide(text, required(required_scopes=["admin"]))).code is Code.INSUFFICIENT_SCOPE


async def test_who_attenuates_a_token_cannot_give_a_user_to_one_that_has_none() -> None:
    text = saying("right(1)", 'user("alice"); scope("read"); user($u) <- right($u)')

    assert said(text) == ("", [], None)
    assert denied(await accepting().decide(text)).reason == "no_policy_allows"


def test_a_third_partys_block_says_nothing_for_the_authority() -> None:
    party = Ed25519(5)
    contents = compiled('user("alice")', 'user("root"); scope("admin")', parties={1: party})
    assert said(sign(contents, parties={1: party})) == ("alice", [], None)


def test_several_users_are_none_and_one_said_twice_is_one() -> None:
    assert verified(saying('user("alice"); user("bob")')).subject == ""
    assert verified(saying('user("alice"); user(1); user("alice", "bob")')).subject == "alice"
    assert verified(saying(f"issued_at({at(-5)})")).issued_at_s == NOW_S - 5
    assert verified(saying(f"issued_at({at(-5)}); issued_at({at(-6)})")).issued_at_s is None
    assert verified(saying("issued_at(5)")).issued_at_s is None


def test_names_that_every_token_knows_are_read_as_well_as_its_own() -> None:
    assert said(saying('user("admin"); scope("read"); scope("zoë")')) == ("admin", ["read", "zoë"], None)


def test_no_rule_of_a_token_runs_when_it_is_verified() -> None:
    assert said(saying('name("root"); user($n) <- name($n); scope($n) <- name($n)')) == ("", [], None)


async def test_a_token_whose_checks_take_longer_than_the_librarys_millisecond_passes() -> None:
    numbers = "".join(f"n({number});" for number in range(60))
    heavy = saying(f'user("alice"); {numbers} check if n($a), n($b), $a + $b == 5000 or user("alice")')
    assert isinstance(await accepting().decide(heavy), Allow)


# What is known of a request


async def greet(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def method_and_path(path: str, policy: str, token: str = TOKEN_TEXT, method: str = "GET") -> list[int]:
    """What an ASGI app and a WSGI app behind such a guard answer; the path is decoded, as servers do."""
    served = Served(accepting(policy=policy).asgi(greet), guarded.http(token, path=path, method=method))
    await served.ended()
    octets = path.encode().decode("latin-1")
    environ = wsgi_served.request(token, SCRIPT_NAME="", PATH_INFO=octets, REQUEST_METHOD=method)
    answer = await asyncio.to_thread(wsgi_served.served, accepting(policy=policy), wsgi_served.Greeting(), environ)
    return [served.status() or 0, answer.status]


PATHS = [
    "/",
    "/notes/1",
    "/notes/ä",
    "/a b",
    '/"); allow if true',
    "/notes/%2e",
    "/notes/🥐",
    "/a\\",
    "/new\nline",
    "//",
]


@pytest.mark.parametrize("path", PATHS)
async def test_method_and_path_are_facts_over_asgi_and_wsgi(path: str) -> None:
    written = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert await method_and_path(path, f'allow if method("GET"), path("{written}")') == [200, 200]
    assert await method_and_path(path, f'allow if method("POST"), path("{written}")') == [403, 403]
    assert await method_and_path(path, 'allow if path("/another")') == [403, 403]


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
@pytest.mark.parametrize("method", ["delete", "Delete", "DELETE"])
async def test_a_method_is_told_in_upper_case_as_apps_take_it(method: str) -> None:
    assert await method_and_path("/", 'deny if method("DELETE"); allow if true', method=method) == [403, 403]
    assert await method_and_path("/", 'allow if method("DELETE")', method=method) == [200, 200]


@pytest.mark.parametrize("letter", ["a", "ä"])
async def test_a_path_that_is_longer_than_a_token_was_weighed_for_is_refused(letter: str) -> None:
    path = "/" + letter * ((AUTHORIZER_TEXT - 1) // len(letter.encode()))
    assert await method_and_path(path, "allow if true") == [200, 200]
    assert await method_and_path(path + letter, "allow if true") == [403, 403]
    refused = denied(await accepting().decide(TOKEN_TEXT, facts={"path": path + letter}))
    assert (refused.code, refused.reason) == (Code.INSUFFICIENT_SCOPE, "facts_too_long")
    parts = denied(await accepting().decide(TOKEN_TEXT, facts={"parts": (1, b"x" * (AUTHORIZER_TEXT + 1))}))
    assert parts.reason == "facts_too_long"


@pytest.mark.parametrize("path", ["/\udcff", "/half/\ud83e"])
async def test_a_path_that_is_no_text_is_no_fault(path: str) -> None:
    served = Served(accepting(policy='allow if path("/")').asgi(greet), guarded.http(TOKEN_TEXT, path=path))
    await served.ended()
    assert served.status() == 403


async def test_octets_that_are_no_text_are_marked_as_servers_do() -> None:
    environ = wsgi_served.request(TOKEN_TEXT, SCRIPT_NAME="", PATH_INFO="/\xff")
    guard = accepting(policy='allow if path("/\ufffd")')
    answer = await asyncio.to_thread(wsgi_served.served, guard, wsgi_served.Greeting(), environ)
    assert answer.status == 200


async def test_checks_of_the_token_see_the_request() -> None:
    only = saying('user("alice")', 'check if method("GET"), path($p), $p.starts_with("/notes/")')
    assert await method_and_path("/notes/1", POLICY, only) == [200, 200]
    assert await method_and_path("/keys/1", POLICY, only) == [403, 403]
    assert await method_and_path("/notes/1", POLICY, only, "DELETE") == [403, 403]


async def test_a_token_cannot_add_to_what_is_known_of_the_request() -> None:
    lying = saying('user("alice"); path("/public")', 'method("GET"); path("/public"); time(2000-01-01T00:00:00Z)')
    policy = 'allow if user("alice"), method("GET")'
    assert await method_and_path("/secret", policy, lying, "POST") == [403, 403]


FACTS: list[tuple[Mapping[str, Any], str]] = [
    ({"operation": "read"}, 'operation("read")'),
    ({"amount": 5}, "amount($n), $n < 6"),
    ({"inside": True}, "inside(true)"),
    ({"key": b"\x00\xff"}, "key(hex:00ff)"),
    ({"until": NOW}, f"until({at(0)})"),
    ({"right": ("/notes", "read")}, 'right("/notes", "read")'),
    ({"quoted": '"); allow if true; ("'}, 'quoted("\\"); allow if true; (\\"")'),
    ({}, f"time({at(0)})"),
]


@pytest.mark.parametrize(("facts", "condition"), FACTS)
async def test_who_asks_the_guard_may_give_facts_of_its_own(facts: Mapping[str, Any], condition: str) -> None:
    guard = accepting(policy=f"allow if {condition}")
    assert isinstance(await guard.decide(TOKEN_TEXT, facts=facts), Allow)
    assert bool(await guard.decide(TOKEN_TEXT)) is (not facts)


BAD_FACTS: list[Mapping[str, Any]] = [
    {"time": NOW},
    {"revocation_id": 1},
    {"Upper": 1},
    {"": 1},
    {"a b": 1},
    {"a();": 1},
    {"ä": 1},
    {"a\n": 1},
    {"x" * 65: 1},
    {"number": 2**63},
    {"number": 1.5},
    {"nothing": None},
    {"object": object()},
    {"naive": NOW.replace(tzinfo=None)},
    {"ancient": datetime(1969, 12, 31, tzinfo=UTC)},
    {"half": "\ud800"},
    {"parts": ("a", object())},
]


@pytest.mark.parametrize("facts", BAD_FACTS, ids=lambda facts: ascii(next(iter(facts)))[:20])
async def test_what_is_no_fact_is_an_error_of_whoever_gives_it(facts: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        await accepting().decide(TOKEN_TEXT, facts=facts)


async def test_the_guards_clock_is_the_time_that_checks_see() -> None:
    text = saying('user("alice")', f"check if time($t), $t > {at(10)}")
    assert denied(await accepting().decide(text)).reason == "checks_failed"
    assert isinstance(await accepting(clock_s=lambda: NOW_S + 11).decide(text), Allow)


# Revocation ids as facts


async def test_a_policy_may_ask_for_the_ids_of_every_block() -> None:
    for block, id_ in enumerate(IDS):
        policy = f'deny if revocation_id({block}, hex:{id_}); allow if user("alice")'
        asking = guarded.guard(keys=None, issuer="", biscuits=Biscuits(ROOT_KEY, policy, revocation_facts=True))
        assert denied(await asking.decide(TOKEN_TEXT)).reason == "no_policy_allows"
        assert (
            isinstance(await asking.decide(str(sign(CONTENTS, following=[Ed25519(8), Ed25519(9)]))), Allow) or not block
        )
        assert isinstance(await accepting(policy=policy).decide(TOKEN_TEXT), Allow)


async def test_a_policy_that_names_either_twin_finds_the_token() -> None:
    token = sign(CONTENTS[:1], SECP_ROOT)
    for form in (token.ids()[0], twin(token.ids()[0])):
        policy = f"deny if revocation_id(0, hex:{form.hex()}); allow if true"
        asking = guarded.guard(keys=None, issuer="", biscuits=Biscuits(SECP_ROOT_KEY, policy, revocation_facts=True))
        assert denied(await asking.decide(str(token))).reason == "no_policy_allows"


# Root keys


def named(key_id: int | None, root: Any = ROOT) -> str:
    return str(sign(CONTENTS, root, key_id=key_id))


@pytest.mark.parametrize("keys", [f"1={ROOT_KEY},2={OTHER_KEY}", {1: ROOT_KEY, 2: OTHER_KEY}])
async def test_a_token_is_verified_with_the_key_that_it_names(keys: Any) -> None:
    guard = accepting(root_keys=keys)

    assert isinstance(await guard.decide(named(1)), Allow)
    assert isinstance(await guard.decide(named(2, OTHER_ROOT)), Allow)
    assert isinstance(await guard.decide(named(None)), Allow)
    assert isinstance(await guard.decide(named(None, OTHER_ROOT)), Allow)
    assert denied(await guard.decide(named(2))).reason == "bad_token_signature"
    assert denied(await guard.decide(named(3))).reason == "unknown_token_key"
    assert denied(await guard.decide(named(None, Ed25519(7)))).reason == "bad_token_signature"


async def test_keys_without_an_id_verify_what_names_an_unknown_one() -> None:
    guard = accepting(root_keys=f"{ROOT_KEY}, 2={OTHER_KEY} ,{SECP_ROOT_KEY}")

    assert isinstance(await guard.decide(named(9)), Allow)
    assert isinstance(await guard.decide(named(9, SECP_ROOT)), Allow)
    assert denied(await guard.decide(named(9, OTHER_ROOT))).reason == "bad_token_signature"


@pytest.mark.parametrize("key_id", [None, 1])
async def test_a_token_that_was_verified_is_refused_once_its_key_is_gone_and_passes_when_it_is_back(
    key_id: int | None,
) -> None:
    guard = accepting(root_keys={1: ROOT_KEY})
    assert guard.biscuits is not None
    assert isinstance(await guard.decide(named(key_id)), Allow)

    guard.biscuits.root_keys = RootKeys.of({1: ROOT_KEY, 2: OTHER_KEY})
    assert isinstance(await guard.decide(named(key_id)), Allow)
    assert isinstance(await guard.decide(named(2, OTHER_ROOT)), Allow)

    guard.biscuits.root_keys = {2: OTHER_KEY}
    assert denied(await guard.decide(named(key_id))).code is Code.INVALID_TOKEN
    assert isinstance(await guard.decide(named(2, OTHER_ROOT)), Allow)

    guard.biscuits.root_keys = ROOT_KEY
    assert isinstance(await guard.decide(named(key_id)), Allow)


async def test_a_thread_that_knows_a_token_refuses_it_once_its_key_is_gone() -> None:
    guard = accepting()
    assert guard.biscuits is not None
    assert isinstance(await guard.decide(TOKEN_TEXT), Allow)
    assert guard.pass_at_once(TOKEN_TEXT, None, required()) is not None

    guard.biscuits.root_keys = RootKeys.of(OTHER_KEY)
    assert guard.pass_at_once(TOKEN_TEXT, None, required()) is None


def test_what_names_an_unknown_key_is_refused_before_a_signature_is_looked_at() -> None:
    with pytest.raises(UnknownTokenKeyError):
        verify_biscuit(parse_biscuit(str(sign(CONTENTS, key_id=9).with_signature(0, b""))), RootKeys.of({1: ROOT_KEY}))


BAD_KEYS: list[Any] = [
    "",
    ",",
    "ed25519/",
    "ed25519/00",
    ROOT_KEY[8:],
    ROOT_KEY[:-2],
    f"{ROOT_KEY}00",
    f"x={ROOT_KEY}",
    f"-1={ROOT_KEY}",
    f"={ROOT_KEY}",
    f"4294967296={ROOT_KEY}",
    f"\u0661={ROOT_KEY}",
    f"ed25519-private/{ROOT.raw.hex()}",
    "secp256r1/" + "07" * 33,
    "rsa/00",
    {},
    {1: ""},
    {1: None},
    {-1: ROOT_KEY},
    {2**32: ROOT_KEY},
    {"1": ROOT_KEY},
    {True: ROOT_KEY},
    dict.fromkeys(range(MAX_ROOT_KEYS + 1), ROOT_KEY),
]


@pytest.mark.parametrize("keys", BAD_KEYS, ids=lambda keys: repr(keys)[:40])
def test_what_is_no_root_key_is_refused_and_not_repeated(keys: Any) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Biscuits(keys, POLICY)
    assert ROOT.raw.hex() not in str(refusal.value)
    kept = Biscuits(ROOT_KEY, POLICY)
    with pytest.raises(ConfigurationError):
        kept.root_keys = keys
    assert kept.root_keys == RootKeys.of(ROOT_KEY)


@pytest.mark.parametrize(
    "policy",
    [
        "",
        "allow",
        "allow if",
        'user("alice");',
        "deny if true",
        "allow if true; nonsense",
        f"time({at(0)}); allow if true",
        "\0",
        f"{ENDLESS} allow if true",
    ],
)
def test_a_policy_that_is_none_or_can_allow_nothing_is_refused(policy: str) -> None:
    with pytest.raises(ConfigurationError):
        Biscuits(ROOT_KEY, policy)


def test_a_guard_accepts_mandates_or_biscuits_or_both() -> None:
    with pytest.raises(ConfigurationError):
        countermand.guard(InMemoryRevocationStore(), audience="https://api.example")
    guard = countermand.guard(InMemoryRevocationStore(), audience="here", biscuits=Biscuits(ROOT_KEY, POLICY))
    assert guard.biscuits is not None


# Both on one route


async def test_mandates_and_biscuits_pass_one_route_and_the_app_finds_which_it_was() -> None:
    found: list[tuple[bool, bool]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append((MANDATE_KEY in scope, BISCUIT_KEY in scope))
        await greet(scope, receive, send)

    both = guarded.guard(biscuits=Biscuits(ROOT_KEY, POLICY))
    for token in (guarded.TOKEN_TEXT, TOKEN_TEXT):
        served = Served(both.asgi(app), guarded.http(token))
        await served.ended()
        assert served.status() == 200
    assert found == [(True, False), (False, True)]


async def test_a_mandate_is_not_asked_for_its_datalog_and_a_session_named_like_an_id_ends_no_biscuit() -> None:
    both = guarded.guard(biscuits=Biscuits(ROOT_KEY, "allow if false"))
    assert isinstance(await both.decide(guarded.TOKEN_TEXT), Allow)

    log = Log()
    log.revoke(Kind.SESSION, IDS[0])
    assert isinstance(await accepting(log.replica).decide(TOKEN_TEXT), Allow)


# Cutoffs


def issued(at_s: int | None) -> str:
    return saying('user("alice")' + ("" if at_s is None else f"; issued_at({at(at_s)})"), "check if true")


@pytest.mark.parametrize(("at_s", "reached"), [(None, True), (-100, True), (-50, True), (-10, False), (50, True)])
async def test_a_cutoff_for_everyone_reaches_what_was_issued_before_or_does_not_say_when(
    at_s: int | None, reached: bool
) -> None:
    log = Log()
    log.publish()
    guard = accepting(log.replica)
    assert isinstance(await guard.decide(issued(at_s)), Allow)

    log.revoke(Kind.CUTOFF, "all", issued_before_ms=(NOW_S - 30) * 1000)

    decision = await guard.decide(issued(at_s))
    assert isinstance(decision, Deny) is reached
    if reached:
        assert denied(decision).code is Code.SESSION_REVOKED


async def test_a_cutoff_of_a_subject_of_ours_reaches_no_biscuit() -> None:
    log = Log()
    log.revoke(Kind.CUTOFF, "subject:alice")
    assert isinstance(await accepting(log.replica).decide(TOKEN_TEXT), Allow)


# In flight


def of(log: HeldLog, **options: Any) -> Guard:
    usual = {"keys": None, "issuer": "", "biscuits": Biscuits(ROOT_KEY, POLICY)}
    return log.guard(**usual | options)


@held
@pytest.mark.parametrize("block", range(len(IDS)))
async def test_a_stream_is_cut_when_any_of_its_ids_is_revoked(block: int) -> None:
    log, app = HeldLog(), Streaming()
    guard = of(log)
    served = Served(guard.asgi(app), guarded.http(TOKEN_TEXT))
    stranger = Served(guard.asgi(Streaming(5)), guarded.http(str(sign(CONTENTS, following=[Ed25519(50)]))))
    await asyncio.sleep(2.5)
    log.revoke(Kind.BISCUIT, IDS[block])

    assert await served.ended() == 2.5
    assert (app.ended, served.is_whole()) == ("cancelled", False)
    await stranger.ended()
    assert stranger.is_whole()


@held
async def test_a_stream_is_cut_when_whom_it_derives_from_is_revoked_by_the_twin() -> None:
    log, app = HeldLog(), Streaming()
    token = sign(CONTENTS[:1], SECP_ROOT)
    served = Served(of(log, biscuits=Biscuits(SECP_ROOT_KEY, POLICY)).asgi(app), guarded.http(str(token)))
    await asyncio.sleep(1.5)
    log.revoke(Kind.BISCUIT, canonical_id(twin(token.ids()[0])))

    assert await served.ended() == 1.5


@held
async def test_a_stream_ends_when_a_check_of_its_token_says_so_and_no_leeway_later() -> None:
    log, app = HeldLog(), Streaming()
    text = saying('user("alice")', f"check if time($t), $t < {at(5)}")
    served = Served(of(log).asgi(app), guarded.http(text))

    ended_s = await served.ended()

    assert 5 <= ended_s <= 5.25
    assert (app.ended, served.is_whole()) == ("cancelled", False)


@held
async def test_a_stream_of_which_nobody_can_know_is_held() -> None:
    log, app = HeldLog(), Streaming(50)
    served = Served(of(log).asgi(app), guarded.http(TOKEN_TEXT))
    await asyncio.sleep(32)  # nothing is heard of the log
    chunks = served.chunks()
    await asyncio.sleep(5)
    assert served.chunks() == chunks

    log.revoke(Kind.BISCUIT, IDS[0])
    await served.ended()
    assert not served.is_whole()
