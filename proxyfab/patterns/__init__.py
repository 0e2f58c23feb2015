"""What references are good for: futures, and what is built on them. `import proxyfab` imports nothing of this.

What stands on brokers (streams, triggers, resilient tasks) is loaded when its name is first used: it is three quarters
of the room, and who owns or decorates needs none of it.
"""

import importlib
from typing import TYPE_CHECKING

from proxyfab.patterns.executor import ProxyExecutor
from proxyfab.patterns.future import Future, as_completed, wait
from proxyfab.patterns.lifetime import Lease, Lifetime
from proxyfab.patterns.ownership import adopt, borrow, borrow_mut, clone, own, reclaim, release, scope, update
from proxyfab.patterns.proxied import proxied
from proxyfab.patterns.wishes import ByRef, ByValue

if TYPE_CHECKING:
    from proxyfab.patterns.resilient import ResilientExecutor
    from proxyfab.patterns.stream import Checkpoint, Consumer, Producer
    from proxyfab.patterns.trigger import Trigger

__all__ = [
    "ByRef",
    "ByValue",
    "Checkpoint",
    "Consumer",
    "Future",
    "Lease",
    "Lifetime",
    "Producer",
    "ProxyExecutor",
    "ResilientExecutor",
    "Trigger",
    "adopt",
    "as_completed",
    "borrow",
    "borrow_mut",
    "clone",
    "own",
    "proxied",
    "reclaim",
    "release",
    "scope",
    "update",
    "wait",
]

_HOMES = {
    **dict.fromkeys(("Checkpoint", "Consumer", "Producer"), "stream"),
    "ResilientExecutor": "resilient",
    "Trigger": "trigger",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
