"""A revoked Biscuit in other clothes, forged ids, and bytes that are made to break the reader.

Whoever holds a token may write it anew, as long as the signatures hold. No way of writing it brings it back.
"""

import base64
import logging
from collections.abc import Callable, Iterator

import biscuit_auth
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from countermand.enforce.decision import Allow, Code, Deny
from countermand.errors import BadTokenSignatureError, MalformedTokenError, TokenError
from countermand.log.anchor import Kind
from countermand.log.revocation_id import canonical_id, twins
from countermand.tokens.biscuit import (
    MAX_BISCUIT_BYTES,
    MAX_BLOCKS,
    RootKeys,
    UnverifiedBiscuit,
    parse_biscuit,
    verify_biscuit,
)
from tests.biscuits import (
    ED25519_ORDER,
    OTHER_ROOT,
    ROOT_KEY,
    SECP_ROOT,
    SECP_ROOT_KEY,
    Ed25519,
    Secp256r1,
    Signed,
    base64url,
    compiled,
    read,
    sign,
    twin,
    varint,
    write,
    written,
)
from tests.unit.biscuit_guards import CONTENTS, TOKEN, TOKEN_TEXT, accepting, verified
from tests.unit.guarded import Log, denied, revoked

pytestmark = pytest.mark.anyio

KEYS = RootKeys.of(ROOT_KEY)
LAST = len(CONTENTS) - 1


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# Signatures that are changed without a key


SECP: dict[str, tuple[Signed, str, int]] = {
    "the only block": (sign(CONTENTS[:1], SECP_ROOT), SECP_ROOT_KEY, 0),
    "the only block, of the first version": (sign(CONTENTS[:1], SECP_ROOT, version=0), SECP_ROOT_KEY, 0),
    "the last block": (sign(CONTENTS, following=[Ed25519(1), Secp256r1(2)]), ROOT_KEY, LAST),
    "the last block, high": (sign(CONTENTS, following=[Ed25519(1), Secp256r1(2, high=True)]), ROOT_KEY, LAST),
    "a block in the middle, of the first version": (
        sign(CONTENTS, following=[Secp256r1(1), Ed25519(2)], version=0),
        ROOT_KEY,
        1,
    ),
    "the first block of three, of the first version": (sign(CONTENTS, SECP_ROOT, version=0), SECP_ROOT_KEY, 0),
}
every_secp = pytest.mark.parametrize(("token", "key", "block"), SECP.values(), ids=SECP)


def malleated(token: Signed, block: int) -> Signed:
    return token.with_signature(block, twin(token.ids()[block]))


def as_the_library_reads(token: Signed, key: str) -> list[str]:
    return biscuit_auth.Biscuit.from_base64(str(token), biscuit_auth.PublicKey(key)).revocation_ids


@every_secp
def test_the_attack_is_real_the_library_accepts_a_token_with_an_id_that_nobody_signed(
    token: Signed, key: str, block: int
) -> None:
    before, after = as_the_library_reads(token, key), as_the_library_reads(malleated(token, block), key)

    assert [one != other for one, other in zip(before, after, strict=True)] == [
        at == block for at in range(len(before))
    ]
    assert verified(malleated(token, block), key).revocation_ids == verified(token, key).revocation_ids


def attenuated(token: Signed, key: str) -> str:
    made = biscuit_auth.Biscuit.from_base64(str(token), biscuit_auth.PublicKey(key))
    return made.append(biscuit_auth.BlockBuilder("check if true")).to_base64()


@every_secp
@pytest.mark.parametrize("revoking", ["as it is", "the twin"])
async def test_a_malleated_token_is_revoked_whichever_twin_was_and_so_is_what_derives_from_it(
    token: Signed, key: str, block: int, revoking: str
) -> None:
    target = token if revoking == "as it is" else malleated(token, block)
    id_ = canonical_id(target.ids()[block])
    log = Log()
    log.revoke(Kind.BISCUIT, id_)

    for guard in (accepting(revoked(id_), root_keys=key), accepting(log.replica, root_keys=key)):
        for form in (token, malleated(token, block)):
            for text in (str(form), attenuated(form, key)):
                deny = denied(await guard.decide(text))
                assert (deny.code, deny.reason) == (Code.SESSION_REVOKED, f"biscuit:{id_}")


