"""Estimators, scores, selection and analyses: pure functions on arrays, no model and no I/O."""
