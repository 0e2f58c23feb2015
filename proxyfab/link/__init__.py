"""Many streams as one way between two sites: what to send on which, what came, what is missing. Sans-IO."""
