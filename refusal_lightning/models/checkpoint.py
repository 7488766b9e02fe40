"""Which weights a model has, and how they are to be loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Qwen2Config

DeviceMap = str | dict[str, int | str]
"""`auto`, or the device of each part of a model: a GPU's number, `cpu` or `disk`."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder or a Hub repository, and what its weights are loaded as."""

    source: str
    dtype: str
    tokenizer: Any = field(repr=False)
    revision: str | None = None
    trust_remote_code: bool = False
    device_map: DeviceMap | None = None
    """Spreads one copy over several devices; None: it is on one."""
    offload_folder: str | None = None
    qwen1_config: Qwen2Config | None = field(default=None, repr=False)
    """Set for a first-generation Qwen model, which is loaded as a Qwen-2 one of this configuration."""
