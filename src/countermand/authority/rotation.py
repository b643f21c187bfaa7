"""Rotation and withdrawal of signing keys.

Every step is one transaction, and the register says what comes next: whoever dies between two, any process goes on.

    1. A new key is made known first: a checkpoint key in the next keyset, a mandate key in the JSON Web Key Set.
    2. It signs once all who verify can know it: every live replica has reported the keyset, and the time has passed
       that was set for those who do not report, or that a key set may be kept for. `force` does not wait.
    3. The old key verifies until nothing that it signed is in use; then it leaves.
    4. A withdrawn key leaves at once. A mandate key's withdrawal is an entry of the ledger; a checkpoint key's is the
       next keyset, signed by another key of the keyset before, if there is one.
    5. A register that was restored agrees again with the last keyset that witnesses hold: it is never followed back.

Source: docs/protocol.md, "Keyset"; docs/adr/0013 and 0014.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countermand.authority import tables
from countermand.authority.appending import Act
from countermand.authority.audit import Audit
from countermand.authority.checks import check_reason
from countermand.authority.database import Database
from countermand.authority.keys import Keys, PrivateKey, Register, generate, public_of, register_key
from countermand.authority.keysets import LaterKeysets, find_later
from countermand.authority.model import KeyState, Purpose, RegisteredKey
from countermand.authority.replicas import live_since
from countermand.errors import AuthorityError, BusyError, DataError, ExceededError, NotActiveError, NotFoundError
from countermand.log.checkpoint import Pin
from countermand.log.freshness import Instant
from countermand.log.keyset import MAX_KEYS, MAX_KEYSETS, sign_keyset
from countermand.tokens.mandate import LEEWAY_S

WAIT_S: Final = {Purpose.CHECKPOINT: 60, Purpose.MANDATE: 360}
"""Before the next key signs, unless another time is given. Checkpoints: for replicas that follow over Redis and report
nothing. Mandates: verifiers keep a key set for five minutes, and what lies between for one."""
LONGEST_WAIT_S: Final = 86_400
OVERLAP_MS: Final = 5_000
"""How long checkpoints of the old key are still good: every process looks once a second which one signs."""
MINTING_MS: Final = 60_000
"""How long after the switch a mandate of the old key may still be on its way out."""
INTERVAL_S: Final = 1.0
_LOCK: Final = "signing keys"
_SIGNERS: Final = (KeyState.ACTIVE, KeyState.RETIRING, KeyState.NEXT, KeyState.RETIRED, KeyState.WITHDRAWN)
"""Which key signs the next keyset, the first before all."""

_log = logging.getLogger(__name__)


class Rotation:
    """Changes the register of `keys`. The only one that does."""

    def __init__(
        self, database: Database, keys: Keys, clock: Callable[[], Instant], changed: Callable[[], None]
    ) -> None:
        self._database = database
        self._audit = Audit(database, clock)
        self._keys = keys
        self._clock = clock
        self._changed = changed

    async def register(self) -> Register:
        """Return the register as it is now."""
        await self.refresh()
        return self._keys.register

    async def rotate(self, purpose: Purpose, wait_s: int | None = None, *, force: bool = False) -> RegisteredKey:
        """Make a key known that will sign in the place of the present one; with `force`, at once.

        Forced once more, one that is under way is ended.

        Raises:
            NotActiveError: one is under way, or the keys of too many before are still in use.
            ExceededError: the log has had as many keysets as it may.
        """
        private = generate(purpose)
        wait_ms = 1000 * (WAIT_S[purpose] if wait_s is None else wait_s)

        async def work(connection: AsyncConnection) -> tuple[RegisteredKey, Act | None]:
            await self._database.lock(connection, _LOCK)
            now_ms = self._clock().wall_ms
            register = await self._keys.read(connection)
            key = register.find(purpose, KeyState.NEXT)
            if key is not None and not force:
                raise NotActiveError(f"a rotation of the {purpose} key is under way: let it end, or force it")
            if key is None:
                if len(register.standing(purpose)) == MAX_KEYS:
                    raise NotActiveError(f"{MAX_KEYS} {purpose} keys are in use: wait until the oldest have retired")
                key = self._keys.keep(private, now_ms, KeyState.NEXT, now_ms + wait_ms)
                await register_key(connection, key)
                await self._publish(connection, register.pin)
            if force:
                key = await self._switch(connection, register.active(purpose), key, now_ms)
            return key, Act("signing-key.rotate", key.id)

        key = await self._audit.write(work)
        await self._heed()
        return key

    async def withdraw_checkpoint_key(self, id_: str, reason: str = "") -> RegisteredKey:
        """Let nobody believe a checkpoint key any more. The next one signs at once, or a new one does.

        Raises: NotFoundError, InvalidValueError, ExceededError; DataError, where no key is here that could sign the
            next keyset.
        """
        check_reason(reason)
        private = generate(Purpose.CHECKPOINT)

        async def work(connection: AsyncConnection) -> tuple[RegisteredKey, Act | None]:
            await self._database.lock(connection, _LOCK)
            key = _named((await self._keys.read(connection)).keys, Purpose.CHECKPOINT, id_)
            withdrawn = await self._withdraw(connection, key, private)
            return withdrawn, Act("signing-key.withdraw", id_, reason=reason) if withdrawn != key else None

        key = await self._audit.write(work)
        _log.warning("the checkpoint key %s is withdrawn: %s", id_, reason or "no reason was given")
        await self._heed()
        return key

    async def withdraw_mandate_key(self, connection: AsyncConnection, id_: str) -> None:
        """Sign nothing more with this key, if it is one of ours: for the transaction that revokes it.

        Call `refresh` once it is committed.
        """
        await self._database.lock(connection, _LOCK)
        register = await self._keys.read(connection)
        key = next((key for key in register.keys if key.purpose is Purpose.MANDATE and key.id == id_), None)
        if key is not None:
            await self._withdraw(connection, key, generate(Purpose.MANDATE))

    async def hold(self, connection: AsyncConnection) -> None:
        """Let nobody change the keys until the transaction ends, and go by what they are now."""
        await self._database.lock(connection, _LOCK)
        await self._keys.look(connection)

    async def find_later(self, connection: AsyncConnection, held: Sequence[Sequence[bytes]]) -> LaterKeysets:
        """Return the keysets after the register's own that witnesses hold, or that this process has seen before."""
        register = await self._keys.read(connection, anew=True)
        missing = partial(self._missing, self._ours(register))
        return find_later(register.pin, (*held, self._keys.register.keysets), missing)

    async def take_up(self, connection: AsyncConnection, later: LaterKeysets) -> list[Act]:
        """Have a restored register agree with the last of these keysets; return what that did to which key.

        Whoever signs goes on where it is in there, else the first does that has its file here. A key that is left out
        is withdrawn: that it has only retired, nobody can tell. Call `refresh` once it is committed.

        Raises: BusyError, where the register is another by now.
        """
        if not later.signed:
            return []
        await self._database.lock(connection, _LOCK)
        now_ms = self._clock().wall_ms
        register = await self._keys.read(connection, anew=True)
        ours = self._ours(register)
        if register.pin != later.before or self._missing(ours, later.pin):
            raise BusyError("the keys have changed meanwhile: try again")
        versions = range(later.before.version + 1, later.pin.version + 1)
        rows = [{"version": version, "data": data} for version, data in zip(versions, later.signed, strict=True)]
        await connection.execute(insert(tables.keysets), rows)
        last = [ours[id_.hex()] for id_ in later.pin.keys]
        signs, acts = self._signing(last), []
        for key in last + [ours[id_.hex()] for id_ in sorted(later.left_out) if id_.hex() in ours]:
            state = KeyState.ACTIVE if key is signs else key.state if key in last else KeyState.WITHDRAWN
            if key not in register.keys:
                await register_key(connection, replace(key, state=state, created_at_ms=now_ms, since_ms=now_ms))
            elif state is key.state:
                continue
            else:
                await _set(connection, key, state, now_ms)
            acts.append(Act("signing-key.recover", key.id, reason=f"{state.value} by keyset {later.pin.version}"))
        return acts

    def _ours(self, register: Register) -> dict[str, RegisteredKey]:
        """Return the checkpoint keys that verify, and those with files here that the register has forgotten."""
        forgotten = filter(self._has, self._keys.forgotten(register))
        return {key.id: key for key in (*register.standing(Purpose.CHECKPOINT), *forgotten)}

    def _missing(self, ours: Mapping[str, RegisteredKey], pin: Pin) -> list[str]:
        """Return which keys of `pin` are not among ours; all of them, where none could sign here."""
        ids = [id_.hex() for id_ in pin.keys]
        missing = [id_ for id_ in ids if id_ not in ours]
        return missing if missing or self._signing([ours[id_] for id_ in ids]) else ids

    def _signing(self, keys: Sequence[RegisteredKey]) -> RegisteredKey | None:
        """Return which of these is to sign: the one that does, else the first that has its file here."""
        active = [key for key in keys if key.state is KeyState.ACTIVE]
        return next(chain(active, filter(self._has, keys)), None)

    async def refresh(self) -> None:
        """Look what has changed."""
        async with self._database.read() as connection:
            await self._keys.look(connection)

    async def run(self, told: Callable[[Pin], None]) -> None:
        """Take each step when its time has come, for ever. `told` hears of every new pin."""
        pin, said = self._keys.pin, ""
        while True:
            try:
                await self.step()
                if self._keys.pin != pin:
                    told(self._keys.pin)
                    pin = self._keys.pin
                said = ""
            except AuthorityError as error:
                if str(error) != said:
                    _log.error("a rotation of keys does not go on here: %s", error, extra={"code": error.code})
                said = str(error)
            await asyncio.sleep(INTERVAL_S)

    async def step(self) -> None:
        """Take the steps whose time has come. A process that lacks the next key's file takes none.

        Raises: DataError, ExceededError, BusyError.
        """
        pending = [key for key in self._keys.register.keys if key.state in {KeyState.NEXT, KeyState.RETIRING}]
        for key in pending:
            if key.state is KeyState.NEXT:
                self._load(key)
        if pending:
            took = await self._database.write(self._step)
            if took:
                await self._heed()

    async def _step(self, connection: AsyncConnection) -> bool:
        await self._database.lock(connection, _LOCK)
        now_ms = self._clock().wall_ms
        register = await self._keys.read(connection)
        took = False
        for purpose in Purpose:
            key = register.find(purpose, KeyState.NEXT)
            if key is not None and await self._is_known(connection, register, key, now_ms):
                await self._switch(connection, register.active(purpose), key, now_ms)
                took = True
            for old in register.standing(purpose):
                if old.state is KeyState.RETIRING and now_ms >= old.since_ms + await _in_use_ms(connection, purpose):
                    await _set(connection, old, KeyState.RETIRED, now_ms)
                    took = True
        if took:
            await self._publish(connection, register.pin)
        return took

    async def _is_known(self, connection: AsyncConnection, register: Register, key: RegisteredKey, now_ms: int) -> bool:
        """Whether all who verify can know the next key."""
        if now_ms < (key.switch_at_ms or 0):
            return False
        if key.purpose is Purpose.MANDATE:
            return True
        replicas = tables.replicas.c
        behind = select(func.count()).where(
            replicas.reported_at_ms >= live_since(now_ms), replicas.keyset < register.pin.version
        )
        return (await connection.execute(behind)).scalar_one() == 0

    async def _switch(
        self, connection: AsyncConnection, old: RegisteredKey, new: RegisteredKey, now_ms: int
    ) -> RegisteredKey:
        """Sign with `new`. Raises: DataError, where its file is not here: a process that has it will do this."""
        self._load(new)
        await _set(connection, old, KeyState.RETIRING, now_ms)
        return await _set(connection, new, KeyState.ACTIVE, now_ms)

    async def _withdraw(self, connection: AsyncConnection, key: RegisteredKey, spare: PrivateKey) -> RegisteredKey:
        if key.state is KeyState.WITHDRAWN:
            return key
        now_ms = self._clock().wall_ms
        register = await self._keys.read(connection)
        withdrawn = await _set(connection, key, KeyState.WITHDRAWN, now_ms)
        if key.state is KeyState.ACTIVE:
            successor = register.find(key.purpose, KeyState.NEXT)
            if successor is not None and self._has(successor):
                await _set(connection, successor, KeyState.ACTIVE, now_ms)
            else:
                await register_key(connection, self._keys.keep(spare, now_ms, KeyState.ACTIVE, None))
        if key.purpose is Purpose.CHECKPOINT:
            await self._publish(connection, register.pin)
        return withdrawn

    async def _publish(self, connection: AsyncConnection, before: Pin) -> None:
        """Sign the keyset after `before`, where the keys are others now. Raises: DataError, ExceededError."""
        register = await self._keys.read(connection)
        standing = register.standing(Purpose.CHECKPOINT)
        pin = Pin.of(before.log_id, *map(public_of, standing), version=before.version + 1)
        if pin.keys.keys() == before.keys.keys():
            return
        if pin.version > MAX_KEYSETS:
            raise ExceededError(f"the log has had {MAX_KEYSETS} keysets, and no replica would follow another")
        signed = sign_keyset(pin, self._signer(register, before))
        await connection.execute(insert(tables.keysets).values(version=pin.version, data=signed))

    def _signer(self, register: Register, before: Pin) -> Ed25519PrivateKey:
        """Return a key of `before`: a withdrawn one, only where replicas know no other. Raises: DataError."""
        known = [
            key for key in register.keys if key.purpose is Purpose.CHECKPOINT and bytes.fromhex(key.id) in before.keys
        ]
        known.sort(key=lambda key: _SIGNERS.index(key.state))
        for key in known:
            with suppress(DataError):
                return self._keys.checkpoint_key(key)
        raise DataError("no key of the last keyset is here: the next one is signed where its file is")

    def _has(self, key: RegisteredKey) -> bool:
        try:
            self._load(key)
        except DataError:
            return False
        return True

    def _load(self, key: RegisteredKey) -> None:
        """Raises: DataError, where the key's file is not here."""
        if key.purpose is Purpose.CHECKPOINT:
            self._keys.checkpoint_key(key)
        else:
            self._keys.mandate_key(key.id)

    async def _heed(self) -> None:
        await self.refresh()
        self._changed()


def _named(keys: Sequence[RegisteredKey], purpose: Purpose, id_: str) -> RegisteredKey:
    for key in keys:
        if key.purpose is purpose and key.id == id_:
            return key
    raise NotFoundError(f"there is no such {purpose} key")


async def _in_use_ms(connection: AsyncConnection, purpose: Purpose) -> int:
    """Return how long after the switch what the old key signed may be in use."""
    if purpose is Purpose.CHECKPOINT:
        return OVERLAP_MS
    longest_s: int = (await connection.execute(select(tables.log.c.longest_mandate_s))).scalar_one()
    return (longest_s + LEEWAY_S) * 1000 + MINTING_MS


async def _set(connection: AsyncConnection, key: RegisteredKey, state: KeyState, now_ms: int) -> RegisteredKey:
    keys = tables.signing_keys
    values = {"state": state.value, "since_ms": now_ms, "switch_at_ms": None}
    await connection.execute(update(keys).where(keys.c.id == key.id).values(values))
    return replace(key, state=state, since_ms=now_ms, switch_at_ms=None)
