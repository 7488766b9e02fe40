"""cache: the one stage that reads activations off the model."""
