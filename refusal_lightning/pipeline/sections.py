"""The sections of a configuration that a whole run is of."""

from __future__ import annotations

from dataclasses import dataclass, field

from refusal_lightning.config import (
    AnalyzeConfig,
    CacheConfig,
    CapabilityConfig,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    RunsConfig,
    SelectConfig,
    StoreConfig,
    TrainerConfig,
)
from refusal_lightning.judges.config import JudgeSettings


@dataclass(frozen=True)
class Sections:
    """Each by the name that it has in a file, and by which the stages take it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    runs: RunsConfig = field(default_factory=RunsConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    judging: JudgeSettings = field(default_factory=JudgeSettings)
    capability: CapabilityConfig = field(default_factory=CapabilityConfig)
    analyze: AnalyzeConfig = field(default_factory=AnalyzeConfig)
