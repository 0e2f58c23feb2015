"""`redis://`: topics in Redis and what speaks its protocol."""

from proxyfab.brokers.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
