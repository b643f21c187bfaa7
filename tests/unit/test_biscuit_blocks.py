"""What stands in a Biscuit's blocks: read from the library's own tokens, and from tokens made by hand.

The official samples are not part of this project. They are looked for beside it, or where COUNTERMAND_DOCUMENTS says.
"""

import base64
import json
import os
from pathlib import Path
from typing import Final

import pytest
from biscuit_auth import (
    Biscuit,
    BiscuitBlockError,
    BiscuitBuilder,
    BiscuitValidationError,
    BlockBuilder,
    PublicKey,
    UnverifiedBiscuit,
)
from hypothesis import given
from hypothesis import strategies as st

from countermand.errors import MalformedTokenError
from countermand.tokens.blocks import DEFAULT_SYMBOLS, Kind, ends_at_s, read_blocks
from countermand.tokens.work import MAX_WORK, work
from tests.unit.biscuits import (
    END_S,
    ENDS,
    KEYS,
    OWN,
    QUERY,
    binary,
    block,
    boolean,
    built,
    by_third_party,
    closure,
    date,
    ends,
    expression,
    fact,
    field,
    integer,
    message,
    opened,
    passes,
    predicate,
    rule,
    text,
    token,
    value,
    variable,
    written,
)

BESIDE: Final = Path(__file__).parents[3] / "shared" / "documents"
SAMPLES: Final = Path(os.environ.get("COUNTERMAND_DOCUMENTS", BESIDE)).parent / "data" / "biscuit-samples"

# The official samples


@pytest.fixture(scope="module")
def samples() -> dict[str, Biscuit]:
    """Return those that the library opens."""
    if not SAMPLES.exists():
        sentence = f"THE OFFICIAL SAMPLES WERE NOT READ: {SAMPLES.name} is not beside this project"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    described = json.loads((SAMPLES / "samples.json").read_text("utf-8"))
    root = PublicKey(f"ed25519/{described['root_public_key']}")
    found = {}
    for case in described["testcases"]:
        raw = (SAMPLES / case["filename"]).read_bytes()
        try:
            biscuit = UnverifiedBiscuit.from_base64(base64.urlsafe_b64encode(raw).decode())
            found[case["filename"][:7]] = biscuit.verify(root)
        except (BiscuitValidationError, BiscuitBlockError):
            continue
    return found


def test_every_official_sample_that_opens_is_read(samples: dict[str, Biscuit]) -> None:
    assert len(samples) == 33
    for biscuit in samples.values():
        assert len(read_blocks(written(biscuit))) == biscuit.block_count()


def test_every_statement_of_the_official_samples_is_counted(samples: dict[str, Biscuit]) -> None:
    described = json.loads((SAMPLES / "samples.json").read_text("utf-8"))
    for case in described["testcases"]:
        if case["filename"][:7] not in samples:
            continue
        blocks = read_blocks(written(samples[case["filename"][:7]]))
        for read, told in zip(blocks, case["token"], strict=True):
            assert list(read.symbols) == told["symbols"]
            statements = len(read.facts) + len(read.rules) + len(read.checks)
            assert statements == told["code"].count(";\n")


def test_no_official_sample_is_too_heavy(samples: dict[str, Biscuit]) -> None:
    assert {name for name, biscuit in samples.items() if work(read_blocks(written(biscuit))) > MAX_WORK} == set()


def test_only_the_official_sample_that_expires_has_an_end(samples: dict[str, Biscuit]) -> None:
    found = {name: ends(biscuit) for name, biscuit in samples.items()}
    assert {name: end for name, end in found.items() if end is not None} == {"test009": 1545264001}


# What the library writes


def test_the_default_symbols_are_the_librarys() -> None:
    for index, name in enumerate(DEFAULT_SYMBOLS):
        assert opened(token(block(facts=[fact(index)]))).block_source(0) == f"{name}();\n"
    assert "<?>" in opened(token(block(facts=[fact(len(DEFAULT_SYMBOLS))]))).block_source(0)


EVERYTHING: Final = """
    user("alice", -5, 2030-01-01T00:00:00Z, hex:00ff, true, null, {1, 2, 3}, ["a", [1]], {"a": 1, 2: {3: "b"}});
    seen($a, $b) <- user($a), owner($a, $b), $a != $b, !$a.starts_with("x") || $b.matches("^a+$");
    check if seen($a, $b), [1, 2].any($p -> {3}.all($q -> $q > $p && $q < 10)), $a.extern::known(), $b.type() == "b";
    check all user($a), $a.length() > 2 or true;
    reject if seen($a, $a), {1}.union({2}).contains(3);
    check if 1 + 2 * 3 - 4 / 5 == (1 & 2 | 3 ^ 4) trusting authority, previous;
"""


