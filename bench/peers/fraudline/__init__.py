"""Fraudline as it is run in production, with its defaults, to be measured like a peer."""
