"""The guard over a real replica of a real log: revocations, cutoffs, withdrawn keys and staleness."""

import pytest

from countermand.enforce.decision import Allow, Code, Requirements
from countermand.log.anchor import Kind
from tests.unit.guarded import FOREIGN_TEXT, TOKEN_TEXT, Log, denied, guard
from tests.unit.mandates import APPLICATION, ES256, GRANT, NOW_S, claims_json, sign

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def log() -> Log:
    return Log()


async def test_a_replica_that_has_heard_nothing_lets_nothing_pass(log: Log) -> None:
    assert denied(await guard(log.replica).decide(TOKEN_TEXT)).reason == "starting"


@pytest.mark.parametrize("bound_s", [None, 10.0])
async def test_a_replica_that_is_stale_lets_nothing_pass_by_the_stricter_bound(log: Log, bound_s: float | None) -> None:
    log.publish()
    fresh = guard(log.replica)
    log.passed_ms += 15_000

    decision = await fresh.decide(TOKEN_TEXT, Requirements(max_staleness_s=bound_s))

    assert isinstance(decision, Allow) if bound_s is None else denied(decision).reason == "stale"


async def test_a_revocation_in_a_log_ends_the_token_and_goes_on_doing_so_when_stale(log: Log) -> None:
    log.signer.append(Kind.GRANT, GRANT)
    log.publish()
    log.passed_ms += 60_000

    deny = denied(await guard(log.replica).decide(TOKEN_TEXT))

    assert (deny.code, deny.reason) == (Code.SESSION_REVOKED, f"grant:{GRANT}")


@pytest.mark.parametrize("target", ["all", "subject:alice", f"application:{APPLICATION}"])
async def test_a_cutoff_ends_what_was_issued_before(log: Log, target: str) -> None:
    log.signer.append(Kind.CUTOFF, target, issued_before_ms=NOW_S * 1000)
    log.publish()

    assert denied(await guard(log.replica).decide(TOKEN_TEXT)).code is Code.SESSION_REVOKED


async def test_a_cutoff_leaves_what_was_issued_after(log: Log) -> None:
    log.signer.append(Kind.CUTOFF, "all", issued_before_ms=(NOW_S - 60) * 1000)
    log.publish()

    assert isinstance(await guard(log.replica).decide(TOKEN_TEXT), Allow)


async def test_a_cutoff_as_of_now_goes_by_the_position_at_which_a_token_was_minted(log: Log) -> None:
    log.signer.append(Kind.CUTOFF, "all")
    log.publish()
    before, after = (sign(claims_json(rev=[1, seq])) for seq in (0, 1))

    assert denied(await guard(log.replica).decide(before)).code is Code.SESSION_REVOKED
    assert isinstance(await guard(log.replica).decide(after), Allow)


async def test_a_key_withdrawn_in_a_log_ends_every_token_that_it_signed(log: Log) -> None:
    log.signer.append(Kind.KEY, ES256.kid)
    log.publish()

    assert denied(await guard(log.replica).decide(FOREIGN_TEXT)).reason == f"key:{ES256.kid}"
