"""How much an authorizer may have to do for what a token brings along: an upper bound, before any of it is done.

Whoever holds a Biscuit may append rules and checks to it. The library looks at its clock between two rounds of rules,
and never within one; one check that joins a hundred facts three times holds the interpreter for most of a second, and
four times over two hundred facts for minutes. So a token is weighed first, and a heavy one is not authorized.

The bound follows how the library works. A query is a nest of loops, one for each predicate of its body: each loop looks
at every fact, and goes on with those of its name; each time the values that are bound are copied. What the innermost
loop finds, the expressions are evaluated for; a closure is, for each element of a collection. Rules run in rounds until
nothing new comes. A step is at most some 30 ns on the machine where this was measured; nothing counts beyond LIMIT.
What the application's own Datalog costs is the application's matter, and not counted.
Source: measured with biscuit-python 0.4.0.
"""

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from countermand.tokens.blocks import Block, Costly, Operation, Predicate, Query, trusts

MAX_WORK: Final = 2_000_000
"""Steps: the worst tokens of that weight that we could make took 50 to 75 ms. The interpreter is held for as long, and
every other request waits. A statement as people write them weighs a few thousand, rarely some hundred thousand."""
LIMIT: Final = 2**40
"""What counting stops at: far more than anybody would allow."""
AUTHORIZER_FACTS: Final = 8
"""Facts of one name that the application itself brings, if it says nothing else."""
AUTHORIZER_TEXT: Final = 1_024
"""The longest text in such a fact, in bytes. A client chooses some of them, such as the path of its request."""

_Name: TypeAlias = tuple[str, int]

_ORIGINS: Final = 4  # a rule sees the authority, the authorizer and its own block; a fact remembers which it came from
_AUTHORIZER_COPIES: Final = 2  # one fact, from the authorizer and from what its rules see
_AUTHORIZER_SIZE: Final = 16
_AUTHORIZER_NAMES: Final = 16
_AUTHORIZER_ROUNDS: Final = 4
_MAX_FACTS: Final = 1_000  # the library's limit, looked at after each round
_MAX_ROUNDS: Final = 100  # another
_MAX_CHAIN: Final = 32  # rules that build on each other; more count as endless

_COMBINATION: Final = 8
_MAX_THROUGH: Final = 14  # collections in collections: eight elements each are LIMIT by then
_CALL: Final = 200  # into the application's own function
_SCANNED: Final = 8  # facts passed over in one step
_SEARCHED: Final = 5  # bytes of a text that is searched in one step, at the worst


def work(blocks: Sequence[Block], authorizer_facts: int = AUTHORIZER_FACTS) -> int:
    """Return how many steps an authorizer takes at most for the rules and checks of the token, at most LIMIT.

    The library's own limits are presumed: 1,000 facts, 100 rounds. `authorizer_facts` is how many facts of one name the
    application's Datalog holds or derives; with more of them, or with texts in them of over AUTHORIZER_TEXT bytes, the
    result is no bound.
    """
    world = _World(blocks, authorizer_facts)
    steps = sum(world.cost(query) for block in blocks for check in block.checks for query in check.queries)
    rules = sum(world.cost(rule) for block in blocks for rule in block.rules)
    return min(steps + rules * world.rounds(), LIMIT)


