"""What stands in a Biscuit's blocks: read strictly, from the bytes of a token that the library has verified.

The source that the library prints is for people: it quotes nothing, so that whoever attenuates a token can make it show
statements that the token does not contain. What a decision rests on is read here. Nothing is skipped: a field that is
not known, one given twice, a number written longer than it must be, a name that no symbol gives, are all refusals. Only
keys and signatures are not looked into: those the library has verified. No I/O, no clock.
Source: the Biscuit specification, `schema.proto` of its version 3.3, "Symbol table" and "Scopes".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from countermand.errors import MalformedTokenError
from countermand.tokens.fields import Field, message, read_fields, read_only

MAX_DEPTH: Final = 32
"""Levels of collections, and of closures. The library stops below a hundred."""
MAX_INSTANT_S: Final = 253_402_300_799
"""The last second of the year 9999: a later date is no expiry, only a number."""

DEFAULT_SYMBOLS: Final = (
    *("read", "write", "resource", "operation", "right", "time", "role", "owner", "tenant", "namespace"),
    *("user", "team", "service", "admin", "email", "group", "member", "ip_address", "client", "client_ip"),
    *("domain", "path", "version", "cluster", "node", "hostname", "nonce", "query"),
)
FIRST_OWN_SYMBOL: Final = 1024
VERSIONS: Final = range(3, 7)  # datalog 3.0 to 3.3

_TIME: Final = "time"
_TIME_SYMBOL: Final = DEFAULT_SYMBOLS.index(_TIME)


class Kind(Enum):
    """What becomes of a check whose query matches."""

    ONE = 0
    ALL = 1
    REJECT = 2


class Costly(Enum):
    """What one operation may do besides being one."""

    NOTHING = 0
    GROWS = 1
    MATCHES = 2
    CALLS = 3
    SEARCHES = 4


class Operation(NamedTuple):
    """One operation of an expression, of `size` bytes, inside `depth` closures that a collection's elements go through.

    `pattern` is the regular expression of one that matches, or None where only the run would tell.
    """

    depth: int
    size: int
    costly: Costly = Costly.NOTHING
    pattern: str | None = None


class Predicate(NamedTuple):
    """A name and how many terms it has: `variables` in their order, everything together `size` bytes."""

    name: str
    terms: int
    variables: tuple[int, ...]
    size: int


class Query(NamedTuple):
    """A rule, or one alternative of a check, of `size` bytes. `trusts` if it says itself whose facts it sees.

    `ends_at_s` is the second from which on it matches nothing, if all that it asks for is that the time is before.
    """

    head: Predicate
    body: tuple[Predicate, ...]
    operations: tuple[Operation, ...]
    trusts: bool
    size: int
    ends_at_s: int | None


class Check(NamedTuple):
    """The alternatives of one check."""

    kind: Kind
    queries: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One block. `collection` is how many elements its largest set, array or map has.

    `trusts` if the block says itself whose facts it sees. `symbols` are its own ones. `said` are the facts of one term
    that is a text, or an instant: in seconds since 1970, UTC.
    """

    symbols: tuple[str, ...]
    facts: tuple[Predicate, ...]
    said: tuple[tuple[str, str | int], ...]
    rules: tuple[Query, ...]
    checks: tuple[Check, ...]
    trusts: bool
    collection: int


def read_blocks(data: bytes) -> tuple[Block, ...]:
    """Return the blocks of a verified token, the authority's first. `data` is what the library itself writes of it.

    Raises:
        MalformedTokenError: anything in it is not exactly understood.
    """
    fields = read_fields(data, _TOKEN)
    if not {tag for tag, _, _ in fields} >= {0x12, 0x22}:
        raise MalformedTokenError("the token has no block of an authority, or no proof")
    signed = [body for tag in (0x12, 0x1A) for found, _, body in fields if found == tag]
    shared: list[str] = []
    return tuple(_signed_block(each, shared) for each in signed)


