"""The three stages: each composes the parts below, owns the Trainer, and continues where it was killed."""
