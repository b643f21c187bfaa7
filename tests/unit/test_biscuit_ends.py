"""From when on no Biscuit passes that carries a block: what is told, and what the library does then."""

import pytest
from biscuit_auth import BiscuitValidationError, BlockBuilder
from hypothesis import given
from hypothesis import strategies as st

from countermand.tokens.blocks import MAX_INSTANT_S, ends_at_s, read_blocks
from tests.unit.biscuits import (
    END_S,
    ENDS,
    LESS_OR_EQUAL,
    LESS_THAN,
    OWN,
    QUERY,
    THIRD,
    TIME,
    binary,
    block,
    built,
    by_third_party,
    date,
    ends,
    expression,
    fact,
    field,
    opened,
    passes,
    predicate,
    rule,
    text,
    token,
    value,
    variable,
)


@pytest.mark.parametrize(
    ("code", "end"),
    [
        (ENDS, END_S),
        (ENDS.replace("<", "<="), END_S + 1),
        (f"{ENDS} check if time($t), $t < 2031-01-01T00:00:00Z", END_S),
        (f"{ENDS} check if user($u); user(1); seen($u) <- user($u)", END_S),
        (f"{ENDS} check if time($t), $t >= 2020-01-01T00:00:00Z", END_S),
        (f"{ENDS} hour($t) <- time($t)", END_S),
    ],
)
def test_a_check_of_the_time_ends_a_token(code: str, end: int) -> None:
    biscuit = built("user(1)", code)
    assert ends(biscuit) == end
    assert ends(biscuit, through=0) is None
    facts = "allow if true; user(1)"
    assert passes(biscuit, end - 1, facts)
    for later in (end, end + 1, end + 10**9):
        assert not passes(biscuit, later, facts)


def test_what_is_appended_does_not_lengthen_it() -> None:
    biscuit = built(ENDS, "time(2020-01-01T00:00:00Z)")
    biscuit = biscuit.append(BlockBuilder("time($t) <- old($t); old(2020-01-01T00:00:00Z)"))
    biscuit = by_third_party(biscuit, "time(2020-01-01T00:00:00Z)")
    biscuit = biscuit.append(BlockBuilder(f"check if time($t), $t < 2099-01-01T00:00:00Z trusting previous, {key()}"))
    assert [ends(biscuit, through) for through in range(5)] == [END_S, None, None, None, None]
    assert passes(biscuit, END_S - 1)
    assert not passes(biscuit, END_S)


def key() -> str:
    return repr(THIRD.public_key)


def test_of_several_ends_the_first_counts_and_only_those_that_are_carried() -> None:
    biscuit = built("user(1)", "check if time($t), $t < 2031-01-01T00:00:00Z", ENDS)
    assert [ends(biscuit, through) for through in range(-1, 4)] == [None, None, 1924992000, END_S, None]


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(f"time(2020-01-01T00:00:00Z); {ENDS}", id="a fact beside it"),
        pytest.param(f"time($t) <- old($t); old(2020-01-01T00:00:00Z); {ENDS}", id="a rule beside it"),
        pytest.param(f"{ENDS[:-1]} or true", id="or"),
        pytest.param(ENDS.replace("check if", "check all"), id="check all"),
        pytest.param(ENDS.replace("check if", "reject if"), id="reject if"),
        pytest.param(f"{ENDS[:-1]} trusting previous", id="the check trusts others"),
        pytest.param(f"{ENDS} check if user(1) trusting previous", id="another check trusts others"),
        pytest.param(f"{ENDS} seen($u) <- user($u) trusting previous", id="a rule trusts others"),
        pytest.param("check if time($t), user($u), $u < 2030-03-17T17:46:40Z", id="another predicate"),
        pytest.param("check if time($t), $t > 2030-03-17T17:46:40Z", id="after"),
        pytest.param("check if time($t), 2030-03-17T17:46:40Z > $t", id="the other way round"),
        pytest.param("check if time($t), !($t < 2030-03-17T17:46:40Z)", id="not before"),
        pytest.param("check if time($t), $t < 2030-03-17T17:46:40Z || true", id="or true"),
        pytest.param("check if time($t, $u), $t < 2030-03-17T17:46:40Z", id="two terms"),
        pytest.param("check if date($t), $t < 2030-03-17T17:46:40Z", id="another name"),
        pytest.param("check if time($t), $t < 5", id="a number"),
        pytest.param("check if time($t)", id="no end"),
        pytest.param('user("x\\");\\ncheck if time($t), $t < 2030-03-17T17:46:40Z;\\nuser(\\"y")', id="forged source"),
    ],
)
def test_a_check_that_may_pass_later_is_no_end(code: str) -> None:
    assert ends(built("user(1)", code)) is None


