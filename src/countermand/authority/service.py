"""The authority put together: its use cases in groups, one transaction each."""

from collections.abc import Callable
from dataclasses import dataclass

from countermand.authority.biscuits import BiscuitReader, Biscuits
from countermand.authority.cleaning import Cleaning
from countermand.authority.database import Database
from countermand.authority.descendants import Descendants
from countermand.authority.export import Export
from countermand.authority.heartbeat import Heartbeat
from countermand.authority.keys import Keys
from countermand.authority.ledger import Ledger
from countermand.authority.minting import Minting, Policy
from countermand.authority.once import Once
from countermand.authority.opening import Opening
from countermand.authority.presenting import Presenting
from countermand.authority.reading import Reading
from countermand.authority.receipts import Receipts
from countermand.authority.recovery import Recovery
from countermand.authority.registered import Registered
from countermand.authority.registering import Registering
from countermand.authority.replicas import Replicas
from countermand.authority.revoking import Revoking
from countermand.authority.rotation import Rotation
from countermand.authority.sweeping import Sweeping
from countermand.authority.trail import Trail
from countermand.log.freshness import Instant


@dataclass(frozen=True, slots=True)
class Authority:
    """What may act, what proves it, and what ends it; who is told of it and has heard; who asks, and who did what."""

    opening: Opening
    reading: Reading
    minting: Minting
    revoking: Revoking
    biscuits: Biscuits
    registered: Registered
    registering: Registering
    export: Export
    sweeping: Sweeping
    descendants: Descendants
    presenting: Presenting
    once: Once
    cleaning: Cleaning
    recovery: Recovery
    replicas: Replicas
    receipts: Receipts
    rotation: Rotation
    trail: Trail

    @classmethod
    async def start(
        cls,
        database: Database,
        ledger: Ledger,
        heartbeat: Heartbeat,
        keys: Keys,
        policy: Policy,
        clock: Callable[[], Instant],
        random: Callable[[int], bytes],
        read_biscuit: BiscuitReader | None = None,
    ) -> "Authority":
        """Return the authority. `clock` and `random` are its only sources of time and ids.

        The longest life that a mandate ever had is remembered first: entries are kept longer than that. `read_biscuit`
        None: no root keys of Biscuits are known.
        """
        await database.write(lambda connection: ledger.remember_life(connection, policy.mandate_s))
        rotation = Rotation(database, keys, clock, heartbeat.sign_soon)
        minting = Minting(database, ledger, keys, policy, clock, random)
        biscuits = Biscuits(database, ledger, heartbeat, read_biscuit, clock)
        registered = Registered(database, ledger, heartbeat, clock)
        revoking = Revoking(database, ledger, heartbeat, rotation, biscuits, registered, policy.issuer, clock)
        reading = Reading(database, ledger, clock)
        replicas = Replicas(database, heartbeat.witnesses, clock)
        return cls(
            Opening(database, ledger, clock, random),
            reading,
            minting,
            revoking,
            biscuits,
            registered,
            Registering(database, ledger, clock),
            Export(database, ledger, clock),
            Sweeping(database, ledger, heartbeat, registered, clock),
            Descendants(database, clock),
            Presenting(database, ledger, minting, revoking, biscuits, clock),
            Once(database, clock, random, registered.finish_since),
            Cleaning(database, clock, policy.retention_days),
            Recovery(database, ledger, heartbeat, rotation, registered, policy.issuer, clock),
            replicas,
            Receipts(reading, replicas, clock),
            rotation,
            Trail(database, heartbeat),
        )
