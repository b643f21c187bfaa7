"""The document's own example: a token with two blocks is inspected, one of its ids is put into the variable, rejected.

The document is not part of this project, and neither is the token: both are looked for beside it. The document's
characters were read in another encoding once; its ids, its variable and its way to write a time are an older sample's.
"""

import os
import re
from pathlib import Path
from typing import Final

import biscuit_auth
import pytest

import countermand
from countermand.enforce.decision import Allow, Code, Deny
from countermand.errors import ConfigurationError
from tests.integration.commands import typed

pytestmark = pytest.mark.anyio

BESIDE = Path(__file__).parents[3] / "shared" / "documents"
DOCUMENTS: Final = Path(os.environ.get("COUNTERMAND_DOCUMENTS", BESIDE))
DOCUMENT: Final = DOCUMENTS / "biscuit-revocation.txt"
SAMPLE: Final = DOCUMENTS.parent / "data" / "biscuit-samples" / "test009_expired_token.bc"
VARIABLE: Final = "COUNTERMAND_REVOKED_IDS"
ID: Final = re.compile(r"^[0-9a-f]{128}$", re.MULTILINE)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def shown() -> str:
    """Return what the document shows of its token, the command left out."""
    if not (DOCUMENT.exists() and SAMPLE.exists()):
        sentence = f"THE DOCUMENT'S EXAMPLE WAS NOT RUN: {DOCUMENT.name} or {SAMPLE.name} is not beside this project"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    text = DOCUMENT.read_text("utf-8").encode("mac_roman").decode()
    (block,) = re.findall(r"^Authority block:.*?(?=^```$)", text, re.MULTILINE | re.DOTALL)
    return str(block)


async def test_a_token_is_inspected_with_the_layout_of_the_document(shown: str) -> None:
    done = await typed("inspect", SAMPLE, "--raw-input")

    assert done.returncode == 0
    ids = iter(ID.findall(done.stdout))
    expected = ID.sub(lambda _: next(ids), shown).replace("+00:00;", "Z;").replace("$date", "$time")
    assert done.stdout.startswith(expected)


async def test_an_id_of_it_in_the_variable_and_it_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pair = biscuit_auth.KeyPair()
    parent = biscuit_auth.BiscuitBuilder().build(pair.private_key)
    token = parent.append(biscuit_auth.BlockBuilder('check if resource("file1")'))
    path = tmp_path / "token.bc"
    path.write_bytes(bytes(token.to_bytes()))
    ids = ID.findall((await typed("inspect", path, "--raw-input")).stdout)
    biscuits = countermand.Biscuits(repr(pair.public_key), "allow if true")

    async def decided(asked: biscuit_auth.Biscuit) -> object:
        guard = countermand.guard(countermand.static_revocations(), audience="files", biscuits=biscuits)
        decision = await guard.decide(asked.to_base64(), facts={"resource": "file1"})
        return decision.code if isinstance(decision, Deny) else type(decision)

    with pytest.raises(ConfigurationError):
        await decided(token)
    monkeypatch.setenv(VARIABLE, "")
    assert await decided(token) is Allow
    monkeypatch.setenv(VARIABLE, ids[1])
    assert (await decided(token), await decided(parent)) == (Code.SESSION_REVOKED, Allow)
    monkeypatch.setenv(VARIABLE, ids[0].upper())
    assert (await decided(token), await decided(parent)) == (Code.SESSION_REVOKED, Code.SESSION_REVOKED)


def test_two_biscuits_with_equal_payload_and_key_have_different_ids() -> None:
    pair = biscuit_auth.KeyPair()
    one, other = (biscuit_auth.BiscuitBuilder('user("alice")').build(pair.private_key) for _ in range(2))
    assert one.block_source(0) == other.block_source(0)
    assert not set(one.revocation_ids) & set(other.revocation_ids)
