"""The conformance suite of connectors in parts, by what is promised. `proxyfab.testing.ConnectorTests` joins them."""
