"""How a server is spoken to over ZeroMQ: contexts, keys, connections that end once. For connectors and brokers."""
