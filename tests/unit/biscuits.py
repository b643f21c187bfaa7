"""Biscuits for tests: built by the library, and made by hand, of any bytes, signed as the specification says."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from biscuit_auth import (
    AuthorizationError,
    AuthorizerBuilder,
    Biscuit,
    BiscuitBuilder,
    BlockBuilder,
    KeyPair,
    PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from countermand.tokens.blocks import ends_at_s, read_blocks

END_S: Final = 1_900_000_000
ENDS: Final = "check if time($t), $t < 2030-03-17T17:46:40Z;"
KEYS: Final = KeyPair()
THIRD: Final = KeyPair()
ROOT: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ED25519: Final = (0).to_bytes(4, "little")
OWN: Final = 1024
TIME: Final = 5
QUERY: Final = 27
LESS_THAN: Final = 0
LESS_OR_EQUAL: Final = 2


def number(value: int) -> bytes:
    """One varint."""
    value &= 2**64 - 1
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


def field(field_number: int, value: int | bytes) -> bytes:
    """One field of a message: an int is a varint, bytes are as long as they are."""
    if isinstance(value, int):
        return number(field_number << 3) + number(value)
    return number(field_number << 3 | 2) + number(len(value)) + value


def message(*fields: tuple[int, int | bytes]) -> bytes:
    return b"".join(field(*each) for each in fields)


def variable(index: int) -> bytes:
    return field(1, index)


def integer(value: int) -> bytes:
    return field(2, value)


def date(value: int) -> bytes:
    return field(4, value)


def text(symbol: int) -> bytes:
    return field(3, symbol)


def boolean(held: bool) -> bytes:
    return field(6, int(held))


def array(*elements: bytes) -> bytes:
    return field(9, b"".join(field(1, element) for element in elements))


def predicate(name: int, *terms: bytes) -> bytes:
    return message((1, name), *((2, term) for term in terms))


def fact(name: int, *terms: bytes) -> bytes:
    return field(1, predicate(name, *terms))


def rule(head: bytes, *body: bytes, expressions: Iterable[bytes] = ()) -> bytes:
    return message((1, head), *((2, each) for each in body), *((3, each) for each in expressions))


def expression(*ops: bytes) -> bytes:
    return message(*((1, op) for op in ops))


def value(term: bytes) -> bytes:
    return field(1, term)


def binary(kind: int) -> bytes:
    return field(3, field(1, kind))


def closure(parameters: Iterable[int], *ops: bytes) -> bytes:
    return field(4, message(*((1, each) for each in parameters), *((2, op) for op in ops)))


def block(
    *,
    symbols: Iterable[str] = (),
    version: int = 6,
    facts: Iterable[bytes] = (),
    rules: Iterable[bytes] = (),
    checks: Iterable[bytes] = (),
) -> bytes:
    """A block whose checks are given by their queries, one each."""
    return message(
        *((1, each.encode()) for each in symbols),
        (3, version),
        *((4, each) for each in facts),
        *((5, each) for each in rules),
        *((6, field(1, each)) for each in checks),
    )


def token(*blocks: bytes) -> bytes:
    """The blocks, signed one after another by the specification's first version."""
    key, written = ROOT, b""
    for at, each in enumerate(blocks):
        following = Ed25519PrivateKey.from_private_bytes(bytes([at + 1]) * 32)
        public = following.public_key().public_bytes_raw()
        signature = key.sign(each + ED25519 + public)
        signed = message((1, each), (2, message((1, 0), (2, public))), (3, signature))
        written += field(2 if at == 0 else 3, signed)
        key = following
    return written + field(4, field(1, key.private_bytes_raw()))


def opened(data: bytes) -> Biscuit:
    """The token, verified by the library."""
    root = PublicKey("ed25519/" + ROOT.public_key().public_bytes_raw().hex())
    return Biscuit.from_bytes(data, root)


# By the library


def written(biscuit: Biscuit) -> bytes:
    return bytes(biscuit.to_bytes())


def built(authority: str, *further: str) -> Biscuit:
    biscuit = BiscuitBuilder(authority).build(KEYS.private_key)
    for code in further:
        biscuit = biscuit.append(BlockBuilder(code))
    return biscuit


def by_third_party(biscuit: Biscuit, code: str) -> Biscuit:
    request = biscuit.third_party_request()
    return biscuit.append_third_party(THIRD.public_key, request.create_block(THIRD.private_key, BlockBuilder(code)))


def passes(biscuit: Biscuit, at_s: int, code: str = "allow if true") -> bool:
    builder: Any = AuthorizerBuilder(f"{code}; time({datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ})")
    limits = builder.limits()
    limits.max_time = timedelta(seconds=10)
    builder.set_limits(limits)
    try:
        builder.build(biscuit).authorize()
    except AuthorizationError:
        return False
    return True


def ends(biscuit: Biscuit, through: int | None = None) -> int | None:
    blocks = read_blocks(written(biscuit))
    return ends_at_s(blocks, len(blocks) - 1 if through is None else through)
