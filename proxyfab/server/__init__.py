"""The node server: takes objects from clients, keeps them in any connector, and gives them to whoever has the key."""
