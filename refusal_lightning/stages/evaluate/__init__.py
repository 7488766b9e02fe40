"""evaluate: what ablating or adding the direction does."""
