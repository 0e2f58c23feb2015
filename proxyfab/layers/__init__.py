"""Layers: connectors around a connector, which stand before the scheme in its URL."""
