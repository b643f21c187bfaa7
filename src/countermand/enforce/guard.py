"""The guard: may this token act now?

Every check, in its order, and the first that fails decides. Whatever cannot be known is denied. A token that was
verified is remembered, and never that it was let in. No token, no part of one and no foreign error's text gets into a
denial or a log.
Source: docs/protocol.md, "Mandate" and "Biscuit".
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, Unpack
from wsgiref.types import WSGIApplication

from countermand.enforce.asgi import ASGIApp, GuardMiddleware
from countermand.enforce.decision import (
    NO_FACTS,
    NOTHING_REQUIRED,
    Allow,
    Code,
    Decision,
    Deny,
    RequirementOptions,
    Requirements,
    unmet,
)
from countermand.enforce.forks import renew_in_children
from countermand.enforce.inflight import Call, InFlight
from countermand.enforce.resource import ProtectedResource
from countermand.enforce.revocations import AnyRevocations, CheckedRevocations, StoreRevocations, asked
from countermand.enforce.thread import GuardThread
from countermand.enforce.trace import PASS, Outcome, Trace, is_wanted
from countermand.enforce.wsgi import GuardWsgiMiddleware
from countermand.errors import ConfigurationError, KeysError, TokenError, UnknownTokenKeyError
from countermand.log.anchor import Anchors, Kind
from countermand.log.entry import Entry
from countermand.log.verdict import Clear, Revoked, Unknown, Verdict
from countermand.replica.replica import STARTING
from countermand.tokens.cache import Holder, VerifiedToken, VerifiedTokens
from countermand.tokens.jwks import KeySet, KeySource
from countermand.tokens.mandate import Mandate, UnverifiedMandate, parse_mandate, verify

if TYPE_CHECKING:  # an extra
    from countermand.enforce.biscuits import Biscuits

_NO_ANCHORS: Final = Anchors(())

_log = logging.getLogger(__name__)


class Background(Protocol):
    """What keeps the revocations current while a guard is in use.

    Both methods may be called at any time, from different tasks of one event loop, at once and again.
    """

    @property
    def running(self) -> bool:
        """Whether it runs: then `start` need not be called. Any thread may look."""
        ...

    async def start(self) -> None:
        """Begin, if it is not running: also after `aclose`. Cheap where it is; it does not wait for a server.

        Raises:
            Exception: it cannot run. Until it can, the guard lets nothing pass.
        """
        ...

    async def aclose(self) -> None:
        """Stop what runs in this event loop, and return when nothing is left of it."""
        ...


class Guard:
    """Answers for the tokens of one issuer at one audience. An async context manager that runs `background`.

    It accepts the mandates of `issuer`, which `keys` verify, and `biscuits`, or one of the two. `revocations` are a
    replica's or a documented store. `clock_s` tells seconds since 1970, UTC, and `random` gives as many random bytes as
    it is asked for. Where the audience is a URL, it has a document of RFC 9728, to which answers point. Without an
    explicit start, the first decision starts `background`.

    Raises:
        ConfigurationError: a part that could not answer.
    """

    def __init__(  # noqa: PLR0913 - all that a decision needs
        self,
        keys: KeySource | None,
        revocations: AnyRevocations,
        *,
        issuer: str = "",
        audience: str,
        biscuits: "Biscuits | None" = None,
        clock_s: Callable[[], float],
        random: Callable[[int], bytes],
        requirements: Requirements = NOTHING_REQUIRED,
        background: Background | None = None,
    ) -> None:
        if keys is None and biscuits is None:
            raise ConfigurationError("a guard accepts mandates, by an issuer's keys, or Biscuits, or both")
        if keys is not None and not callable(getattr(keys, "key_set", None)):
            raise ConfigurationError("keys is a source of the issuer's keys")
        if (keys is not None and not issuer) or not audience:
            raise ConfigurationError("a guard answers for one issuer and one audience")
        self._keys = keys
        self.biscuits = biscuits
        self._revocations = asked(revocations)
        self.issuer = issuer
        self.audience = audience
        self._clock_s = clock_s
        self._background = background
        self._tokens = VerifiedTokens()
        renew_in_children(self._tokens)
        self.random = random
        self.trace = Trace(self._revocations, clock_s)
        self._in_flight = InFlight(self._revocations, clock_s, self.trace)
        self._requirements = NOTHING_REQUIRED
        self._requirements = self.combine(requirements)
        self.resource = ProtectedResource.of(audience, issuer, self._requirements.required_scopes)
        self.thread = GuardThread(self)

    def combine(self, requirements: Requirements | None) -> Requirements:
        """Return the strictest of the guard's requirements and these.

        Raises:
            ConfigurationError: they bound a staleness, and a store has none.
        """
        combined = self._requirements if requirements is None else self._requirements & requirements
        if combined.max_staleness_s is not None and isinstance(self._revocations, StoreRevocations):
            raise ConfigurationError("a revocation store cannot say how stale it is: leave max_staleness_s out")
        return combined

    async def decide(
        self,
        token: str | bytes | None,
        requirements: Requirements | None = None,
        *,
        request_id: str = "",
        facts: Mapping[str, Any] = NO_FACTS,
    ) -> Decision:
        """Return whether the token may act now. It raises for no token whatever.

        1. There is a token; it is not too long, and has the form of one. Nothing is fetched for one that has not.
        2. A key of the issuer signed it, by an allowed algorithm. A key that we do not hold is looked up within limits.
        3. `iss` is the issuer.
        4. `aud` is or holds the audience.
        5. It is within its time, and everything that we act on can be read.
        6. None of its anchors is revoked: the whole path, the documented claims, and the key that signed it.
        7. No cutoff reaches it.
        8. What we know of revocations is fresh enough to say so.
        9. It meets the guard's requirements and these, the strictest of each: scopes, session, delegation, hops.

        A Biscuit has no issuer and no audience (3, 4), its anchors are its revocation ids, and last of all the
        application's Datalog must allow it: `facts` are what that knows of the request (`countermand.tokens.policy`).

        A refusal by 1 to 5 is `invalid_token` (`missing_token` where there is none, `keys_unavailable` where the keys
        cannot be had), by 6 and 7 `session_revoked`, by 8 `revocation_unavailable`, by 9 what is not met, by the
        Datalog `insufficient_scope`. The record of it names `request_id`.

        Raises:
            InvalidValueError: a fact that no Datalog can hold.
        """
        required = self._requirements if requirements is None else self._requirements & requirements
        verified = await self._verify(token, required)
        if isinstance(verified, Deny):
            return self._told(verified, request_id)
        revocations, background = self._revocations, self._background
        if revocations.blocking or (background is not None and not background.running):
            verdict = await self._ask(verified.anchors, required.max_staleness_s)  # 6 to 8
        else:  # as nearly always, and then this is a decision without a wait
            verdict = revocations.check(verified.anchors, required.max_staleness_s)  # 6 to 8
        denial = self._denial(verdict, required, verified.holder, facts)  # 9
        if denial is not None:
            return self._told(denial, request_id, verified, required)
        self.trace.allowed += 1
        if is_wanted(PASS):
            self.trace.tell(Outcome.ALLOWED, request_id, None, verified, required.max_staleness_s)
        return Allow(verified.holder)

    async def admit(
        self,
        token: str | bytes | None,
        required: Requirements,
        request_id: str = "",
        facts: Mapping[str, Any] = NO_FACTS,
    ) -> Call | Deny:
        """Decide as `decide` does about a call that takes time, and look after it until `Call.end`.

        `required` is what `combine` gave. The call is registered before it is asked whether it is revoked (6 to 8): no
        moment lies in between. A denial leaves nothing registered. What became known while a store was thinking may
        have cut the call already: see `Call.passes`.
        """
        verified = await self._verify(token, required)
        if isinstance(verified, Deny):
            return self._told(verified, request_id)
        call = self._in_flight.register(verified, required.max_staleness_s, request_id)
        try:
            verdict = await self._ask(verified.anchors, required.max_staleness_s)
            denial = self._denial(verdict, required, verified.holder, facts)
        except BaseException:
            call.end()
            raise
        if denial is None:
            self.trace.allowed += 1
            if is_wanted(PASS):
                self.trace.tell(Outcome.ALLOWED, request_id, None, verified, required.max_staleness_s)
            return call
        call.end()
        return self._told(denial, request_id, verified, required)

    @property
    def in_flight(self) -> int:
        """How many calls are looked after now."""
        return len(self._in_flight)

    def pass_at_once(
        self,
        token: str,
        keys: KeySet | None,
        required: Requirements,
        request_id: str = "",
        facts: Mapping[str, Any] = NO_FACTS,
    ) -> VerifiedToken | None:
        """Return what is known of a token that may act now, if that can be said without a wait; any thread may ask.

        `keys` are the issuer's of mandates now, None if they are not at hand. None says nothing about the token: ask
        `admit`.
        """
        known = self._tokens.get(token)
        if known is None:
            return None
        keys_now = keys if self.biscuits is None or isinstance(known.holder, Mandate) else self.biscuits.root_keys
        if keys_now is None or not known.is_good(keys_now, self._clock_s()) or not self.lets_pass(known, required):
            return None
        if self._unauthorized(known.holder, facts) is not None:
            return None
        self.trace.allowed += 1
        if is_wanted(PASS):
            self.trace.tell(Outcome.ALLOWED, request_id, None, known, required.max_staleness_s)
        return known

    def lets_pass(self, token: VerifiedToken, required: Requirements) -> bool:
        """Whether a call that was let in may go on, as far as that can be said without a wait; any thread may ask.

        False says nothing: have the call looked after, and ask it whether it `passes`.
        """
        revocations, background = self._revocations, self._background
        if revocations.blocking or (background is not None and not background.running):
            return False
        if not self._clock_s() < token.ends_at_s:
            return False
        verdict = revocations.check(token.anchors, required.max_staleness_s)
        return isinstance(verdict, Clear) and unmet(required, token.holder) is None

    def look_after(self, token: VerifiedToken, required: Requirements, request_id: str) -> Call:
        """Return a call by a token that was let in, which is looked after in this event loop until `Call.end`."""
        return self._in_flight.register(token, required.max_staleness_s, request_id)

    @property
    def is_starting(self) -> bool:
        """Whether nothing can pass yet, because the replica has not heard of its log."""
        revocations = self._revocations
        return isinstance(revocations, CheckedRevocations) and revocations.check(_NO_ANCHORS, None) == Unknown(STARTING)

    def on_applied(self, entries: Sequence[Entry]) -> None:
        """Take notice of entries that are in force now; none are named where a snapshot brought them.

        What follows the log calls it, from any thread. Calls in flight that are revoked are cut.
        """
        for entry in entries:
            if entry.kind is Kind.KEY:
                self._tokens.forget_key(entry.id)
        if not entries or any(entry.kind is Kind.CUTOFF for entry in entries):
            self._in_flight.recheck()
        elif self._in_flight:
            self._in_flight.recheck(frozenset([entry.key for entry in entries]))

    async def _verify(  # noqa: PLR0911 - each way out is a step
        self, token: str | bytes | None, required: Requirements
    ) -> VerifiedToken | Deny:
        if not token:  # 1
            return Deny.of(Code.MISSING_TOKEN, scopes=required.required_scopes)
        if self.biscuits is not None and _is_biscuit(token):
            return self._verify_biscuit(self.biscuits, token)
        known = self._tokens.get(token)
        try:
            signed = known or parse_mandate(token)  # 1
            keys = await self._keys_for(signed.key_id)
        except TokenError as refusal:
            return _invalid(refusal)
        except Exception as fault:  # noqa: BLE001  # whatever it is, there are no keys
            return _without_keys(fault)
        if known is not None and known.is_good(keys, self._clock_s()):
            return known
        try:
            unverified = signed if isinstance(signed, UnverifiedMandate) else parse_mandate(token)
            now_s = self._clock_s()
            mandate = verify(unverified, keys, issuer=self.issuer, audience=self.audience, now_s=now_s)  # 2 to 5
            verified = VerifiedToken.of(mandate, keys)
        except TokenError as refusal:
            return _invalid(refusal)
        self._tokens.add(token, verified)
        return verified

    async def _keys_for(self, key_id: str | None) -> KeySet:
        if self._keys is None:
            raise UnknownTokenKeyError("mandates are not accepted here")
        return await self._keys.key_set(key_id)

    def _verify_biscuit(self, biscuits: "Biscuits", token: str | bytes) -> VerifiedToken | Deny:
        known = self._tokens.get(token)
        try:
            verified = biscuits.verify(token, known, self._clock_s())
        except TokenError as refusal:
            return _invalid(refusal)
        if verified is not known:
            self._tokens.add(token, verified)
        return verified

    def _denial(
        self, verdict: Verdict, required: Requirements, holder: Holder, facts: Mapping[str, Any]
    ) -> Deny | None:
        if not isinstance(verdict, Clear):
            return Deny.by(verdict)
        denial = None if required is NOTHING_REQUIRED else unmet(required, holder)
        return denial if self.biscuits is None or denial is not None else self._unauthorized(holder, facts)

    def _unauthorized(self, holder: Holder, facts: Mapping[str, Any]) -> Deny | None:
        if self.biscuits is None or isinstance(holder, Mandate):
            return None
        return self.biscuits.denial(holder, facts, self._clock_s())

    def _told(
        self,
        denial: Deny,
        request_id: str,
        token: VerifiedToken | None = None,
        required: Requirements = NOTHING_REQUIRED,
    ) -> Deny:
        self.trace.tell(Outcome.DENIED, request_id, denial, token, required.max_staleness_s)
        return denial

    async def _ask(self, anchors: Anchors, max_staleness_s: float | None) -> Verdict:
        running = self._background is None or await self._begin(self._background)
        (verdict,) = await self._revocations.ask([(anchors, max_staleness_s)])
        return verdict if running or isinstance(verdict, Revoked) else Unknown("not_following")

    async def _begin(self, background: Background) -> bool:
        try:
            await background.start()
        except Exception as error:  # noqa: BLE001  # whatever it is, nothing keeps the revocations current
            _log.error("what follows the revocations does not start (%s)", type(error).__name__)
            return False
        return True

    async def start(self) -> None:
        """Start what keeps the revocations current. Raises: as its `start`."""
        if self._background is not None:
            await self._background.start()

    async def aclose(self) -> None:
        """Stop it."""
        if self._background is not None:
            await self._background.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def asgi(self, app: ASGIApp, **requirements: Unpack[RequirementOptions]) -> GuardMiddleware:
        """Return `app` behind this guard. Raises: ConfigurationError."""
        return GuardMiddleware(app, self, Requirements.of(**requirements))

    def wsgi(self, app: WSGIApplication, **requirements: Unpack[RequirementOptions]) -> GuardWsgiMiddleware:
        """Return `app` behind this guard, which runs in a thread of its own from the first request to `close`.

        Raises: ConfigurationError.
        """
        return GuardWsgiMiddleware(app, self, Requirements.of(**requirements))

    def close(self) -> None:
        """End the guard's own thread, if it has one. The next request of a WSGI app begins anew."""
        self.thread.close()


def _invalid(refusal: TokenError) -> Deny:
    return Deny.of(Code.INVALID_TOKEN, description=str(refusal), reason=refusal.code)


def _without_keys(fault: Exception) -> Deny:
    if not isinstance(fault, KeysError):
        _log.error("a source of keys failed (%s)", type(fault).__name__)
    return Deny.of(Code.KEYS_UNAVAILABLE, reason=KeysError.code)


def _is_biscuit(token: str | bytes) -> bool:
    """A mandate has dots between its parts, and base64 has none."""
    return (b"." if isinstance(token, bytes) else ".") not in token  # type: ignore[operator]  # each in its own
