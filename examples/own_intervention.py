"""An intervention of your own: the direction is ablated only from the layer that it was selected at.

    python -m refusal_lightning evaluate --plugins examples/own_intervention.py \
        --config configs/demo.yaml --evaluate.interventions '[baseline, ablation, late_ablation]'

Its answers, rates and losses stand in the tables and the report beside those of the paper's interventions.
"""

from typing import Any

from torch import Tensor

from refusal_lightning.interventions import Intervention, KeyedIntervention
from refusal_lightning.interventions.intervention import unit_direction
from refusal_lightning.interventions.registry import INTERVENTIONS, InterventionSpec


def late_ablation(direction: Tensor, layer: int, role: str) -> KeyedIntervention:
    """From the selected direction ``[d_model]``, its layer, and whether the prompts are harmful or harmless ones."""
    unit = unit_direction(direction)

    def project(activation: Tensor, hook: Any) -> Tensor:
        """``[row, token, d_model]`` in and out: each row and token is treated by itself."""
        r = unit.to(activation)
        return activation - (activation @ r).unsqueeze(-1) * r

    def hooks(n_layers: int) -> list[tuple[str, Any]]:
        """What the layer gets, and whatever is added to the stream from there on."""
        later = range(layer, n_layers)
        writes = [f"blocks.{block}.hook_{part}_out" for block in later for part in ("attn", "mlp")]
        return [(name, project) for name in [f"blocks.{layer}.hook_resid_pre", *writes]]

    # Results are kept by the name, the direction, this file's content, and what is said here.
    return KeyedIntervention(Intervention("late_ablation", hooks), depends_on=[layer])


INTERVENTIONS.register("late_ablation", InterventionSpec("ablation from the layer on", late_ablation))
