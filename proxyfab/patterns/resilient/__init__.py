"""Tasks that outlive their workers: leased from a broker, run anywhere, done once."""

from proxyfab.patterns.resilient.executor import ResilientExecutor

__all__ = ["ResilientExecutor"]
