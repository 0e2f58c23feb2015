"""Objects to payloads and back."""

from proxyfab.serialize.codec import Codec
from proxyfab.serialize.objects import dumps, loads
from proxyfab.serialize.table import register

__all__ = ["Codec", "dumps", "loads", "register"]
