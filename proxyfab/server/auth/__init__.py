"""Who may enter a NATS, said by a service that its servers ask: `proxyfab auth serve`."""
