"""What references are good for: futures, and what is built on them. `import proxyfab` imports nothing of this."""

from proxyfab.patterns.executor import ProxyExecutor
from proxyfab.patterns.future import Future, as_completed, wait
from proxyfab.patterns.lifetime import Lease, Lifetime
from proxyfab.patterns.ownership import adopt, borrow, borrow_mut, clone, own, reclaim, release, scope, update
from proxyfab.patterns.proxied import proxied
from proxyfab.patterns.resilient import ResilientExecutor
from proxyfab.patterns.stream import Consumer, Producer
from proxyfab.patterns.trigger import Trigger
from proxyfab.patterns.wishes import ByRef, ByValue

__all__ = [
    "ByRef",
    "ByValue",
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
