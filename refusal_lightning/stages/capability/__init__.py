"""capability: tasks of lm-evaluation-harness on the intervened model."""
