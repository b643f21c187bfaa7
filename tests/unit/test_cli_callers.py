"""The demo's clients: how long they keep a mandate, and what they remember of their answers."""

import time

import pytest

from countermand.cli.callers import ACCEPTED, CUT, REJECTED, RENEW_S, RETRY_S, Client, Holder
from countermand.errors import RefusedError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class HeldMint:
    """Mints tokens one after the other, unless it refuses; and the clock by which they are kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.minted = 0
        self.asked = 0
        self.refuses = False
        self.now_s = 1_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)

    async def __call__(self) -> str:
        self.asked += 1
        if self.refuses:
            raise RefusedError("ended")
        self.minted += 1
        return f"token {self.minted}"


async def test_a_mandate_is_kept_until_it_is_to_be_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    mint = HeldMint(monkeypatch)
    holder = Holder(mint)
    assert [await holder.token() for _ in range(3)] == ["token 1"] * 3
    mint.now_s += RENEW_S
    assert await holder.token() == "token 1"
    mint.now_s += 1
    assert await holder.token() == "token 2"
    assert mint.asked == 2


async def test_a_mandate_that_cannot_be_renewed_is_kept_and_asked_for_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mint = HeldMint(monkeypatch)
    holder = Holder(mint)
    await holder.token()
    mint.refuses = True
    mint.now_s += RENEW_S + 1
    assert [await holder.token() for _ in range(3)] == ["token 1"] * 3
    assert mint.asked == 2
    mint.refuses = False
    mint.now_s += RETRY_S + 1
    assert await holder.token() == "token 2"


async def test_without_a_first_mandate_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    mint = HeldMint(monkeypatch)
    mint.refuses = True
    with pytest.raises(RefusedError):
        await Holder(mint).token()


async def test_a_client_tells_each_change_once_and_remembers_when_it_first_was(monkeypatch: pytest.MonkeyPatch) -> None:
    mint = HeldMint(monkeypatch)
    changes: list[tuple[int, str]] = []
    client = Client("scribe", Holder(mint), lambda _client, outcome: changes.append(outcome))
    for outcome in (ACCEPTED, ACCEPTED, CUT, REJECTED, ACCEPTED):
        mint.now_s += 1
        client.hear(outcome)
    assert changes == [ACCEPTED, CUT, REJECTED, ACCEPTED]
    assert client.calls[ACCEPTED] == 3
    assert await client.until(ACCEPTED) == 1_001
    assert await client.until(CUT) == 1_003
