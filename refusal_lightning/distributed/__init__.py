"""The processes of one run: how they start, wait, stop and divide work. Knows no model and no store."""