async def test_in_a_token_of_today_a_block_that_another_follows_cannot_be_malleated() -> None:
    token = sign(CONTENTS, following=[Secp256r1(1), Ed25519(2)])

    assert isinstance(await accepting().decide(str(token)), Allow)
    with pytest.raises(BadTokenSignatureError):
        verified(malleated(token, 1))


@pytest.mark.parametrize("version", [0, 1])
def test_a_seal_covers_the_signature_that_it_follows(version: int) -> None:
    token = sign(CONTENTS[:1], SECP_ROOT, sealed=True, version=version)

    assert verified(token, SECP_ROOT_KEY).revocation_ids
    with pytest.raises(BadTokenSignatureError):
        verified(malleated(token, 0), SECP_ROOT_KEY)


def plus_order(signature: bytes) -> bytes:
    return signature[:32] + (int.from_bytes(signature[32:], "little") + ED25519_ORDER).to_bytes(32, "little")


@pytest.mark.parametrize("block", range(len(CONTENTS)))
def test_an_ed25519_signature_has_no_second_form(block: int) -> None:
    with pytest.raises(BadTokenSignatureError):
        verified(TOKEN.with_signature(block, plus_order(TOKEN.ids()[block])))


def other_der(signature: bytes) -> Iterator[bytes]:
    """The same two numbers, in ways that DER does not allow."""
    yield b"\x30\x81" + signature[1:]
    yield signature + b"\0"
    length = signature[3]
    padded = b"\x02" + bytes([length + 1]) + b"\0" + signature[4 : 4 + length]
    yield b"\x30" + bytes([signature[1] + 1]) + padded + signature[4 + length :]
    yield b"\x30\x80" + signature[2:] + b"\0\0"


@pytest.mark.parametrize("way", range(4))
def test_an_ecdsa_signature_is_written_in_one_way(way: int) -> None:
    token = sign(CONTENTS[:1], SECP_ROOT)
    with pytest.raises(TokenError):
        verified(token.with_signature(0, list(other_der(token.ids()[0]))[way]), SECP_ROOT_KEY)


# Other bytes of the same token


def with_authority(change: bytes) -> bytes:
    return write([(2, change), *TOKEN.parts[1:]])


BYTES = TOKEN.to_bytes()
AUTHORITY = bytes(TOKEN.parts[0][1])
HALVES = read(AUTHORITY)[:2], read(AUTHORITY)[2:]
FORGED = sign(compiled('user("alice")'), OTHER_ROOT)
REWRITTEN = {
    "fields in another order": write([TOKEN.parts[-1], *TOKEN.parts[:-1]]),
    "a block's fields in another order": with_authority(write(read(AUTHORITY)[::-1])),
    "an unknown field": BYTES + written(15, b"x"),
    "an unknown number": BYTES + written(15, 7),
    "an unknown field in a block": with_authority(AUTHORITY + written(14, b"x")),
    "longer numbers": b"".join(written(*part, longer=2) for part in TOKEN.parts),
    "another block before its own": written(2, bytes(FORGED.parts[0][1])) + BYTES,
    "another signature before its own": with_authority(written(3, b"\7" * 64) + AUTHORITY),
    "another proof before its own": written(4, written(1, bytes(32))) + BYTES,
    "the authority in two halves": b"".join(
        written(2, write(half)) for half in (read(AUTHORITY)[:2], read(AUTHORITY)[2:])
    )
    + write(TOKEN.parts[1:]),
    "the authority twice": written(2, AUTHORITY) + BYTES,
    "a key id that means nothing": written(1, 1) + BYTES,
}