def ends_at_s(blocks: Sequence[Block], through: int) -> int | None:
    """Return the second since 1970 (UTC) from which on no token that carries blocks 0 to `through` can pass.

    Whatever is appended to them: a check sees the facts of its own block, of the authority and of the authorizer. It
    holds where the authorizer says `time(now)`, and says nothing else of it. None: not known; nor is it for a block
    that is not there.
    """
    carried = blocks[: through + 1]
    if not 0 <= through < len(blocks) or any(_is_unsure(block) for block in carried):
        return None
    ends = [
        check.queries[0].ends_at_s
        for block in carried
        for check in block.checks
        if check.kind is Kind.ONE and len(check.queries) == 1
    ]
    return min((end for end in ends if end is not None), default=None)


def trusts(block: Block) -> bool:
    """True if anything in the block says itself whose facts it sees."""
    return (
        block.trusts
        or any(rule.trusts for rule in block.rules)
        or any(query.trusts for check in block.checks for query in check.queries)
    )


def _is_unsure(block: Block) -> bool:
    """True if the time that checks see may be another than the authorizer's."""
    return (
        trusts(block)
        or _TIME in block.symbols
        or any(fact.name == _TIME for fact in block.facts)
        or any(rule.head.name == _TIME for rule in block.rules)
    )


_TOKEN: Final = message((0x08, 0x12, 0x22), (0x1A,))
_SIGNED: Final = message((0x0A, 0x12, 0x1A, 0x22, 0x28))
_BLOCK: Final = message((0x12, 0x18), (0x0A, 0x22, 0x2A, 0x32, 0x3A, 0x42))
_EITHER: Final = message((0x08, 0x10))  # a scope, a key of a map
_FACT: Final = message((0x0A,))
_RULE: Final = message((0x0A,), (0x12, 0x1A, 0x22))
_CHECK: Final = message((0x10,), (0x0A,))
_PREDICATE: Final = message((0x08,), (0x12,))
_TERM: Final = message((0x08, 0x10, 0x18, 0x20, 0x2A, 0x30, 0x3A, 0x42, 0x4A, 0x52))
_LIST: Final = message(many=(0x0A,))  # the elements of a collection, the operations of an expression
_ENTRY: Final = message((0x0A, 0x12))
_OPERATION: Final = message((0x0A, 0x12, 0x1A, 0x22))
_OPERATOR: Final = message((0x08, 0x10))
_CLOSURE: Final = message(many=(0x08, 0x12))


def _signed_block(data: bytes, shared: list[str]) -> Block:
    """Read one block. A third party's has symbols of its own; all others add theirs to those that are `shared`."""
    fields = {tag: body for tag, _, body in read_fields(data, _SIGNED)}
    if not fields.keys() >= {0x0A, 0x12, 0x1A}:
        raise MalformedTokenError("a block of the token is not signed")
    return _block(fields[0x0A], [] if 0x22 in fields else shared)


def _block(data: bytes, table: list[str]) -> Block:
    parts: dict[int, list[bytes]] = {0x0A: [], 0x22: [], 0x2A: [], 0x32: [], 0x3A: [], 0x42: []}
    version = 0
    for tag, number, body in read_fields(data, _BLOCK):
        if tag in parts:
            parts[tag].append(body)
        elif tag == 0x18:
            version = number
        else:
            _text(body)
    if version not in VERSIONS:
        raise MalformedTokenError("a block of the token is of a version that is not known here")
    own = tuple(map(_text, parts[0x0A]))
    table.extend(own)
    reading = _Reading(table)
    return Block(
        own,
        tuple(map(reading.fact, parts[0x22])),
        tuple(reading.said),
        tuple(map(reading.query, parts[0x2A])),
        tuple(map(reading.check, parts[0x32])),
        bool([*map(_scope, parts[0x3A])]),
        reading.collection,
    )


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedTokenError("a text of the token is not UTF-8") from None


def _scope(data: bytes) -> bool:
    tag, number, _ = read_only(data, _EITHER)
    if tag == 0x08 and number > 1:
        raise MalformedTokenError("a scope of the token is not known here")
    return True


