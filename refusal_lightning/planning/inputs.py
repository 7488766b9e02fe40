"""What a plan is made from: the model's size, the prompts' lengths, the store's shape and the hardware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from refusal_lightning.config import (
    CacheConfig,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    PlanConfig,
    SelectConfig,
    StoreConfig,
    TrainerConfig,
)
from refusal_lightning.inputs.activations import known_ratios, store_encoding, store_layout
from refusal_lightning.models import ChatModel
from refusal_lightning.planning.arithmetic import Arithmetic
from refusal_lightning.planning.estimates import PlacedModel
from refusal_lightning.planning.hardware import hardware_of, speed_of
from refusal_lightning.planning.lengths import Lengths, read_lengths
from refusal_lightning.planning.memory import weight_bytes
from refusal_lightning.planning.model_size import model_size
from refusal_lightning.planning.throughput import Throughput
from refusal_lightning.store import Encoding, Layout


@dataclass(frozen=True)
class Sections:
    """The sections of a configuration that a plan is of."""

    model: ModelConfig
    data: DataConfig
    store: StoreConfig
    trainer: TrainerConfig
    cache: CacheConfig
    select: SelectConfig
    evaluate: EvaluateConfig
    plan: PlanConfig


@dataclass(frozen=True)
class PlanInputs:
    """All that a plan follows from."""

    alias: str
    placed: PlacedModel
    lengths: Lengths
    layout: Layout
    encoding: Encoding
    ratios: Mapping[str, float]
    """Compression ratios by array, of a store of this model that is there already; empty if none is."""
    speed: Throughput
    cache: CacheConfig
    select: SelectConfig
    evaluate: EvaluateConfig

    @classmethod
    def open(cls, chat: ChatModel, sections: Sections) -> PlanInputs:
        """Draw and tokenise the prompts, and measure this machine where nothing is stated of the hardware. No weights
        are loaded. Raises UserError."""
        layout = store_layout(chat, sections.cache)
        placed = _placed(chat, sections)
        return cls(
            alias=chat.alias,
            placed=placed,
            lengths=read_lengths(chat, sections.data, sections.cache, sections.evaluate, sections.plan),
            layout=layout,
            encoding=store_encoding(sections.store),
            ratios=known_ratios(chat.alias, sections.store, layout),
            speed=speed_of(sections.plan, placed.config, placed.dtype, placed.hardware.on_cpu),
            cache=sections.cache,
            select=sections.select,
            evaluate=sections.evaluate,
        )


def _placed(chat: ChatModel, sections: Sections) -> PlacedModel:
    from transformers import AutoConfig

    model, trainer = sections.model, sections.trainer
    config = chat.checkpoint.qwen1_config or AutoConfig.from_pretrained(
        chat.checkpoint.source, revision=chat.checkpoint.revision, trust_remote_code=model.trust_remote_code
    )
    size = model_size(config, model.trust_remote_code)
    return PlacedModel(
        arithmetic=Arithmetic.of(config, size),
        config=config,
        dtype=model.dtype,
        weights=weight_bytes(size, model.dtype),
        n_positions=chat.n_positions,
        hardware=hardware_of(trainer, sections.plan),
        spread=model.device_map is not None or trainer.strategy == "device_map",
    )
