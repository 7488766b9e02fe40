"""Figures of results: a function from a result to a matplotlib figure, and an entry in the registry, each."""
