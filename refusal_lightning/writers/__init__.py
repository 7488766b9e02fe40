"""Lightning callbacks that take predict outputs to the store or to JSON lines; they own durability."""

from refusal_lightning.writers.journal import Journal, JournalWriter
from refusal_lightning.writers.store_writer import StoreWriter

__all__ = ["Journal", "JournalWriter", "StoreWriter"]
