"""May this token act now? A token that was seen before, and one that was not, beside those who verify and no more.

The warm row is the plainest case: keys that never change, no cutoff in force, `decide`. The one after it is what a
service behind `connect` has on a bad day: keys of a cache, a cutoff for somebody else in force, and `admit`, as the
middleware asks.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from bench.harness import MICRO, Contender, Row, race
from bench.log import BenchLog, new_anchors, new_id
from bench.peers import Peers
from countermand.enforce.decision import Allow, Deny
from countermand.enforce.guard import Guard
from countermand.log.anchor import Kind, Rev
from countermand.tokens.jwks import JwksCache, KeySet, KeySource, StaticKeys
from countermand.tokens.mandate import MandateClaims, SigningKey, mint, parse_mandate

ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "https://api.example"
TOKENS: Final = 400
REPEATS: Final = 2_000
PYJWT: Final = "PyJWT, which verifies and knows of no revocation"
SIGNATURE: Final = "the bare signature"


class Issuer:
    """Mints mandates, and makes guards that know its key."""

    def __init__(self) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        self.public = private.public_key()
        self._key = SigningKey(private)
        self.keys = KeySet((self._key.verifying_key(),))

    def tokens(self, count: int) -> list[str]:
        """Return new mandates."""
        return [mint(claims(), self._key) for _ in range(count)]

    def guard(self, log: BenchLog, keys: KeySource | None = None) -> Guard:
        """Return a guard that has seen no token yet."""
        source = keys or StaticKeys(self.keys)
        return Guard(source, log.replica, issuer=ISSUER, audience=AUDIENCE, clock_s=time.time, random=os.urandom)


def measure(log: BenchLog, peers: Peers) -> list[Row]:
    """Return rows for a warm and for a cold decision."""
    issuer = Issuer()
    public, texts = issuer.public, issuer.tokens(TOKENS)
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    peers.call("prepare_verify", pem.decode(), ISSUER, AUDIENCE, texts)
    with asyncio.Runner() as runner:

        def decisions(texts: Sequence[str], guard: Guard | None = None) -> Contender:
            return lambda: runner.run(_decide(guard or issuer.guard(log), texts))

        contenders = {
            "warm": decisions(texts[:1] * REPEATS, issuer.guard(log)),
            "cold": decisions(texts),
            SIGNATURE: lambda: _verify(public, texts),
        } | peers.contenders({PYJWT: ("verify",)})
        medians = race(contenders, before=log.heartbeat)
        log.cut_off("subject:bob")
        behind = issuer.guard(log, JwksCache(partial(fetched, issuer.keys), time.monotonic))
        bad_day = {
            "admitted": lambda: runner.run(_admit(behind, texts[0])),
            SIGNATURE: lambda: _verify(public, texts),
        }
        harder = race(bad_day, before=log.heartbeat)
    beside = peers.named(medians, SIGNATURE, PYJWT, factor=MICRO)
    return [
        Row("decision, warm: a token that was seen before", "µs", medians["warm"] * MICRO, beside, "3 wanted"),
        Row(
            "the same behind connect(), admitted, with a cutoff in force",
            "µs",
            harder["admitted"] * MICRO,
            peers.named(harder, SIGNATURE, factor=MICRO),
        ),
        Row("decision, cold: a new token, ES256", "µs", medians["cold"] * MICRO, beside, "70 wanted"),
    ]


async def fetched(keys: KeySet) -> bytes:
    """Return what an issuer with these keys publishes."""
    return keys.to_json()


async def _admit(guard: Guard, text: str) -> float:
    required = guard.combine(None)
    began_s = time.perf_counter()
    for _ in range(REPEATS):
        call = await guard.admit(text, required)
        if isinstance(call, Deny):
            raise RuntimeError("a token of the bench was denied")  # noqa: TRY004 - a denial is a value
        call.end()
    return (time.perf_counter() - began_s) / REPEATS


def claims() -> MandateClaims:
    """Return a mandate of a delegated agent, with four ancestors."""
    path = new_anchors(4).path
    session, agent, edge = (anchor.id for anchor in path[:3])
    now_s = int(time.time())
    return MandateClaims(
        issuer=ISSUER,
        subject="alice",
        audience=(AUDIENCE,),
        issued_at_s=now_s,
        expires_at_s=now_s + 900,
        token_id=new_id(Kind.TOKEN),
        client_id=new_id(Kind.APPLICATION),
        scopes=frozenset({"read", "write"}),
        sub_type="user",
        session_id=session,
        root_session_id=session,
        agent_session_id=agent,
        delegation_edge_id=edge,
        path=path,
        rev=Rev(1, 1),
    )


async def _decide(guard: Guard, texts: Sequence[str]) -> float:
    began_s = time.perf_counter()
    for text in texts:
        await guard.decide(text)
    taken_s = time.perf_counter() - began_s
    if not all([isinstance(await guard.decide(text), Allow) for text in texts]):
        raise RuntimeError("a token of the bench was denied")
    return taken_s / len(texts)


def _verify(key: ec.EllipticCurvePublicKey, texts: Sequence[str]) -> float:
    algorithm = ec.ECDSA(hashes.SHA256())
    signed = [parse_mandate(text) for text in texts]
    ready = [(_der(token.signature), token.signing_input) for token in signed]
    began_s = time.perf_counter()
    for signature, message in ready:
        key.verify(signature, message, algorithm)
    return (time.perf_counter() - began_s) / len(texts)


def _der(signature: bytes) -> bytes:
    return encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
