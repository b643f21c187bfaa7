"""The vectors of Biscuits and their revocation ids, made like the others: every key is fixed, and nothing is of ours.

Of an implementation in another language they ask: does it open these tokens and no others, and what are their ids?
"""

from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from tests.biscuits import (
    ED25519_ORDER,
    ORDER,
    OTHER_ROOT,
    PARTY,
    ROOT,
    ROOT_KEY,
    SECP_ROOT,
    SECP_ROOT_KEY,
    Ed25519,
    Key,
    Secp256r1,
    Signed,
    base64url,
    compiled,
    read,
    sign,
    text_of,
    twin,
    write,
    written,
)

Json = dict[str, Any]

ABOUT: Final = (
    "Biscuits signed with fixed keys. `token` is what a request brings, `root_keys` is what the verifier knows. "
    "`ids` are the signatures as they stand in the token, `canonical_ids` what is looked up; `twins` are all forms of "
    "one id. `ends_at_s` is for each block the second from which on nothing that carries its id can pass, or null. "
    "Subject, scopes and time of issue are those of the authority block's facts alone."
)
_AUTHORITY: Final = (
    'user("alice"); scope("read"); scope("write"); issued_at(2027-01-15T08:00:00Z); right("file1", "read");'
)
_ISSUED_AT_S: Final = 1_800_000_000
_UNTIL: Final = "check if time($t), $t < 2027-01-15T09:00:00Z"
_UNTIL_S: Final = 1_800_003_600
_ATTENUATION: Final = ("check if true", _UNTIL, 'check if user("alice")')
_PLAIN: Final = compiled(_AUTHORITY, *(_ATTENUATION[number % 3] for number in range(9)))
_MIXED: Final = (Secp256r1(101, high=True), Ed25519(102), Secp256r1(103))


def canonical(signature: bytes) -> str:
    """Return the canonical id, worked out a second time."""
    if len(signature) == 64:
        return signature.hex()
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, ORDER - s)).hex()


def biscuit(what: str, token: Signed, root_keys: str = ROOT_KEY, *, text: str = "", **said: Any) -> Json:
    ids = token.ids()
    own = {"subject": "alice", "scopes": ["read", "write"], "issued_at_s": _ISSUED_AT_S, "key_id": None}
    return {
        "what": what,
        "root_keys": root_keys,
        "token": text or str(token),
        "ids": [id_.hex() for id_ in ids],
        "canonical_ids": [canonical(id_) for id_ in ids],
        "ends_at_s": [_UNTIL_S if number >= 2 else None for number in range(len(ids))],
        **own,
        **said,
    }


def accepted() -> list[Json]:
    three = sign(_PLAIN[:3])
    one = sign(_PLAIN[:1], SECP_ROOT)
    with_party = compiled(_AUTHORITY, 'group("b")', parties={1: PARTY})
    both = f"1={text_of(OTHER_ROOT)},2={ROOT_KEY}"
    bare = compiled('right("file1", "read")', 'user("root"); scope("admin"); issued_at(2027-01-15T08:00:00Z)')
    never: Json = {"ends_at_s": [None] * 3}
    own_time = compiled(_AUTHORITY, "time(2000-01-01T00:00:00Z)", _UNTIL)
    either = compiled(_AUTHORITY, "check if true", f"{_UNTIL} or true")
    return [
        *(biscuit(f"{count} blocks", sign(_PLAIN[:count])) for count in (1, 3, 10)),
        biscuit("32 blocks", sign([*_PLAIN[:2], *[_PLAIN[1]] * 30]), ends_at_s=[None] * 32),
        biscuit("the first version of signatures", sign(_PLAIN[:3], version=0)),
        biscuit("sealed", sign(_PLAIN[:3], sealed=True)),
        biscuit("without padding", three, text=str(three).rstrip("=")),
        biscuit("with the prefix", three, text=f"biscuit:{three}"),
        biscuit("a block of a third party", sign(with_party, parties={1: PARTY})),
        biscuit("a block of a third party, of the other kind", sign(with_party, parties={1: Secp256r1(104)})),
        biscuit("a root key of secp256r1", sign(_PLAIN[:3], SECP_ROOT), SECP_ROOT_KEY),
        biscuit("the same, with the higher s", sign(_PLAIN[:1], Secp256r1(3, high=True)), SECP_ROOT_KEY),
        biscuit("malleated", one.with_signature(0, twin(one.ids()[0])), SECP_ROOT_KEY),
        biscuit("keys of both kinds", sign(_PLAIN[:3], following=_MIXED)),
        biscuit("keys of both kinds, sealed", sign(_PLAIN[:3], following=_MIXED, sealed=True)),
        biscuit("the id of a root key", sign(_PLAIN[:3], key_id=2), both, key_id=2),
        biscuit("no id, and the second of two keys", sign(_PLAIN[:3]), both),
        biscuit("an id that a nameless key may have", sign(_PLAIN[:3], key_id=7), ROOT_KEY, key_id=7),
        biscuit("fields in another order, and unknown ones", rewritten(three)),
        biscuit("an attenuation that claims", sign(bare), subject="", scopes=[], issued_at_s=None),
        biscuit("a block that says the time", sign(own_time), **never),
        biscuit("an end that is not the only way", sign(either), **never),
    ]


