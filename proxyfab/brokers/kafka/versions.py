"""Which protocol of groups a cluster knows.

librdkafka's members of the newer one wait for ever, without a word, where brokers do not list its requests: those of
Kafka before 4.0 and Redpanda. But as soon as it is connected its log tells what a broker lists: that is heard here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

_REQUEST, _LACKS = "ConsumerGroupHeartbeat", "NOT supported"
_QUIET = 2
"""The level of all our handles where the user wants no other."""
_LEVELS = (50, 50, 50, 40, 30, 20, 20, 10)
"""What confluent_kafka makes of syslog's levels."""


class Ear:
    """The log of one member's consumer.

    Args:
        tuning: What the user sets of librdkafka: what it logs because of that goes to stderr, as it would without us.
    """

    def __init__(self, tuning: Mapping[str, Any]) -> None:
        self.unable = False
        """Whether a broker said that it does not know the newer protocol."""
        self._debug = str(tuning.get("debug", ""))
        self._least = _LEVELS[7 if self._debug else min(max(int(tuning.get("log_level", _QUIET)), 0), 7)]

    @property
    def options(self) -> dict[str, object]:
        """With what the consumer is opened."""
        return {"debug": ",".join(filter(None, [self._debug, "feature"])), "log_level": 7, "logger": self}

    def log(self, level: int, form: str, *said: object) -> None:
        """Called by confluent_kafka while the consumer is polled."""
        text = form % said
        if _REQUEST in text and _LACKS in text:
            self.unable = True
        if level >= self._least:
            sys.stderr.write(f"{text}\n")
