"""The demo without a person: one session is revoked, exactly its caller turns to 401, and the other goes on."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from countermand.cli.fleet import Caller, Outcome, Stage, staged
from countermand.errors import CountermandError
from countermand.settings import AuthoritySettings, DataDir

ACCEPTED: Final = (200, "")
REJECTED: Final = (401, "session_revoked")
STEP_S: Final = 15.0
"""A step that takes longer has failed."""
AFTERWARDS: Final = 10
"""How many more calls each must be answered in the same way."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the demo: whether it held, how long it took, and what was seen."""

    name: str
    held: bool
    ms: float
    seen: str


@dataclass(frozen=True, slots=True)
class Report:
    """All steps, and the time from the answered revoke to the first rejection (0: it was there before the answer)."""

    steps: tuple[Step, ...]
    revoke_to_rejection_ms: float | None

    @property
    def held(self) -> bool:
        """Whether every step held."""
        return bool(self.steps) and all(step.held for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {"held": self.held, **asdict(self)}


async def play() -> Report:
    """Run the demo in a directory of its own, and report."""
    with tempfile.TemporaryDirectory(prefix="countermand-demo-") as directory:
        settings = AuthoritySettings(DataDir(Path(directory) / "data"), port=0)
        async with staged(settings) as stage:
            return await _Play(stage).run()


class _Play:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._revoked, self._other = stage.callers
        self._steps: list[Step] = []
        self._before: Counter[Outcome] = Counter()
        self._rejection_ms: float | None = None

    async def run(self) -> Report:
        """Take the steps in order, and stop at the first that fails."""
        for name, step in (
            (f"{self._revoked.subject} and {self._other.subject} are let in", self._both_are_let_in),
            (f"the revocation of {self._revoked.subject} is answered", self._revoke),
            (f"{self._revoked.subject} is rejected from then on", self._stays_rejected),
            (f"{self._other.subject} is let in all the while", self._goes_on),
        ):
            if not await self._take(name, step()):
                break
        return Report(tuple(self._steps), self._rejection_ms)

    async def _take(self, name: str, step: Awaitable[str]) -> bool:
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(STEP_S):
                held, seen = True, await step
        except TimeoutError:
            held, seen = False, f"not within {STEP_S:g} s"
        except (CountermandError, _BrokenError) as error:
            held, seen = False, str(error)
        self._steps.append(Step(name, held, round((time.monotonic() - began_s) * 1000, 1), seen))
        return held

    async def _both_are_let_in(self) -> str:
        for caller in self._stage.callers:
            await caller.until(ACCEPTED)
        return "200 for both"

    async def _revoke(self) -> str:
        self._revoked.period_s = 0.002  # what is measured is the revocation, and not the pause between calls
        await self._revoked.called()
        await self._revoked.called()
        self._before = self._other.calls.copy()
        entry = await self._stage.client.revoke("session", self._revoked.session_id, "the demo")
        answered_s = time.monotonic()
        rejected_s = await self._revoked.until(REJECTED)
        self._rejection_ms = round(max(0.0, rejected_s - answered_s) * 1000, 1)
        return f"entry {entry['seq']}; the first rejection came {self._rejection_ms} ms after the answer"

    async def _stays_rejected(self) -> str:
        await _answers(self._revoked, REJECTED)
        return f"401 session_revoked for {AFTERWARDS} more calls"

    async def _goes_on(self) -> str:
        await _answers(self._other, ACCEPTED)
        since = self._other.calls - self._before
        if set(since) != {ACCEPTED}:
            raise _BrokenError(f"it was answered {dict(since)}")
        return f"200 for all {since.total()} calls since the revocation"


class _BrokenError(Exception):
    """A step of the demo did not hold; the sentence says what was seen."""


async def _answers(caller: Caller, expected: Outcome) -> None:
    """Watch some more calls. Raises: _BrokenError, at the first other answer."""
    before = caller.calls.copy()
    while (caller.calls - before).total() < AFTERWARDS:
        await caller.called()
    other = set(caller.calls - before) - {expected}
    if other:
        raise _BrokenError(f"{caller.subject} was answered {sorted(other)}")
