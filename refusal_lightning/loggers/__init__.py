"""Loggers: where a stage's figures go beside the run's own files, through Lightning's loggers."""
