"""A run's folder: where each artifact is, who works in it, and what each file was made from."""
