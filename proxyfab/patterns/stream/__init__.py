"""Streams of objects over a broker's topics, with the objects themselves in stores."""

from proxyfab.patterns.stream.producer import Producer

__all__ = ["Producer"]
