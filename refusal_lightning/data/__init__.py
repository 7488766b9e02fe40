"""Instructions: where they come from and which are drawn."""

from refusal_lightning.data.datasets import load_dataset, load_dataset_split
from refusal_lightning.data.sampling import Draw, draw_instructions

__all__ = ["Draw", "draw_instructions", "load_dataset", "load_dataset_split"]
