"""What stages work on: the model, its prompts, stored activations, texts, and what follows from these alone."""
