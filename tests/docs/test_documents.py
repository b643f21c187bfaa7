"""The Python examples of the documents that need no Redis run word for word; only their indentation is restored.

The documents are not part of this project. They are looked for beside it, or where COUNTERMAND_DOCUMENTS says.
"""

import ast
import asyncio
import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest

from caracalai_revocation import InMemoryRevocationStore, RevocationStore
from countermand.cli.client import AuthorityClient
from countermand.settings import AuthoritySettings, ClientSettings, DataDir
from countermand.wiring.authority import serve_authority
from tests.docs.resolver import resolve

BESIDE = Path(__file__).parents[3] / "shared" / "documents"
DOCUMENT = Path(os.environ.get("COUNTERMAND_DOCUMENTS", BESIDE)) / "revocation-package-earlier.txt"


@pytest.fixture(scope="module")
def document() -> str:
    if not DOCUMENT.exists():
        sentence = f"THE DOCUMENTS' EXAMPLES WERE NOT RUN: {DOCUMENT.name} is not beside this project"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    return DOCUMENT.read_text("utf-8")


def example(document: str, first: str, last: str) -> str:
    """Return the one block that begins with the line `first` and ends with the line `last`, indented again."""
    blocks = re.findall(rf"^{re.escape(first)}.*?^{re.escape(last)}$", document, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1
    return re.sub(r"^def ", "    def ", blocks[0], flags=re.MULTILINE)


def test_the_protocol_is_the_one_that_we_publish(document: str) -> None:
    names: dict[str, Any] = {}
    code = example(
        document,
        "from typing import Protocol",
        "def mark_revoked(self, sid: str, ttl_ms: int | None = None) -> None: ...",
    )
    exec(code, names)  # noqa: S102 - the specification's own example
    for method in ("is_revoked", "mark_revoked"):
        documented = inspect.signature(getattr(names["RevocationStore"], method))
        assert inspect.signature(getattr(RevocationStore, method)) == documented
        assert inspect.signature(getattr(InMemoryRevocationStore, method)) == documented


def test_the_store_is_made_as_documented(document: str) -> None:
    names: dict[str, Any] = {}
    code = example(
        document,
        "from caracalai_revocation import InMemoryRevocationStore\nDEFAULT_TTL_MS",
        "store = InMemoryRevocationStore(default_ttl_ms=DEFAULT_TTL_MS)",
    )
    exec(code, names)  # noqa: S102 - the specification's own example
    names["store"].mark_revoked("session-1")
    assert names["store"].is_revoked("session-1")
    assert not names["store"].is_revoked("session-2")


def test_authenticate_is_called_as_documented(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile(
        example(document, "from caracalai_transport_mcp import authenticate", ")"),
        "the document",
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
    )

    async def run() -> None:
        settings = AuthoritySettings(DataDir(tmp_path / "data"), "127.80.80.1", 8080, issuer="http://sts:8080")
        resolve(monkeypatch, "sts", settings.host)
        async with serve_authority(settings) as (_authority, url), asyncio.timeout(30):
            admin = ClientSettings(url, settings.data.admin_key.read_text().strip())
            async with AuthorityClient.open(admin) as client:
                application = await client.create_application("document")
                session = await client.open_session(application["id"], "alice")
                token = await client.issue_mandate(session["id"], "resource://api")
            names: dict[str, Any] = {"token": token}
            await eval(code, names)  # noqa: S307 - the specification's own example
            assert names["result"].ok
            assert names["result"].principal.subject == "alice"

            marking = "revocations = InMemoryRevocationStore()\n"
            source = example(document, "from caracalai_transport_mcp import authenticate", ")")
            assert marking in source
            revoked = source.replace(marking, f"{marking}revocations.mark_revoked({session['id']!r})\n")
            await eval(compile(revoked, "the document", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)  # noqa: S307
            assert not names["result"].ok
            assert names["result"].error.code == "session_revoked"

    asyncio.run(run())
