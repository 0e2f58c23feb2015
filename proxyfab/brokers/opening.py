"""From a URL to this process's live broker for it.

Promises: one broker for each URL, which is opened again if it was closed; nothing is imported before its scheme is
asked for.
"""

from __future__ import annotations

from proxyfab import registry
from proxyfab.errors import ConfigurationError
from proxyfab.events.broker import Broker, opener
from proxyfab.spec import ConnectorSpec

_live: dict[str, Broker] = {}


def open_broker(url: str | None = None) -> Broker:
    """The broker at a URL: `memory://`, `zmq://host:port`, `redis://host`, `nats://host:4222`, `kafka://host:9092`.

    Args:
        url: None for the embedded one: a NATS server of this machine's own, which is started, or joined where a process
            of the same user has started it, and ends after the last who uses it.

    Raises:
        ConfigurationError: There is no such scheme, or the URL makes no sense.
        MissingDependency: It needs a package that is not installed.
    """
    if url is None:
        url = "nats://auto"
    found = _live.get(url)
    if found is not None and not found.closed:
        return found
    scheme = ConnectorSpec.parse(url).scheme
    if scheme not in registry.names("brokers"):
        raise ConfigurationError(f"There is no broker {scheme}://; known here: {', '.join(registry.names('brokers'))}.")
    broker: Broker = registry.load("brokers", scheme).from_url(url)
    _live[url] = _live[broker.url] = broker
    return broker


opener.append(open_broker)