def rewritten(token: Signed) -> Signed:
    return Signed([token.parts[-1], (15, b"unknown"), *token.parts[:-1]])


def refused() -> list[Json]:
    three = sign(_PLAIN[:3])
    parts, ids = three.parts, three.ids()
    malformed, signature, unknown = "malformed_token", "bad_token_signature", "unknown_token_key"
    flipped = [bytes([id_[0] ^ 1]) + id_[1:] for id_ in ids]
    other = sign(_PLAIN[:3], following=[Ed25519(9)])
    larger = (int.from_bytes(ids[2][32:], "little") + ED25519_ORDER).to_bytes(32, "little")
    cases: list[tuple[str, object, str, str]] = [
        ("nothing", "", ROOT_KEY, malformed),
        ("no base64", "%" + str(three)[1:], ROOT_KEY, malformed),
        ("the other alphabet", "+/+/" + str(three), ROOT_KEY, malformed),
        ("a line break", f"{str(three)[:40]}\n{str(three)[40:]}", ROOT_KEY, malformed),
        ("the prefix twice", f"biscuit:biscuit:{three}", ROOT_KEY, malformed),
        ("cut short", base64url(three.to_bytes()[:-1]), ROOT_KEY, malformed),
        ("random bytes", base64url(bytes(range(256))), ROOT_KEY, malformed),
        ("no proof", Signed(parts[:-1]), ROOT_KEY, malformed),
        ("33 blocks", sign([*_PLAIN[:1], *[_PLAIN[1]] * 32]), ROOT_KEY, malformed),
        ("longer than 16,384", sign(compiled(f'user("{"a" * 16_384}")')), ROOT_KEY, malformed),
        ("another root key", sign(_PLAIN[:3], OTHER_ROOT), ROOT_KEY, signature),
        ("a root key of the other kind", three, SECP_ROOT_KEY, signature),
        *(
            (f"a bit of signature {n}", three.with_signature(n, bad), ROOT_KEY, signature)
            for n, bad in enumerate(flipped)
        ),
        ("a signature cut short", three.with_signature(0, ids[0][:16]), ROOT_KEY, signature),
        ("s plus the order", three.with_signature(2, ids[2][:32] + larger), ROOT_KEY, signature),
        ("words of another token", Signed([other.parts[0], *parts[1:]]), ROOT_KEY, signature),
        ("blocks in another order", Signed([parts[0], parts[2], parts[1], parts[3]]), ROOT_KEY, signature),
        ("a block left out", Signed([parts[0], *parts[2:]]), ROOT_KEY, signature),
        ("the last block left out", Signed([*parts[:2], parts[3]]), ROOT_KEY, signature),
        ("another proof", Signed([*parts[:-1], (4, written(1, bytes(32)))]), ROOT_KEY, signature),
        ("a second authority", Signed([*parts, sign(_PLAIN[:1], OTHER_ROOT).parts[0]]), ROOT_KEY, signature),
        ("a third party's signature by another", _other_party(), ROOT_KEY, signature),
        ("a block malleated before another", _malleated_before_another(), ROOT_KEY, signature),
        ("a malleated token that is sealed", _malleated_and_sealed(), SECP_ROOT_KEY, signature),
        ("an id that no key has", sign(_PLAIN[:3], key_id=3), f"1={ROOT_KEY},2={text_of(OTHER_ROOT)}", unknown),
        ("the id of another key", sign(_PLAIN[:3], key_id=2), f"1={ROOT_KEY},2={text_of(OTHER_ROOT)}", signature),
        ("a check that would take minutes", sign(compiled(_heavy())), ROOT_KEY, malformed),
    ]
    return [{"what": what, "root_keys": keys, "token": str(token), "code": code} for what, token, keys, code in cases]


