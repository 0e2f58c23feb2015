"""Streams of objects over a broker's topics, with the objects themselves in stores."""

from proxyfab.patterns.stream.checkpoint import Checkpoint
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.forwarding import Forwarded, forward
from proxyfab.patterns.stream.naming import register_selector, register_serializer, register_validator
from proxyfab.patterns.stream.outputs import Output
from proxyfab.patterns.stream.producer import Producer
from proxyfab.patterns.stream.releasing import sweep
from proxyfab.patterns.stream.strays import sweep_strays

__all__ = [
    "Checkpoint",
    "Consumer",
    "Forwarded",
    "Output",
    "Producer",
    "forward",
    "register_selector",
    "register_serializer",
    "register_validator",
    "sweep",
    "sweep_strays",
]
