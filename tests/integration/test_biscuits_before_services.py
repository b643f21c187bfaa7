"""Biscuits at `countermand gateway` and `countermand forward-auth`: they pass beside mandates, and end when revoked."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2
import pytest

from countermand.transport.http import open_client
from tests.integration.biscuits import OTHER, ROOT_KEYS, attenuated, ids_of, mint
from tests.integration.commands import countermand, lines_until, running, typed
from tests.integration.gateways import Client, Recorder, listening, tick
from tests.integration.rooms import AUDIENCE
from tests.integration.streams import LIMIT_S, new_subject
from tests.running import DEADLINE_S, Running, until
from tests.signer import Signer

pytestmark = pytest.mark.anyio

POLICY: Final = 'allow if user($user), method("GET"), path($path);'
NOWHERE: Final = ("--audience", AUDIENCE, "--url", "http://127.0.0.1:1")
VERBS: Final = (("gateway", "--upstream", "http://127.0.0.1:1"), ("forward-auth",))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.datalog"
    path.write_text(POLICY)
    return path


@pytest.fixture
def anything(tmp_path: Path) -> Path:
    """A policy that asks nothing of the request, of which forward auth tells it nothing."""
    path = tmp_path / "anything.datalog"
    path.write_text("allow if user($user);")
    return path


@contextmanager
def _served(verb: str, authority: Running, policy: Path, *options: str) -> Iterator[str]:
    """Run a verb that guards; give its URL."""
    words = ("--audience", AUDIENCE, "--biscuit-keys", ROOT_KEYS, "--biscuit-policy", policy, "--port", "0")
    with running(verb, *words, *options, "--data-dir", authority.data.path) as process:
        (said, *_) = [line for line in lines_until(process, "http") if "http" in line]
        yield said.split()[-1]


async def _status(http: httpx2.AsyncClient, token: str, path: str = "/notes", method: str = "GET") -> int:
    return (await http.request(method, path, headers={"authorization": f"Bearer {token}"})).status_code


async def _ready(http: httpx2.AsyncClient, token: str, path: str = "/notes") -> None:
    async def passes() -> bool:
        return await _status(http, token, path) == 200

    await until(passes, "the replica is fresh")


async def test_a_biscuit_passes_the_gateway_until_it_is_revoked(shared: Running, policy: Path) -> None:
    parent = mint('user("alice");')
    child, sibling = attenuated(parent), attenuated(parent)
    service = Recorder()
    async with listening(service) as upstream:
        with _served("gateway", shared, policy, "--upstream", upstream) as url:
            async with open_client(10, url=url) as http:
                await _ready(http, child)
                assert (service.headers["x-countermand-subject"], "authorization" in service.headers) == (
                    "alice",
                    False,
                )
                assert service.headers["x-countermand-token-id"] == ids_of(child)[-1]
                _, mandate = await new_subject(shared, "bob", AUDIENCE)
                assert await _status(http, mandate) == 200
                assert service.headers["x-countermand-subject"] == "bob"
                assert await _status(http, child, method="POST") == 403
                assert await _status(http, mint('user("alice");', key=OTHER)) == 401
                assert await _status(http, mint("nobody(1);")) == 403
                await shared.client.revoke("biscuit", ids_of(child)[-1])

                async def is_refused() -> bool:
                    return await _status(http, child) == 401

                await until(is_refused, "the gateway refuses what is revoked", LIMIT_S)
                assert await _status(http, attenuated(child)) == 401
                assert (
                    await _status(http, parent) == await _status(http, sibling) == await _status(http, mandate) == 200
                )
                await shared.client.revoke("biscuit", ids_of(parent)[0])

                async def has_ended() -> bool:
                    return await _status(http, sibling) == 401

                await until(has_ended, "the gateway refuses the family", LIMIT_S)


async def test_a_stream_is_cut_when_its_biscuit_is_revoked(shared: Running, policy: Path) -> None:
    parent = mint('user("alice");')
    child, sibling = attenuated(parent), attenuated(parent)
    async with listening(tick) as upstream:
        with _served("gateway", shared, policy, "--upstream", upstream) as url:
            async with open_client(10, url=url) as http:
                await _ready(http, child)
            async with Client.of(url) as one, Client.of(url) as other:
                for client, token in ((one, child), (other, sibling)):
                    client.send(
                        f"GET /stream HTTP/1.1\r\nhost: a.example\r\nauthorization: Bearer {token}\r\n\r\n".encode()
                    )
                    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
                await shared.client.revoke("biscuit", ids_of(child)[-1])
                begun_s = time.monotonic()
                assert not (await one.rest()).endswith(b"0\r\n\r\n")
                assert time.monotonic() - begun_s < LIMIT_S
                received = b""
                async with asyncio.timeout(DEADLINE_S):
                    for _ in range(3):
                        received += await other.reader.readuntil(b"data: 1")
                assert received, "what was not revoked goes on"


async def test_a_biscuit_passes_forward_auth_until_it_is_revoked(shared: Running, anything: Path) -> None:
    token = mint('user("alice");')
    with _served("forward-auth", shared, anything) as url:
        async with open_client(10, url=url) as http:
            await _ready(http, token, "/")
            passed = await http.get("/", headers={"authorization": f"Bearer {token}"})
            assert passed.headers["x-countermand-subject"] == "alice"
            _, mandate = await new_subject(shared, "bob", AUDIENCE)
            assert await _status(http, mandate, "/") == 200
            assert await _status(http, mint("nobody(1);"), "/") == 403
            await shared.client.revoke("biscuit", ids_of(token)[-1])

            async def is_refused() -> bool:
                return await _status(http, token, "/") == 401

            await until(is_refused, "forward auth refuses what is revoked", LIMIT_S)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
async def test_keys_without_a_policy_and_what_cannot_work_are_said_at_the_start(
    shared: Running, policy: Path, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    lax = tmp_path / "lax"
    lax.write_text("deny if true;")
    keys = ("--biscuit-keys", ROOT_KEYS)
    for words, sentence in (
        (keys, "no policy says what a Biscuit may do: give --biscuit-policy"),
        (("--biscuit-policy", policy), "needs the issuer's keys: give --biscuit-keys"),
        (("--biscuit-keys", "none", "--biscuit-policy", policy), "is a public key"),
        ((*keys, "--biscuit-policy", lax), "lets nobody in"),
        ((*keys, "--biscuit-policy", tmp_path / "gone"), "cannot be read: FileNotFoundError"),
    ):
        ended = await typed(*verb, "--audience", AUDIENCE, "--data-dir", shared.data.path, *words)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
        assert sentence in ended.stderr


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_the_keys_may_be_in_the_environment(policy: Path, verb: tuple[str, ...]) -> None:
    replica = {"COUNTERMAND_API_KEY": "key", "COUNTERMAND_PIN": str(Signer().pin)}
    words = (*verb, *NOWHERE, "--host", "192.0.2.1")
    alone = countermand(*words, COUNTERMAND_BISCUIT_KEYS=ROOT_KEYS, **replica)
    assert (alone.returncode, "no policy says" in alone.stderr) == (2, True)
    both = countermand(*words, "--biscuit-policy", str(policy), COUNTERMAND_BISCUIT_KEYS=ROOT_KEYS, **replica)
    assert (both.returncode, "cannot be listened on" in both.stderr) == (2, True)
