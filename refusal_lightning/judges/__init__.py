"""Judges: text in, verdicts out. A judge says whether an answer complies."""