def test_whatever_can_be_written_is_read() -> None:
    (block,) = read_blocks(written(built(EVERYTHING)))
    assert [(fact.name, fact.terms) for fact in block.facts] == [("user", 9)]
    assert [(rule.head.name, [each.name for each in rule.body]) for rule in block.rules] == [
        ("seen", ["user", "owner"])
    ]
    assert [check.kind for check in block.checks] == [Kind.ONE, Kind.ALL, Kind.REJECT, Kind.ONE]
    assert [len(check.queries) for check in block.checks] == [1, 2, 1, 1]
    assert [check.queries[0].trusts for check in block.checks] == [False, False, False, True]
    assert block.collection == 3


def test_names_are_the_same_across_the_tables_of_blocks() -> None:
    biscuit = by_third_party(built("mine(1)", "other(1); mine(2)"), "theirs(1); mine(3)")
    biscuit = biscuit.append(BlockBuilder("last(1); mine(4); theirs(2)"))
    names = [[fact.name for fact in block.facts] for block in read_blocks(written(biscuit))]
    assert names == [["mine"], ["other", "mine"], ["theirs", "mine"], ["last", "mine", "theirs"]]


def test_a_root_key_id_is_read_over() -> None:
    builder = BiscuitBuilder(ENDS)
    builder.set_root_key_id(70_000)
    assert ends(builder.build(KEYS.private_key)) == END_S


# What is refused

GOOD: Final = block(symbols=["a"], facts=[fact(OWN, integer(1))])


def checking(*ops: bytes) -> bytes:
    return block(symbols=["a"], checks=[rule(predicate(QUERY), expressions=[expression(*ops)])])


def holding(term: bytes) -> bytes:
    return block(symbols=["a"], facts=[fact(OWN, term)])


def arrays(depth: int) -> bytes:
    term = integer(1)
    for _ in range(depth):
        term = field(9, field(1, term))
    return term


def closures(depth: int) -> bytes:
    ops = [value(boolean(True))]
    for _ in range(depth):
        ops = [value(boolean(True)), closure([], *ops), binary(23)]
    return checking(*ops)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(GOOD + field(9, 1), id="a field that is unknown"),
        pytest.param(GOOD + b"\xa2\x06\x00", id="a field with a high number"),
        pytest.param(GOOD + field(3, 6), id="the version twice"),
        pytest.param(GOOD + field(2, b"a") + field(2, b"b"), id="the context twice"),
        pytest.param(GOOD + field(2, b"\xff"), id="a context that is not UTF-8"),
        pytest.param(block(symbols=[]) + field(1, b"\xff"), id="a symbol that is not UTF-8"),
        pytest.param(b"", id="no version"),
        pytest.param(block(version=2), id="an old version"),
        pytest.param(block(version=7), id="a new version"),
        pytest.param(field(3, b"\x06"), id="a version of another wire type"),
        pytest.param(b"\x19" + bytes(8), id="a wire type that does not occur"),
        pytest.param(b"\x1b\x1c", id="a group"),
        pytest.param(b"\x18\x86\x00", id="a number that is longer than it must be"),
        pytest.param(b"\x18" + b"\x80" * 9 + b"\x01", id="a number that is large"),
        pytest.param(b"\x18" + b"\xff" * 9 + b"\x02", id="a number of more than 64 bits"),
        pytest.param(b"\x18" + b"\xff" * 12, id="a number that does not end"),
        pytest.param(GOOD + b"\x22", id="a field that breaks off"),
        pytest.param(GOOD + b"\x22\x05\x0a", id="bytes that break off"),
        pytest.param(GOOD + b"\x22\xff\xff\xff\xff\x0f", id="bytes longer than everything"),
        pytest.param(block(facts=[b""]), id="a fact of nothing"),
        pytest.param(block(facts=[fact(0) + fact(0)]), id="a fact of two"),
        pytest.param(block(facts=[field(1, b"")]), id="a predicate without a name"),
        pytest.param(block(facts=[field(1, field(1, 0) + field(1, 1))]), id="a predicate with two names"),
        pytest.param(block(facts=[fact(28)]), id="a default symbol that is none"),
        pytest.param(block(facts=[fact(OWN)]), id="an own symbol that is none"),
        pytest.param(block(facts=[fact(2**64 - 1)]), id="the last symbol"),
        pytest.param(holding(b""), id="a term of nothing"),
        pytest.param(holding(integer(1) + date(2)), id="a term that is two"),
        pytest.param(holding(variable(0)), id="a fact with a variable"),
        pytest.param(holding(field(6, 2)), id="a truth of two"),
        pytest.param(holding(field(8, b"\x08\x01")), id="nothing that is something"),
        pytest.param(holding(field(8, 0)), id="nothing of another wire type"),
        pytest.param(holding(field(11, 0)), id="a kind of term that is unknown"),
        pytest.param(holding(field(7, field(1, variable(0)))), id="a variable in a set"),
        pytest.param(holding(field(10, field(1, field(1, field(1, 1))))), id="a key without a value"),
        pytest.param(holding(field(10, field(1, field(2, integer(1))))), id="a value without a key"),
        pytest.param(holding(field(10, field(1, field(1, b"") + field(2, integer(1))))), id="a key of nothing"),
        pytest.param(holding(arrays(33)), id="arrays nested too deep"),
        pytest.param(closures(33), id="closures nested too deep"),
        pytest.param(block(rules=[b""]), id="a rule without a head"),
        pytest.param(block(rules=[rule(predicate(0)) + field(1, predicate(0))]), id="a rule with two heads"),
        pytest.param(block(rules=[rule(predicate(0)) + field(4, b"")]), id="a scope of nothing"),
        pytest.param(block(rules=[rule(predicate(0)) + field(4, field(1, 2))]), id="a scope that is unknown"),
        pytest.param(
            block() + field(7, field(1, 0)) + field(7, field(1, 2)), id="a scope of the block that is unknown"
        ),
        pytest.param(block(checks=[rule(predicate(QUERY), predicate(0, variable(2**32)))]), id="a variable too large"),
        pytest.param(block() + field(6, field(2, 3)), id="a kind of check that is unknown"),
        pytest.param(block() + field(6, field(2, 0) + field(2, 0)), id="two kinds of check"),
        pytest.param(checking(b""), id="an operation of nothing"),
        pytest.param(checking(field(5, b"")), id="an operation that is unknown"),
        pytest.param(checking(binary(30)), id="a binary operation that is unknown"),
        pytest.param(checking(field(2, field(1, 5))), id="a unary operation that is unknown"),
        pytest.param(checking(field(2, b"")), id="a unary operation of no kind"),
        pytest.param(checking(field(2, field(1, 4))), id="a call of nothing"),
        pytest.param(checking(field(3, field(1, 0) + field(2, 0))), id="a comparison with a name"),
        pytest.param(checking(value(text(28))), id="a text that is no symbol"),
        pytest.param(checking(closure([], b"")), id="a closure of an operation of nothing"),
    ],
)
def test_a_block_that_is_not_exactly_understood_is_refused(block: bytes) -> None:
    with pytest.raises(MalformedTokenError):
        read_blocks(token(block))