def test_source_that_shows_an_end_which_is_not_there_is_not_believed() -> None:
    forged = f'x");\n{ENDS}\nfoo("y'
    biscuit = opened(token(block(symbols=["foo", forged], facts=[fact(OWN, text(OWN + 1))])))
    assert ENDS in biscuit.block_source(0)
    assert ends(biscuit) is None
    assert passes(biscuit, END_S)


def test_a_check_in_a_block_that_trusts_others_is_no_end() -> None:
    earlier = block(facts=[fact(TIME, date(1))])
    trusting = block(checks=[ending(END_S, LESS_THAN)]) + field(7, field(1, 1))
    biscuit = opened(token(block(), earlier, trusting))
    assert passes(biscuit, END_S)
    assert ends(biscuit) is None
    assert ends_at_s(read_blocks(token(trusting)), 0) is None


def test_a_check_that_trusts_a_third_party_is_no_end() -> None:
    biscuit = by_third_party(built(f"{ENDS[:-1]} trusting {key()}"), "time(2020-01-01T00:00:00Z)")
    assert passes(biscuit, END_S)
    assert ends(biscuit, 0) is None


def ending(instant: int, operator: int, name: int = TIME, *, asked: int = 0, compared: int = 0) -> bytes:
    compare = expression(value(variable(compared)), value(date(instant)), binary(operator))
    return rule(predicate(QUERY), predicate(name, variable(asked)), expressions=[compare])


def test_a_check_made_by_hand_is_an_end_as_well() -> None:
    assert ends(opened(token(block(checks=[ending(END_S, LESS_THAN)])))) == END_S
    explicit = opened(token(block() + field(6, field(1, ending(END_S, LESS_OR_EQUAL)) + field(2, 0))))
    assert ends(explicit) == END_S + 1


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(field(6, field(1, ending(END_S, LESS_THAN)) * 2), id="the same twice"),
        pytest.param(field(6, field(1, ending(END_S, LESS_THAN, asked=1))), id="another variable"),
        pytest.param(field(6, field(1, ending(END_S, LESS_THAN) + field(2, predicate(0)))), id="a predicate behind it"),
        pytest.param(field(6, b""), id="no query"),
        pytest.param(field(6, field(1, ending(MAX_INSTANT_S + 1, LESS_THAN))), id="the year 10000"),
        pytest.param(field(6, field(1, ending(MAX_INSTANT_S, LESS_OR_EQUAL))), id="its first second"),
        pytest.param(field(6, field(1, ending(2**64 - 1, LESS_THAN))), id="the last date there is"),
    ],
)
def test_a_check_made_by_hand_that_may_pass_later_is_no_end(statement: bytes) -> None:
    assert ends(opened(token(block() + statement))) is None


def test_an_end_beyond_all_dates_takes_none_away() -> None:
    checks = [ending(2**64 - 1, LESS_THAN), ending(END_S, LESS_THAN)]
    assert ends(opened(token(block(checks=checks)))) == END_S


def test_an_own_symbol_that_says_time_is_refused_by_the_library_and_ends_nothing_here() -> None:
    own = [
        block(symbols=["time"], facts=[fact(OWN, date(1))], checks=[ending(END_S, LESS_THAN)]),
        block(symbols=["time"], checks=[ending(END_S, LESS_THAN, OWN)]),
        block(symbols=["time"], checks=[ending(END_S, LESS_THAN)]),
    ]
    for each in own:
        with pytest.raises(BiscuitValidationError):
            opened(token(each))
        assert ends_at_s(read_blocks(token(each)), 0) is None


@given(
    st.integers(0, MAX_INSTANT_S - 2),
    st.sampled_from((LESS_THAN, LESS_OR_EQUAL)),
    st.lists(st.sampled_from(("user(1)", "time(2020-01-01T00:00:00Z)", ENDS, "time($t) <- time($t)")), max_size=3),
)
def test_at_its_end_no_token_passes(instant: int, operator: int, appended: list[str]) -> None:
    biscuit = opened(token(block(checks=[ending(instant, operator)])))
    for code in appended:
        biscuit = biscuit.append(BlockBuilder(code))
    end = ends(biscuit, 0)
    assert end == instant + (operator == LESS_OR_EQUAL)
    assert not passes(biscuit, end)


def test_a_third_partys_check_is_an_end_as_well() -> None:
    biscuit = by_third_party(built("user(1)"), ENDS)
    assert ends(biscuit) == END_S
    assert passes(biscuit, END_S - 1)
    assert not passes(biscuit, END_S)
