"""`redis://`: objects in Redis and what speaks its protocol."""

from proxyfab.connectors.redis.connector import RedisConnector, SecureRedisConnector

__all__ = ["RedisConnector", "SecureRedisConnector"]
