"""A Biscuit's revocation id in a documented store: it may have been marked there in any of its forms."""

from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from countermand.enforce.revocations import StoreRevocations
from countermand.log.anchor import Anchor, Anchors, Kind
from countermand.log.verdict import CLEAR, Revoked
from countermand.stores.memory import InMemoryRevocationStore
from tests.unit.guarded import Store

N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
LOW, HIGH = (encode_dss_signature(2**250, s).hex() for s in (3, N - 3))
ED25519 = "ab" * 64
TOKEN = Anchors((Anchor(Kind.BISCUIT, ED25519), Anchor(Kind.BISCUIT, LOW)))


@pytest.mark.parametrize("marked", [ED25519, LOW, HIGH])
def test_in_whichever_form_it_was_marked_the_token_is_revoked(marked: str) -> None:
    store = InMemoryRevocationStore()
    assert StoreRevocations(store).check(TOKEN, None) == CLEAR

    store.mark_revoked(marked)

    assert StoreRevocations(store).check(TOKEN, None) == Revoked(TOKEN.path[marked != ED25519], 0)


def test_every_form_is_asked_for_once_the_canonical_one_first() -> None:
    store = Store(lambda _: False)

    StoreRevocations(store).check(TOKEN, None)

    assert store.asked == [ED25519, LOW, HIGH]


def test_a_store_that_answers_batches_is_asked_for_all_forms_at_once() -> None:
    class Batches(Store):
        def are_revoked(self, sids: Sequence[str]) -> Sequence[bool]:
            self.asked.append(" ".join(sids))
            return [False] * len(sids)

    store = Batches(lambda _: False)

    StoreRevocations(store).check(TOKEN, None)

    assert store.asked == [f"{ED25519} {LOW} {HIGH}"]


@pytest.mark.parametrize("anchor", [Anchor(Kind.BISCUIT, "no hex"), Anchor(Kind.SESSION, LOW)], ids=str)
def test_what_is_no_biscuits_id_is_asked_for_as_it_is(anchor: Anchor) -> None:
    store = Store(lambda _: False)

    StoreRevocations(store).check(Anchors((anchor,)), None)

    assert store.asked == [anchor.id]
