"""Where the shards of an object should lie: pure functions of what is known of the nodes.

A policy's `place(nodes, size=..., target=..., retention=...)` says k, m and which nodes, or raises a CapacityError that
says why not. `GreedyMinStorage` is the one to begin with.
"""

from proxyfab.erasure.placement.fixed import Daos, Replicate, Static, UtilizationFactor
from proxyfab.erasure.placement.greedy import GreedyLeastUsed, GreedyMinStorage, LoadBalance
from proxyfab.erasure.placement.node import Node, Placement
from proxyfab.erasure.placement.odds import loss_of
from proxyfab.erasure.placement.policy import Policy
from proxyfab.erasure.placement.saturation import SaturationControlled
from proxyfab.erasure.placement.scarcity import ScarcityPrice
from proxyfab.erasure.placement.times import Coder, Times

__all__ = [
    "Coder",
    "Daos",
    "GreedyLeastUsed",
    "GreedyMinStorage",
    "LoadBalance",
    "Node",
    "Placement",
    "Policy",
    "Replicate",
    "SaturationControlled",
    "ScarcityPrice",
    "Static",
    "Times",
    "UtilizationFactor",
    "loss_of",
]
