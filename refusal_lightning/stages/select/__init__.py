"""select: from the store to the refusal direction."""
