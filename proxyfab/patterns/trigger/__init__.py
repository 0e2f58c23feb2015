"""Functions that events call: triggers."""

from proxyfab.patterns.trigger.event import Event
from proxyfab.patterns.trigger.records import Firing, Statistics, disable, enable, forget, logs, statistics, triggers
from proxyfab.patterns.trigger.trigger import Backoff, Trigger

__all__ = [
    "Backoff",
    "Event",
    "Firing",
    "Statistics",
    "Trigger",
    "disable",
    "enable",
    "forget",
    "logs",
    "statistics",
    "triggers",
]