class _World:
    """All that the facts of a token can be, whoever may see them. A name is one with its number of terms."""

    def __init__(self, blocks: Sequence[Block], authorizer_facts: int) -> None:
        self._each = authorizer_facts
        self._facts: dict[_Name, int] = {}
        self._sizes: dict[_Name, int] = {}
        self._copies: dict[_Name, int] = {}
        self._rules: dict[_Name, list[Query]] = {}
        for block in blocks:
            for fact in block.facts:
                name = fact.name, fact.terms
                self._facts[name] = self._facts.get(name, 0) + 1
                self._sizes[name] = max(self._sizes.get(name, 0), fact.size)
            for name in {(fact.name, fact.terms) for fact in block.facts}:
                self._copies[name] = self._copies.get(name, 0) + 1
            for rule in block.rules:
                self._rules.setdefault((rule.head.name, rule.head.terms), []).append(rule)
        texts = [text for block in blocks for text in block.symbols]
        self._symbols = len(texts)
        self._text = max([AUTHORIZER_TEXT, *(len(text if text.isascii() else text.encode()) for text in texts)])
        self._collection = max((self._each, *(block.collection for block in blocks)))
        heads = [rule.head for rules in self._rules.values() for rule in rules]
        self._largest = max((*self._sizes.values(), *(head.size for head in heads)), default=0)
        for head in heads:
            name = head.name, head.terms
            derived = head.size + len(head.variables) * self._largest
            self._sizes[name] = max(self._sizes.get(name, _AUTHORIZER_SIZE), derived)
        self._origins = _MAX_FACTS if any(trusts(block) for block in blocks) else _ORIGINS
        self._brought: dict[_Name, int] = {}
        self._passed: dict[_Name, int] = {}
        self._patterns: dict[str | None, int] = {}
        self._chain = 0
        self._derived = sum(map(self._brings, self._rules))
        self._known = sum(self._facts.values()) + min(self._derived, _MAX_FACTS) + _AUTHORIZER_NAMES * self._each

    def rounds(self) -> int:
        """Return in how many rounds rules are run: in each but the last there is something new."""
        chain = max(map(self._passes, self._rules), default=0)
        return min(min(chain, self._derived) + 1 + _AUTHORIZER_ROUNDS, _MAX_ROUNDS)

    def cost(self, query: Query) -> int:
        """Return the steps of running a rule, or one alternative of a check, once."""
        tried, scans, found = self._loops(query.body)
        copied = query.size + sum(map(self._size, query.body)) + len(query.head.variables) * self._largest
        steps = (tried + 1) * (_COMBINATION + copied // 4) + scans * (self._known // _SCANNED)
        return min(steps + found * self._evaluation(query.operations), LIMIT)

    def _count(self, predicate: Predicate) -> int:
        name = predicate.name, predicate.terms
        return self._facts.get(name, 0) + self._brings(name) + self._each

    def _same(self, predicate: Predicate) -> int:
        """Return how often one and the same fact is there at most: of several blocks, and brought by several rules."""
        name = predicate.name, predicate.terms
        copies = self._copies.get(name, 0) + self._origins * len(self._rules.get(name, ())) + _AUTHORIZER_COPIES
        return min(copies, max(self._count(predicate), 1))

    def _size(self, predicate: Predicate) -> int:
        return self._sizes.get((predicate.name, predicate.terms), _AUTHORIZER_SIZE)

    def _brings(self, name: _Name) -> int:
        """Return how many facts of that name rules bring."""
        if name not in self._rules:
            return 0
        if name not in self._brought and self._chain < _MAX_CHAIN:
            self._brought[name] = _MAX_FACTS  # what builds on itself meets this
            self._chain += 1
            self._brought[name] = min(sum(map(self._brings_once, self._rules[name])), _MAX_FACTS)
            self._chain -= 1
        return self._brought.get(name, _MAX_FACTS)

    def _brings_once(self, rule: Query) -> int:
        """Return how many facts `rule` brings: all its combinations, or all values that its head can have if fewer."""
        having: dict[int, int] = {}
        for predicate in rule.body:
            count = self._count(predicate)
            for variable in predicate.variables:
                having[variable] = min(having.get(variable, count), count)
        values = self._origins
        for variable in set(rule.head.variables):
            values = min(values * having.get(variable, 0), LIMIT)
        return min(values, self._loops(rule.body)[2])

    def _passes(self, name: _Name) -> int:
        """Return how many rounds pass until rules have brought all facts of that name."""
        if name not in self._rules:
            return 0
        if name not in self._passed and self._chain < _MAX_CHAIN:
            self._passed[name] = _MAX_ROUNDS
            self._chain += 1
            body = {(predicate.name, predicate.terms) for rule in self._rules[name] for predicate in rule.body}
            self._passed[name] = min(1 + max(map(self._passes, body), default=0), _MAX_ROUNDS)
            self._chain -= 1
        return self._passed.get(name, _MAX_ROUNDS)

    def _loops(self, body: Sequence[Predicate]) -> tuple[int, int, int]:
        """Return how often a fact is tried, how often all facts are looked through, and how many combinations result.

        A predicate whose variables are all bound before it goes on with one fact only.
        """
        bound: set[int] = set()
        tried = scans = 0
        found = 1
        for predicate in body:
            same = self._same(predicate)
            each = self._count(predicate) if predicate.variables else same
            scans = min(scans + found, LIMIT)
            tried = min(tried + found * each, LIMIT)
            found = min(found * (same if bound.issuperset(predicate.variables) else each), LIMIT)
            bound.update(predicate.variables)
        return tried, scans, found

    def _weigh(self, pattern: str | None) -> int:
        if pattern not in self._patterns:
            self._patterns[pattern] = weigh_pattern(pattern)
        return self._patterns[pattern]

    def _evaluation(self, operations: Sequence[Operation]) -> int:
        """Return the steps of evaluating all expressions of a query for one combination.

        Texts and sets that grow are kept until the end, and each new one is compared with all before it.
        """
        grown = sum(operation.costly is Costly.GROWS for operation in operations)
        value = max((operation.size for operation in operations), default=0) + self._largest
        text = self._text * (1 + grown)
        elements = self._collection * (1 + grown)
        steps = growing = 0
        for operation in operations:
            times = min(elements**operation.depth, LIMIT) if operation.depth < _MAX_THROUGH else LIMIT
            steps += times * (1 + (operation.size + self._largest) // 4)
            if operation.costly is Costly.GROWS:
                growing = min(growing + times, LIMIT)
            elif operation.costly is Costly.MATCHES:
                steps += times * self._weigh(operation.pattern) * (1 + text // 512)
            elif operation.costly is Costly.SEARCHES:
                steps += times * (text // _SEARCHED)
            elif operation.costly is Costly.CALLS:
                steps += times * _CALL
            steps = min(steps, LIMIT)
        compared = 1 + max(self._text // 16, value // 4)
        return min(steps + growing * (growing * compared + self._symbols // 8), LIMIT)


_PATTERN: Final = 1_000
_CHARACTER: Final = 100
_CLASS: Final = 12_000
_SMALL_CLASS: Final = 3_000
_FLAGS: Final = re.compile(r"\(\?P?[a-zA-OQ-Z-]")
_MAX_REPEATS: Final = 64
_WINDOW: Final = 256  # a longer class counts as if all before it were repeated
_REPEATED: Final = re.compile(r"\{([^{}]*)\}")


def weigh_pattern(pattern: str | None) -> int:
    """Return the steps of compiling a regular expression and trying it on a short text; LIMIT if it is not known.

    It is compiled anew for each evaluation, and repeats by number are written out: that is where the weight is. Above
    MAX_WORK it is heavier than that, and not always by how much.
    """
    if pattern is None or pattern.count("{") > _MAX_REPEATS:
        return LIMIT
    if _FLAGS.search(pattern) and _goes_far(pattern):
        return LIMIT
    choices = sum(map(pattern.count, "?*+|"))  # a chain of what may be left out is gone through from each of its links
    weight = _PATTERN + (_CHARACTER + choices) * len(pattern) + _classes(pattern)
    for repeat in _REPEATED.finditer(pattern):
        if weight > MAX_WORK:
            break  # heavy enough, and nothing makes it lighter
        times = max((int(number[:9]) for number in re.findall(r"[0-9]+", repeat[1])), default=0)
        alone = _repeats_alone(pattern, repeat.start())
        weight = min(weight * max(times, 1) if alone is None else weight + times * alone, LIMIT)
    return weight


def _classes(text: str) -> int:
    """Return the weight of the classes of characters that the text names: a backslash, and a letter or digit."""
    return sum(_SMALL_CLASS if letter in "dDsSbB" else _CLASS for letter in re.findall(r"\\(\w)", text))


def _goes_far(pattern: str) -> bool:
    """True if the pattern may speak of more characters than the ASCII ones, which is costly where case is ignored."""
    return not pattern.isascii() or _classes(pattern) > 0


def _repeats_alone(pattern: str, end: int) -> int | None:
    """Return the weight of what is repeated at `end`: a character, or a plain class. None: perhaps all before it."""
    last = pattern[end - 1 : end]
    if last == "." or last.isalnum():
        return _CHARACTER + _classes(pattern[max(0, end - 3) : end])
    start = pattern.rfind("[", max(0, end - _WINDOW), end)
    if start < 0 or last != "]" or pattern.count("]", start, end) > 1 or pattern[max(0, start - 1)] == "\\":
        return None
    return _CHARACTER * (end - start) + _classes(pattern[start:end])