def test_what_is_just_deep_enough_is_read() -> None:
    read_blocks(token(holding(arrays(32)), closures(32)[3:]))


@pytest.mark.parametrize("removed", [2, 4])
def test_a_token_without_authority_or_proof_is_refused(removed: int) -> None:
    whole = {2: field(2, message((1, GOOD), (2, b""), (3, b""))), 4: field(4, b"")}
    assert read_blocks(b"".join(whole.values()))
    with pytest.raises(MalformedTokenError):
        read_blocks(b"".join(part for tag, part in whole.items() if tag != removed))


@pytest.mark.parametrize("removed", [1, 2, 3])
def test_a_block_that_is_not_signed_is_refused(removed: int) -> None:
    parts: list[tuple[int, int | bytes]] = [(1, GOOD), (2, b""), (3, b"")]
    signed = message(*(part for part in parts if part[0] != removed))
    with pytest.raises(MalformedTokenError):
        read_blocks(field(2, signed) + field(4, b""))


def test_a_name_that_only_a_later_block_gives_is_refused() -> None:
    later = opened(token(block(symbols=["a"], facts=[fact(OWN + 1)]), block(symbols=["b"])))
    assert passes(later, END_S)  # the library reads the first block by the second's table
    with pytest.raises(MalformedTokenError):
        read_blocks(written(later))


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_or_read(data: bytes) -> None:
    for each in (data, token(data), token(GOOD + data), token(block(symbols=["a"]), GOOD[3:] + data)):
        try:
            blocks = read_blocks(each)
        except MalformedTokenError:
            continue
        assert work(blocks) >= 0
        assert ends_at_s(blocks, 0) is None


REAL: Final = written(by_third_party(built(EVERYTHING, ENDS, "a($x) <- b($x); a(1)"), "b(1); check if a($x)"))


@given(st.lists(st.tuples(st.integers(0, len(REAL) - 1), st.integers(0, 255), st.integers(0, 2)), max_size=4))
def test_a_changed_token_is_refused_or_read(changes: list[tuple[int, int, int]]) -> None:
    data = bytearray(REAL)
    for at, byte, how in changes:
        if how == 0:
            data[at % len(data)] = byte
        elif how == 1:
            data.insert(at % len(data), byte)
        else:
            del data[at % len(data)]
    try:
        blocks = read_blocks(bytes(data))
    except MalformedTokenError:
        return
    assert work(blocks) >= 0
    ends_at_s(blocks, len(blocks) - 1)


@given(st.integers(0, len(REAL) - 1))
def test_a_token_that_breaks_off_is_refused(length: int) -> None:
    with pytest.raises(MalformedTokenError):
        read_blocks(REAL[:length])
