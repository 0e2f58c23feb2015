"""What references are good for: futures, and what is built on them. `import proxyfab` imports nothing of this."""

from proxyfab.patterns.future import Future, as_completed, wait
from proxyfab.patterns.lifetime import Lease, Lifetime

__all__ = ["Future", "Lease", "Lifetime", "as_completed", "wait"]
