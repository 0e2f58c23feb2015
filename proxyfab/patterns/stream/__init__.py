"""Streams of objects over a broker's topics, with the objects themselves in stores."""

from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.naming import register_selector, register_serializer, register_validator
from proxyfab.patterns.stream.producer import Producer

__all__ = ["Consumer", "Producer", "register_selector", "register_serializer", "register_validator"]
