"""What stored activations tell about candidates."""
