"""Brokers: places for topics. `open_broker(url)` gives this process's live one for a URL."""

from proxyfab.brokers.opening import open_broker

__all__ = ["open_broker"]
