"""The conformance suite of brokers in parts, by what is promised. `proxyfab.testing.BrokerTests` joins them."""
