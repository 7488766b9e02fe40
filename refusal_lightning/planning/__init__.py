"""The plan command: what a run will take, from a model's configuration and the prompts alone."""
