"""`nats://`: topics as streams of NATS JetStream, on a server anywhere, or on one that is started here and shared."""

from proxyfab.brokers.nats.broker import NatsBroker

__all__ = ["NatsBroker"]
