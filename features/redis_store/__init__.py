"""The entity logs in Redis, on one server or on a cluster. The only importer of `redis`."""

from features.redis_store.namespace import Namespace
from features.redis_store.scripts import APPLY
from features.redis_store.servers import Tls
from features.redis_store.store import IDLE_S, RedisStore

__all__ = ["APPLY", "IDLE_S", "Namespace", "RedisStore", "Tls"]
