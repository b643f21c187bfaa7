"""What the relay publishes, and as which messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from countermand.authority.descendants import Descendants
from countermand.authority.heartbeat import Heartbeat
from countermand.authority.keys import Keys
from countermand.authority.ledger import Ledger
from countermand.authority.reader import LedgerReader
from countermand.log.wire import signed_messages

Messages: TypeAlias = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Stream:
    """The documented stream's name, and the keys with which messages are signed: none, or several in a rotation."""

    name: str
    keys: Sequence[bytes] = ()

    def messages(self, outbox_id: str, fields: Mapping[str, str]) -> Messages:
        """Return the messages that say `fields`, one for each key."""
        return signed_messages(self.name, {**fields, "outbox_id": outbox_id}, self.keys)


@dataclass(frozen=True, slots=True)
class Source:
    """What is published: the ledger, its checkpoints, snapshots and keysets, and descendants that are to be told."""

    ledger: Ledger
    heartbeat: Heartbeat
    log: LedgerReader
    descendants: Descendants
    keys: Keys
