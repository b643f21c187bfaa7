"""Keysets that witnesses hold and a restored register has forgotten: replicas go by them, and never back.

They are followed from the register's own on, as a replica follows them. Whoever has stolen a key of the register can
sign such a keyset too, and bring in keys of his own: so they are gone by up to the last whose keys are all ours.

Source: docs/protocol.md, "Keyset"; docs/adr/0014.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from countermand.errors import LogError
from countermand.log.checkpoint import Pin
from countermand.log.keyset import parse_keyset


@dataclass(frozen=True, slots=True)
class LaterKeysets:
    """The signed keysets after the one that made `before`, in order; the last of them makes `pin`.

    `left_out`: the keys of one before the last that are not in it; nobody can tell whether they have retired or were
    stolen. `missing`: the keys of a later keyset that are not ours; without them it cannot be gone by.
    """

    before: Pin
    signed: tuple[bytes, ...]
    pin: Pin
    left_out: frozenset[bytes] = frozenset()
    missing: tuple[str, ...] = ()


def find_later(before: Pin, held: Iterable[Sequence[bytes]], missing: Callable[[Pin], Sequence[str]]) -> LaterKeysets:
    """Follow what each witness holds; return as much as can be gone by of what leads furthest.

    `missing` says which keys of a keyset are not ours; none, of one that can be gone by.
    """
    ways = [_follow(before, keysets) for keysets in held]
    taken = max((_ours(way, missing) for way in ways), key=len, default=[])
    furthest = max(ways, key=len, default=[])
    pin = taken[-1][1] if taken else before
    known = {id_ for _, passed in taken for id_ in passed.keys} | before.keys.keys()
    return LaterKeysets(
        before,
        tuple([signed for signed, _ in taken]),
        pin,
        frozenset(known - pin.keys.keys()),
        tuple(missing(furthest[-1][1])) if len(furthest) > len(taken) else (),
    )


def _follow(pin: Pin, held: Sequence[bytes]) -> list[tuple[bytes, Pin]]:
    """Return each keyset that comes next, and what is believed after it; what is none is passed over."""
    followed: list[tuple[bytes, Pin]] = []
    for signed in held:
        with suppress(LogError):
            pin = parse_keyset(signed).follow(pin)
            followed.append((signed, pin))
    return followed


def _ours(way: Sequence[tuple[bytes, Pin]], missing: Callable[[Pin], Sequence[str]]) -> Sequence[tuple[bytes, Pin]]:
    """Return `way` up to the last keyset that can be gone by."""
    for length in range(len(way), 0, -1):
        if not missing(way[length - 1][1]):
            return way[:length]
    return []
