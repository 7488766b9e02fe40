"""What runs a model's passes, and where hooks go in it."""
