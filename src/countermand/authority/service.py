"""The authority put together: its use cases in three groups, one transaction each."""

from collections.abc import Callable
from dataclasses import dataclass

from countermand.authority.database import Database
from countermand.authority.descendants import Descendants
from countermand.authority.heartbeat import Heartbeat
from countermand.authority.keys import Keys
from countermand.authority.ledger import Ledger
from countermand.authority.minting import Minting, Policy
from countermand.authority.opening import Opening
from countermand.authority.revoking import Revoking
from countermand.log.freshness import Instant


@dataclass(frozen=True, slots=True)
class Authority:
    """What may act, what proves it, and what ends it; and who is still to be told of it."""

    opening: Opening
    minting: Minting
    revoking: Revoking
    descendants: Descendants

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
    ) -> "Authority":
        """Return the authority. `clock` and `random` are its only sources of time and ids.

        The longest life that a mandate ever had is remembered first: entries are kept longer than that.
        """
        await database.write(lambda connection: ledger.remember_life(connection, policy.mandate_s))
        return cls(
            Opening(database, ledger, clock, random),
            Minting(database, ledger, keys, policy, clock, random),
            Revoking(database, ledger, heartbeat, policy.issuer, clock),
            Descendants(database, clock),
        )
