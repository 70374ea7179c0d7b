"""Several loaders in one: their rows are read together, or their entries joined."""
