"""All stages in one process, with one copy of the model."""
