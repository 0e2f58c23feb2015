"""What the operating system gives to connectors: memory, mappings, locks, notices, files. Knows no store, no codec."""
