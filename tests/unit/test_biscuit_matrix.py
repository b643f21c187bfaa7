"""Whom the revocation of an id reaches: the token, what derives from it, and nobody else.

One family: root, parent, token, child and grandchild, each attenuated from the one before; a sibling of the token, a
cousin, a stranger with the root's words and key, and the same tokens in other forms.
"""

from collections.abc import Callable, Sequence

import pytest

from countermand.enforce.decision import Allow, Code
from countermand.enforce.guard import Guard
from countermand.log.anchor import Kind
from tests.biscuits import ROOT, SECP_ROOT, Ed25519, Key, Secp256r1, Signed, compiled, read, sign, text_of, write
from tests.unit.biscuit_guards import accepting, verified
from tests.unit.guarded import Log, denied, revoked

pytestmark = pytest.mark.anyio

LINE = compiled('user("alice")', *["check if true"] * 4)
OTHER = compiled('user("alice")', *['check if user("alice")'] * 4)
FIRST, MIDDLE, LAST = 0, 1, 2
"""Of the three blocks of the token."""

KEYS: dict[str, tuple[Key, Sequence[Key]]] = {
    "ed25519": (ROOT, [Ed25519(10 + number) for number in range(5)]),
    "secp256r1": (SECP_ROOT, [Secp256r1(10 + number, high=number % 2 == 0) for number in range(5)]),
    "in turn": (ROOT, [Secp256r1(20), Ed25519(21), Secp256r1(22, high=True), Ed25519(23), Secp256r1(24)]),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def again(token: Signed) -> Signed:
    """The same token in other bytes: no signature covers the order of fields, nor one that is not known."""
    return Signed([*reversed(token.parts[-1:]), *token.parts[:-1], (15, b"unknown")])


def stranger(root: Key) -> Signed:
    return sign(LINE[:1], root, following=[Ed25519(99)])


def family(root: Key, following: Sequence[Key]) -> dict[str, Signed]:
    def made(contents: Sequence[bytes], *, sealed: bool = False) -> Signed:
        return sign(contents, root, following=following[: len(contents)], sealed=sealed)

    return {
        "root": made(LINE[:1]),
        "parent": made(LINE[:2]),
        "token": made(LINE[:3]),
        "child": made(LINE[:4]),
        "grandchild": made(LINE),
        "sibling": made([*LINE[:2], OTHER[2]]),
        "cousin": made([LINE[0], *OTHER[1:3]]),
        "stranger": stranger(root),
        "root, sealed": made(LINE[:1], sealed=True),
        "token, sealed": made(LINE[:3], sealed=True),
        "child, sealed": made(LINE[:4], sealed=True),
        "parent, serialised again": again(made(LINE[:2])),
        "token, serialised again": again(made(LINE[:3])),
    }


DERIVED = {"token", "child", "grandchild", "token, sealed", "child, sealed", "token, serialised again"}
REACHED = {
    LAST: DERIVED,
    MIDDLE: DERIVED | {"parent", "parent, serialised again", "sibling"},
    FIRST: DERIVED | {"parent", "parent, serialised again", "sibling", "root", "root, sealed", "cousin"},
}


def by_store(root_key: str, *ids: str) -> Guard:
    return accepting(revoked(*ids), root_keys=root_key)


def by_replica(root_key: str, *ids: str) -> Guard:
    log = Log()
    for id_ in ids:
        log.revoke(Kind.BISCUIT, id_)
    log.publish()
    return accepting(log.replica, root_keys=root_key)


def by_snapshot(root_key: str, *ids: str) -> Guard:
    log = Log()
    for id_ in ids:
        log.signer.append(Kind.BISCUIT, id_, at_ms=log.now_ms())
    log.publish_snapshot()
    log.publish()  # a snapshot brings no freshness
    return accepting(log.replica, root_keys=root_key)


every_keys = pytest.mark.parametrize("keys", KEYS)
every_list = pytest.mark.parametrize("revoking", [by_store, by_replica, by_snapshot], ids=lambda one: one.__name__)


@every_keys
@every_list
@pytest.mark.parametrize("block", [FIRST, MIDDLE, LAST], ids=["first", "middle", "last"])
async def test_an_id_ends_the_block_that_has_it_and_whatever_derives_from_it(
    keys: str, revoking: Callable[..., Guard], block: int
) -> None:
    root, following = KEYS[keys]
    members = family(root, following)
    id_ = verified(members["token"], text_of(root)).revocation_ids[block]
    guard = revoking(text_of(root), id_)
    decisions = {name: await guard.decide(str(token)) for name, token in members.items()}

    assert {name for name, decision in decisions.items() if not decision} == REACHED[block]
    for name in REACHED[block]:
        deny = denied(decisions[name])
        assert (deny.code, deny.reason) == (Code.SESSION_REVOKED, f"biscuit:{id_}")


@every_keys
@every_list
async def test_with_nothing_revoked_all_pass(keys: str, revoking: Callable[..., Guard]) -> None:
    root, following = KEYS[keys]
    guard = revoking(text_of(root))
    for token in family(root, following).values():
        assert isinstance(await guard.decide(str(token)), Allow)


@every_keys
@every_list
async def test_every_id_of_a_token_at_once_also_ends_its_parents(keys: str, revoking: Callable[..., Guard]) -> None:
    root, following = KEYS[keys]
    members = family(root, following)
    guard = revoking(text_of(root), *verified(members["token"], text_of(root)).revocation_ids)
    passed = {name for name, token in members.items() if await guard.decide(str(token))}

    assert passed == {"stranger"}


@every_keys
async def test_a_token_that_passed_before_is_refused_from_the_entry_on(keys: str) -> None:
    root, following = KEYS[keys]
    log = Log()
    log.publish()
    guard = accepting(log.replica, root_keys=text_of(root))
    members = family(root, following)
    assert all([await guard.decide(str(token)) for token in members.values()])
    log.revoke(Kind.BISCUIT, verified(members["token"], text_of(root)).token_id)

    assert {name for name, token in members.items() if not await guard.decide(str(token))} == DERIVED


@every_keys
def test_the_other_forms_are_other_bytes_with_the_same_ids(keys: str) -> None:
    root, following = KEYS[keys]
    members, key = family(root, following), text_of(root)
    for form in ("token, sealed", "token, serialised again"):
        assert members[form].to_bytes() != members["token"].to_bytes()
        assert verified(members[form], key).revocation_ids == verified(members["token"], key).revocation_ids
    assert write(read(members["token"].to_bytes())) == members["token"].to_bytes()


@every_keys
def test_two_tokens_of_equal_words_and_key_have_no_id_in_common(keys: str) -> None:
    root, following = KEYS[keys]
    one, other = family(root, following)["root"], stranger(root)
    ids = [set(verified(token, text_of(root)).revocation_ids) for token in (one, other)]
    assert ids[0].isdisjoint(ids[1])
