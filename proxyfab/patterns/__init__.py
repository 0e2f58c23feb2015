"""What references are good for: futures, and what is built on them. `import proxyfab` imports nothing of this."""

from proxyfab.patterns.future import Future, as_completed, wait

__all__ = ["Future", "as_completed", "wait"]
