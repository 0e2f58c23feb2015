"""From a URL to this process's live broker for it.

Promises: one broker for each URL, which is opened again if it was closed, and a handle of it for each who opens it: to
close one closes nobody else's. Nothing is imported before its scheme is asked for; a URL that came from elsewhere is
opened as far as this process's policy allows.
"""

from __future__ import annotations

import os
import threading

from proxyfab import policy, registry
from proxyfab.errors import ConfigurationError
from proxyfab.events.broker import Broker, opener
from proxyfab.events.handle import Handle, Live
from proxyfab.spec import ConnectorSpec

_live: dict[str, Live] = {}
_opening = threading.RLock()


def _unlock() -> None:
    global _opening
    _opening = threading.RLock()


os.register_at_fork(after_in_child=_unlock)


def open_broker(url: str | None = None) -> Broker:
    """The broker at a URL: `memory://`, `zmq://host:port`, `redis://host`, `nats://host:4222`, `kafka://host:9092`.

    Args:
        url: None for the embedded one: a NATS server of this machine's own, which is started, or joined where a process
            of the same user has started it, and ends after the last who uses it.

    Each call gives a handle of its own. The connection behind it is one for each URL, and ends when a handle was closed
    and no other is left.

    Raises:
        ConfigurationError: There is no such scheme, or the URL makes no sense.
        MissingDependency: It needs a package that is not installed.
    """
    if url is None:
        url = "nats://auto"
    return _usable(url) or _open(url)


def received_broker(url: str) -> Broker:
    """The same for a URL that came from elsewhere.

    Raises:
        AccessDenied: This process's policy does not allow it; or it names a secret that is not meant for that, and this
            process has not opened that very URL by itself.
    """
    found = _usable(url)
    policy.check_connector(url, secrets=found is None)  # to the one that is open here no secret is sent
    if found is not None:
        return found
    with policy.received():
        return open_broker(url)


def _usable(url: str) -> Handle | None:
    found = _live.get(url)
    return None if found is None else found.handle()


def _open(url: str) -> Broker:
    if "://" not in str(url):
        raise ConfigurationError(
            f"{url!r} is not a broker's URL: it looks like nats://host:4222 or redis://host:6379/0; open_broker() is "
            f"for this machine's own."
        )
    scheme = ConnectorSpec.parse(url).scheme
    if scheme not in registry.names("brokers"):
        raise ConfigurationError(f"There is no broker {scheme}://; known here: {', '.join(registry.names('brokers'))}.")
    kind = registry.load("brokers", scheme)
    with _opening:
        found = _usable(url)
        if found is None:
            made: Broker = kind.from_url(url)
            known = _live.get(made.url)
            found = None if known is None else known.handle()
            if known is None or found is None:
                known = Live(made)
                found = known.handle()
                assert found is not None, "it was just opened"
            _live[url] = _live[made.url] = known
        return found


opener.append(received_broker)
