"""What things are called in Kafka. Pure.

frames                 the topic itself
_pf.frames.state       the values beside it, its description and its groups; _pf.state those beside the broker
frames~demo~9f86d081   a group, and which of its beginnings: one that is moved as a whole is another one for Kafka
"""

from __future__ import annotations

import os

from proxyfab.errors import ConfigurationError
from proxyfab.events.model import check_topic

DESCRIPTION = ".topic"
GROUPS = ".groups/"
"""Names of values that `State` does not show, as no name of its begins with a dot."""


def values_topic(prefix: str, topic: str) -> str:
    """Where the values beside a topic lie; "" for the broker's."""
    return f"{prefix}.{topic}.state" if topic else f"{prefix}.state"


def new_group(topic: str, group: str) -> str:
    """What Kafka calls a group from now on."""
    return f"{topic}~{group}~{os.urandom(4).hex()}"


def is_topic(name: str, prefix: str) -> bool:
    """Whether it is a topic of ours, or could be."""
    if name.startswith((f"{prefix}.", "__")):
        return False
    try:
        check_topic(name)
    except ConfigurationError:
        return False
    return True
