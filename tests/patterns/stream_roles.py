"""What processes do in tests of producers."""

from __future__ import annotations

from multiprocessing.connection import Connection

from proxyfab.brokers import open_broker
from proxyfab.patterns import Producer


def send_for_ever(talk: Connection, url: str, name: str) -> None:
    """Send numbers, and tell those that were acknowledged, until killed."""
    out = Producer(open_broker(url), "frames", name=name)
    number = 0
    while True:
        receipts = [out.send(number + more) for more in range(100)]
        for receipt in receipts:
            receipt.result(30)
            talk.send(number)
            number += 1
