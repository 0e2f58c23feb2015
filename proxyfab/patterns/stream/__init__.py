"""Streams of objects over a broker's topics, with the objects themselves in stores."""
