"""ActivationStore: the zarr format, its manifest and its integrity. Knows no model."""

from refusal_lightning.store.activation_store import ActivationStore
from refusal_lightning.store.errors import StoreError
from refusal_lightning.store.estimate import Estimate, estimate
from refusal_lightning.store.export import export
from refusal_lightning.store.format.layout import HOOK_POINTS, Encoding, Layout, PromptRecord, Shard
from refusal_lightning.store.integrity import Problem, info, repair, verify
from refusal_lightning.store.prompts import Prompts

__all__ = [
    "HOOK_POINTS",
    "ActivationStore",
    "Encoding",
    "Estimate",
    "Layout",
    "Problem",
    "PromptRecord",
    "Prompts",
    "Shard",
    "StoreError",
    "estimate",
    "export",
    "info",
    "repair",
    "verify",
]
