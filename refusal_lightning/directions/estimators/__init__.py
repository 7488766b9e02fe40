"""Ways to draw a direction from two classes of activations, by name."""
