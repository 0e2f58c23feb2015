"""`zmq://host:port`: topics in the memory of a server, over ZeroMQ."""

from proxyfab.brokers.zmq.broker import ZmqBroker

__all__ = ["ZmqBroker"]
