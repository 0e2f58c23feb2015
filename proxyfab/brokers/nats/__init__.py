"""`nats://`: topics as streams of NATS JetStream, on a server anywhere, or on one that is started here and shared.

`broker` has the class; nothing is imported with the package, as the keeper of the server needs little of it.
"""