@pytest.mark.parametrize("data", REWRITTEN.values(), ids=REWRITTEN)
async def test_no_other_bytes_of_a_revoked_token_pass(data: bytes) -> None:
    text = base64url(data)
    assert text != TOKEN_TEXT
    assert verified(text).revocation_ids == verified(TOKEN).revocation_ids

    assert isinstance(await accepting().decide(text), Allow)
    for id_ in verified(TOKEN).revocation_ids:
        assert denied(await accepting(revoked(id_)).decide(text)).code is Code.SESSION_REVOKED


BARE = TOKEN_TEXT.rstrip("=")
SAME_TEXTS = {"no padding": BARE, "the prefix": f"biscuit:{TOKEN_TEXT}", "both": f"biscuit:{BARE}"}
OTHER_TEXTS = {
    "the other alphabet": base64.b64encode(sign(compiled('user("alice")'), following=[Ed25519(6)]).to_bytes()).decode(),
    "a line break": f"{TOKEN_TEXT[:40]}\n{TOKEN_TEXT[40:]}",
    "a line break at its end": f"{TOKEN_TEXT}\n",
    "white space before it": f" {TOKEN_TEXT}",
    "more padding": f"{BARE}====",
    "padding within it": f"{TOKEN_TEXT[:40]}=={TOKEN_TEXT[40:]}",
    "stray last bits": BARE[:-1] + chr(ord(BARE[-1]) + 1),
    "the prefix twice": f"biscuit:biscuit:{TOKEN_TEXT}",
    "another prefix": f"Biscuit:{TOKEN_TEXT}",
    "percent signs": TOKEN_TEXT.replace("A", "%41", 1),
    "a byte of no text": TOKEN_TEXT[:-4] + "\0" + TOKEN_TEXT[-3:],
}


@pytest.mark.parametrize("text", SAME_TEXTS.values(), ids=SAME_TEXTS)
@pytest.mark.parametrize("as_bytes", [False, True])
async def test_padding_and_prefix_are_free_and_do_not_bring_a_revoked_token_back(text: str, as_bytes: bool) -> None:
    token = text.encode() if as_bytes else text
    assert isinstance(await accepting().decide(token), Allow)
    assert denied(await accepting(revoked(verified(TOKEN).token_id)).decide(token)).code is Code.SESSION_REVOKED


def test_the_text_in_the_other_alphabet_would_be_another_in_ours() -> None:
    assert {"+", "/"} & set(OTHER_TEXTS["the other alphabet"])


@pytest.mark.parametrize("text", OTHER_TEXTS.values(), ids=OTHER_TEXTS)
async def test_any_other_text_of_a_token_is_refused(text: str) -> None:
    deny = denied(await accepting().decide(text))
    assert (deny.code, deny.reason) == (Code.INVALID_TOKEN, "malformed_token")


# Ids that nobody signed


def claimed(data: bytes) -> list[str]:
    """The ids that a hand-written parser would read: of every block that stands there, or the last of each."""
    blocks = [body for field, body in read(data) if field in {2, 3}]
    return [bytes(dict(read(bytes(block)))[3]).hex() for block in blocks]


VICTIM = sign(CONTENTS, following=[Ed25519(77)])
CLAIMING = {
    "as another signature of its own": with_authority(written(3, VICTIM.ids()[0]) + AUTHORITY),
    "as another authority": written(2, bytes(VICTIM.parts[0][1])) + BYTES,
    "in a field that is not known": BYTES + written(15, VICTIM.ids()[0]),
}


@pytest.mark.parametrize("data", CLAIMING.values(), ids=CLAIMING)
async def test_ids_that_a_token_only_claims_are_not_its_own(data: bytes) -> None:
    theirs = verified(VICTIM).revocation_ids
    ours = verified(base64url(data)).revocation_ids

    assert ours == verified(TOKEN).revocation_ids
    assert isinstance(await accepting(revoked(theirs[0])).decide(base64url(data)), Allow)
    assert isinstance(await accepting(revoked(*ours)).decide(str(VICTIM)), Allow)


