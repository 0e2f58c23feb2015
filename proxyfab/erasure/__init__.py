"""Erasure coding: any k of k + m shards give the object back, and where the shards should lie. Arithmetic, no I/O.

`Code` makes and joins shards.
"""

from proxyfab.erasure.codec import Code
from proxyfab.erasure.kernels import available

__all__ = ["Code", "available"]
