"""TransformerLens's bridge: the engine that residuals are read with, and that every other one is compared with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from refusal_lightning.errors import UserError
from refusal_lightning.io.side_effects import no_processors
from refusal_lightning.io.text import one_line
from refusal_lightning.models.blocks import BlockFacts
from refusal_lightning.models.checkpoint import Checkpoint
from refusal_lightning.models.engines.facts import block_facts
from refusal_lightning.models.engines.protocol import HookPairs
from refusal_lightning.models.qwen1.checkpoint import load_qwen1

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class BridgeEngine:
    """A ``TransformerBridge``. Residuals are the Hugging Face model's own: no folded norms, no centred weights."""

    bridge: TransformerBridge
    facts: BlockFacts
    input_device: torch.device
    kind: str = "bridge"

    @property
    def model(self) -> Any:
        return self.bridge.original_model

    @property
    def n_layers(self) -> int:
        return self.bridge.cfg.n_layers

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.bridge.blocks

    @property
    def hook_names(self) -> Collection[str]:
        return self.bridge.hook_dict.keys()  # made anew whenever it is asked for

    def hooks(self, fwd_hooks: HookPairs) -> AbstractContextManager[Any]:
        return self.bridge.hooks(fwd_hooks=list(fwd_hooks))

    def count_hooks(self) -> int:
        points = {id(point): point for point in self.bridge.hook_dict.values()}.values()  # one may have several names
        return sum(max(len(point.fwd_hooks), len(point._forward_hooks)) for point in points)

    def __call__(
        self,
        ids: Int[Tensor, "prompt token"],
        attention_mask: Int[Tensor, "prompt token"] | None = None,
        logits_to_keep: int = 0,
    ) -> Float[Tensor, "prompt token vocab"]:
        keep = {"logits_to_keep": logits_to_keep} if logits_to_keep else {}
        return self.bridge(ids, attention_mask=attention_mask, use_cache=False, **keep)


def load_bridge(checkpoint: Checkpoint, device: str | torch.device) -> BridgeEngine:
    """A checkpoint on the device, or where its ``device_map`` puts it.

    Raises UserError where it cannot be loaded, or no direction can be read from it or ablated in it.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        bridge = _boot(checkpoint, str(device))
        bridge.requires_grad_(False)
        bridge.eval()
        engine = bridge_engine(bridge, _input_device(bridge, checkpoint, device))
    except (torch.OutOfMemoryError, UserError):
        raise
    except Exception as error:  # whatever an architecture's code makes of a first pass
        what = f"{type(error).__name__}: " if not isinstance(error, OSError | ValueError) else ""
        raise UserError(f"model {checkpoint.source!r} cannot be loaded: {what}{one_line(error)}") from error
    if engine.facts.problem is not None:
        name = type(bridge.original_model).__name__
        raise UserError(f"{name} cannot be measured here: {engine.facts.problem}; choose another model")
    return engine


def bridge_engine(bridge: TransformerBridge, device: torch.device) -> BridgeEngine:
    """A bridge as an engine, with what small passes say of its blocks (``block_facts``); a problem may refuse it."""
    if not hasattr(bridge, "blocks"):
        return BridgeEngine(bridge, BlockFacts((), False, "TransformerLens knows it without a list of blocks"), device)
    engine = BridgeEngine(bridge, BlockFacts((), False, None), device)
    return replace(engine, facts=block_facts(engine, bridge.cfg.d_model))


def _input_device(bridge: TransformerBridge, checkpoint: Checkpoint, device: str | torch.device) -> torch.device:
    """The device, or that of the embedding where ``device_map`` spreads the model."""
    if checkpoint.device_map is None:
        return torch.device(device)
    embedding = torch.device(str(bridge.cfg.device))
    # Weights that are off-loaded are nowhere until they are needed; then they are in the CPU's memory.
    return torch.device("cpu") if embedding.type == "meta" else embedding


def _boot(checkpoint: Checkpoint, device: str) -> TransformerBridge:
    from transformer_lens.model_bridge import TransformerBridge

    dtype, device_map = getattr(torch, checkpoint.dtype), checkpoint.device_map
    places = device_map.values() if isinstance(device_map, dict) else ()
    gpus = {int(str(place).removeprefix("cuda:")) for place in places if place not in ("cpu", "disk")}
    if gpus and max(gpus) >= torch.cuda.device_count():
        raise UserError(
            f"model.device_map names GPU {max(gpus)}, and this machine shows {torch.cuda.device_count()} GPUs "
            "(counted from 0)"
        )
    spread = {"device_map": device_map, "offload_folder": checkpoint.offload_folder}
    if checkpoint.qwen1_config is None:
        placement: dict[str, Any] = {"device": device} if device_map is None else spread
    else:
        within = {"device_map": {"": device}} if device_map is None else spread
        model = load_qwen1(checkpoint.source, checkpoint.revision, checkpoint.qwen1_config, dtype, **within)
        # The bridge would place it again, and takes either a device or a model that is spread already.
        placement = {"hf_model": model, "device": device if device_map is None else None}
    with no_processors():
        return TransformerBridge.boot_transformers(
            checkpoint.source,
            dtype=dtype,
            tokenizer=checkpoint.tokenizer,
            revision=checkpoint.revision,
            trust_remote_code=checkpoint.trust_remote_code,
            **placement,
        )
