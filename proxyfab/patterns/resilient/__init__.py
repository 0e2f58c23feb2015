"""Tasks that outlive their workers: leased from a broker, run anywhere, done once."""
