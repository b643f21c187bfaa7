"""What the tests of Biscuits at a guard share: an issuer's tokens, and guards that accept them."""

from typing import Any

from countermand.enforce.biscuits import Biscuits
from countermand.enforce.guard import Guard
from countermand.enforce.revocations import AnyRevocations
from countermand.tokens.biscuit import Biscuit, RootKeys, parse_biscuit, verify_biscuit
from tests.biscuits import ROOT_KEY, compiled, sign
from tests.unit.guarded import guard

POLICY = 'allow if user("alice")'
CONTENTS = compiled('user("alice"); scope("read")', 'check if user("alice")', "check if true")
TOKEN = sign(CONTENTS)
TOKEN_TEXT = str(TOKEN)


def accepting(
    revocations: AnyRevocations | None = None, *, root_keys: Any = ROOT_KEY, policy: str = POLICY, **options: Any
) -> Guard:
    """A guard that accepts Biscuits, and no mandates."""
    return guard(revocations, keys=None, issuer="", biscuits=Biscuits(root_keys, policy), **options)


def verified(token: object, root_keys: str = ROOT_KEY) -> Biscuit:
    return verify_biscuit(parse_biscuit(str(token)), RootKeys.of(root_keys))
