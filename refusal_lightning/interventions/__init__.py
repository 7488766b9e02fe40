"""Hook functions and where they go: ablation and activation addition. Knows no Trainer, store or file."""

from refusal_lightning.interventions.intervention import (
    BASELINE,
    Intervention,
    KeyedIntervention,
    ablation,
    addition,
    intervene,
)
from refusal_lightning.interventions.record import record_activations
from refusal_lightning.interventions.rows import RowInterventions, row_ablation, row_addition
from refusal_lightning.interventions.skip import skip_blocks
from refusal_lightning.interventions.together import together

__all__ = [
    "BASELINE",
    "Intervention",
    "KeyedIntervention",
    "RowInterventions",
    "ablation",
    "addition",
    "intervene",
    "record_activations",
    "row_ablation",
    "row_addition",
    "skip_blocks",
    "together",
]
