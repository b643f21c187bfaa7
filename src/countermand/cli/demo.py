"""The demo without a person: what is revoked turns to 401 with all that rests on it, and nothing else does."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from countermand.cli.callers import ACCEPTED, CUT, REJECTED, Caller, Client, Outcome
from countermand.cli.revoking import counted
from countermand.cli.stage import Stage, staged
from countermand.cli.terminal import listed
from countermand.errors import CountermandError, RefusedError
from countermand.settings import AuthoritySettings, DataDir

STEP_S: Final = 15.0
"""A step that takes longer has failed."""
AFTERWARDS: Final = 10
"""How many more calls each must be answered in the same way."""
PERIOD_S: Final = 0.1
FAST_S: Final = 0.01
"""Between the calls of whoever is about to be rejected: what is measured is the revocation, and not their pauses."""
BELOW: Final = ("reader", "helper", "scribe")
"""Who acts by the delegation that is revoked, or by something under it."""
BOBS: Final = ("clerk",)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the demo: whether it held, how long it took, and what was seen."""

    name: str
    held: bool
    ms: float
    seen: str


@dataclass(frozen=True, slots=True)
class Times:
    """From the answer of a revocation, in milliseconds. 0: it was there before the answer. None: it did not come."""

    revoke_to_rejection_ms: float | None = None
    """The first."""
    revoke_to_last_rejection_ms: float | None = None
    """When all that rests on it had been rejected."""
    revoke_to_closed_stream_ms: float | None = None
    cutoff_to_last_rejection_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All steps, and the times between them."""

    steps: tuple[Step, ...]
    times: Times

    @property
    def held(self) -> bool:
        """Whether every step held."""
        return bool(self.steps) and all(step.held for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {"held": self.held, "steps": [asdict(step) for step in self.steps], **asdict(self.times)}


async def play() -> Report:
    """Run the demo in a directory of its own, and report."""
    with tempfile.TemporaryDirectory(prefix="countermand-demo-") as directory:
        settings = AuthoritySettings(DataDir(Path(directory) / "data"), port=0)
        async with staged(settings) as stage:
            return await _Play(stage).run()


class _Play:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._fleet = stage.fleet
        self._edge_id = stage.fleet.delegations["reader"]
        self._steps: list[Step] = []
        self._times = Times()
        self._reach: dict[str, Any] = {}
        self._answered_s = 0.0
        self._before: dict[Client, Counter[Outcome]] = {}

    async def run(self) -> Report:
        """Take the steps in order, and stop at the first that fails."""
        for name, step in (
            ("every agent is let in, and a stream is open", self._all_are_let_in),
            ("a dry run says what revoking the delegation to the reader would reach", self._dry_run),
            ("it is revoked", self._revoke),
            ("all who act by it, or by what hangs from it, are rejected", self._below_is_rejected),
            ("the stream that was open by it is closed", self._stream_is_closed),
            ("the others are let in all the while, the reader itself too", self._others_go_on),
            ("no new mandate is given by it", self._nothing_new),
            ("all that was issued to alice before now is cut off", self._cut_off),
            ("the rest of alice's agents are rejected", self._alice_is_rejected),
            ("bob's is let in all the while", self._bob_goes_on),
        ):
            if not await self._take(name, step()):
                break
        return Report(tuple(self._steps), self._times)

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

    async def _all_are_let_in(self) -> str:
        for client in self._fleet.clients:
            client.period_s = PERIOD_S
            await client.until(ACCEPTED)
        return f"200 for {listed(caller.name for caller in self._fleet.callers)}"

    async def _dry_run(self) -> str:
        preview = await self._stage.client.revoke("delegation", self._edge_id, dry_run=True)
        self._reach = preview["reach"]
        for client in self._fleet.clients:
            await client.heard()
            if client.outcome != ACCEPTED:
                raise _BrokenError(f"afterwards the {client.name} was answered {client.outcome}")
        return f"{counted(self._reach)}, as of entry {preview['seq']}"

    async def _revoke(self) -> str:
        await self._make_ready(self._fleet.named(*BELOW), self._fleet.others(*BELOW))
        entry = await self._stage.client.revoke("delegation", self._edge_id, "the demo")
        self._answered_s = time.monotonic()
        if entry["reach"] != self._reach:
            raise _BrokenError(f"the dry run said another thing than {counted(entry['reach'])}")
        return f"entry {entry['seq']} reached {counted(entry['reach'])}, as the dry run said"

    async def _below_is_rejected(self) -> str:
        callers = self._fleet.named(*BELOW)
        times_ms = [self._since_ms(await caller.until(REJECTED)) for caller in callers]
        first_ms, last_ms = min(times_ms), max(times_ms)
        self._times = replace(self._times, revoke_to_rejection_ms=first_ms, revoke_to_last_rejection_ms=last_ms)
        await _answers(callers, REJECTED)
        return f"{listed(BELOW)}: all {last_ms} ms after the answer, and for {AFTERWARDS} more calls each"

    async def _stream_is_closed(self) -> str:
        closed_ms = self._since_ms(await self._fleet.listener.until(CUT))
        self._times = replace(self._times, revoke_to_closed_stream_ms=closed_ms)
        await self._fleet.listener.until(REJECTED)
        return f"{closed_ms} ms after the answer; opened again, it is 401"

    async def _others_go_on(self) -> str:
        return await self._go_on(self._fleet.others(*BELOW))

    async def _nothing_new(self) -> str:
        refusals = [await _refusal_of(caller) for caller in self._fleet.named(*BELOW)]
        return listed(dict.fromkeys(refusals))

    async def _cut_off(self) -> str:
        await self._make_ready(self._fleet.others(*BELOW, *BOBS), self._fleet.named(*BOBS))
        entry = await self._stage.client.cut_off("subject:alice", reason="the demo")
        self._answered_s = time.monotonic()
        return f"entry {entry['seq']} reached {counted(entry['reach'])}"

    async def _alice_is_rejected(self) -> str:
        callers = self._fleet.others(*BELOW, *BOBS)
        last_ms = max([self._since_ms(await caller.until(REJECTED)) for caller in callers])
        self._times = replace(self._times, cutoff_to_last_rejection_ms=last_ms)
        await _answers(self._fleet.others(*BOBS), REJECTED)
        return f"{listed(caller.name for caller in callers)}: all {last_ms} ms after the answer"

    async def _bob_goes_on(self) -> str:
        return await self._go_on(self._fleet.named(*BOBS))

    async def _make_ready(self, about_to_end: Sequence[Caller], going_on: Sequence[Caller]) -> None:
        """Have the first call faster, and note what the others were answered until now."""
        for caller in self._fleet.callers:
            caller.period_s = FAST_S if caller in about_to_end else PERIOD_S
        for caller in about_to_end:
            await caller.heard()
            await caller.heard()
        self._before = {caller: caller.calls.copy() for caller in going_on}

    async def _go_on(self, callers: Sequence[Caller]) -> str:
        await _answers(callers, ACCEPTED)
        since = sum((caller.calls - self._before[caller] for caller in callers), Counter[Outcome]())
        if set(since) != {ACCEPTED}:
            raise _BrokenError(f"they were answered {dict(since)}")
        return f"200 for all {since.total()} calls since, of {listed(caller.name for caller in callers)}"

    def _since_ms(self, at_s: float) -> float:
        return round(max(0.0, at_s - self._answered_s) * 1000, 1)


class _BrokenError(Exception):
    """A step of the demo did not hold; the sentence says what was seen."""


async def _refusal_of(caller: Caller) -> str:
    """Ask for a new mandate; return in which words it is refused. Raises: _BrokenError, if one is given."""
    try:
        await caller.holder.mint()
    except RefusedError as refusal:
        return str(refusal)
    raise _BrokenError(f"the {caller.name} was given one")


async def _answers(callers: Sequence[Caller], expected: Outcome) -> None:
    """Watch some more calls of each. Raises: _BrokenError, at the first other answer."""
    for caller in callers:
        caller.period_s = PERIOD_S
    before = {caller: caller.calls.copy() for caller in callers}
    for caller in callers:
        while (caller.calls - before[caller]).total() < AFTERWARDS:
            await caller.heard()
        other = set(caller.calls - before[caller]) - {expected}
        if other:
            raise _BrokenError(f"the {caller.name} was answered {sorted(other)}")
