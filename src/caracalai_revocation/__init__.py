"""The documented import name of the revocation contract and the in-memory store; the code is `countermand.stores`."""

from countermand.published import refuse_twice
from countermand.stores.contract import DEFAULT_REVOCATION_TTL_MS, RevocationStore
from countermand.stores.memory import InMemoryRevocationStore

__all__ = ["DEFAULT_REVOCATION_TTL_MS", "InMemoryRevocationStore", "RevocationStore"]

refuse_twice("caracalai-revocation")
