"""What two machines must agree on: bytes in, events out; no socket, clock, thread or random source."""
