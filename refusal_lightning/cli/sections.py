"""The sections of a configuration file."""

from __future__ import annotations

from refusal_lightning import config
from refusal_lightning.judges.config import JudgeSettings

SECTIONS: dict[str, type] = {
    "model": config.ModelConfig,
    "data": config.DataConfig,
    "store": config.StoreConfig,
    "trainer": config.TrainerConfig,
    "runs": config.RunsConfig,
    "cache": config.CacheConfig,
    "select": config.SelectConfig,
    "evaluate": config.EvaluateConfig,
    "analyze": config.AnalyzeConfig,
    "capability": config.CapabilityConfig,
    "judging": JudgeSettings,
    "doctor": config.DoctorConfig,
    "plan": config.PlanConfig,
}
"""By name, each a dataclass."""
