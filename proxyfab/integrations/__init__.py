"""Doors to other people's frameworks; each is imported by who wants it, and needs an extra."""