FORGERIES = {
    "the victim's signature at other words": sign(compiled('user("root")')).with_signature(0, VICTIM.ids()[0]),
    "by another root key": sign(CONTENTS, OTHER_ROOT, following=[Ed25519(77)]),
    "the last of two signatures": Signed([(2, AUTHORITY + written(3, VICTIM.ids()[0])), *TOKEN.parts[1:]]),
    "the last of two authorities": Signed([*TOKEN.parts, VICTIM.parts[0]]),
    "a block of another token": Signed([*TOKEN.parts[:2], VICTIM.parts[2], TOKEN.parts[3]]),
    "blocks in another order": Signed([TOKEN.parts[0], TOKEN.parts[2], TOKEN.parts[1], TOKEN.parts[3]]),
    "a block left out": Signed([TOKEN.parts[0], *TOKEN.parts[2:]]),
    "the last block left out, with its proof": Signed([*TOKEN.parts[:2], TOKEN.parts[3]]),
    "another proof": Signed([*TOKEN.parts[:-1], (4, written(1, bytes(32)))]),
}


@pytest.mark.parametrize("token", FORGERIES.values(), ids=FORGERIES)
async def test_a_forged_token_has_no_ids_at_all(token: Signed) -> None:
    log = Log()
    log.publish()
    deny = denied(await accepting(log.replica).decide(str(token)))

    assert (deny.code, deny.ended_by) == (Code.INVALID_TOKEN, None)
    with pytest.raises(TokenError):
        verified(token)
    assert isinstance(await accepting(log.replica).decide(str(VICTIM)), Allow)


def test_what_is_not_verified_has_no_face_for_ids() -> None:
    unverified = parse_biscuit(TOKEN_TEXT)
    assert not hasattr(unverified, "revocation_ids")
    assert not hasattr(unverified, "anchors")


# What is too much


def blocks(count: int) -> Signed:
    first, other = compiled('user("alice")', "check if true")
    return sign([first, *[other] * (count - 1)])


async def test_as_many_blocks_as_are_allowed_pass_and_one_more_does_not() -> None:
    assert isinstance(await accepting().decide(str(blocks(MAX_BLOCKS))), Allow)
    for count in (MAX_BLOCKS + 1, 500):
        assert denied(await accepting().decide(str(blocks(count)))).reason == "malformed_token"


async def test_a_token_over_the_size_is_refused_before_it_is_parsed() -> None:
    long = sign(compiled(f'user("alice"); note("{"x" * MAX_BISCUIT_BYTES}")'))
    assert denied(await accepting().decide(str(long))).reason == "malformed_token"
    with pytest.raises(MalformedTokenError, match="longer"):
        parse_biscuit("a" * (MAX_BISCUIT_BYTES + 1))
    with pytest.raises(MalformedTokenError, match="longer"):
        parse_biscuit(b"\xff" * (MAX_BISCUIT_BYTES + 1))


@pytest.mark.parametrize(
    "data",
    [varint(2**70) * 3, b"\x12" + varint(2**63), b"\x12\xff\xff\xff\xff\x0f", b"\x0b" * 1000, b"\x12\x00" * 4000],
)
def test_lengths_that_lie_are_refused(data: bytes) -> None:
    with pytest.raises(TokenError):
        verified(base64url(data))


# Bytes that nobody thought of


MUTATIONS = st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(0, 255)), min_size=1, max_size=4)


def answers(text: str | bytes) -> None:
    """It is refused with an error of ours, which quotes nothing of it; or it is verified and has canonical ids."""
    told = text if isinstance(text, str) else text.decode("latin-1")
    said = ""
    try:
        biscuit = verify_biscuit(parse_biscuit(text), KEYS)
    except TokenError as refusal:
        said = str(refusal)
    else:
        assert all(id_ == twins(id_)[0] for id_ in biscuit.revocation_ids)
    assert len(told) < 24 or not {told[:24], told[-24:]} & {said[at : at + 24] for at in range(len(said))}


