"""`python -m benchmarks.placement`: the same nodes and the same objects, placed by every policy side by side.

Nodes and traces are synthetic, or read from files such as D-Rex (arXiv 2506.02026) published. Computed, not measured:
only the time that a policy thinks is taken from the clock.
"""
