"""The authorization server's metadata: every member is true, wherever the issuer says that it is."""

from pathlib import Path
from typing import Final

import httpx2
import pytest

from countermand.transport.http import open_client
from tests.integration.admin import AUDIENCE, administering
from tests.integration.exchanging import EXCHANGE, new_client
from tests.running import Running, authority_running

pytestmark = pytest.mark.anyio

WELL_KNOWN: Final = "/.well-known/oauth-authorization-server"


async def _metadata(http: httpx2.AsyncClient, path: str = "") -> dict[str, object]:
    response = await http.get(f"{WELL_KNOWN}{path}")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "public, max-age=3600"
    read: dict[str, object] = response.json()
    return read


async def test_a_client_that_knows_the_issuer_alone_finds_all_it_needs(
    shared: Running, http: httpx2.AsyncClient
) -> None:
    metadata = await _metadata(http)
    assert metadata["issuer"] == shared.url
    async with administering(shared) as admin:
        client = await new_client(admin, http)
        await admin.grant(client.id, "read", subject=client.id)
    assert metadata["grant_types_supported"] == ["client_credentials", EXCHANGE]
    credentials = (client.id, client.secret)
    form = {"grant_type": "client_credentials", "audience": AUDIENCE}
    async with open_client(10, url=shared.url) as bare:
        for name in ("token", "revocation", "introspection"):
            methods = metadata[f"{name}_endpoint_auth_methods_supported"]
            assert methods == ["client_secret_basic"] + (["Bearer"] if name == "introspection" else [])
        given = await bare.post(str(metadata["token_endpoint"]), data=form, auth=credentials)
        token = given.json()["access_token"]
        look, end = str(metadata["introspection_endpoint"]), str(metadata["revocation_endpoint"])
        assert (await bare.post(look, data={"token": token}, auth=credentials)).json()["active"] is True
        bearer = {"authorization": f"Bearer {shared.replica_key}"}
        assert (await bare.post(look, data={"token": token}, headers=bearer)).json()["active"] is True
        assert (await bare.post(end, data={"token": token}, auth=credentials)).status_code == 200
        assert (await bare.post(look, data={"token": token}, auth=credentials)).json() == {"active": False}
        keys = await bare.get(str(metadata["jwks_uri"]))
        assert keys.json()["keys"]


async def test_every_member_is_known_and_none_says_what_there_is_not(http: httpx2.AsyncClient) -> None:
    metadata = await _metadata(http)
    assert set(metadata) == {
        "issuer",
        "token_endpoint",
        "token_endpoint_auth_methods_supported",
        "revocation_endpoint",
        "revocation_endpoint_auth_methods_supported",
        "introspection_endpoint",
        "introspection_endpoint_auth_methods_supported",
        "jwks_uri",
        "grant_types_supported",
        "response_types_supported",
    }
    assert metadata["response_types_supported"] == []


@pytest.mark.parametrize("issuer", ["https://a.example/company/b%20c", "https://a.example/company/b%20c/"])
async def test_an_issuer_with_a_path_has_its_metadata_in_both_places(tmp_path: Path, issuer: str) -> None:
    """Behind a proxy that takes its path away, and where RFC 8414 §3.1 puts it."""
    async with authority_running(tmp_path, issuer=issuer) as running, open_client(10, url=running.url) as http:
        metadata = await _metadata(http, "/company/b%20c")
        assert metadata == await _metadata(http)
        assert metadata["issuer"] == "https://a.example/company/b%20c"
        assert metadata["token_endpoint"] == "https://a.example/company/b%20c/oauth2/token"
        assert metadata["jwks_uri"] == "https://a.example/company/b%20c/.well-known/jwks.json"
        assert (await http.get(f"{WELL_KNOWN}/another")).status_code == 404
