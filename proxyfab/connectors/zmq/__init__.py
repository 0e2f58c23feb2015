"""`zmq://`: objects on a node server (`proxyfab serve`)."""
