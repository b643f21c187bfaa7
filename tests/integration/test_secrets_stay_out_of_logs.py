"""Nothing that opens anything is in what is logged, however much is logged."""

import logging
from pathlib import Path

import pytest

from countermand.transport.http import HttpLog, open_client
from tests import databases
from tests.integration.biscuits import OTHER, ROOT_KEYS, mint
from tests.integration.exchanging import basic
from tests.running import ServerProcess, authority_running

pytestmark = pytest.mark.anyio

CLIENT_LOGGERS = ("httpx2", "httpcore2")
"""They are the test's own: an authority asks nobody."""


async def _use(url: str, admin_key: str, replica_key: str) -> list[str]:
    """Do everything once, rightly and wrongly; return the mandate that was minted, and the parts of two Biscuits."""
    headers = {"authorization": f"Bearer {admin_key}"}
    async with open_client(10, url=url, headers=headers) as admin:
        application = (await admin.post("/v1/applications", json={"name": "notes"})).json()["id"]
        session = (await admin.post("/v1/sessions", json={"application_id": application, "subject": "a"})).json()["id"]
        mandate = (await admin.post(f"/v1/sessions/{session}/mandates", json={"audience": ["a"]})).json()
        token = str(mandate["access_token"])
        await admin.post("/v1/revocations", json={"kind": "session", "id": session})
        await admin.post("/v1/revocations", json={"kind": "session", "id": token, "reason": f"{token}\n"})
        await admin.post("/v1/applications", json={"name": admin_key, admin_key: admin_key})
        await admin.post("/v1/applications", content=admin_key)
        good, forged = mint(), mint(key=OTHER)
        for biscuit in (good, good, forged, f"{good}\n"):
            headers = {"idempotency-key": f"once-{biscuit[-40:-1]}"}
            await admin.post("/v1/biscuit/revocations", json={"token": biscuit}, headers=headers)
            await admin.post("/v1/biscuit/revocations", json={"token": biscuit, biscuit: biscuit, "reason": "\n"})
        await admin.post("/v1/revocations", json={"kind": "biscuit", "id": good})
        secret = (await admin.post(f"/v1/applications/{application}/keys", json={"name": "a"})).json()["client_secret"]
        for biscuit in (mint(), forged):
            await admin.post(
                "/oauth2/revoke", data={"token": biscuit}, headers={"authorization": basic(application, secret)}
            )
        await admin.get(f"/v1/sessions/{admin_key}", params={"after": admin_key})
        await admin.get("/v1/log", params={"after": admin_key})
        await admin.get("/v1/sessions", headers={"authorization": f"Bearer {admin_key[:-1]}x"})
        await admin.get("/v1/sessions", headers={"authorization": f"Bearer {token}"})
    await anext(HttpLog(url, replica_key).follow(0))
    return [*token.split(".")[1:], good[20:], forged[20:], secret.split("_")[2]]


def _parts(admin_key: str, replica_key: str, tokens: list[str]) -> list[str]:
    return [admin_key.split("_")[2], replica_key.split("_")[2], *tokens]


async def test_no_log_of_an_authority_holds_a_key_or_a_token_even_where_everything_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, database_kind: databases.Kind
) -> None:
    caplog.set_level(logging.DEBUG)
    async with authority_running(tmp_path, biscuit_keys=ROOT_KEYS) as running:
        tokens = await _use(running.url, running.admin_key, running.replica_key)
        secrets = _parts(running.admin_key, running.replica_key, tokens)
        pems = [path.read_text() for path in running.data.keys.iterdir()]
    formatter = logging.Formatter()
    logged = "\n".join(
        formatter.format(record) for record in caplog.records if not record.name.startswith(CLIENT_LOGGERS)
    )
    assert "INSERT INTO" in logged or database_kind == "postgres", "everything is logged; psycopg logs no statement"
    for secret in [*secrets, *(line for pem in pems for line in pem.splitlines()[1:-1])]:
        assert secret not in logged


async def test_what_a_server_prints_holds_no_key_and_no_token(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path, environ={"COUNTERMAND_BISCUIT_KEYS": ROOT_KEYS}) as server:
        admin_key, replica_key = (path.read_text().strip() for path in (server.data.admin_key, server.data.replica_key))
        tokens = await _use(server.url, admin_key, replica_key)
        await server.terminate()
        printed = server.log.read_text()
    assert server.url in printed
    assert not any(secret in printed for secret in _parts(admin_key, replica_key, tokens))
    assert "Traceback" not in printed
