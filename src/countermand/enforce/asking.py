"""How an app asks the guard about the request that it serves: who acts, and whether that may be done here.

A request that was let in is looked after from then on (see `inflight`). Asked again, with more to meet, it may be
refused after all. Then nothing of the app's reaches the client any more, whatever the app makes of it.
"""

import asyncio
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from countermand.enforce.bearer import TWO_HEADERS, extract_bearer
from countermand.enforce.decision import Deny, Requirements
from countermand.enforce.gate import Gate, Scope
from countermand.enforce.trace import REQUEST_ID_KEY, Outcome
from countermand.errors import DeniedError
from countermand.tokens.cache import Holder
from countermand.tokens.mandate import Mandate

if TYPE_CHECKING:  # a guard makes what makes this
    from countermand.enforce.guard import Guard

MANDATE_KEY: Final = "countermand.mandate"
"""Where in the scope the app finds the Mandate of a request that was let in; also `mandate` in the scope's state."""
BISCUIT_KEY: Final = "countermand.biscuit"
"""The same of a Biscuit; also `biscuit` in the scope's state."""

_current: ContextVar["Asking | None"] = ContextVar("asking", default=None)


class Asking:
    """The questions about one request at `gate`. `requirements` are met by whatever is let in."""

    def __init__(self, guard: "Guard", requirements: Requirements, scope: Scope, gate: Gate) -> None:
        self.guard = guard
        self._requirements = requirements
        self._scope = scope
        self._gate = gate
        self._asking = asyncio.Lock()  # two questions at once: the last call that is let in meets both

    async def ask(self, requirements: Requirements | None = None) -> Holder:
        """Return who acts, if it may.

        `requirements` are what the guard's `combine` gave; they are met beside all that was asked before.

        Raises:
            DeniedError: it may not. The client gets the guard's answer, wherever this is caught.
        """
        if (denial := await self.admit(requirements)) is not None:
            raise DeniedError(denial)
        return self._scope.get(MANDATE_KEY) or self._scope[BISCUIT_KEY]  # type: ignore[no-any-return]  # one is there

    async def admit(self, requirements: Requirements | None = None) -> Deny | None:
        """Do as `ask`, and return the denial."""
        async with self._asking:
            if self._gate.denial is not None:
                return self._gate.denial
            if requirements is not None:
                self._requirements = self._requirements & requirements
            elif self._gate.looks_after:
                return None
            denial = await self._admit()
            if denial is not None:
                self._gate.refuse(denial)
            return denial

    @property
    def is_over(self) -> bool:
        """Whether the app has ended that served the request."""
        return self._gate.is_shut

    async def _admit(self) -> Deny | None:
        scope, id_ = self._scope, self._scope[REQUEST_ID_KEY]
        headers = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        if len(headers) > 1:
            self.guard.trace.tell(Outcome.DENIED, id_, TWO_HEADERS)
            return TWO_HEADERS
        token = extract_bearer(headers[0].decode("latin-1") if headers else None)
        facts = facts_of(scope.get("method", "GET"), scope.get("path", ""))
        admitted = await self.guard.admit(token, self._requirements, id_, facts)
        if isinstance(admitted, Deny):
            return admitted
        self._gate.let_in(admitted)
        if not await admitted.passes():
            return admitted.denial
        hand_over(self._scope, admitted.token.holder)
        self._scope.setdefault("state", {})[_name(admitted.token.holder)] = admitted.token.holder
        return None


def hand_over(scope: MutableMapping[str, Any], holder: Holder) -> None:
    """Put who acts where the app finds it."""
    scope[f"countermand.{_name(holder)}"] = holder


def _name(holder: Holder) -> str:
    return "mandate" if isinstance(holder, Mandate) else "biscuit"


def facts_of(method: str, path: str) -> dict[str, str]:
    """Return what a Biscuit's authorization is told of a request over HTTP.

    The method in upper case: many an app serves `delete` as DELETE, and a rule against one must hold for the other.
    """
    return {"method": _readable(method).upper(), "path": _readable(path)}


def _readable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()  # half of a surrogate pair is no text


def asking(guard: "Guard") -> Asking | None:
    """Return the questions to `guard` about the request that is being served.

    None if the last guard that it came by is another, and once the app has ended that served it.
    """
    current = _current.get()
    return current if current is not None and current.guard is guard and not current.is_over else None


@contextmanager
def begun(asking: Asking) -> Iterator[None]:
    """Let whatever the block calls, or starts a task for, find `asking`."""
    before = _current.set(asking)
    try:
        yield
    finally:
        _current.reset(before)
