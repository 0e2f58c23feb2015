"""How a Redis, Valkey or compatible server is found, entered and spoken to: what connector and broker share."""