def _other_party() -> Signed:
    contents = compiled(_AUTHORITY, 'group("b")', parties={1: PARTY})
    honest, other = (sign(contents, parties={1: party}).parts for party in (PARTY, Ed25519(105)))
    theirs = dict(read(bytes(other[1][1])))[4]
    block = [(4, theirs) if field == 4 else (field, value) for field, value in read(bytes(honest[1][1]))]
    return Signed([honest[0], (3, write(block)), *honest[2:]])


def _malleated_before_another() -> Signed:
    token = sign(_PLAIN[:3], following=[Secp256r1(101), Ed25519(102)])
    return token.with_signature(1, twin(token.ids()[1]))


def _malleated_and_sealed() -> Signed:
    token = sign(_PLAIN[:1], SECP_ROOT, sealed=True)
    return token.with_signature(0, twin(token.ids()[0]))


def _heavy() -> str:
    facts = "".join(f"n({number});" for number in range(200))
    return f"{facts} check if n($a), n($b), n($c), n($d), $a + $b + $c + $d < 0"


def revocation_ids() -> list[Json]:
    keys: list[Key] = [ROOT, SECP_ROOT, Secp256r1(3, high=True), Secp256r1(106), Secp256r1(107, high=True)]
    signatures = [key.sign(b"a block") for key in keys]
    half = ORDER // 2
    signatures += [encode_dss_signature(r, s) for r in (1, ORDER - 1) for s in (1, half, half + 1, ORDER - 1)]
    return [
        {
            "id": signature.hex(),
            "canonical_id": canonical(signature),
            "twins": [canonical(signature), *({signature.hex(), _other(signature)} - {canonical(signature)})],
        }
        for signature in signatures
    ]


def _other(signature: bytes) -> str:
    return signature.hex() if len(signature) == 64 else twin(signature).hex()


def refused_ids() -> list[Json]:
    good = encode_dss_signature(ORDER - 1, 2**255).hex()
    cases = {
        "nothing": "",
        "no hex": "zz" * 64,
        "63 bytes": "ab" * 63,
        "65 bytes": "ab" * 65,
        "white space": "ab" * 63 + " ab",
        "a byte after it": good + "00",
        "a byte too few": good[:-2],
        "a long form of the length": f"3081{good[2:]}",
        "a zero before a number": "300702020001020101",
        "a negative number": "3006020181020101",
        "r is zero": encode_dss_signature(0, 1).hex(),
        "s is the order": encode_dss_signature(1, ORDER).hex(),
    }
    return [{"what": what, "id": id_, "code": "malformed_record"} for what, id_ in cases.items()]


def biscuits() -> Json:
    return {
        "about": ABOUT,
        "biscuits": accepted(),
        "refused": refused(),
        "revocation_ids": revocation_ids(),
        "refused_ids": refused_ids(),
    }
