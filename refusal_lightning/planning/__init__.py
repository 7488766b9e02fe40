"""What a run will take, from a model's configuration and the prompts alone."""