@given(st.binary(max_size=300))
def test_any_bytes_are_answered(data: bytes) -> None:
    answers(base64url(data))


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_is_answered(text: str | bytes) -> None:
    answers(text)


@given(MUTATIONS, st.integers(0, len(BYTES)))
@settings(max_examples=300)
def test_a_token_with_some_bytes_changed_is_answered(changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(BYTES)
    for at, byte in changes:
        data[at] = byte
    answers(base64url(bytes(data)))
    answers(base64url(bytes(data[:end])))


@given(st.lists(st.tuples(st.integers(1, 15), st.binary(max_size=80) | st.integers(0, 2**64 - 1)), max_size=6))
def test_any_fields_that_a_signed_block_has_are_answered(parts: list[tuple[int, bytes | int]]) -> None:
    answers(str(sign([write(parts)])))


@given(MUTATIONS)
@settings(max_examples=200)
def test_any_words_that_the_issuer_signs_are_answered(changes: list[tuple[int, int]]) -> None:
    content = bytearray(CONTENTS[0])
    for at, byte in changes:
        content[at % len(content)] = byte
    answers(str(sign([bytes(content), *CONTENTS[1:]])))


@given(MUTATIONS)
@settings(max_examples=100)
async def test_the_guard_denies_whatever_is_not_the_token(changes: list[tuple[int, int]]) -> None:
    data = bytearray(BYTES)
    for at, byte in changes:
        data[at] = byte
    decision = await accepting(revoked(*verified(TOKEN).revocation_ids)).decide(base64url(bytes(data)))
    assert isinstance(decision, Deny)


async def test_no_token_or_part_of_it_gets_into_a_log_or_a_denial(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    # What a stranger may not learn: the words, and all of the bytes but the ids, by which tokens are named
    secret = sign(compiled('user("alice"); note("a secret of the token")', 'check if user("a guess of the token")'))
    bad = secret.with_signature(1, bytes(64))
    texts = [str(token) for token in (secret, bad, *FORGERIES.values())]
    for text in (*texts, *(text[:-8] for text in texts), *OTHER_TEXTS.values()):
        decision = await accepting().decide(text)
        said = f"{caplog.text}{decision!r}{[vars(record) for record in caplog.records]!r}"
        for part in (text[:40], text[-40:], "a secret of", "a guess of"):
            assert part not in said
    assert caplog.records


def test_no_form_of_it_shows_in_what_is_printed() -> None:
    secret = sign(compiled('user("alice"); note("a secret of the token")'))
    unverified, biscuit = parse_biscuit(str(secret)), verified(secret)
    for printed in (f"{unverified!r}", f"{biscuit!r}"):
        assert "secret" not in printed
        assert str(secret)[:40] not in printed


class PanicException(BaseException):
    """What a panic of the library looks like: it is no Exception."""


class Raises:
    """A part of the library of which every method raises `error`."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Callable[..., object]:
        def method(*given: object) -> object:
            raise self._error

        return method


PANIC = PanicException("index out of range in: a secret of the token")


async def test_a_panic_of_the_library_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TokenError) as refusal:
        verify_biscuit(UnverifiedBiscuit(None, Raises(PANIC)), KEYS)  # type: ignore[arg-type]
    assert "secret" not in str(refusal.value)

    monkeypatch.setattr(biscuit_auth, "UnverifiedBiscuit", Raises(PANIC))
    deny = denied(await accepting().decide(TOKEN_TEXT))
    assert (deny.code, deny.reason) == (Code.INVALID_TOKEN, "malformed_token")


def test_what_ends_the_process_is_not_taken_for_a_panic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(biscuit_auth, "UnverifiedBiscuit", Raises(SystemExit()))
    with pytest.raises(SystemExit):
        parse_biscuit(TOKEN_TEXT)