_SETS: Final = frozenset((0x3A, 0x4A))
_MAP: Final = 0x52
_VARIABLE: Final = 0x08
_UNARY_KINDS: Final = range(5)
_BINARY_KINDS: Final = range(30)
_CALLS_UNARY: Final = 4
_CALLS_BINARY: Final = 28
_TYPE_OF: Final = 3
_CONTAINS: Final = 5
_MATCHES: Final = 8
_GROW: Final = frozenset((9, 16))  # a text and a text; a set and a set
_PLAIN: Final = frozenset(
    (
        *(bytes((0x12, 2, 0x08, kind)) for kind in _UNARY_KINDS if kind not in (_CALLS_UNARY, _TYPE_OF)),
        *(
            bytes((0x1A, 2, 0x08, kind))
            for kind in _BINARY_KINDS
            if kind not in (_CALLS_BINARY, _CONTAINS, _MATCHES, *_GROW)
        ),
    )
)
_NO_HEAD: Final = bytes((0x08, DEFAULT_SYMBOLS.index("query")))
_OF_A_CHECK: Final = Predicate("query", 0, (), len(_NO_HEAD))
_BEFORE: Final = {b"\x0a\x04\x1a\x02\x08\x00": 0, b"\x0a\x04\x1a\x02\x08\x02": 1}  # less than; less than or equal


