"""The documented import name of the store and the consumer in Redis; the code is `countermand.stores`."""

from countermand.log.hmac import STREAM_SIG_FIELD
from countermand.log.wire import REVOCATION_STREAM
from countermand.published import refuse_twice
from countermand.stores.client import RedisClient
from countermand.stores.consumer import RedisRevocationConsumer
from countermand.stores.contract import DEFAULT_REVOCATION_TTL_MS
from countermand.stores.redis import RedisRevocationStore

__all__ = [
    "DEFAULT_REVOCATION_TTL_MS",
    "REVOCATION_STREAM",
    "STREAM_SIG_FIELD",
    "RedisClient",
    "RedisRevocationConsumer",
    "RedisRevocationStore",
]

refuse_twice("caracalai-revocation-redis")
