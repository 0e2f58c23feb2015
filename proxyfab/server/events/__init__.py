"""The server of zmq:// brokers: topics in its memory, one loop, no lock."""
