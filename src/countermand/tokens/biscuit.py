"""Biscuits: tokens that anybody can attenuate, and every id by which one can be revoked.

A token carries the ids of all its blocks, so of all the tokens from which it derives. They are read from the token that
was verified, by the library that verified it, and taken in their canonical form. What is too long, or would keep an
authorizer busy, is refused before a rule of it runs: anybody who holds a token may append to it.
Source: docs/protocol.md, "Biscuit"; the Biscuit specification, version 2.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Self, TypeAlias, TypeVar

import biscuit_auth

from countermand.errors import (
    BadTokenSignatureError,
    ConfigurationError,
    MalformedError,
    MalformedTokenError,
    UnknownTokenKeyError,
)
from countermand.log.anchor import Anchors, BiscuitAnchors
from countermand.log.revocation_id import ED25519_DIGITS, canonical_id
from countermand.tokens.blocks import Block, ends_at_s, read_blocks
from countermand.tokens.work import AUTHORIZER_FACTS, MAX_WORK, work

MAX_BISCUIT_BYTES: Final = 16_384
"""Of base64: as a mandate, and what common servers take as a header."""
MAX_BLOCKS: Final = 32
"""Each costs a signature."""
MAX_ROOT_KEYS: Final = 16

_PREFIX: Final = "biscuit:"

_T = TypeVar("_T")
_Key: TypeAlias = tuple[int | None, str]


@dataclass(frozen=True, slots=True)
class RootKeys:
    """The public keys of one issuer of Biscuits, some of them with the ids by which tokens name them.

    A token that names an id is verified with the keys of that id; where there is none, with those that have no id. One
    that names none may be of any of them. To rotate: add the new key, sign with it, and take the old one away when the
    last token that it signed has ended.
    """

    texts: tuple[_Key, ...]
    keys: tuple[tuple[int | None, biscuit_auth.PublicKey], ...] = field(repr=False, compare=False)

    @classmethod
    def of(cls, keys: "str | Mapping[int, str] | RootKeys") -> "RootKeys":
        """Return the keys that a text writes, or that stand under their ids. Raises: ConfigurationError."""
        if isinstance(keys, RootKeys):
            return keys
        return cls.parse(keys) if isinstance(keys, str) else cls._made(tuple(keys.items()))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the keys that `text` writes: `ed25519/…` or `secp256r1/…` in hex, or `ID=…`, several with commas.

        Raises:
            ConfigurationError: none, or one that is no public key.
        """
        return cls._made(tuple(_root_key(part.strip()) for part in text.split(",") if part.strip()))

    @classmethod
    def _made(cls, texts: tuple[_Key, ...]) -> Self:
        if not 0 < len(texts) <= MAX_ROOT_KEYS:
            raise ConfigurationError(f"an issuer of Biscuits has 1 to {MAX_ROOT_KEYS} root keys")
        if any(id_ is not None and not (type(id_) is int and 0 <= id_ < 2**32) for id_, _ in texts):
            raise ConfigurationError("the id of a root key is a number from 0, of 32 bits")
        return cls(texts, tuple((id_, _public_key(text)) for id_, text in texts))

    def candidates(self, key_id: int | None) -> list[biscuit_auth.PublicKey]:
        """Return the keys that may have signed a token which names `key_id`. Raises: UnknownTokenKeyError."""
        if key_id is None:
            return [key for _, key in self.keys]
        named = [key for id_, key in self.keys if id_ == key_id] or [key for id_, key in self.keys if id_ is None]
        if not named:
            raise UnknownTokenKeyError("no root key has the id that the Biscuit names")
        return named


def _root_key(text: str) -> _Key:
    id_, equals, key = text.rpartition("=")
    if not equals:
        return None, key
    if not (id_.isascii() and id_.isdigit() and len(id_) <= 10):
        raise ConfigurationError("a root key of Biscuits is written ed25519/…, or ID=ed25519/… with a number")
    return int(id_), key


def _public_key(text: object) -> biscuit_auth.PublicKey:
    if not isinstance(text, str) or not text.startswith(("ed25519/", "secp256r1/")):
        raise ConfigurationError("a root key of Biscuits is a public key: ed25519/… or secp256r1/…, in hex")
    try:
        return _ask(lambda: biscuit_auth.PublicKey(text))
    except MalformedTokenError:
        raise ConfigurationError("a root key of Biscuits is no public key of its kind") from None


@dataclass(frozen=True, slots=True)
class WrittenBlock:
    """A block as a token writes it, for a person to read.

    `code` is its Datalog, by the library: what it holds of texts and names is raw, and who wrote them may have made it
    look like statements that are none. `revocation_id` is in hex, in the form that the token has. `external_key` is
    whose block it is, where a third party signed it.
    """

    code: str = field(repr=False)
    revocation_id: str
    external_key: str | None = None


@dataclass(frozen=True, slots=True)
class UnverifiedBiscuit:
    """A token of the right form. Nothing in it is true yet, its ids least of all."""

    key_id: int | None
    token: biscuit_auth.UnverifiedBiscuit = field(repr=False, compare=False)

    def unproven_blocks(self) -> tuple[WrittenBlock, ...]:
        """Return its blocks as they are written: anybody can write such, with ids that are another token's.

        Who signed them is not known. Raises: MalformedTokenError, where a block cannot be read.
        """
        ids = _ask(lambda: self.token.revocation_ids)
        sources = [_ask(partial(self.token.block_source, block)) for block in range(len(ids))]
        return tuple(map(WrittenBlock, sources, ids))


