"""What a Biscuit's own statements cost: never less than the library does for them, and little for ordinary ones."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import pytest
from biscuit_auth import Biscuit, BlockBuilder
from hypothesis import assume, given
from hypothesis import strategies as st

from countermand.tokens.blocks import DEFAULT_SYMBOLS, read_blocks
from countermand.tokens.work import AUTHORIZER_FACTS, AUTHORIZER_TEXT, LIMIT, MAX_WORK, weigh_pattern, work
from tests.unit.biscuits import (
    END_S,
    ENDS,
    OWN,
    QUERY,
    array,
    binary,
    block,
    boolean,
    built,
    closure,
    expression,
    fact,
    field,
    integer,
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

SLOW_MACHINE: Final = 5
A, B, C, X, Y, Z = range(OWN, OWN + 6)
PATH: Final = DEFAULT_SYMBOLS.index("path")
SYMBOLS: Final = ("a", "b", "c", "x", "y", "z")
NEVER: Final = expression(value(boolean(False)))  # so that every combination is tried


def weight(biscuit: Biscuit) -> int:
    return work(read_blocks(written(biscuit)))


def asking(*body: bytes, expressions: Sequence[bytes] = (NEVER,)) -> bytes:
    return rule(predicate(QUERY), *body, expressions=expressions)


def numbers(count: int, name: int = A) -> list[bytes]:
    return [fact(name, integer(each)) for each in range(count)]


def joined(count: int, times: int) -> bytes:
    """So many facts, joined with themselves so often."""
    body = [predicate(A, variable(X + each)) for each in range(times)]
    return block(symbols=SYMBOLS, facts=numbers(count), checks=[asking(*body)])


def rules_joined(count: int) -> bytes:
    pairs = rule(predicate(B, variable(X), variable(Y)), predicate(A, variable(X)), predicate(A, variable(Y)))
    return block(symbols=SYMBOLS, facts=numbers(count), rules=[pairs])


def looking_in_vain(count: int) -> bytes:
    body = predicate(A, variable(X)), predicate(A, variable(Y)), predicate(C, variable(Z))
    return block(symbols=SYMBOLS, facts=numbers(count) + numbers(800, B), checks=[asking(*body)])


def copying(count: int) -> bytes:
    large = fact(B, field(5, b"x"), array(*map(integer, range(count * 10))))
    body = predicate(B, variable(Z), variable(C)), predicate(A, variable(X)), predicate(A, variable(Y))
    return block(symbols=SYMBOLS, facts=[large, *numbers(count)], checks=[asking(*body)])


def nested(count: int) -> bytes:
    elements = array(*map(integer, range(count)))
    ops = [value(variable(X)), value(integer(-1)), binary(4)]
    for parameter in (X, Y, Z):
        ops = [value(elements), closure([parameter], *ops), binary(26)]
    return block(symbols=SYMBOLS, checks=[asking(expressions=[expression(*ops)])])


def growing(count: int) -> bytes:
    ops = [value(text(Z + 1)), *[value(text(Z + 1)), binary(9)] * count, value(text(Z + 1)), binary(4)]
    return block(symbols=[*SYMBOLS, "s" * 4_000], checks=[asking(expressions=[expression(*ops)])])


def uniting(count: int) -> bytes:
    sets = [field(7, b"".join(field(1, integer(at * 20 + each)) for each in range(20))) for at in range(count + 1)]
    ops = [value(sets[0]), *(op for each in sets[1:] for op in (value(each), binary(16)))]
    never = value(boolean(False)), binary(21)
    return block(symbols=SYMBOLS, checks=[asking(expressions=[expression(*ops, *never)])])


def matching(pattern: str, count: int = 0) -> bytes:
    ops = [value(text(Z + 2)), value(text(Z + 1)), binary(8)]
    body = [predicate(A, variable(X))] if count else []
    checks = [asking(*body, expressions=[expression(*ops), NEVER])]
    return block(symbols=[*SYMBOLS, pattern, "a-resource"], facts=numbers(count), checks=checks)


def chained(count: int) -> bytes:
    names = [A, *range(Z + 1, Z + 1 + count)]
    rules = [rule(predicate(to, variable(X)), predicate(of, variable(X))) for of, to in itertools.pairwise(names)]
    symbols = [*SYMBOLS, *(f"r{at}" for at in range(count))]
    return block(symbols=symbols, facts=numbers(20), rules=rules)


def searching(count: int) -> bytes:
    """For pairs of facts, looks through a long text for another that nearly is there."""
    one = [value(text(Z + 1)), value(text(Z + 2)), binary(5)]
    ops = [*one, *[*one, binary(14)] * 20]
    body = predicate(A, variable(X)), predicate(A, variable(Y))
    checks = [asking(*body, expressions=[expression(*ops)])]
    return block(symbols=[*SYMBOLS, "s" * 4_000, "s" * 2_000 + "t"], facts=numbers(count), checks=checks)


def asking_about_the_path(ops: Sequence[bytes], text: str = "t") -> bytes:
    checks = [asking(predicate(PATH, variable(X)), expressions=[expression(*ops)])]
    return block(symbols=[*SYMBOLS, text], checks=checks)


def growing_path(count: int) -> list[bytes]:
    return [value(variable(X)), *[value(variable(X)), binary(9)] * count, value(text(Z + 1)), binary(4)]


def searching_path(count: int) -> list[bytes]:
    one = [value(variable(X)), value(text(Z + 1)), binary(5)]
    return [*one, *[*one, binary(14)] * count]


ATTACKS: Final[dict[str, Callable[[int], bytes]]] = {
    "two": lambda count: joined(count, 2),
    "three": lambda count: joined(count, 3),
    "rules": rules_joined,
    "in vain": looking_in_vain,
    "copying": copying,
    "closures": nested,
    "texts": growing,
    "sets": uniting,
    "chained": chained,
    "classes": lambda count: matching(r"\w" * count),
    "a class repeated": lambda count: matching(rf"\w{{{count}}}"),
    "classes repeated": lambda count: matching(rf"[\W]{{{count}}}"),
    "a group repeated": lambda count: matching(rf"(a?){{{count}}}b"),
    "what may be left out": lambda count: matching("(((a?)?)?)?" * count),
    "what may be left out or repeated": lambda count: matching("((a*)*)*" * count),
    "anything": lambda count: matching("." * count),
    "texts of the request": lambda count: asking_about_the_path(growing_path(count)),
    "searching": searching,
    "searching the request": lambda count: asking_about_the_path(searching_path(count), "s" * 500 + "t"),
    "short patterns": lambda count: matching("file[0-9]+.txt", count),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_just_light_enough_takes_the_library_no_longer_than_a_tenth_of_a_second(attack: str) -> None:
    made = ATTACKS[attack]
    count = 1
    while work(read_blocks(token(made(count * 2)))) <= MAX_WORK and count < 512:
        count *= 2
    biscuit = opened(token(made(count)))
    assert weight(biscuit) <= MAX_WORK
    assert min(taken_s(biscuit) for _ in range(3)) < 0.1 * SLOW_MACHINE


def taken_s(biscuit: Biscuit) -> float:
    before = time.thread_time()
    passes(biscuit, END_S, f'allow if true; path("{"s" * AUTHORIZER_TEXT}")')
    return time.thread_time() - before


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(joined(100, 3), id="three of a hundred"),
        pytest.param(joined(200, 4), id="four of two hundred"),
        pytest.param(joined(30, 500), id="five hundred of thirty"),
        pytest.param(joined(1, 40), id="forty of what the authorizer has"),
        pytest.param(rules_joined(500), id="a rule"),
        pytest.param(nested(200), id="closures"),
        pytest.param(growing(600), id="a gigabyte of text"),
        pytest.param(asking_about_the_path(growing_path(150)), id="texts of the request"),
        pytest.param(searching(25), id="a text that is searched"),
        pytest.param(chained(300), id="rules that build on each other"),
        pytest.param(matching("((a{1,100}){1,100}){1,20}"), id="a pattern that repeats"),
        pytest.param(matching("(?x)((a{ 100 }){100} {20})"), id="a pattern that repeats, with spaces"),
        pytest.param(matching(r"(?i)[!-\x{10FFFF}]"), id="a pattern of all characters, in either case"),
        pytest.param(matching("(?si)[!-\U000effff]"), id="the same, written out"),
    ],
)
def test_what_would_take_long_is_too_heavy(block: bytes) -> None:
    assert work(read_blocks(token(block))) > MAX_WORK
    assert work(read_blocks(token(*[block] * 5))) <= LIMIT


def test_a_pattern_that_only_the_run_tells_is_too_heavy() -> None:
    assert weight(built("check if pattern($p), resource($r), $r.matches($p)")) == LIMIT
    assert weight(built('check if resource($r), $r.matches("a" + "b")')) == LIMIT


def test_a_rule_that_builds_on_itself_is_too_heavy() -> None:
    ancestors = "ancestor($a, $c) <- parent($a, $b), ancestor($b, $c); ancestor($a, $b) <- parent($a, $b);"
    assert weight(built(ancestors)) > MAX_WORK


@pytest.mark.parametrize(
    "code",
    [
        ENDS,
        'check if operation("read")',
        'check if operation($o), ["read", "write"].contains($o)',
        "check if resource($r), operation($o), right($r, $o)",
        "check if user($u), resource($r), operation($o), allowed($u, $r, $o), time($t), $t < 2030-01-01T00:00:00Z",
        'check if resource($r), $r.starts_with("/a/") || $r.starts_with("/b/"), operation($o), {"read"}.contains($o)',
        r'check if resource($r), $r.matches("^/users/[0-9]+/files/[a-z0-9_-]+$")',
        r'check if id($r), $r.matches("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")',
        r'check if day($d), $d.matches("^[0-9]{4}-[0-9]{2}-[0-9]{2}$")',
        'right($r, "read") <- resource($r), owner($u, $r), user($u); check if right($r, "read"), resource($r)',
        "check all operation($o), allowed_operations($a), $a.contains($o)",
        'reject if client_ip($i), ["10.0.0.1", "10.0.0.2"].any($p -> $i == $p)',
        "a($x) <- resource($x); b($x) <- a($x); c($x) <- b($x); check if c($x)",
    ],
)
def test_ordinary_statements_are_light(code: str) -> None:
    rights = " ".join(f'right("/files/{at}", "read"); owner("alice", "/files/{at}");' for at in range(10))
    biscuit = built(f'user("alice"); {rights}', code, ENDS)
    assert weight(biscuit) < MAX_WORK / 2


def test_an_authorizer_of_many_facts_makes_every_statement_heavier() -> None:
    blocks = read_blocks(written(built("check if a($x), b($y), c($z)")))
    assert work(blocks, 1) < work(blocks) == work(blocks, AUTHORIZER_FACTS) < work(blocks, 100)
    assert work(blocks, 10**30) == LIMIT


@given(st.text(alphabet=r"a0\w[]{}(),?:ix+*. ", max_size=40))
def test_any_pattern_is_weighed(pattern: str) -> None:
    assert 0 < weigh_pattern(pattern) <= LIMIT


@pytest.mark.parametrize(
    ("lighter", "heavier"),
    [
        ("a{9}", "a{90}"),
        ("aa", "a?"),
        ("a{9}", "(a{9}){9}"),
        ("[a]{9}", r"[\w]{9}"),
        (r"\d{9}", r"\w{9}"),
        (r"a\w{9}", r"(a\w){9}"),
        (r"[\w]a{9}", r"[\w[a]]{9}"),
        (r"\w[a]{9}", r"[\w\[a]{9}"),
        (r"\w{9}", r"(?x)\w {9}"),
        (r"\pL", r"\pL{9}"),
        (r"\p{L}", r"\p{L}{9}"),
        ("a{9}b{9}", "a{9}{9}"),
    ],
)
def test_a_pattern_weighs_what_it_repeats(lighter: str, heavier: str) -> None:
    assert weigh_pattern(lighter) < weigh_pattern(heavier)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block(facts=[fact(0)] * 1_900), id="facts"),
        pytest.param(block(rules=[rule(predicate(0, variable(0)), predicate(0, variable(0)))] * 600), id="rules"),
        pytest.param(block(checks=[asking()] * 900), id="checks"),
        pytest.param(block(checks=[asking(*[predicate(0, variable(0))] * 1_100)]), id="a long body"),
        pytest.param(chained(300), id="a long chain"),
        pytest.param(block(facts=[fact(0, array(*[integer(1)] * 2_900))]), id="a long array"),
        pytest.param(matching("a{1}" * 2_900), id="a pattern of repeats"),
        pytest.param(matching("{" * 11_000), id="a pattern of braces"),
        pytest.param(matching("(?P" * 3_600), id="a pattern of groups"),
    ],
)
def test_weighing_is_itself_no_work(block: bytes) -> None:
    data = token(block)
    assert len(data) > 3_000
    before = time.thread_time()
    work(read_blocks(data))
    assert time.thread_time() - before < 0.05 * SLOW_MACHINE


# Against an evaluation of our own, which counts

Term: TypeAlias = int | str
Atom: TypeAlias = tuple[str, tuple[Term, ...]]  # variables are texts
Known: TypeAlias = set[tuple[frozenset[int], str, tuple[Term, ...]]]
AUTHORIZER: Final = -1
ENOUGH: Final = 50_000


@dataclass(frozen=True)
class Written:
    """One block of a small token."""

    facts: list[Atom]
    rules: list[tuple[Atom, list[Atom]]]
    checks: list[list[Atom]]

    def code(self) -> str:
        facts = [shown(atom) for atom in self.facts]
        rules = [f"{shown(head)} <- {', '.join(map(shown, body))}" for head, body in self.rules]
        checks = [f"check if {', '.join(map(shown, body))}" for body in self.checks]
        return "; ".join((*facts, *rules, *checks, ""))


def shown(atom: Atom) -> str:
    return f"{atom[0]}({', '.join(map(str, atom[1]))})"


class Counting:
    """Does what the library does, and counts how often a fact is tried."""

    def __init__(self, blocks: Sequence[Written], authorizer: Sequence[Atom]) -> None:
        self.tried = 0
        self._blocks = blocks
        self._known: Known = {
            (frozenset((at,)), *atom)
            for at, facts in ((AUTHORIZER, authorizer), *((at, each.facts) for at, each in enumerate(blocks)))
            for atom in facts
        }

    def passes(self) -> bool:
        for _ in range(100):
            new = {
                (origins | {at}, head[0], tuple(bound.get(str(term), term) for term in head[1]))
                for at, each in enumerate(self._blocks)
                for head, body in each.rules
                for origins, bound in self._matches(body, at)
            }
            if new <= self._known:
                matched = [self._matches(body, at) for at, each in enumerate(self._blocks) for body in each.checks]
                return all(matched)
            self._known |= new
            if len(self._known) >= 1_000:
                return False
        return False

    def _matches(self, body: Sequence[Atom], block: int) -> list[tuple[frozenset[int], dict[str, Term]]]:
        seen = [each for each in self._known if each[0] <= {0, block, AUTHORIZER}]
        found: list[tuple[frozenset[int], dict[str, Term]]] = [(frozenset(), {})]
        for atom in body:
            found = [match for before in found for match in self._try(atom, before, seen)]
        return found

    def _try(
        self,
        atom: Atom,
        before: tuple[frozenset[int], dict[str, Term]],
        seen: Sequence[tuple[frozenset[int], str, tuple[Term, ...]]],
    ) -> Iterator[tuple[frozenset[int], dict[str, Term]]]:
        name, terms = atom
        for origins, known, values in seen:
            if known != name or len(values) != len(terms):
                continue
            if any(isinstance(term, int) and term != held for term, held in zip(terms, values, strict=True)):
                continue
            self.tried += 1
            assume(self.tried < ENOUGH)
            bound = dict(before[1])
            pairs = [(term, held) for term, held in zip(terms, values, strict=True) if isinstance(term, str)]
            if all(bound.setdefault(term, held) == held for term, held in pairs):
                yield before[0] | origins, bound


NAMES: Final = st.sampled_from("abc")
VALUES: Final = st.integers(0, 3)
FACTS: Final = st.tuples(NAMES, st.lists(VALUES, min_size=1, max_size=2).map(tuple))
ASKED: Final = st.tuples(
    NAMES, st.lists(VALUES | st.sampled_from(("$x", "$y", "$z")), min_size=1, max_size=2).map(tuple)
)
BODIES: Final = st.lists(ASKED, min_size=1, max_size=3)


@st.composite
def rules(draw: st.DrawFn) -> tuple[Atom, list[Atom]]:
    body = draw(BODIES)
    variables = sorted({term for _, terms in body for term in terms if isinstance(term, str)})
    terms = st.sampled_from(variables) | VALUES if variables else VALUES
    return (draw(NAMES), tuple(draw(st.lists(terms, min_size=1, max_size=2)))), body


BLOCKS: Final = st.builds(
    Written, st.lists(FACTS, max_size=4), st.lists(rules(), max_size=2), st.lists(BODIES, max_size=2)
)


@given(st.lists(BLOCKS, min_size=1, max_size=3), st.lists(FACTS, max_size=AUTHORIZER_FACTS))
def test_the_work_is_never_less_than_what_is_done(blocks: list[Written], authorizer: list[Atom]) -> None:
    counting = Counting(blocks, authorizer)
    expected = counting.passes()
    biscuit = built(blocks[0].code())
    for each in blocks[1:]:
        biscuit = biscuit.append(BlockBuilder(each.code()))
    code = "; ".join(("allow if true", *map(shown, authorizer)))
    assert passes(biscuit, END_S, code) == expected  # so that it is the library's work that was counted
    assert weight(biscuit) >= 8 * counting.tried
