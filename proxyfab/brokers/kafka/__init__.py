"""`kafka://`: topics in Kafka and what speaks its protocol: MSK with Octopus, Redpanda."""

from proxyfab.brokers.kafka.broker import KafkaBroker
from proxyfab.brokers.kafka.tokens import register_tokens

__all__ = ["KafkaBroker", "register_tokens"]
