"""The blocks of a Biscuit as they are written: of any token they can be read, and of none is that a proof."""

import base64
from contextlib import suppress

import biscuit_auth
import pytest

from countermand.errors import MalformedTokenError
from countermand.tokens.biscuit import RootKeys, parse_biscuit, verify_biscuit

ROOT = biscuit_auth.KeyPair()
KEYS = RootKeys.parse(str(ROOT.public_key))


def test_the_blocks_are_written_alike_before_and_after_they_are_verified() -> None:
    token = biscuit_auth.BiscuitBuilder('user("alice")').build(ROOT.private_key).append(biscuit_auth.BlockBuilder(""))
    unverified = parse_biscuit(token.to_base64())
    written = verify_biscuit(unverified, KEYS).written_blocks()
    assert written == unverified.unproven_blocks()
    assert [block.code for block in written] == ['user("alice");\n', ""]
    assert [block.revocation_id for block in written] == list(token.revocation_ids)


def test_a_third_partys_key_is_known_of_a_verified_token_alone() -> None:
    third = biscuit_auth.KeyPair()
    token = biscuit_auth.BiscuitBuilder("a(1)").build(ROOT.private_key)
    block = token.third_party_request().create_block(third.private_key, biscuit_auth.BlockBuilder("b(1)"))
    unverified = parse_biscuit(token.append_third_party(third.public_key, block).to_base64())
    written = verify_biscuit(unverified, KEYS).written_blocks()
    assert [block.external_key for block in written] == [None, str(third.public_key)]
    assert [block.external_key for block in unverified.unproven_blocks()] == [None, None]


def test_what_a_block_says_is_in_no_repr() -> None:
    unverified = parse_biscuit(biscuit_auth.BiscuitBuilder('user("alice")').build(ROOT.private_key).to_base64())
    assert "alice" not in repr(unverified.unproven_blocks())


@pytest.mark.parametrize("octet", [0x00, 0x7F, 0x80, 0xFF])
def test_a_token_with_any_octet_changed_is_read_or_refused(octet: int) -> None:
    token = base64.urlsafe_b64decode(biscuit_auth.BiscuitBuilder('aaaa(1, "b")').build(ROOT.private_key).to_base64())
    read = 0
    for place in range(len(token)):
        changed = token[:place] + bytes([octet]) + token[place + 1 :]
        with suppress(MalformedTokenError):
            read += len(parse_biscuit(base64.urlsafe_b64encode(changed)).unproven_blocks())
    assert 64 < read < len(token), "whatever the signatures are, it is read; where its form is broken, it is not"
