"""An intervention of your own: the direction is ablated only from the layer that it was selected at.

    python -m refusal_lightning evaluate --plugins examples/own_intervention.py \
        --config configs/demo.yaml --evaluate.interventions '[baseline, ablation, late_ablation]'

Its answers, rates and losses stand in the tables and the report beside those of the paper's interventions.
"""

from torch import Tensor

from refusal_lightning.interventions import KeyedIntervention
from refusal_lightning.interventions.intervention import at_every_write, project_out, unit_direction
from refusal_lightning.interventions.registry import INTERVENTIONS, InterventionSpec


def late_ablation(direction: Tensor, layer: int, role: str) -> KeyedIntervention:
    """From the selected direction ``[d_model]``, its layer, and whether the prompts are harmful or harmless ones."""
    # What the layer gets, and whatever is added to the stream from there on; a hook function takes ``(activation,
    # hook)``, with activation ``[row, token, d_model]``, and gives the like, each row and token by itself.
    late = at_every_write("late_ablation", project_out(unit_direction(direction)), first_layer=layer)
    # Results are kept by the name, the direction, this file's content, and what is said here.
    return KeyedIntervention(late, depends_on=[layer])


INTERVENTIONS.register("late_ablation", InterventionSpec("ablation from the layer on", late_ablation))
