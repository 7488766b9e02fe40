"""Passes and decoding: shared beginnings, key-value caches, continuous batching. No LightningModule, no file."""