class _Reading:
    """Reads the statements of one block, and remembers what facts say, and how large collections are."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = symbols
        self.said: list[tuple[str, str | int]] = []
        self.collection = 0

    def fact(self, data: bytes) -> Predicate:
        _, _, body = read_only(data, _FACT)
        predicate = self._predicate(body)
        if predicate.variables:
            raise MalformedTokenError("a fact of the token has a variable")
        if predicate.terms == 1:
            self._say(predicate.name, read_fields(body, _PREDICATE))
        return predicate

    def _say(self, name: str, fields: Sequence[Field]) -> None:
        tag, number, _ = next(read_only(body, _TERM) for tag, _, body in fields if tag == 0x12)
        if tag == 0x18:
            self.said.append((name, self._text(number)))
        elif tag == 0x20:
            self.said.append((name, number))

    def check(self, data: bytes) -> Check:
        fields = read_fields(data, _CHECK)
        kinds = [number for tag, number, _ in fields if tag == 0x10]
        if kinds and kinds[0] > 2:
            raise MalformedTokenError("a check of the token is of a kind that is not known here")
        queries = tuple(self.query(body) for tag, _, body in fields if tag == 0x0A)
        return Check(Kind(kinds[0]) if kinds else Kind.ONE, queries)

    def query(self, data: bytes) -> Query:
        head = None
        body: list[Predicate] = []
        operations: list[Operation] = []
        trusts, ends = False, None
        fields = read_fields(data, _RULE)
        for tag, _, part in fields:
            if tag == 0x12:
                body.append(self._predicate(part))
            elif tag == 0x1A:
                self._operations(read_fields(part, _LIST), operations, 0, 0)
            elif tag == 0x0A:
                head = self._predicate(part)
            else:
                trusts = _scope(part)
        if head is None:
            raise MalformedTokenError("a rule of the token has no head")
        if len(fields) == 3 and len(body) == 1 and len(operations) == 3 and body[0].name == _TIME:
            ends = _ends(*(part for tag, _, part in fields if tag != 0x0A))
        return Query(head, tuple(body), tuple(operations), trusts, len(data), ends)

    def _text(self, index: int) -> str:
        table, at = (DEFAULT_SYMBOLS, index) if index < FIRST_OWN_SYMBOL else (self._symbols, index - FIRST_OWN_SYMBOL)
        if at >= len(table):
            raise MalformedTokenError("a name of the token stands in no table")
        return table[at]

    def _predicate(self, data: bytes) -> Predicate:
        if data == _NO_HEAD:
            return _OF_A_CHECK
        name = None
        variables = []
        fields = read_fields(data, _PREDICATE)
        for tag, number, body in fields:
            if tag == 0x08:
                name = self._text(number)
            else:
                variable = self._term(body, 0)
                if variable is not None:
                    variables.append(variable)
        if name is None:
            raise MalformedTokenError("a predicate of the token has no name")
        return Predicate(name, len(fields) - 1, tuple(variables), len(data))

    def _term(self, data: bytes, depth: int) -> int | None:
        """Read a term; return its index if it is a variable, which within another term is none."""
        tag, number, body = read_only(data, _TERM)
        if tag == _VARIABLE:
            if number >> 32 or depth:
                raise MalformedTokenError("a variable of the token stands where none can be")
            return number
        if tag in _SETS or tag == _MAP:
            self._collection(tag, body, depth + 1)
        elif (tag == 0x30 and number > 1) or (tag == 0x42 and body):
            raise MalformedTokenError("a term of the token is not known here")
        return None

    def _collection(self, tag: int, data: bytes, depth: int) -> None:
        _check_depth(depth)
        elements = [body for _, _, body in read_fields(data, _LIST)]
        self.collection = max(self.collection, len(elements))
        if tag == _MAP:
            elements = [self._entry(body) for body in elements]
        for element in elements:
            self._term(element, depth)

    def _entry(self, data: bytes) -> bytes:
        fields = {tag: body for tag, _, body in read_fields(data, _ENTRY)}
        if len(fields) != 2:
            raise MalformedTokenError("an entry of a map in the token is not a key and a value")
        read_only(fields[0x0A], _EITHER)
        return fields[0x12]

    def _operations(self, ops: list[Field], found: list[Operation], depth: int, nesting: int) -> None:
        """Add to `found` the operations of one expression, and of the closures in it."""
        _check_depth(nesting)
        literal: str | None = None  # the text that the operation before leaves, if it is one that stands here
        for _, _, op in ops:
            before, literal = literal, None
            if op in _PLAIN:
                found.append(Operation(depth, len(op)))
                continue
            tag, _, body = read_only(op, _OPERATION)
            if tag == 0x0A:
                self._term(body, 0)
                if body[0] == 0x18:
                    literal = self._text(read_only(body, _TERM)[1])
                found.append(Operation(depth, len(op)))
            elif tag == 0x22:
                found.append(Operation(depth, len(op)))
                fields = read_fields(body, _CLOSURE)
                inner = [field for field in fields if field[0] == 0x12]
                self._operations(inner, found, depth + (len(inner) < len(fields)), nesting + 1)
            else:
                costly = _operator(tag, body)
                found.append(Operation(depth, len(op), costly, before if costly is Costly.MATCHES else None))


def _operator(tag: int, data: bytes) -> Costly:
    fields = {tag: number for tag, number, _ in read_fields(data, _OPERATOR)}
    kind = fields.get(0x08)
    kinds, calls = (_UNARY_KINDS, _CALLS_UNARY) if tag == 0x12 else (_BINARY_KINDS, _CALLS_BINARY)
    if kind not in kinds or (kind == calls) != (0x10 in fields):
        raise MalformedTokenError("an operation of the token is not known here")
    if kind == calls:
        return Costly.CALLS
    if tag == 0x1A and kind == _MATCHES:
        return Costly.MATCHES
    if tag == 0x1A and kind == _CONTAINS:
        return Costly.SEARCHES
    return Costly.GROWS


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise MalformedTokenError("the token is nested too deep")


def _ends(predicate: bytes, expression: bytes) -> int | None:
    """Return from when on `time($v), $v < D` does not hold, if that is what is written; all of it has been read before.

    There is one way to write a number, and so to write this; what is written in another way is not known to end.
    """
    term = predicate[4:]
    if len(term) > 6 or predicate != bytes((0x08, _TIME_SYMBOL, 0x12, len(term))) + term or term[0] != _VARIABLE:
        return None
    variable = bytes((0x0A, len(term) + 2, 0x0A, len(term))) + term
    instant = expression[len(variable) : -6]
    date = instant[4:]
    if not 2 <= len(date) <= 11 or date[0] != 0x20 or instant != bytes((0x0A, len(date) + 2, 0x0A, len(date))) + date:
        return None
    before = _BEFORE.get(expression[-6:])
    if before is None or not expression.startswith(variable):
        return None
    ends = read_only(date, _TERM)[1] + before
    return ends if ends <= MAX_INSTANT_S else None
