"""Peers, used as their own documentation recommends, and what the machine does without any library."""
