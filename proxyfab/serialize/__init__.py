"""Objects to payloads and back."""

from proxyfab.serialize.objects import dumps, loads, register

__all__ = ["dumps", "loads", "register"]