@dataclass(frozen=True, slots=True)
class Biscuit:
    """A verified token: what its authority block says, and its ids.

    `revocation_ids` are canonical, the authority block's first: who carries one derives from that block. `subject` is
    the authority block's fact `user("…")`, if it has one; `scopes` are its `scope("…")`; `issued_at_s` is its
    `issued_at(…)`. `expires_at_s` is the first moment at which it surely cannot pass any more, None where that cannot
    be told. Seconds are since 1970, UTC. What the other blocks say counts when it is authorized.
    """

    key_id: int | None
    subject: str
    scopes: frozenset[str]
    issued_at_s: int | None
    expires_at_s: int | None
    revocation_ids: tuple[str, ...]
    token: biscuit_auth.Biscuit = field(repr=False, compare=False)

    @property
    def token_id(self) -> str:
        """The id that this token has and no token from which it derives."""
        return self.revocation_ids[-1]

    @property
    def hop_count(self) -> int:
        """How often it was attenuated."""
        return len(self.revocation_ids) - 1

    def anchors(self) -> Anchors:
        """Return all by which it can be revoked."""
        return BiscuitAnchors(self.revocation_ids, self.issued_at_s)

    def written_blocks(self) -> tuple[WrittenBlock, ...]:
        """Return its blocks as they are written. Raises: MalformedTokenError, where one cannot be read."""
        token = self.token
        return tuple(
            WrittenBlock(_ask(partial(token.block_source, block)), id_, _ask(partial(_external_key, token, block)))
            for block, id_ in enumerate(_ask(lambda: token.revocation_ids))
        )

    def ends_at_s(self, block: int) -> int | None:
        """Return from when on nothing that carries this block's id can pass; None where that cannot be told."""
        return ends_at_s(_read(self.token), block)  # read again: it is seldom asked, and they take more than the token


def parse_biscuit(token: str | bytes) -> UnverifiedBiscuit:
    """Return a token that could be a Biscuit. It is base64, with or without padding and the prefix `biscuit:`.

    Raises:
        MalformedTokenError: over MAX_BISCUIT_BYTES, not of the form, or of more than MAX_BLOCKS blocks.
    """
    if len(token) > MAX_BISCUIT_BYTES:
        raise MalformedTokenError(f"the Biscuit is longer than {MAX_BISCUIT_BYTES} bytes")
    try:
        text = token if isinstance(token, str) else token.decode("ascii")
    except UnicodeDecodeError:
        raise MalformedTokenError("the Biscuit is not base64") from None
    unverified = _ask(lambda: biscuit_auth.UnverifiedBiscuit.from_base64(text.removeprefix(_PREFIX)))
    if _ask(unverified.block_count) > MAX_BLOCKS:
        raise MalformedTokenError(f"the Biscuit has more than {MAX_BLOCKS} blocks")
    return UnverifiedBiscuit(_ask(unverified.root_key_id), unverified)


def verify_biscuit(
    unverified: UnverifiedBiscuit, keys: RootKeys, *, authorizer_facts: int = AUTHORIZER_FACTS
) -> Biscuit:
    """Return the Biscuit if one of `keys` signed its first block, and every other block is signed as it must be.

    Whether it is revoked, and what it allows, are other questions. `authorizer_facts` is how many facts of one name
    whoever authorizes it brings.

    Raises:
        UnknownTokenKeyError: no key has the id that it names.
        BadTokenSignatureError: a signature does not hold; of the first block, that may be another issuer's.
        MalformedTokenError: a block cannot be read, or its rules and checks would take too long.
    """
    token = _verified(unverified, keys)
    blocks = _read(token)
    if work(blocks, authorizer_facts) > MAX_WORK:
        raise MalformedTokenError("the Biscuit has rules or checks that would take too long")
    subjects, issued = _said(blocks[0], "user", str), _said(blocks[0], "issued_at", int)
    return Biscuit(
        key_id=unverified.key_id,
        subject=subjects[0] if len(subjects) == 1 else "",
        scopes=frozenset(_said(blocks[0], "scope", str)),
        issued_at_s=issued[0] if len(issued) == 1 else None,
        expires_at_s=ends_at_s(blocks, len(blocks) - 1),
        revocation_ids=revocation_ids(token),
        token=token,
    )


def _read(token: biscuit_auth.Biscuit) -> tuple[Block, ...]:
    return read_blocks(bytes(_ask(token.to_bytes)))


def _external_key(token: biscuit_auth.Biscuit, block: int) -> str | None:
    key = token.block_external_key(block)
    return None if key is None else str(key)


def _verified(unverified: UnverifiedBiscuit, keys: RootKeys) -> biscuit_auth.Biscuit:
    for key in keys.candidates(unverified.key_id):
        with suppress(MalformedTokenError):
            return _ask(partial(unverified.token.verify, key))
    raise BadTokenSignatureError("a signature of the Biscuit does not hold")


def revocation_ids(token: biscuit_auth.Biscuit) -> tuple[str, ...]:
    """Return the ids of a token that the library has verified, canonical. Raises: MalformedTokenError."""
    ids = _ask(lambda: token.revocation_ids)  # in lower-case hex
    try:
        return tuple([id_ if len(id_) == ED25519_DIGITS else canonical_id(bytes.fromhex(id_)) for id_ in ids])
    except MalformedError:
        raise MalformedTokenError("a signature of the Biscuit is of a kind that is not known here") from None


def _said(block: Block, name: str, kind: type[_T]) -> list[_T]:
    """Return what a block says by facts with one term. No rule runs: facts that it would derive are not among them."""
    return list({value for said, value in block.said if said == name and isinstance(value, kind)})


def _ask(question: Callable[[], _T]) -> _T:
    """Return the library's answer. What it says of a refusal may quote the token, and is dropped.

    Raises: MalformedTokenError, also where the library panics, which is no Exception.
    """
    try:
        return question()
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise MalformedTokenError("the token is not a Biscuit that could be read") from None
        raise
