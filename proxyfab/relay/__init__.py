"""A relay: connects sites of which neither can be dialled, and passes on what it cannot read."""
